{
  description = "Publishes a ComfyUI environment as an immutable Nix store closure, ships it to GPU hosts and runs it there";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = inputs: import ./nix { inherit (inputs) self nixpkgs; };
}
