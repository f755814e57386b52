//! The body of `POST /api/v2/jobs`, and the assets that its workflow names.
//!
//! Where a file's name would stand, a workflow may have `{"__type": "core/ASSET", "info": {"id": …}}`. The id decides;
//! `hash` and `file_path` beside it are hints of the client's, which nothing here needs.
use crate::formats::comfy::api::python_json;
use crate::formats::comfy::api::submission::{Extras, Submission};
use crate::formats::comfy::api::v2::refusal::Refused;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

const ASSET: &str = "core/ASSET";
/// Members of `extra_data` that may stand there: the object is closed. The second is what the proxy passes on as well,
/// the third is ours.
const EXTRA: [&str; 3] = ["api_key_comfy_org", "extra_pnginfo", "stillframe"];
/// Of labels: how many there may be, and how long.
const LABELS: usize = 16;
const LABEL_NAME: usize = 64;
const LABEL_VALUE: usize = 256;
/// Of an `Idempotency-Key`.
pub const KEY: usize = 255;

#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub submission: Submission,
    /// `metadata`: what the client wants to find it by.
    pub labels: BTreeMap<String, String>,
    /// Ids of the assets that the workflow names.
    pub assets: BTreeSet<String>,
}

pub fn parse(body: &[u8]) -> Result<Asked, Refused> {
    let (value, _) =
        python_json::parse(body).map_err(|e| Refused::request(format!("the body is no JSON: {e}")))?;
    let Value::Object(mut members) = value else {
        return Err(Refused::request("the body is no JSON object"));
    };
    for reserved in ["webhook_url", "inputs"] {
        if members.get(reserved).is_some_and(|value| !value.is_null()) {
            return Err(Refused::workflow(format!("{reserved} is reserved and cannot be given")));
        }
    }
    let workflow = match members.remove("workflow") {
        Some(workflow @ Value::Object(_)) => workflow,
        _ => return Err(Refused::workflow("workflow is missing: the graph in ComfyUI's API format")),
    };
    if workflow["nodes"].is_array() && workflow.get("links").is_some() {
        let message = "this is a workflow as the editor saves it: export it in the API format";
        return Err(Refused::new(422, "workflow_format_ui", message));
    }
    let extra_data = extra_data(members.remove("extra_data"))?;
    let stillframe = extras(&extra_data)?;
    let labels = labels(members.remove("metadata"))?;
    let mut assets = BTreeSet::new();
    let mut malformed = false;
    look(&workflow, &mut assets, &mut malformed);
    if malformed {
        let message = "an asset reference has no info.id";
        return Err(Refused::new(422, "missing_asset", message));
    }
    let submission = Submission {
        prompt: workflow,
        prompt_id: None,
        number: None,
        front: false,
        client_id: None,
        extra_data: Value::Object(extra_data),
        partial_execution_targets: None,
        others: Map::new(),
        stillframe,
    };
    Ok(Asked { submission, labels, assets })
}

fn extra_data(given: Option<Value>) -> Result<Map<String, Value>, Refused> {
    let extra = match given {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Object(extra)) => extra,
        Some(_) => return Err(Refused::request("extra_data must be an object")),
    };
    if let Some(other) = extra.keys().find(|key| !EXTRA.contains(&key.as_str())) {
        return Err(Refused::request(format!("extra_data has no member {other}")));
    }
    if extra.get(EXTRA[0]).is_some_and(|key| !key.is_string()) {
        return Err(Refused::request("extra_data.api_key_comfy_org must be a string"));
    }
    if extra.get(EXTRA[1]).is_some_and(|info| !info.is_object()) {
        return Err(Refused::request("extra_data.extra_pnginfo must be an object"));
    }
    Ok(extra)
}

fn extras(extra_data: &Map<String, Value>) -> Result<Extras, Refused> {
    let wrong = |what: &str| Refused::request(format!("extra_data.stillframe{what}"));
    let members = match extra_data.get(EXTRA[2]) {
        None => return Ok(Extras::default()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(wrong(" must be an object")),
    };
    let mut extras = Extras::default();
    if let Some(value) = members.get("priority") {
        let priority = value.as_i64().and_then(|priority| i32::try_from(priority).ok());
        extras.priority = priority.ok_or_else(|| wrong(".priority must be an integer of 32 bits"))?;
    }
    if let Some(value) = members.get("retry") {
        extras.retry = value.as_bool().ok_or_else(|| wrong(".retry must be true or false"))?;
    }
    let addresses = &mut extras.addresses;
    for (name, address) in [("webhook", &mut addresses.webhook), ("upload", &mut addresses.upload)] {
        match members.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => *address = Some(text.clone()),
            Some(_) => return Err(wrong(&format!(".{name} must be an address"))),
        }
    }
    Ok(extras)
}

fn labels(given: Option<Value>) -> Result<BTreeMap<String, String>, Refused> {
    let wrong = |why: String| Refused::new(422, "metadata_invalid", why);
    let members = match given {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(wrong("metadata must be an object of strings".into())),
    };
    if members.len() > LABELS {
        return Err(wrong(format!("metadata has {} pairs and may have {LABELS}", members.len())));
    }
    let mut labels = BTreeMap::new();
    for (name, value) in members {
        let Value::String(value) = value else {
            return Err(wrong(format!("metadata: the value of {name:?} must be a string")));
        };
        if name.is_empty() || name.chars().count() > LABEL_NAME {
            return Err(wrong(format!("metadata: {name:?} must have 1 to {LABEL_NAME} characters")));
        }
        if value.chars().count() > LABEL_VALUE {
            return Err(wrong(format!("metadata: the value of {name:?} may have {LABEL_VALUE} characters")));
        }
        labels.insert(name, value);
    }
    Ok(labels)
}

