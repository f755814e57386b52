//! JSON as Python writes and reads it: `NaN`, `Infinity` and `-Infinity` are numbers there. Nodes that must always run
//! say so with NaN, which ComfyUI writes into the pictures' metadata, and scripts send what they find in those.
use serde_json::Value;

/// Reads JSON; where that fails, once more with `null` for each number that JSON does not have. Says whether that was so.
/// Its nesting is limited, as serde_json limits it.
pub fn parse(text: &[u8]) -> Result<(Value, bool), serde_json::Error> {
    match serde_json::from_slice(text) {
        Ok(value) => Ok((value, false)),
        Err(reason) => match without_odd_numbers(text) {
            Some(plain) => serde_json::from_slice(&plain).map(|value| (value, true)),
            None => Err(reason),
        },
    }
}

/// The text with `null` in the place of such numbers; `None` where it has none.
fn without_odd_numbers(text: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let mut plain: Option<Vec<u8>> = None;
    let (mut at, mut kept, mut quoted) = (0, 0, false);
    while let Some(&byte) = text.get(at) {
        let word = if quoted { None } else { WORDS.iter().find(|word| text[at..].starts_with(word)) };
        match (byte, word) {
            (_, Some(word)) => {
                let plain = plain.get_or_insert_default();
                plain.extend_from_slice(&text[kept..at]);
                plain.extend_from_slice(b"null");
                at += word.len();
                kept = at;
            }
            (b'"', None) => {
                quoted = !quoted;
                at += 1;
            }
            // What is escaped is no quotation mark.
            (b'\\', None) if quoted => at += 2,
            _ => at += 1,
        }
    }
    let mut plain = plain?;
    plain.extend_from_slice(&text[kept..]);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_that_json_does_not_have() {
        let text = br#"{"NaN": [NaN, -Infinity,Infinity], "a\"NaN": "Infinity \\", "b": NaN}"#;
        let found = json!({"NaN": [null, null, null], "a\"NaN": "Infinity \\", "b": null});
        assert_eq!(parse(text).unwrap(), (found, true));
        assert_eq!(parse(b"[1]").unwrap(), (json!([1]), false));
    }

    #[test]
    fn what_is_no_json_all_the_same() {
        for text in ["", "{", "[NaN", "NaNa", "[1,]", "\"\\", "\"a", "-NaN", "[NaN] x"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"\xff").is_err());
        let deep = |n: usize| format!("{}NaN{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(deep(100).as_bytes()).is_ok());
        assert!(parse(deep(100_000).as_bytes()).unwrap_err().to_string().contains("recursion limit"));
    }
}
