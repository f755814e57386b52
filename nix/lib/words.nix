# Text: which known word is meant, and how values are shown in errors.
let
  inherit (builtins) elemAt foldl' genList head length stringLength substring;
  characters = text: genList (at: substring at 1 text) (stringLength text);
  min = a: b: if a < b then a else b;

  # Levenshtein's distance, row by row.
  distance =
    a: b:
    let
      width = length (characters b);
      others = characters b;
      next =
        row: letter:
        foldl' (
          built: at:
          let
            above = elemAt row (at + 1);
            before = elemAt built at;
            same = if elemAt others at == letter then 0 else 1;
          in
          built ++ [ (min (min (above + 1) (before + 1)) (elemAt row at + same)) ]
        ) [ (head row + 1) ] (genList (at: at) width);
    in
    elemAt (foldl' next (genList (at: at) (width + 1)) (characters a)) width;
in
rec {
  inherit distance;

  # The nearest of the known words, if it is near enough to be meant; else null.
  nearest =
    word: known:
    let
      scored = map (candidate: {
        inherit candidate;
        score = distance word candidate;
      }) known;
      best = foldl' (a: b: if a == null || b.score < a.score then b else a) null scored;
      limit = (stringLength word + 2) / 3;
    in
    if best != null && best.score <= limit then best.candidate else null;

  join = separator: parts: builtins.concatStringsSep separator parts;

  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;

  hasSuffix =
    suffix: text:
    let
      rest = stringLength text - stringLength suffix;
    in
    rest >= 0 && substring rest (stringLength suffix) text == suffix;

  removeSuffix =
    suffix: text: if hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;

  removePrefix =
    prefix: text:
    if hasPrefix prefix text then substring (stringLength prefix) (stringLength text) text else text;

  # A value as an error shows it.
  show =
    value:
    let
      kind = builtins.typeOf value;
    in
    if kind == "lambda" then
      "a function"
    else if kind == "set" then
      "a set"
    else if kind == "list" then
      "a list"
    else if kind == "path" then
      toString value
    else
      builtins.toJSON value;
}