/// An `Idempotency-Key` as a header has it.
pub fn key(header: &[u8]) -> Result<String, Refused> {
    let text = std::str::from_utf8(header).ok().filter(|text| !text.is_empty() && text.len() <= KEY);
    text.map(String::from)
        .ok_or_else(|| Refused::request(format!("Idempotency-Key must have 1 to {KEY} characters of ASCII")))
}

fn is_reference(value: &Value) -> bool {
    value["__type"] == ASSET
}

fn look(value: &Value, found: &mut BTreeSet<String>, malformed: &mut bool) {
    match value {
        Value::Object(members) if is_reference(value) => match members.get("info").map(|info| &info["id"]) {
            Some(Value::String(id)) if !id.is_empty() => drop(found.insert(id.clone())),
            _ => *malformed = true,
        },
        Value::Object(members) => members.values().for_each(|value| look(value, found, malformed)),
        Value::Array(list) => list.iter().for_each(|value| look(value, found, malformed)),
        _ => {}
    }
}

/// Puts in the place of each reference the name that ComfyUI knows the file by.
pub fn resolve(value: &mut Value, names: &BTreeMap<String, String>) {
    if is_reference(value) {
        if let Some(name) = value["info"]["id"].as_str().and_then(|id| names.get(id)) {
            *value = Value::String(name.clone());
        }
        return;
    }
    match value {
        Value::Object(members) => members.values_mut().for_each(|value| resolve(value, names)),
        Value::Array(list) => list.iter_mut().for_each(|value| resolve(value, names)),
        _ => {}
    }
}

pub fn missing(ids: &[String]) -> Refused {
    let message = format!("there are no such assets: {}", ids.join(", "));
    Refused::new(422, "missing_asset", message).with(json!({"assets": ids}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: Value) -> (u16, &'static str) {
        let refused = parse(body.to_string().as_bytes()).unwrap_err();
        (refused.status, refused.code)
    }

    #[test]
    fn a_body() {
        let asset =
            json!({"__type": "core/ASSET", "info": {"id": "a-1", "hash": "blake3:0", "file_path": "x.png"}});
        let body = json!({"workflow": {"1": {"class_type": "LoadImage", "inputs": {"image": asset, "more": [asset]}}},
            "extra_data": {"api_key_comfy_org": "k", "stillframe": {"priority": 3, "retry": false, "webhook": "https://h/x"}},
            "metadata": {"a": "b"}});
        let mut asked = parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(asked.assets, BTreeSet::from(["a-1".to_string()]));
        assert_eq!(asked.labels, BTreeMap::from([("a".to_string(), "b".to_string())]));
        assert_eq!((asked.submission.stillframe.priority, asked.submission.stillframe.retry), (3, false));
        assert_eq!(asked.submission.stillframe.addresses.webhook.as_deref(), Some("https://h/x"));
        assert_eq!(asked.submission.extra_data["api_key_comfy_org"], "k");
        let names = BTreeMap::from([("a-1".to_string(), "here.png".to_string())]);
        resolve(&mut asked.submission.prompt, &names);
        assert_eq!(
            asked.submission.prompt["1"]["inputs"],
            json!({"image": "here.png", "more": ["here.png"]})
        );
    }

    #[test]
    fn what_is_refused() {
        let graph = json!({"1": {"class_type": "A"}});
        let with = |name: &str, value: Value| json!({"workflow": graph, name: value});
        assert_eq!(refused(json!([])), (400, "invalid_request"));
        assert_eq!(refused(json!({})), (422, "invalid_workflow"));
        assert_eq!(refused(json!({"workflow": {"nodes": [], "links": []}})), (422, "workflow_format_ui"));
        assert_eq!(refused(with("webhook_url", json!("http://x"))), (422, "invalid_workflow"));
        assert_eq!(refused(with("inputs", json!({}))), (422, "invalid_workflow"));
        let upload = json!({"stillframe": {"upload": 3}});
        assert_eq!(refused(with("extra_data", upload)), (400, "invalid_request"));
        assert_eq!(refused(with("extra_data", json!({"x": 1}))), (400, "invalid_request"));
        assert_eq!(refused(with("extra_data", json!({"api_key_comfy_org": null}))), (400, "invalid_request"));
        assert_eq!(refused(with("extra_data", json!("x"))), (400, "invalid_request"));
        assert_eq!(refused(with("metadata", json!("x"))), (422, "metadata_invalid"));
        assert_eq!(refused(with("metadata", json!({"a": 1}))), (422, "metadata_invalid"));
        let many: Map<String, Value> = (0..17).map(|n| (n.to_string(), json!(""))).collect();
        assert_eq!(refused(with("metadata", many.into())), (422, "metadata_invalid"));
        for bad in [json!({"__type": "core/ASSET"}), json!({"__type": "core/ASSET", "info": {"id": 3}})] {
            let body = json!({"workflow": {"1": {"class_type": "A", "inputs": {"image": bad}}}});
            assert_eq!(refused(body), (422, "missing_asset"));
        }
        assert!(parse(with("webhook_url", Value::Null).to_string().as_bytes()).is_ok());
    }

    #[test]
    fn keys() {
        assert_eq!(key(b"abc").unwrap(), "abc");
        assert!(key(b"").is_err() && key(&[b'x'; 256]).is_err() && key(b"\xff").is_err());
    }
}
