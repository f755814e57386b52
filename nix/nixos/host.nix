# A NixOS host that stillframe deploys to: what `stillframe host prepare` does elsewhere, declared. Both end in the same
# `stillframe host check`.
#
# Not declared here, because each deployment says it: the units of services, their gateways and the gateways' sockets.
# The boot service writes them to /run/systemd/system, from the state that the last deployment left.
{ packages }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.stillframe;
  inherit (lib)
    mkDefault
    mkEnableOption
    mkIf
    mkMerge
    mkOption
    types
    ;
  state = "/var/lib/stillframe";
in
{
  options.services.stillframe = {
    enable = mkEnableOption "this host for deployments by stillframe";

    agent = mkOption {
      type = types.package;
      default = packages.${pkgs.stdenv.hostPlatform.system}.stillframe-agent;
      defaultText = lib.literalExpression "stillframe.packages.\${system}.stillframe-agent";
      description = "The agent that the boot service starts until a deployment brings its own.";
    };

    user = mkOption {
      type = types.str;
      default = "deploy";
      description = "The user that workstations log in as: `user` of the host's file there.";
    };

    authorizedKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "ssh-ed25519 AAAA… you@workstation" ];
      description = "Public SSH keys of those who may deploy. They get root's rights by it: who may put programs into units is root.";
    };

    folders = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/srv/models" ];
      description = "Folders that services read (models, shared inputs): made if they are not there; mount them with `fileSystems`.";
    };

    openPorts = mkOption {
      type = types.listOf types.port;
      default = [ ];
      example = [ 8188 ];
      description = "Public ports to open in the firewall, of services whose `listen` is not loopback.";
    };

    gpu = mkOption {
      type = types.nullOr (types.enum [ "nvidia" ]);
      default = null;
      description = "The GPU driver to install. Instances see its libraries in /run/opengl-driver/lib.";
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      nix.enable = mkDefault true;

      services.openssh.enable = mkDefault true;

      users.users.${cfg.user} = {
        isNormalUser = true;
        description = "stillframe deployments";
        openssh.authorizedKeys.keys = cfg.authorizedKeys;
      };

      # One user, to root alone, without a password. A narrower list of commands would only look safer: the agent that a
      # deployment brings is run as root.
      security.sudo.extraRules = [
        {
          users = [ cfg.user ];
          runAs = "root";
          commands = [
            {
              command = "ALL";
              options = [ "NOPASSWD" ];
            }
          ];
        }
      ];

      systemd.tmpfiles.rules = [
        "d ${state} 0711 root root -"
        "d ${state}/services 0700 root root -"
        "d ${state}/incoming 0755 root root -"
        # Only where there is none: a deployment's agent is newer.
        "L ${state}/agent - - - - ${cfg.agent}"
      ]
      # Without a mode and an owner: those of a folder that is there stay.
      ++ map (folder: "d ${folder} - - - -") cfg.folders;

      # As `stillframe-agent install` writes it.
      systemd.services.stillframe = {
        description = "stillframe: brings back this host's services";
        wantedBy = [ "multi-user.target" ];
        after = [
          "local-fs.target"
          "network.target"
          "systemd-tmpfiles-setup.service"
        ];
        unitConfig.RequiresMountsFor = "/nix/store ${state}";
        startLimitIntervalSec = 120;
        startLimitBurst = 5;
        # A new generation of the system is no reason to touch what serves.
        restartIfChanged = false;
        stopIfChanged = false;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          Restart = "on-failure";
          RestartSec = 2;
          # An agent of an earlier generation of the system may be collected by now.
          ExecStartPre = "/bin/sh -c '[ -x ${state}/agent/bin/stillframe-agent ] || ln -sfn ${cfg.agent} ${state}/agent'";
          ExecStart = "${state}/agent/bin/stillframe-agent boot";
        };
      };

      networking.firewall.allowedTCPPorts = cfg.openPorts;
    }

    (mkIf (cfg.gpu == "nvidia") {
      hardware.graphics.enable = true;
      hardware.nvidia.nvidiaPersistenced = mkDefault true;
      hardware.nvidia.open = mkDefault true;
      services.xserver.videoDrivers = [ "nvidia" ];
      # Instances see the device files; without a display nobody else makes the one that CUDA needs.
      boot.kernelModules = [ "nvidia_uvm" ];
    })
  ]);
}
