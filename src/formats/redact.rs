//! Emptying single values of a text: of JSON by name or JSON Pointer (RFC 6901), of `key = value` and `key: value` lines by name.
//! Whatever else the text says stays as it is, byte for byte.
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    pub text: String,
    /// Keys that the text does not have.
    pub missing: Vec<String>,
}

/// Why a value cannot be emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// An object, a list, or a text over several lines.
    NotOneValue(String),
    /// JSON by its name, and by nothing else.
    NoJson,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotOneValue(key) => write!(f, "`{key}` is more than one value"),
            Refused::NoJson => f.write_str("the file is no JSON"),
        }
    }
}

/// `name`: the file's own, which says how it is to be read.
pub fn empty(name: &str, text: &str, keys: &[String]) -> Result<Redacted, Refused> {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    let (spans, found) = match extension.as_str() {
        "json" => json(text, keys)?,
        _ => lines(text, keys, matches!(extension.as_str(), "yaml" | "yml" | "toml"))?,
    };
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (span, replacement) in spans {
        out.push_str(&text[done..span.start]);
        out.push_str(replacement);
        done = span.end;
    }
    out.push_str(&text[done..]);
    let missing = keys.iter().filter(|key| !found.contains(*key)).cloned().collect();
    Ok(Redacted { text: out, missing })
}

/// What is replaced by what, in order, and the keys that were there.
type Found<'k> = (Vec<(Range<usize>, &'static str)>, BTreeSet<&'k String>);

const EMPTY: &str = "\"\"";

fn json<'k>(text: &str, keys: &'k [String]) -> Result<Found<'k>, Refused> {
    // From here on only what is there is looked for. A value that is kept is read with a limit of its depth.
    serde_json::from_str::<serde_json::Value>(text).map_err(|_| Refused::NoJson)?;
    let mut scan = Scan { text, at: 0, keys, spans: Vec::new(), found: BTreeSet::new() };
    scan.value(&mut String::new(), None)?;
    Ok((scan.spans, scan.found))
}

/// A walk over JSON that is known to be valid.
struct Scan<'t, 'k> {
    text: &'t str,
    at: usize,
    keys: &'k [String],
    spans: Vec<(Range<usize>, &'static str)>,
    found: BTreeSet<&'k String>,
}

impl<'k> Scan<'_, 'k> {
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    fn blank(&mut self) {
        while self.peek().is_ascii_whitespace() {
            self.at += 1;
        }
    }

    fn string(&mut self) -> String {
        let start = self.at;
        self.at += 1;
        while self.at < self.text.len() && self.peek() != b'"' {
            self.at += if self.peek() == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        serde_json::from_str(&self.text[start..self.at]).unwrap_or_default()
    }

    fn wanted(&self, pointer: &str, name: Option<&str>) -> Option<&'k String> {
        let is =
            |key: &&String| if key.starts_with('/') { **key == pointer } else { Some(key.as_str()) == name };
        self.keys.iter().find(is)
    }

    fn value(&mut self, pointer: &mut String, name: Option<&str>) -> Result<(), Refused> {
        self.blank();
        let (start, first) = (self.at, self.peek());
        let wanted = self.wanted(pointer, name);
        match first {
            b'{' | b'[' => {
                if let Some(key) = wanted {
                    return Err(Refused::NotOneValue(key.clone()));
                }
                return self.several(pointer, first == b'{');
            }
            b'"' => drop(self.string()),
            _ => {
                while !self.peek().is_ascii_whitespace() && !matches!(self.peek(), b',' | b']' | b'}' | 0) {
                    self.at += 1;
                }
            }
        }
        if let Some(key) = wanted {
            self.spans.push((start..self.at, EMPTY));
            self.found.insert(key);
        }
        Ok(())
    }

