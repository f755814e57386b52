# A folder of hosts -> one plain set a host. What is wrong with any of them is said at once.
{
  words,
  modules,
  check,
  schema,
  lib,
}:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    isAttrs
    listToAttrs
    map
    match
    readDir
    ;

  # A path below the folder as its user writes it.
  shorten =
    folder: path:
    let
      base = toString folder;
      above = toString (folder + "/..");
      text = toString path;
    in
    if words.hasPrefix "${above}/" text then
      words.removePrefix "${above}/" text
    else
      "${baseNameOf base}/${words.removePrefix "${base}/" text}";

  # Files of a folder that describe hosts: NAME.nix and NAME.toml; folders in it hold what they share.
  files =
    folder: suffixes:
    let
      entries = readDir folder;
      named =
        suffix:
        map (file: {
          name = words.removeSuffix suffix file;
          file = shorten folder (folder + "/${file}");
          part = folder + "/${file}";
        }) (filter (file: entries.${file} != "directory" && words.hasSuffix suffix file) (attrNames entries));
    in
    concatMap named suffixes;

  valid = name: match "[A-Za-z0-9][A-Za-z0-9._-]*" name != null;
in
rec {
  # One host: { config, errors }.
  evaluate =
    {
      name,
      part,
      file ? name,
      show ? toString,
      arguments ? { },
    }:
    modules.evaluate {
      inherit schema part file show;
      arguments = arguments // { inherit name lib; };
    };

  # `hosts`: a folder, or a set of parts by name. { hosts, errors }: nothing is thrown.
  tried =
    {
      hosts,
      suffixes ? [
        ".nix"
        ".toml"
      ],
      arguments ? { },
    }:
    let
      folder = !isAttrs hosts;
      all =
        if folder then
          files hosts suffixes
        else
          map (name: {
            inherit name;
            file = name;
            part = hosts.${name};
          }) (attrNames hosts);
      one =
        host:
        let
          twins = filter (other: other.name == host.name) all;
          twice = "${words.join " and " (map (t: t.file) twins)} are one host twice: remove one of them";
          done = evaluate {
            inherit (host) name file part;
            inherit arguments;
            show = if folder then shorten hosts else toString;
          };
          bad = "${host.file}: ${words.show host.name} is no name for a host: use letters, digits, '-', '_' and '.'";
        in
        if !valid host.name then
          {
            inherit (host) name;
            config = { };
            errors = [ bad ];
          }
        else if builtins.length twins > 1 then
          {
            inherit (host) name;
            config = { };
            errors = if host.file == (builtins.head twins).file then [ twice ] else [ ];
          }
        else
          done // { inherit (host) name; };
      results = map one all;
    in
    {
      hosts = listToAttrs (
        map (r: {
          inherit (r) name;
          value = r.config;
        }) results
      );
      errors = concatMap (r: r.errors) results;
    };

  # The same; what is wrong ends the evaluation.
  evaluateAll =
    arguments:
    let
      result = tried arguments;
    in
    if result.errors == [ ] then
      result.hosts
    else
      throw "stillframe: ${words.join "\n" result.errors}";
}
