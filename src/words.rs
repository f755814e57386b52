//! Words that people type: which known one is meant, and which names a pattern takes. And words that people read.

/// What moves a terminal's cursor, breaks a line or turns the order of a text round: control characters, line and
/// paragraph separators, and the marks of the bidirectional algorithm (UAX #9).
fn moves(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Our own colours, as `Printer::paint` writes them.
const COLOURS: [&str; 8] = [
    "\u{1b}[0m",
    "\u{1b}[1m",
    "\u{1b}[2m",
    "\u{1b}[31m",
    "\u{1b}[32m",
    "\u{1b}[33m",
    "\u{1b}[34m",
    "\u{1b}[36m",
];

/// A text of ours with others' words in it, for a terminal: but for line breaks and colours it moves nothing.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = COLOURS.iter().find(|colour| rest.starts_with(**colour));
        let length = colour.map_or(c.len_utf8(), |colour| colour.len());
        if c == '\n' || colour.is_some() || !moves(c) {
            out.push_str(&rest[..length]);
        } else {
            out.extend(c.escape_default());
        }
        rest = &rest[length..];
    }
    out
}

/// JSON in which a terminal finds nothing that moves it either: such characters are only in its strings, where they may
/// be written as escapes (RFC 8259, section 7).
pub fn harmless_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c != '\n' && moves(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// A text of somebody else, for people: what moves the cursor and bytes that are not UTF-8 escaped, so that a hostile
/// name can neither break a line of the report nor move the cursor.
pub fn show(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if moves(c) { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A text in lines of at most so many characters, broken between words alone; what follows the first line is indented as
/// it is.
pub fn wrapped(text: &str, width: usize) -> String {
    let body = text.trim_start_matches(' ');
    let indent = " ".repeat(text.len() - body.len());
    let (mut lines, mut line, mut begun) = (Vec::new(), indent.clone(), false);
    for word in body.split(' ') {
        if begun && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            begun = false;
        }
        if begun {
            line.push(' ');
        }
        line.push_str(word);
        begun = true;
    }
    lines.push(line);
    lines.join("\n")
}

/// The end of a text: at most so many lines.
pub fn last_lines(text: &str, most: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].to_vec()
}

/// The known key most like the unknown one; both are in serde's message.
pub fn nearest_field(message: &str) -> Option<&str> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let wrong = names.next()?;
    nearest(wrong, names)
}

/// The most like `wrong`, if any is like it at all.
pub fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, key) = known.map(|key| (edits(wrong, key), key)).min()?;
    (distance * 3 <= wrong.len().max(key.len())).then_some(key)
}

/// Letters to insert, remove, replace or exchange with their neighbour to make one word of the other (optimal string
/// alignment): `prot` is one step from `port`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

/// What serde expected, in the words of who writes the file.
pub fn for_writers(message: &str) -> String {
    const WORDS: [(&str, &str); 10] = [
        ("expected u8", "expected a whole number from 0 to 255, without quotes"),
        ("expected u16", "expected a whole number from 0 to 65535, without quotes"),
        ("expected u32", "expected a whole number, without quotes"),
        ("expected u64", "expected a whole number, without quotes"),
        ("expected usize", "expected a whole number, without quotes"),
        ("expected a boolean", "expected true or false, without quotes"),
        ("expected a sequence", "expected a list: [ … ]"),
        ("expected a map", "expected a table: key = value"),
        ("expected a string", "expected a text in quotes"),
        ("expected path string", "expected a path in quotes"),
    ];
    let Some(place) = message.rfind("expected ") else { return message.into() };
    let (before, wanted) = message.split_at(place);
    let whole = |known: &str| {
        wanted.strip_prefix(known).filter(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    };
    // A type of ours: its name says nothing to who writes the file.
    if wanted.starts_with("expected struct ") {
        return format!("{before}expected a table: key = value");
    }
    match WORDS.iter().find_map(|(known, words)| Some((words, whole(known)?))) {
        Some((words, rest)) => format!("{before}{words}{rest}"),
        None => message.into(),
    }
}

/// Whether a pattern with `*` and `?` takes a name.
pub fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last `*` does not fit.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_words_move_nothing() {
        assert_eq!(show("a\n\u{202e}b\u{1b}[2J".as_bytes()), "a\\n\\u{202e}b\\u{1b}[2J");
        assert_eq!(
            harmless("\u{1b}[31ma\u{1b}[0m\nb\u{1b}[8mc\rd"),
            "\u{1b}[31ma\u{1b}[0m\nb\\u{1b}[8mc\\rd"
        );
    }

    proptest::proptest! {
        #[test]
        fn whatever_it_is(text in "(\\PC|[\u{0}-\u{20}\u{7f}-\u{9f}\u{2028}-\u{202e}\u{2066}-\u{2069}]|\u{1b}\\[[0-9;]{0,3}[mJH]){0,60}") {
            let shown = harmless(&text);
            let mut bare = shown.replace('\n', "");
            COLOURS.iter().for_each(|colour| bare = bare.replace(colour, ""));
            proptest::prop_assert!(!bare.contains(moves), "{bare:?}");
            proptest::prop_assert!(!show(text.as_bytes()).contains(moves));
            let json = harmless_json(&serde_json::to_string(&text).unwrap());
            proptest::prop_assert!(!json.contains(moves));
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn the_end_of_a_text() {
        assert_eq!(last_lines("a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(last_lines("a", 2), ["a"]);
        assert!(last_lines("", 2).is_empty());
    }

    #[test]
    fn distances() {
        assert_eq!((edits("abc", "abc"), edits("", "ab"), edits("kitten", "sitting")), (0, 2, 3));
        assert_eq!((edits("prot", "port"), edits("ab", "ba"), edits("abc", "ca")), (1, 1, 3));
        assert_eq!(nearest("prot", ["port", "output"].into_iter()), Some("port"));
        assert_eq!(nearest("gpu-3", ["cpu", "gpu-1"].into_iter()), Some("gpu-1"));
        assert_eq!(nearest("zebra", ["cpu", "gpu-1"].into_iter()), None);
    }

    #[test]
    fn what_was_expected_is_said_to_who_writes_it() {
        let words = |text: &str| for_writers(text);
        assert_eq!(
            words("invalid type: string \"8188\", expected u16\n"),
            "invalid type: string \"8188\", expected a whole number from 0 to 65535, without quotes\n"
        );
        assert_eq!(
            words("invalid type: integer `1`, expected struct X"),
            "invalid type: integer `1`, expected a table: key = value"
        );
        // A message of our own, or one that is clear, stays.
        assert_eq!(words("gpus is \"auto\""), "gpus is \"auto\"");
        assert_eq!(words("expected u16x"), "expected u16x");
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrapped("  one two three", 9), "  one two\n  three");
        assert_eq!(wrapped("Go on? [Y/n] ", 80), "Go on? [Y/n] ");
        assert_eq!(wrapped("a-word-that-is-too-long b", 5), "a-word-that-is-too-long\nb");
        assert_eq!((wrapped("", 5), wrapped("a  b", 5)), (String::new(), "a  b".into()));
    }

    #[test]
    fn patterns() {
        for (pattern, name, takes) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("gpu-*", "gpu-12", true),
            ("*-eu-*", "a-b-eu-eu-1", true),
            ("g?u", "gpu", true),
            ("g?u", "gu", false),
            ("*a*b", "xaxbxa", false),
            ("*a*b", "xaxbxab", true),
        ] {
            assert_eq!(glob(pattern, name), takes, "{pattern} {name}");
        }
    }
}
