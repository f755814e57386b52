# The workstation's program, with the host's program beside it; and that one alone, static.
{ pkgs, source }:
let
  manifest = (builtins.fromTOML (builtins.readFile (source + "/Cargo.toml"))).package;

  # What is built: nothing else makes a new program.
  src = builtins.path {
    name = "stillframe-source";
    path = source;
    filter =
      path: _type:
      let
        inner = builtins.substring (builtins.stringLength (toString source) + 1) (-1) path;
        top = builtins.head (builtins.filter builtins.isString (builtins.split "/" inner));
      in
      builtins.elem top [
        "Cargo.lock"
        "Cargo.toml"
        "README.md"
        "nix"
        "src"
        "tests"
      ];
  };

  common = {
    inherit (manifest) version;
    inherit src;
    cargoLock.lockFile = source + "/Cargo.lock";
    # They boot hosts and use a Nix store of their own: `make test`.
    doCheck = false;
    meta = {
      inherit (manifest) description;
      license = pkgs.lib.licenses.mit;
      platforms = [
        "x86_64-linux"
        "aarch64-linux"
      ];
    };
  };

  stillframe-agent = pkgs.pkgsStatic.rustPlatform.buildRustPackage (
    common
    // {
      pname = "stillframe-agent";
      cargoBuildFlags = [
        "--no-default-features"
        "--bin"
        "stillframe-agent"
      ];
      meta = common.meta // {
        mainProgram = "stillframe-agent";
      };
    }
  );

  stillframe = pkgs.rustPlatform.buildRustPackage (
    common
    // {
      pname = "stillframe";
      cargoBuildFlags = [
        "--bin"
        "stillframe"
      ];
      nativeBuildInputs = [
        pkgs.installShellFiles
        pkgs.makeWrapper
      ];
      postInstall = ''
        mkdir -p $out/libexec/stillframe
        ln -s ${stillframe-agent}/bin/stillframe-agent $out/libexec/stillframe/stillframe-agent
        for shell in bash zsh fish; do
          $out/bin/stillframe completions $shell >stillframe.$shell
        done
        installShellCompletion stillframe.{bash,zsh,fish}
        $out/bin/stillframe man man
        installManPage man/*.1
        # The user's own come first: their Nix, and an ssh that knows their agent.
        wrapProgram $out/bin/stillframe --suffix PATH : ${
          pkgs.lib.makeBinPath [
            pkgs.git
            pkgs.openssh
            pkgs.nix
          ]
        }
      '';
      meta = common.meta // {
        mainProgram = "stillframe";
      };
    }
  );
in
{
  inherit stillframe stillframe-agent;
  default = stillframe;
}
