# A team's own flake: the same apps, for one service and its hosts written in Nix.
{
  lib,
  pkgs,
  perSystem,
  programs,
  systems,
}:
let
  defaultSystems = systems;
in
{
  # A folder of NAME.nix and NAME.toml, or a set of hosts by name.
  hosts,
  # Workstations' systems.
  systems ? defaultSystems,
  # For parts that are functions, besides `name`, `lib` and `config`.
  arguments ? { },
  # The project, in parts: `service`, `environment`, `python`, … as in stillframe.toml; `imports` too.
  ...
}@given:
let
  project = removeAttrs given [
    "arguments"
    "hosts"
    "systems"
  ];
  deployment = {
    version = 1;
    project = lib.evalProject {
      part = project;
      file = "mkDeployment";
      inherit arguments;
    };
    # Relative paths of hosts begin there, in the flake's working tree.
    folder = if builtins.isAttrs hosts then null else baseNameOf (toString hosts);
    hosts = lib.evalHosts { inherit hosts arguments; };
  };
  file = system: (pkgs system).writeText "deployment.json" (builtins.toJSON deployment);
in
{
  # As data, for a look with `nix eval`.
  inherit deployment;

  apps = perSystem systems (
    system:
    programs system [
      "--config"
      "${file system}"
    ]
  );

  # `nix flake check` evaluates every host.
  checks = perSystem systems (system: {
    deployment = file system;
  });
}
