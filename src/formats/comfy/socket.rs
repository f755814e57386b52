//! ComfyUI's WebSocket: which messages there are, and what of them we read or write ourselves.
//!
//! A text message is `{"type": …, "data": …}`. A binary one begins with its kind, a big-endian u32: a preview
//! is 1 (then 1 for JPEG or 2 for PNG, then the picture) or, for clients whose first message says that they know
//! it, 4 (then the length of a JSON text, the text, the picture); 3 is text of a node.
use serde_json::{Value, json};

pub const STATUS: &str = "status";
pub const FEATURE_FLAGS: &str = "feature_flags";
/// The flag of a client that knows previews of kind 4.
pub const PREVIEW_METADATA: &str = "supports_preview_metadata";

const PREVIEW: u32 = 1;
const PREVIEW_WITH_METADATA: u32 = 4;
const JPEG: u32 = 1;
const PNG: u32 = 2;

/// What may be left out for a client that does not keep up, since the next of its kind says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    Preview,
    Progress,
    /// How many jobs wait: only the newest is true.
    Status,
    Must,
}

/// A text message's worth, by its `type` alone, which comes first in what ComfyUI sends.
pub fn worth_of_text(text: &[u8]) -> Worth {
    match leading_type(text) {
        Some(b"progress" | b"progress_state") => Worth::Progress,
        Some(b"status") => Worth::Status,
        _ => Worth::Must,
    }
}

pub fn worth_of_binary(message: &[u8]) -> Worth {
    match word(message, 0) {
        Some(PREVIEW | PREVIEW_WITH_METADATA) => Worth::Preview,
        _ => Worth::Must,
    }
}

fn leading_type(text: &[u8]) -> Option<&[u8]> {
    let inside = text.trim_ascii_start().strip_prefix(b"{")?;
    let value = inside.trim_ascii_start().strip_prefix(b"\"type\"")?;
    let value = value.trim_ascii_start().strip_prefix(b":")?;
    let value = value.trim_ascii_start().strip_prefix(b"\"")?;
    Some(&value[..value.iter().position(|b| *b == b'"')?])
}

/// The first message of a socket, which names the session that the server knows it by.
pub fn hello(remaining: usize, sid: &str) -> Value {
    json!({"type": STATUS, "data": {"status": exec_info(remaining), "sid": sid}})
}

pub fn status(remaining: usize) -> Value {
    json!({"type": STATUS, "data": {"status": exec_info(remaining)}})
}

fn exec_info(remaining: usize) -> Value {
    json!({"exec_info": {"queue_remaining": remaining}})
}

/// What a side can do.
pub fn feature_flags(flags: &Value) -> Value {
    json!({"type": FEATURE_FLAGS, "data": flags})
}

/// What the first message of a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// It is nothing that counts as a message: the next one is the first.
    Nothing,
    /// It says something else than what the client can do.
    Other,
    Flags {
        preview_metadata: bool,
    },
}

pub fn first(text: &[u8]) -> First {
    let Ok(Value::Object(message)) = serde_json::from_slice(text) else { return First::Nothing };
    if message.get("type").and_then(Value::as_str) != Some(FEATURE_FLAGS) {
        return First::Other;
    }
    let flag = message.get("data").and_then(|flags| flags.get(PREVIEW_METADATA));
    First::Flags { preview_metadata: flag == Some(&Value::Bool(true)) }
}

/// Whether a binary message is a preview that only some clients understand.
pub fn has_metadata(message: &[u8]) -> bool {
    word(message, 0) == Some(PREVIEW_WITH_METADATA)
}

/// A preview of kind 4 as one of kind 1; nothing where the message is not a whole one.
pub fn without_metadata(message: &[u8]) -> Option<Vec<u8>> {
    let (metadata, picture) = parts(message)?;
    let kind =
        if metadata.get("image_type").and_then(Value::as_str) == Some("image/png") { PNG } else { JPEG };
    let mut plain = Vec::with_capacity(8 + picture.len());
    plain.extend_from_slice(&PREVIEW.to_be_bytes());
    plain.extend_from_slice(&kind.to_be_bytes());
    plain.extend_from_slice(picture);
    Some(plain)
}

/// A preview of either kind: what is said of it, what kind of picture it is, and the picture.
pub fn preview(message: &[u8]) -> Option<(Value, &'static str, &[u8])> {
    match (word(message, 0)?, word(message, 4)?) {
        (PREVIEW_WITH_METADATA, _) => {
            let (metadata, picture) = parts(message)?;
            let png = metadata.get("image_type").and_then(Value::as_str) == Some("image/png");
            Some((metadata, if png { "image/png" } else { "image/jpeg" }, picture))
        }
        (PREVIEW, PNG) => Some((Value::Null, "image/png", &message[8..])),
        (PREVIEW, _) => Some((Value::Null, "image/jpeg", &message[8..])),
        _ => None,
    }
}

