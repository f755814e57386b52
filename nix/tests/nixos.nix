# The NixOS module, evaluated with a `lib`: what fails, which is to be nothing.
#
#   nix-instantiate --eval --strict --json nix/tests/nixos.nix --arg lib null
#       with the stand-in below: our side of it alone. It does not check types, nor that NixOS has the options we set.
#   nix-instantiate --eval --strict --json nix/tests/nixos.nix --arg lib 'import …/nixpkgs/lib'
#       with nixpkgs' own module system, types checked, over declarations of the options we set.
{
  lib ? null,
}:
let
  agent = derivation {
    name = "stillframe-agent";
    system = "x86_64-linux";
    builder = "none";
  };
  pkgs.stdenv.hostPlatform.system = "x86_64-linux";
  module = import ../nixos/host.nix { packages.x86_64-linux.stillframe-agent = agent; };

  # --- without nixpkgs

  inherit (builtins)
    attrNames
    concatMap
    filter
    foldl'
    isAttrs
    isList
    mapAttrs
    ;
  plainLib = rec {
    mkOption = declared: declared // { _type = "option"; };
    mkEnableOption = _: mkOption { default = false; };
    mkDefault = content: content;
    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkMerge = contents: {
      _type = "merge";
      inherit contents;
    };
    literalExpression = text: text;
    types = {
      package = { };
      str = { };
      port = { };
      listOf = _: { };
      nullOr = _: { };
      enum = _: { };
    };
  };
  parts =
    value:
    if value._type or null == "if" then
      if value.condition then parts value.content else [ ]
    else if value._type or null == "merge" then
      concatMap parts value.contents
    else
      [ value ];
  merge =
    a: b:
    if isAttrs a && isAttrs b then
      a // mapAttrs (name: value: if a ? ${name} then merge a.${name} value else value) b
    else if isList a && isList b then
      a ++ b
    else
      b;
  withStandIn =
    settings:
    let
      made = module {
        lib = plainLib;
        inherit pkgs;
        config.services.stillframe =
          mapAttrs (_: option: option.default) made.options.services.stillframe // settings;
      };
    in
    foldl' merge { } (parts made.config);

  # --- with it

  declared =
    { lib, ... }:
    let
      any = lib.mkOption { type = lib.types.attrsOf lib.types.anything; };
      flag = lib.mkOption {
        type = lib.types.bool;
        default = false;
      };
      list =
        type:
        lib.mkOption {
          type = lib.types.listOf type;
          default = [ ];
        };
    in
    {
      options = {
        nix.enable = flag;
        services.openssh.enable = flag;
        services.xserver.videoDrivers = list lib.types.str;
        users.users = any;
        security.sudo.extraRules = list lib.types.anything;
        systemd.tmpfiles.rules = list lib.types.str;
        systemd.services = any;
        networking.firewall.allowedTCPPorts = list lib.types.port;
        hardware.graphics.enable = flag;
        hardware.nvidia = {
          nvidiaPersistenced = flag;
          open = flag;
        };
        boot.kernelModules = list lib.types.str;
      };
    };
  withNixpkgs =
    settings:
    (lib.evalModules {
      specialArgs = { inherit pkgs; };
      modules = [
        declared
        module
        { services.stillframe = settings; }
      ];
    }).config;

  evaluate = if lib == null then withStandIn else withNixpkgs;

  off = evaluate { };
  on = evaluate {
    enable = true;
    authorizedKeys = [ "ssh-ed25519 AAAA you@workstation" ];
    folders = [ "/srv/models" ];
    openPorts = [ 8188 ];
    gpu = "nvidia";
  };
  other = evaluate {
    enable = true;
    user = "ship";
  };

  tests = {
    offByDefault = {
      is = [
        (off.systemd.tmpfiles.rules or [ ])
        (off.services.openssh.enable or false)
      ];
      want = [
        [ ]
        false
      ];
    };
    theUserAndItsRule = {
      is = [
        on.users.users.deploy.openssh.authorizedKeys.keys
        (map (rule: [
          rule.users
          rule.runAs
          rule.commands
        ]) on.security.sudo.extraRules)
        (attrNames other.users.users)
        (map (rule: rule.users) other.security.sudo.extraRules)
      ];
      want = [
        [ "ssh-ed25519 AAAA you@workstation" ]
        [
          [
            [ "deploy" ]
            "root"
            [
              {
                command = "ALL";
                options = [ "NOPASSWD" ];
              }
            ]
          ]
        ]
        [ "ship" ]
        [ [ "ship" ] ]
      ];
    };
    folders = {
      is = on.systemd.tmpfiles.rules;
      want = [
        "d /var/lib/stillframe 0711 root root -"
        "d /var/lib/stillframe/services 0700 root root -"
        "d /var/lib/stillframe/incoming 0755 root root -"
        "L /var/lib/stillframe/agent - - - - ${agent}"
        "d /srv/models - - - -"
      ];
    };
    theBootService = {
      is = {
        inherit (on.systemd.services.stillframe)
          wantedBy
          restartIfChanged
          startLimitIntervalSec
          startLimitBurst
          serviceConfig
          ;
      };
      want = {
        wantedBy = [ "multi-user.target" ];
        restartIfChanged = false;
        startLimitIntervalSec = 120;
        startLimitBurst = 5;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          Restart = "on-failure";
          RestartSec = 2;
          ExecStartPre = "/bin/sh -c '[ -x /var/lib/stillframe/agent/bin/stillframe-agent ] || ln -sfn ${agent} /var/lib/stillframe/agent'";
          ExecStart = "/var/lib/stillframe/agent/bin/stillframe-agent boot";
        };
      };
    };
    portsAndGpus = {
      is = [
        on.networking.firewall.allowedTCPPorts
        on.hardware.graphics.enable
        on.boot.kernelModules
        (other.boot.kernelModules or [ ])
      ];
      want = [
        [ 8188 ]
        true
        [ "nvidia_uvm" ]
        [ ]
      ];
    };
  };
in
{
  failed = map (name: {
    inherit name;
    inherit (tests.${name}) is want;
  }) (filter (name: tests.${name}.is != tests.${name}.want) (attrNames tests));
  count = builtins.length (attrNames tests);
}
