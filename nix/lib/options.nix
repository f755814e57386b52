# The schema as a list of options, for documents and for editors.
{ words, check }:
let
  inherit (builtins) attrNames concatMap isAttrs;
  join = prefix: name: if prefix == "" then name else "${prefix}.${name}";
in
rec {
  optionsOf =
    given: prefix:
    let
      schema = check.resolve given;
      known = schema.properties or { };
      extra = schema.additionalProperties or false;
      inner =
        name:
        let
          child = check.resolve known.${name};
          own = {
            name = join prefix name;
            description = child.description or "";
            expects = check.expects child;
          };
          deeper =
            if (child.properties or { }) != { } || isAttrs (child.additionalProperties or false) then
              optionsOf child (join prefix name)
            else if isAttrs (child.items or null) && ((check.resolve child.items).properties or { }) != { } then
              optionsOf child.items "${join prefix name}[]"
            else
              [ ];
        in
        if deeper != [ ] && !(child ? items) then deeper else [ own ] ++ deeper;
    in
    concatMap inner (attrNames known)
    ++ (
      if isAttrs extra && ((check.resolve extra).properties or { }) != { } then
        optionsOf extra (join prefix "NAME")
      else if isAttrs extra then
        [
          {
            name = join prefix "NAME";
            description = schema.description or "";
            expects = check.expects (check.resolve extra);
          }
        ]
      else
        [ ]
    );
}
