//! The version that state on disk and messages carry. What is of another version is refused on purpose, by
//! name: half of it would be understood, and nobody would know which half.
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version {found}, this program reads {reads}")]
pub struct OtherVersion {
    /// As it is written there; `null` where there is none.
    pub found: String,
    pub reads: u32,
}

pub fn check(found: u32, reads: u32) -> Result<(), OtherVersion> {
    if found == reads { Ok(()) } else { Err(OtherVersion { found: found.to_string(), reads }) }
}

/// The same of a document that is not understood yet: another version may have other fields.
pub fn check_document(document: &Value, reads: u32) -> Result<(), OtherVersion> {
    let found = &document["version"];
    if *found == reads { Ok(()) } else { Err(OtherVersion { found: found.to_string(), reads }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_version_is_named() {
        assert_eq!(check_document(&json!({"version": 1}), 1), Ok(()));
        for (document, found) in [(json!({"version": 2}), "2"), (json!({}), "null"), (json!([]), "null")] {
            let wrong = check_document(&document, 1).unwrap_err().to_string();
            assert_eq!(wrong, format!("version {found}, this program reads 1"));
        }
    }
}
