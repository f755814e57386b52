//! Assets: bytes by their BLAKE3 hash, and the record that somebody has of them.
use crate::formats::comfy::api::v2::refusal::Refused;
use crate::formats::hex::hex;
use serde_json::{Value, json};

const SCHEME: &str = "blake3:";
/// Of a file's name in ComfyUI's input folder: the digits that tell one from another.
const DIGITS: usize = 32;
const PATH: usize = 512;
/// Seconds that an upload may want to be kept for.
const LASTS: std::ops::RangeInclusive<u64> = 60..=604_800;

pub struct Asset<'a> {
    pub id: &'a str,
    /// Hexadecimal.
    pub hash: &'a str,
    pub size: u64,
    pub content_type: &'a str,
    pub file_path: Option<&'a str>,
    /// Of an answer to a request that makes one: whether its bytes are new.
    pub new: Option<bool>,
    pub created: String,
    pub url: String,
    pub url_expires: String,
    pub expires: String,
}

pub fn asset(asset: &Asset) -> Value {
    let mut value = json!({
        "id": asset.id, "hash": hash_text(asset.hash), "size_bytes": asset.size, "content_type": asset.content_type,
        "file_path": asset.file_path, "created_at": asset.created, "url": asset.url,
        "url_expires_at": asset.url_expires, "expires_at": asset.expires,
    });
    if let Some(new) = asset.new {
        value["created_new"] = new.into();
    }
    value
}

pub fn hash_text(digits: &str) -> String {
    format!("{SCHEME}{digits}")
}

/// The digits of `blake3:…`; `None` where it is no such hash.
pub fn hash(text: &str) -> Option<String> {
    let digits = text.strip_prefix(SCHEME)?;
    let whole = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| digits.to_ascii_lowercase())
}

pub fn digits(hash: &[u8; 32]) -> String {
    hex(hash)
}

/// Where a client wants a file to be: below the input folder, and nowhere else.
pub fn file_path(text: &str) -> Result<String, Refused> {
    let wrong = |why: &str| Refused::new(422, "invalid_request", format!("file_path {why}"));
    if text.is_empty() || text.len() > PATH {
        return Err(wrong("must be there, and not be longer than 512 bytes"));
    }
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if text.split('/').any(bad) || text.contains(['\\', '\0']) || text.chars().any(char::is_control) {
        return Err(wrong("must be a relative path without . and .."));
    }
    Ok(text.into())
}

/// A `Content-Type` that can be a header.
pub fn content_type(text: &str) -> Option<String> {
    let text = text.trim();
    let good =
        text.len() <= 200 && text.contains('/') && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    good.then(|| text.to_string())
}

pub fn lasts(text: &str) -> Result<u64, Refused> {
    let seconds = text.trim().parse().ok().filter(|seconds| LASTS.contains(seconds));
    seconds
        .ok_or_else(|| Refused::new(422, "invalid_request", "expires_in must be from 60 to 604800 seconds"))
}

/// What ComfyUI knows an asset's file by: named by its content, so that no two overwrite each other, with the extension
/// that loaders look at.
pub fn input_name(digits: &str, path: Option<&str>) -> String {
    let end = path.and_then(|path| path.rsplit('/').next()?.rsplit_once('.')).map(|(_, end)| end);
    let end =
        end.filter(|end| (1..=8).contains(&end.len()) && end.bytes().all(|b| b.is_ascii_alphanumeric()));
    let stem = digits.get(..DIGITS).unwrap_or(digits);
    match end {
        Some(end) => format!("asset-{stem}.{}", end.to_ascii_lowercase()),
        None => format!("asset-{stem}"),
    }
}

/// The body of `POST /api/v2/assets/from-hash`.
#[derive(Debug, PartialEq, Eq)]
pub struct FromHash {
    pub hash: String,
    pub file_path: Option<String>,
    pub lasts: Option<u64>,
}

pub fn from_hash(body: &[u8]) -> Result<FromHash, Refused> {
    let value: Value =
        serde_json::from_slice(body).map_err(|e| Refused::request(format!("the body is no JSON: {e}")))?;
    let text = match &value["hash"] {
        Value::String(text) => text,
        _ => return Err(Refused::new(422, "invalid_request", "hash is missing")),
    };
    // What is no hash is none that anybody has.
    let hash = hash(text).ok_or_else(no_blob)?;
    let file_path = match &value["file_path"] {
        Value::Null => None,
        Value::String(path) => Some(file_path(path)?),
        _ => return Err(Refused::new(422, "invalid_request", "file_path must be a string")),
    };
    let lasts = match &value["expires_in"] {
        Value::Null => None,
        seconds => Some(lasts(&seconds.to_string())?),
    };
    Ok(FromHash { hash, file_path, lasts })
}

pub fn no_blob() -> Refused {
    Refused::new(404, "blob_not_found", "there are no such bytes that you may use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes() {
        let digits = "0a".repeat(32);
        assert_eq!(hash(&format!("blake3:{digits}")), Some(digits.clone()));
        assert_eq!(hash(&format!("blake3:{}", digits.to_uppercase())), Some(digits.clone()));
        for wrong in ["", "blake3:", "blake3:0a", &digits, &format!("sha256:{digits}")] {
            assert_eq!(hash(wrong), None, "{wrong}");
        }
        assert_eq!(hash_text("0a"), "blake3:0a");
    }

    #[test]
    fn names_and_paths() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(input_name(&digits, Some("a/photo.PNG")), "asset-0123456789abcdef0123456789abcdef.png");
        for path in [None, Some("photo"), Some("a.b/c"), Some("x.p/ng"), Some("x.toolongforone")] {
            assert_eq!(input_name(&digits, path), "asset-0123456789abcdef0123456789abcdef", "{path:?}");
        }
        assert!(file_path("a/photo (1).png").is_ok());
        for wrong in ["", "/etc/passwd", "a/../b", "..", ".", "a//b", "a\\b", "a\0b", "a\nb"] {
            assert_eq!(file_path(wrong).unwrap_err().status, 422, "{wrong:?}");
        }
        assert_eq!(content_type(" image/png "), Some("image/png".into()));
        assert_eq!((content_type("png"), content_type("a/b\r\nc: d")), (None, None));
        assert_eq!((lasts("60").unwrap(), lasts("59").is_err(), lasts("x").is_err()), (60, true, true));
    }

    #[test]
    fn a_body_of_from_hash() {
        let digits = "0a".repeat(32);
        let body = format!(
            r#"{{"hash": "blake3:{digits}", "file_path": "x.png", "tags": ["input"], "expires_in": 60}}"#
        );
        let found = from_hash(body.as_bytes()).unwrap();
        assert_eq!(found, FromHash { hash: digits, file_path: Some("x.png".into()), lasts: Some(60) });
        for (body, code) in [
            ("{}", "invalid_request"),
            ("x", "invalid_request"),
            (r#"{"hash": "blake3:nope"}"#, "blob_not_found"),
            (r#"{"hash": 3}"#, "invalid_request"),
        ] {
            assert_eq!(from_hash(body.as_bytes()).unwrap_err().code, code, "{body}");
        }
    }
}
