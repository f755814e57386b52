{ system }:
let
  # Below a folder of its own: it goes by its name, which a store path alone would change.
  busybox = "${./prebuilt/shell}/busybox";

  # A derivation whose builder is busybox's shell: sandboxes have no other.
  run =
    name: environment: script:
    derivation (
      environment
      // {
        inherit name system;
        builder = busybox;
        args = [
          "sh"
          "-euc"
          "export PATH=/nowhere; for tool in mkdir cp ln chmod cat; do eval \"$tool() { ${busybox} $tool \\\"\\$@\\\"; }\"; done\n${script}"
        ];
      }
    );

  text =
    name: text: mode:
    run name {
      inherit text;
      passAsFile = [ "text" ];
    } "cp \"$textPath\" $out; chmod ${mode} $out";

  # A package that the tests never run.
  none = name: run name { } "mkdir $out";

  buildRustPackage =
    arguments:
    run "${arguments.pname}-${arguments.version}" {
      program = ./prebuilt + "/${arguments.pname}";
      # Evaluated as nixpkgs would: what it refers to is built.
      postInstall = arguments.postInstall or "";
      meta = null;
    } ''
      mkdir -p $out/bin $out/libexec/stillframe
      cp $program $out/bin/${arguments.pname}
      chmod 755 $out/bin/${arguments.pname}
      case "$postInstall" in
      *libexec/stillframe/stillframe-agent*)
        agent=''${postInstall#*ln -s }
        ln -s ''${agent%%/bin/stillframe-agent*}/bin/stillframe-agent $out/libexec/stillframe/stillframe-agent ;;
      esac
    '';

  escape = argument: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString argument)}'";
in
rec {
  inherit buildRustPackage;
  rustPlatform = { inherit buildRustPackage; };
  pkgsStatic = { inherit rustPlatform; };
  lib = {
    escapeShellArgs = arguments: builtins.concatStringsSep " " (map escape arguments);
    makeBinPath = packages: builtins.concatStringsSep ":" (map (p: "${p}/bin") packages);
    licenses.mit = "mit";
  };
  writeText = name: content: text name content "444";
  writeShellScript = name: content: text name "#!${busybox} sh\n${content}" "555";
  runCommand =
    name: environment: script:
    run name environment script;
  mkShell = arguments: none "shell";
  installShellFiles = none "install-shell-files";
  makeWrapper = none "make-wrapper";
  nix = none "nix";
  git = none "git";
  openssh = none "openssh";
  cargo = none "cargo";
  clippy = none "clippy";
  nixfmt-rfc-style = none "nixfmt";
  python3 = none "python3";
  rust-analyzer = none "rust-analyzer";
  rustc = none "rustc";
  rustfmt = none "rustfmt";
}
