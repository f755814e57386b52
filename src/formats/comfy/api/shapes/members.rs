//! The members of a JSON object, each still as text: for what is passed on and not looked into.
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

#[derive(Debug, Default, Clone)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Of a text; what is no object has none.
    pub fn of(text: &'a str) -> Members<'a> {
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// Its text may have escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    found.push((name, value));
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Of).map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_objects_and_of_nothing_else() {
        let found = Members::of(r#" {"a": [1,  2], "b\u00fc": {"c": null}} "#).0;
        let texts: Vec<(&str, &str)> =
            found.iter().map(|(name, value)| (name.as_ref(), value.get())).collect();
        assert_eq!(texts, [("a", "[1,  2]"), ("b\u{fc}", r#"{"c": null}"#)]);
        for text in ["{}", "null", "[1]", "\"a\"", "3", "", "{"] {
            assert!(Members::of(text).0.is_empty(), "{text}");
        }
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(Members::of(&deep).0.len(), 1);
    }
}
