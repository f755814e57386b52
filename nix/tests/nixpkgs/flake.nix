{
  # Stands in for nixpkgs where there is no internet: exactly what this flake uses of it, and no more.
  #
  # What it proves: our outputs evaluate, our apps and deployments build and run, and hand over what they are to.
  # What it does not prove: that nixpkgs has these attributes under these names, that its rustPlatform compiles our
  # source, that its hooks install completions or wrap programs, or anything of aarch64. `buildRustPackage` here
  # takes programs that cargo has built already (prebuilt/, put there by the test), and busybox (prebuilt/shell/) is the only shell.
  description = "A stand-in for nixpkgs in the tests of stillframe";

  outputs = _: {
    legacyPackages = builtins.listToAttrs (
      map
        (system: {
          name = system;
          value = import ./packages.nix { inherit system; };
        })
        [
          "x86_64-linux"
          "aarch64-linux"
        ]
    );
  };
}