/// The job that a preview of kind 4 belongs to.
pub fn job_of_preview(message: &[u8]) -> Option<String> {
    parts(message)?.0.get("prompt_id")?.as_str().map(str::to_string)
}

fn parts(message: &[u8]) -> Option<(Value, &[u8])> {
    if !has_metadata(message) {
        return None;
    }
    let length = usize::try_from(word(message, 4)?).ok()?;
    let (metadata, picture) = message.get(8..)?.split_at_checked(length)?;
    Some((serde_json::from_slice(metadata).ok()?, picture))
}

/// The big-endian number at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preview(metadata: &str, picture: &[u8]) -> Vec<u8> {
        let length = metadata.len() as u32;
        [&4u32.to_be_bytes()[..], &length.to_be_bytes(), metadata.as_bytes(), picture].concat()
    }

    #[test]
    fn a_preview_for_clients_that_do_not_know_metadata() {
        let png = preview(r#"{"node_id": "3", "prompt_id": "p", "image_type": "image/png"}"#, b"PICTURE");
        assert_eq!(without_metadata(&png).unwrap(), b"\0\0\0\x01\0\0\0\x02PICTURE");
        assert_eq!(job_of_preview(&png).as_deref(), Some("p"));
        let jpeg = preview(r#"{"image_type": "image/jpeg"}"#, b"");
        assert_eq!(without_metadata(&jpeg).unwrap(), b"\0\0\0\x01\0\0\0\x01");
        assert_eq!(job_of_preview(&jpeg), None);
    }

    #[test]
    fn what_is_no_whole_preview_is_none() {
        let whole = preview("{}", b"");
        for end in 0..whole.len() {
            assert_eq!(without_metadata(&whole[..end]), None, "{end}");
        }
        assert!(without_metadata(&whole).is_some());
        assert_eq!(without_metadata(b"\0\0\0\x04\xff\xff\xff\xff{}"), None);
        assert_eq!(without_metadata(&preview("nonsense", b"x")), None);
        assert_eq!(without_metadata(b"\0\0\0\x01\0\0\0\x01x"), None);
    }

    #[test]
    fn what_may_be_left_out() {
        let text = |text: &str| worth_of_text(text.as_bytes());
        assert_eq!(text(r#"{"type": "progress_state", "data": {}}"#), Worth::Progress);
        assert_eq!(text(r#" { "type":"progress","data":{}}"#), Worth::Progress);
        assert_eq!(text(&status(3).to_string()), Worth::Status);
        assert_eq!(text(r#"{"type": "progress_text", "data": {}}"#), Worth::Must);
        assert_eq!(text(r#"{"data": {"type": "progress"}, "type": "executed"}"#), Worth::Must);
        assert_eq!(text(r#"{"type": "progr"#), Worth::Must);
        assert_eq!(worth_of_binary(b"\0\0\0\x01\0\0\0\x01x"), Worth::Preview);
        assert_eq!(worth_of_binary(b"\0\0\0\x04"), Worth::Preview);
        assert_eq!(worth_of_binary(b"\0\0\0\x03\0\0\0\0"), Worth::Must);
        assert_eq!(worth_of_binary(b"\0\0"), Worth::Must);
    }

    #[test]
    fn the_first_message_as_it_was_recorded() {
        let golden = include_bytes!("../../../tests/golden/comfyui-wire/ws_success.json");
        let recorded: Value = serde_json::from_slice(golden).unwrap();
        assert_eq!(recorded[0][1], hello(0, "A"));
        assert_eq!(recorded[1][1], status(1));
    }

    #[test]
    fn what_a_client_says_that_it_can() {
        let said = |text: &str| first(text.as_bytes());
        let flags = |value: &str| format!(r#"{{"type": "feature_flags", "data": {value}}}"#);
        assert_eq!(
            said(&flags(r#"{"supports_preview_metadata": true}"#)),
            First::Flags { preview_metadata: true }
        );
        for other in [r#"{"supports_preview_metadata": 1}"#, "{}", "[]", "null"] {
            assert_eq!(said(&flags(other)), First::Flags { preview_metadata: false }, "{other}");
        }
        assert_eq!(said(r#"{"type": "feature_flags"}"#), First::Flags { preview_metadata: false });
        assert_eq!(said(r#"{"type": "hello"}"#), First::Other);
        assert_eq!(said("{"), First::Nothing);
        assert_eq!(said("[]"), First::Nothing);
    }
}
