# stillframe's library: hosts and services written in Nix, checked against the schema that the program itself has
# (schema.json is printed by it). Needs nothing but Nix: no nixpkgs.
let
  schema = builtins.fromJSON (builtins.readFile ./schema.json);
  words = import ./words.nix;
  check = import ./check.nix {
    inherit words;
    root = schema;
  };
  modules = import ./modules.nix { inherit words check; };
  part = name: { "$ref" = "#/$defs/${name}"; };

  evaluated = import ./hosts.nix {
    inherit
      words
      modules
      check
      lib
      ;
    schema = part "HostConfig";
  };

  # What parts are given as `lib`.
  lib = {
    inherit (modules) mkIf mkMerge mkOverride;
    # Gives way to any other definition.
    mkDefault = modules.mkOverride 1000;
    # Comes before any other definition.
    mkForce = modules.mkOverride 50;
  };
in
lib
// {
  inherit schema;

  # One host of parts: its plain configuration, or an error that names file and option.
  evalHost =
    {
      name,
      part,
      arguments ? { },
    }:
    (evaluated.evaluateAll {
      hosts.${name} = part;
      inherit arguments;
    }).${name};

  # A folder (NAME.nix, NAME.toml) or a set of hosts.
  evalHosts = evaluated.evaluateAll;

  # The same as { hosts, errors }, for who wants to go on.
  tryHosts = evaluated.tried;

  # The project: what stillframe.toml says, in parts.
  evalProject =
    {
      part,
      file ? "the project",
      arguments ? { },
    }:
    let
      result = modules.evaluate {
        schema = {
          "$ref" = "#/$defs/Config";
        };
        inherit part file;
        arguments = arguments // { inherit lib; };
      };
    in
    if result.errors == [ ] then
      result.config
    else
      throw "stillframe: ${words.join "\n" result.errors}";

  # Every option of a host or of the project, for documents: { name, description, expects }.
  inherit (import ./options.nix { inherit words check; }) optionsOf;
}
