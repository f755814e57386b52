# What a JSON Schema (draft 2020-12, as far as schema.json uses it) says of one value: a list of what is wrong.
{ words, root }:
let
  inherit (builtins) any concatLists elem elemAt filter genList isList length;
in
rec {
  # Follows `$ref`, and "this or null" to this; what stands beside it (a description) is kept.
  resolve =
    schema:
    let
      reference = schema."$ref" or null;
      name = words.removePrefix "#/$defs/" reference;
      some = filter (s: (s.type or null) != "null") (schema.anyOf or [ ]);
      beside = removeAttrs schema [
        "$ref"
        "anyOf"
      ];
    in
    if reference != null then
      resolve root."$defs".${name} // beside
    else if length some == 1 then
      resolve (elemAt some 0) // beside
    else
      schema;

  typesOf =
    schema:
    let
      type = schema.type or [ ];
    in
    filter (t: t != "null") (if isList type then type else [ type ]);

  typeOf =
    value:
    {
      string = "string";
      path = "string";
      int = "integer";
      float = "number";
      bool = "boolean";
      list = "array";
      set = "object";
      null = "null";
      lambda = "function";
    }
    .${builtins.typeOf value};

  # The alternatives of a schema, without "or null".
  alternatives =
    schema:
    filter (s: (s.type or null) != "null") (map resolve (schema.anyOf or (schema.oneOf or [ ])));

  words_for = {
    string = "a string";
    integer = "a whole number";
    number = "a number";
    boolean = "true or false";
    array = "a list";
    object = "a set";
  };

  # What a schema takes, in words.
  expects =
    schema:
    schema."x-expects" or (
      if schema ? enum then
        "one of ${words.join ", " (map words.show (filter (v: v != null) schema.enum))}"
      else if schema ? const then
        words.show schema.const
      else if alternatives schema != [ ] then
        words.join " or " (map expects (alternatives schema))
      else
        words.join " or " (map (t: words_for.${t}) (typesOf schema))
    );

  # `option`: its name, as in service.port.
  check =
    given: option: value:
    let
      schema = resolve given;
      type = typeOf value;
      types = typesOf schema;
      is = t: t == type || (t == "number" && type == "integer");
      wrong = [ "${option} is ${words.show value}, not ${expects schema}" ];
      text = toString value;
      items = concatLists (
        genList (at: check schema.items "${option}[${toString at}]" (elemAt value at)) (length value)
      );
      known = schema.properties or { };
      extra = schema.additionalProperties or true;
      member =
        name:
        if value.${name} == null && !(elem name (schema.required or [ ])) then
          [ ]
        else if known ? ${name} then
          check known.${name} "${option}.${name}" value.${name}
        else if builtins.isAttrs extra then
          check extra "${option}.${name}" value.${name}
        else if extra then
          [ ]
        else
          [ (unknown "${option}.${name}" name (builtins.attrNames known)) ];
      missing = filter (name: !(value ? ${name})) (schema.required or [ ]);
    in
    if alternatives schema != [ ] then
      let
        tried = map (s: check s option value) (alternatives schema);
        # The one that is of its type says best what is wrong.
        near = filter (s: elem type (typesOf s)) (alternatives schema);
      in
      if any (errors: errors == [ ]) tried then
        [ ]
      else if length near == 1 && !(elemAt near 0 ? enum) && !(schema ? "x-expects") then
        check (elemAt near 0) option value
      else
        wrong
    else if schema ? const then
      if value == schema.const then [ ] else wrong
    else if schema ? enum then
      if elem value schema.enum then [ ] else wrong
    else if types != [ ] && !(any is types) then
      wrong
    else if schema ? minimum && value < schema.minimum then
      [ "${option} is ${words.show value}, below ${words.show schema.minimum}" ]
    else if schema ? maximum && value > schema.maximum then
      [ "${option} is ${words.show value}, above ${words.show schema.maximum}" ]
    else if schema ? pattern && builtins.match (unanchored schema.pattern) text == null then
      wrong
    else if schema."x-private" or false && words.hasPrefix "${builtins.storeDir}/" text then
      [ "${option} is ${text}: what lies in the Nix store can be read by everyone; name the file in a string" ]
    else if type == "array" && schema ? items then
      items
    else if type == "object" then
      concatLists (map member (builtins.attrNames value))
      ++ map (name: "${option} lacks ${name}") missing
    else
      [ ];

  # A POSIX expression of `builtins.match` is anchored by itself.
  unanchored = pattern: words.removePrefix "^" (words.removeSuffix "$" pattern);

  unknown =
    option: name: known:
    let
      near = words.nearest name known;
      hint = if near == null then "there are ${words.join ", " known}" else "did you mean ${near}?";
    in
    "${option} is no option; ${hint}";
}