    fn several(&mut self, pointer: &mut String, object: bool) -> Result<(), Refused> {
        let length = pointer.len();
        self.at += 1;
        for number in 0.. {
            self.blank();
            if matches!(self.peek(), b'}' | b']' | 0) {
                break;
            }
            let name = object.then(|| self.string());
            if object {
                self.blank();
                self.at += 1;
            }
            let part = name
                .as_ref()
                .map_or_else(|| format!("{number}"), |n| n.replace('~', "~0").replace('/', "~1"));
            pointer.push('/');
            pointer.push_str(&part);
            self.value(pointer, name.as_deref())?;
            pointer.truncate(length);
            self.blank();
            if self.peek() == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        Ok(())
    }
}

fn bare(text: &str) -> &str {
    text.trim().trim_matches(['"', '\'']).trim()
}

/// `quoted`: an empty value is written as a text.
fn lines<'k>(text: &str, keys: &'k [String], quoted: bool) -> Result<Found<'k>, Refused> {
    let (mut spans, mut found) = (Vec::new(), BTreeSet::new());
    let mut start = 0;
    let mut all = text.split_inclusive('\n').peekable();
    while let Some(line) = all.next() {
        let begin = start;
        start += line.len();
        let inner = line.trim_start().trim_start_matches("- ");
        if inner.starts_with(['#', ';', '[']) || inner.starts_with("//") {
            continue;
        }
        let Some(at) = line.find(['=', ':']) else { continue };
        let name = bare(line[..at].trim_start().trim_start_matches("- "));
        let name = name.strip_prefix("export ").unwrap_or(name);
        let Some(key) = keys.iter().find(|key| key.as_str() == name) else { continue };
        let rest = line[at + 1..].trim_end();
        let value = rest.trim_start();
        let from = at + 1 + rest.len() - value.len();
        // A continued value would ship its other lines.
        let column = line.len() - inner.len();
        let indent = |line: &str| line.len() - line.trim_start().len();
        let next = all.clone().find(|next| !next.trim().is_empty());
        // The items of a list in YAML may stand as far to the left as their key.
        let item = |next: &str| {
            value.is_empty() && indent(next) >= indent(line) && next.trim_start().starts_with('-')
        };
        let goes_on = next.is_some_and(|next| indent(next) > column || item(next));
        let block = value.starts_with(['|', '>', '{', '[', '(', '&', '*']);
        let open = value.starts_with("\"\"\"") || value.starts_with("'''") || value.ends_with('\\');
        if block || open || goes_on {
            return Err(Refused::NotOneValue(key.clone()));
        }
        let length = length_of(value, quoted).ok_or_else(|| Refused::NotOneValue(key.clone()))?;
        let replacement = if quoted || value.starts_with(['"', '\'']) { EMPTY } else { "" };
        spans.push((begin + from..begin + from + length, replacement));
        found.insert(key);
    }
    Ok((spans, found))
}

