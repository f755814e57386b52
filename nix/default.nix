# The flake's outputs, one file each. Only what builds something evaluates nixpkgs: `lib` and `templates` do not.
{ self, nixpkgs }:
let
  systems = [
    "x86_64-linux"
    "aarch64-linux"
  ];

  perSystem =
    wanted: make:
    builtins.listToAttrs (
      map (system: {
        name = system;
        value = make system;
      }) wanted
    );
  eachSystem = perSystem systems;

  pkgs = system: nixpkgs.legacyPackages.${system};
  source = ../.;
  packages = eachSystem (
    system:
    import ./packages.nix {
      pkgs = pkgs system;
      inherit source;
    }
  );
  programs =
    system: options:
    import ./apps.nix {
      pkgs = pkgs system;
      inherit (packages.${system}) stillframe;
      inherit options;
    };

  lib = import ./lib // {
    mkDeployment = import ./deployment.nix {
      inherit
        lib
        pkgs
        perSystem
        programs
        systems
        ;
    };
  };
in
{
  inherit lib packages;

  apps = eachSystem (system: programs system [ ]);

  nixosModules = {
    host = import ./nixos/host.nix { inherit packages; };
    default = self.nixosModules.host;
  };

  templates.default = {
    path = ./template;
    description = "A ComfyUI service and its hosts: edit flake.nix and hosts/, then nix run .#deploy";
  };

  checks = eachSystem (
    system:
    import ./checks.nix {
      pkgs = pkgs system;
      packages = packages.${system};
    }
  );

  devShells = eachSystem (system: {
    default = import ./shell.nix { pkgs = pkgs system; };
  });

  formatter = eachSystem (system: (pkgs system).nixfmt-rfc-style);
}
