//! Bodies of requests that change jobs: POST `/queue`, `/history`, `/interrupt` and `/api/jobs/cancel`.
use crate::formats::comfy::api::ids;
use crate::formats::comfy::api::invalid::{self, Invalid};
use crate::formats::comfy::api::submission::truthy;
use serde_json::{Value, json};

/// POST `/queue` and POST `/history`: first all, then single ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forget {
    pub clear: bool,
    pub delete: Vec<String>,
}

impl Forget {
    /// An id that is no text is nobody's.
    pub fn parse(body: &[u8]) -> Result<Forget, Invalid> {
        let value: Value = serde_json::from_slice(body).map_err(|reason| invalid::not_json(&reason))?;
        let Value::Object(members) = &value else {
            return Err(Invalid::new(400, "invalid_request", "Request body must be an object", ""));
        };
        let delete = match members.get("delete") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list.iter().filter_map(|id| id.as_str().map(String::from)).collect(),
            Some(_) => return Err(Invalid::new(400, "invalid_request", "delete must be a list of ids", "")),
        };
        Ok(Forget { clear: members.get("clear").is_some_and(truthy), delete })
    }
}

/// POST `/interrupt`: the job that it names; `None` for whatever runs. No body is as good as one that names none.
pub fn interrupt(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    match &value["prompt_id"] {
        Value::String(id) => Some(id.clone()).filter(|id| !id.is_empty()),
        // It names a job that cannot be, which is not the same as none.
        other if truthy(other) => Some(other.to_string()),
        _ => None,
    }
}

/// POST `/api/jobs/cancel`. What is wrong is told with ComfyUI's words.
pub fn cancel(body: &[u8]) -> Result<Vec<String>, Invalid> {
    let value: Value =
        serde_json::from_slice(body).map_err(|_| Invalid::text(400, "Request body must be valid JSON"))?;
    let Some(list) = value["job_ids"].as_array() else {
        return Err(Invalid::text(400, "job_ids must be a list"));
    };
    let is_id = |id: &Value| id.as_str().is_some_and(ids::is_job_id);
    let wrong: Vec<String> = list
        .iter()
        .filter(|id| !is_id(id))
        .map(|id| id.as_str().map_or_else(|| python(id), String::from))
        .collect();
    if !wrong.is_empty() {
        let body = json!({"error": "job_ids contains invalid id(s)", "invalid_ids": wrong});
        return Err(Invalid { status: 400, body });
    }
    Ok(list.iter().filter_map(|id| id.as_str().map(String::from)).collect())
}

/// As Python's `repr` writes it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(list) => format!("[{}]", list.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| format!("{}: {}", quoted(key), python(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_forgotten() {
        let parse = |body: &str| Forget::parse(body.as_bytes());
        let all = Forget { clear: true, delete: vec![] };
        assert_eq!(parse(r#"{"clear": true}"#).unwrap(), all);
        assert_eq!(parse(r#"{"clear": 1, "delete": null}"#).unwrap(), all);
        let two = Forget { clear: false, delete: vec!["a".into(), "b".into()] };
        assert_eq!(parse(r#"{"clear": false, "delete": ["a", 3, "b"]}"#).unwrap(), two);
        assert_eq!(parse("{}").unwrap(), Forget::default());
        let shape = |kind: &str, message: &str, details: &str| {
            let error = json!({"type": kind, "message": message, "details": details, "extra_info": {}});
            Invalid { status: 400, body: json!({"error": error, "node_errors": {}}) }
        };
        let not_json = "EOF while parsing a value at line 1 column 0";
        assert_eq!(
            parse("").unwrap_err(),
            shape("invalid_json", "Request body must be valid JSON", not_json)
        );
        let object = shape("invalid_request", "Request body must be an object", "");
        assert_eq!(parse("[]").unwrap_err(), object);
        let list = shape("invalid_request", "delete must be a list of ids", "");
        assert_eq!(parse(r#"{"delete": "a"}"#).unwrap_err(), list);
    }

    #[test]
    fn what_is_to_be_interrupted() {
        for nothing in ["", "nonsense", "{}", "[]", "3", r#"{"prompt_id": null}"#, r#"{"prompt_id": ""}"#] {
            assert_eq!(interrupt(nothing.as_bytes()), None, "{nothing}");
        }
        assert_eq!(interrupt(br#"{"prompt_id": "a"}"#).as_deref(), Some("a"));
        assert_eq!(interrupt(br#"{"prompt_id": 3}"#).as_deref(), Some("3"));
    }

    #[test]
    fn what_is_to_be_cancelled() {
        let id = "632c0795-6093-485d-959e-6fa2f32398e4";
        assert_eq!(cancel(json!({"job_ids": [id, id]}).to_string().as_bytes()).unwrap(), [id, id]);
        assert!(cancel(br#"{"job_ids": []}"#).unwrap().is_empty());
        let refused = |body: &str| {
            let refused = cancel(body.as_bytes()).unwrap_err();
            assert_eq!(refused.status, 400);
            refused.body
        };
        assert_eq!(refused("{"), json!({"error": "Request body must be valid JSON"}));
        for no_list in ["{}", "[]", r#"{"job_ids": "a"}"#, r#"{"job_ids": null}"#] {
            assert_eq!(refused(no_list), json!({"error": "job_ids must be a list"}));
        }
        let body = json!({"job_ids": [id, "abc", 3, null, true, 1.5, ["a", "it's"], {"k": "a\n\u{1}\\"}]});
        let wrong = ["abc", "3", "None", "True", "1.5", "['a', \"it's\"]", r"{'k': 'a\n\x01\\'}"];
        let error = json!({"error": "job_ids contains invalid id(s)", "invalid_ids": wrong});
        assert_eq!(refused(&body.to_string()), error);
    }
}
