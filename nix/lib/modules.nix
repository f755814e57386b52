# Parts that are merged into one configuration: `imports`, priorities and conditions as NixOS has them, with the
# schema in place of declared options. Nothing is thrown here: errors come beside the value.
{ words, check }:
let
  inherit (builtins)
    all
    attrNames
    concatLists
    concatMap
    elem
    elemAt
    filter
    foldl'
    functionArgs
    genList
    head
    intersectAttrs
    isAttrs
    isFunction
    isList
    isPath
    isString
    length
    listToAttrs
    map
    ;

  normal = 100;
  unique = foldl' (seen: one: if elem one seen then seen else seen ++ [ one ]) [ ];

  # One value as written -> the definitions that count, each with its priority.
  definitions =
    priority: value:
    let
      kind = if isAttrs value then value._type or null else null;
    in
    if kind == "override" then
      definitions value.priority value.content
    else if kind == "if" then
      if value.condition then definitions priority value.content else [ ]
    else if kind == "merge" then
      concatMap (definitions priority) value.contents
    else if value == null then
      [ ]
    else
      [ { inherit priority value; } ];

  # Of several definitions those of the first priority that there is.
  first =
    defs:
    let
      top = foldl' (least: d: if d.priority < least then d.priority else least) 1000000 defs;
    in
    filter (d: d.priority == top) defs;

  join = option: name: if option == "" then name else "${option}.${name}";

  # definitions of one option -> { present, value, seen, errors }; `seen` is the value as parts see it in `config`: of
  # all names that somebody gives, set or not, since which are set may depend on what is seen.
  merge =
    given: option: raw:
    let
      schema = check.resolve given;
      defs = first (concatMap (d: map (v: d // v) (definitions normal d.value)) raw);
      types = check.typesOf schema;
      lists = types == [ "array" ] && all (d: isList d.value) defs;
      sets = types == [ "object" ] && all (d: isAttrs d.value) defs;
    in
    if defs == [ ] then
      {
        present = false;
        value = null;
        seen = null;
        errors = [ ];
      }
    else if sets then
      mergeSet schema option defs
    else if lists then
      let
        value = concatMap (d: plain d.value) defs;
        of = d: map (error: "${d.file}: ${error}") (check.check schema option d.value);
      in
      {
        present = true;
        inherit value;
        seen = value;
        errors = concatMap of defs;
      }
    else
      mergeOne schema option defs;

  # One value: several parts may say the same, not different things.
  mergeOne =
    schema: option: defs:
    let
      one = head defs;
      others = filter (d: plain d.value != plain one.value) defs;
      conflict =
        other:
        "${option} is ${words.show one.value} in ${one.file} and ${words.show other.value} in ${other.file}; "
        + "put mkDefault or mkForce before one of them";
    in
    {
      present = true;
      value = plain one.value;
      seen = plain one.value;
      errors =
        if others != [ ] then
          [ (conflict (head others)) ]
        else
          map (error: "${one.file}: ${error}") (check.check schema option one.value);
    };

  mergeSet =
    schema: option: defs:
    let
      known = schema.properties or { };
      extra = schema.additionalProperties or true;
      names = unique (concatMap (d: attrNames d.value) defs);
      child =
        name:
        let
          own = concatMap (d: if d.value ? ${name} then [ (d // { value = d.value.${name}; }) ] else [ ]) defs;
          beneath = join option name;
        in
        if known ? ${name} then
          merge known.${name} beneath own
        else if isAttrs extra then
          merge extra beneath own
        else
          {
            present = false;
            value = null;
            seen = null;
            errors = [ "${(head own).file}: ${check.unknown beneath name (attrNames known)}" ];
          };
      children = map (name: {
        inherit name;
        value = child name;
      }) names;
      here = listToAttrs children;
      missing = filter (name: !(here.${name}.present or false)) (schema.required or [ ]);
      lacks = name: "${words.join ", " (unique (map (d: d.file) defs))}: ${join option name} is not set";
    in
    {
      present = true;
      value = listToAttrs (
        map (c: {
          inherit (c) name;
          value = c.value.value;
        }) (filter (c: c.value.present) children)
      );
      seen = builtins.mapAttrs (_: c: c.seen) here;
      errors = concatMap (c: c.value.errors) children ++ map lacks missing;
    };

  # Paths as text: as values they would be copied into the store on their way to JSON.
  plain =
    value:
    if isPath value then
      toString value
    else if isList value then
      map plain value
    else if isAttrs value then
      builtins.mapAttrs (_: plain) (builtins.removeAttrs value (filter (n: value.${n} == null) (attrNames value)))
    else
      value;

  # A part and all it imports, those first: what imports comes later in lists. `key` tells parts apart.
  collect =
    arguments: show: file: key: part:
    let
      outside = isPath part || isString part;
      toml = words.hasSuffix ".toml" (toString part);
      read =
        if !outside then
          part
        else if toml then
          builtins.fromTOML (builtins.readFile part)
        else
          import part;
      wanted = functionArgs read;
      body =
        if isFunction read then
          read (if wanted == { } then arguments else intersectAttrs wanted arguments)
        else
          read;
      imports = body.imports or [ ];
      inner =
        at:
        let
          one = elemAt imports at;
        in
        if isPath one || isString one then
          collect arguments show (show one) (toString one) one
        else
          collect arguments show file "${key}#${toString at}" one;
    in
    builtins.addErrorContext "while evaluating ${file}" (
      if !isAttrs body then
        [
          {
            inherit file key;
            value = { };
            errors = [ "${file}: is ${words.show body}, not a set or a function that returns one" ];
          }
        ]
      else
        concatMap inner (genList (at: at) (length imports))
        ++ [
          {
            inherit file key;
            value = removeAttrs body [ "imports" ];
            errors = [ ];
          }
        ]
    );

  # What two parts import counts once, where it comes first.
  once =
    parts:
    (foldl'
      (
        state: part:
        if elem part.key state.keys then
          state
        else
          {
            keys = state.keys ++ [ part.key ];
            parts = state.parts ++ [ part ];
          }
      )
      {
        keys = [ ];
        parts = [ ];
      }
      parts
    ).parts;
in
{
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };

  # `part` under `schema`: { config, errors }. Functions get `arguments`, and the merged `config`.
  evaluate =
    {
      schema,
      part,
      file,
      arguments ? { },
      show ? toString,
    }:
    let
      all = once (collect (arguments // { inherit config; }) show file file part);
      merged = merge schema "" (map (p: { inherit (p) file value; }) all);
      config = merged.seen;
    in
    {
      config = if merged.present then merged.value else { };
      errors = concatMap (p: p.errors) all ++ merged.errors;
    };
}