/// Of a value on one line, without the comment or the comma behind it; none where its quote does not end there, or more than that
/// follows. `comments`: text behind ` #` is one.
fn length_of(value: &str, comments: bool) -> Option<usize> {
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let end = value.find(" #").filter(|_| comments).unwrap_or(value.len());
        return Some(value[..end].trim_end().trim_end_matches(',').len());
    };
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            c if c == quote => {
                let rest = value[at + 1..].trim_start_matches([',', ';', ' ', '\t']);
                return (rest.is_empty() || rest.starts_with('#')).then_some(at + 1);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn emptied(name: &str, text: &str, keys: &[&str]) -> Result<(String, Vec<String>), String> {
        let keys: Vec<String> = keys.iter().map(|k| k.to_string()).collect();
        empty(name, text, &keys).map(|r| (r.text, r.missing)).map_err(|e| e.to_string())
    }

    #[test]
    fn one_value_of_json_and_nothing_else() {
        let text = "{ \"civitai_api_key\" : \"0123\\\"x\",\n  \"folders\": {\"a\": [1, \"b\"], \"key\": 5 },\"last\":null}\n";
        let ok = |text: &str| Ok((text.to_string(), vec![]));
        assert_eq!(
            emptied("settings.json", text, &["civitai_api_key"]),
            ok(&text.replace("\"0123\\\"x\"", "\"\""))
        );
        assert_eq!(
            emptied("s.json", text, &["/folders/key", "last"]),
            ok(&text.replace("5 ", "\"\" ").replace("null", "\"\""))
        );
        assert_eq!(emptied("s.json", text, &["/folders/a/1"]), ok(&text.replace("\"b\"", "\"\"")));
        assert_eq!(
            emptied("s.json", text, &["/key", "b"]),
            Ok((text.to_string(), vec!["/key".into(), "b".into()]))
        );
        assert_eq!(emptied("s.json", text, &["folders"]), Err("`folders` is more than one value".into()));
        assert_eq!(emptied("s.json", "key = 1", &["key"]), Err("the file is no JSON".into()));
    }

    #[test]
    fn what_goes_on_behind_a_value_is_seen() {
        for (name, text) in [
            ("x.yaml", "key:\n- one\n- two\n"),
            ("x.yaml", "a:\n  key:\n  - one\n"),
            ("x.yaml", "key: a\n\n  b\n"),
            (".env", "key='abc'\"def\"\n"),
            ("x.py", "key = \"abc\" + \"def\"\n"),
        ] {
            assert_eq!(emptied(name, text, &["key"]), Err("`key` is more than one value".into()), "{text}");
        }
        // A `#` is part of a value of an INI file (configparser, "inline_comment_prefixes").
        assert_eq!(emptied("x.ini", "key = abc #def\n", &["key"]).unwrap().0, "key = \n");
        assert_eq!(emptied("x.yaml", "key: abc #def\n", &["key"]).unwrap().0, "key: \"\" #def\n");
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(emptied("x.json", &deep, &["key"]), Err("the file is no JSON".into()));
    }

    #[test]
    fn lines_of_key_and_value() {
        let ini = "; token = a\n[api]\ntoken = hf_abc # mine\nother= 1\nTOKEN=x\n";
        assert_eq!(emptied("config.ini", ini, &["token"]).unwrap().0, ini.replace("= hf_abc # mine", "= "));
        let toml = "a = 1\ntoken = \"x\\\"y\" # mine\n";
        assert_eq!(emptied("c.toml", toml, &["token"]).unwrap().0, "a = 1\ntoken = \"\" # mine\n");
        let yaml = "server:\n  - password: hunter2\n    name: a\n";
        assert_eq!(emptied("c.yaml", yaml, &["password"]).unwrap().0, yaml.replace("hunter2", "\"\""));
        assert_eq!(emptied(".env", "export KEY='a b'\n", &["KEY"]).unwrap().0, "export KEY=\"\"\n");
        for (name, text) in [
            ("c.yaml", "key: |\n  a\n"),
            ("c.yaml", "key:\n  a: b\n"),
            ("c.toml", "key = \"\"\"\na\n\"\"\"\n"),
            ("c.ini", "key = a\n  b\n"),
            ("c.toml", "key = [\"a\"]\n"),
        ] {
            assert_eq!(emptied(name, text, &["key"]), Err("`key` is more than one value".into()), "{text}");
        }
        assert_eq!(emptied("c.ini", "", &["key"]), Ok((String::new(), vec!["key".into()])));
    }

    proptest! {
        #[test]
        fn json_keeps_all_but_the_value(value in "\\PC{1,20}", other in "\\PC{0,20}", name in "[a-z~/\"\\\\]{1,8}") {
            prop_assume!(name != "z");
            let document = serde_json::json!({"z": [{name.clone(): value}, other], "n": 1.5});
            let pointer = format!("/z/0/{}", name.replace('~', "~0").replace('/', "~1"));
            let text = serde_json::to_string_pretty(&document).unwrap();
            let redacted = empty("x.json", &text, &[pointer]).unwrap();
            let mut wanted = document;
            wanted["z"][0][&name] = "".into();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&redacted.text).unwrap(), wanted);
        }

        #[test]
        fn no_text_makes_it_fail(text in "\\PC{0,40}", extension in "(json|ini|yaml|toml)") {
            let _ = empty(&format!("x.{extension}"), &text, &["a".into()]);
        }
    }
}
