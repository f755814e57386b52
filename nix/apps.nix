# What `nix run .#NAME` runs: the program with a subcommand. `options` come first (a deployment's --config).
{
  pkgs,
  stillframe,
  options,
}:
let
  program = "${stillframe}/bin/stillframe";

  app = name: words: {
    type = "app";
    program = toString (
      pkgs.writeShellScript "stillframe-${name}" ''
        exec ${pkgs.lib.escapeShellArgs ([ program ] ++ options ++ words)} "$@"
      ''
    );
    meta.description = "stillframe ${builtins.concatStringsSep " " words}";
  };

  commands = {
    attach = [ "attach" ];
    cancel = [ "cancel" ];
    deploy = [ "deploy" ];
    history = [ "history" ];
    host-check = [
      "host"
      "check"
    ];
    host-prepare = [
      "host"
      "prepare"
    ];
    instances = [ "instances" ];
    logs = [ "logs" ];
    remove = [ "remove" ];
    restart = [ "restart" ];
    rollback = [ "rollback" ];
    snapshot = [ "snapshot" ];
    start = [ "start" ];
    status = [ "status" ];
    stillframe = [ ];
    stop = [ "stop" ];
  };
in
builtins.mapAttrs app commands // { default = app "default" [ ]; }
