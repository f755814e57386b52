//! The body of POST /prompt, read once and taken apart. What ComfyUI refuses before it looks at the nodes is refused
//! here with its words (`server.py`, `post_prompt`); what it answers 500 to has the same shape with words of ours. The
//! nodes themselves are an instance's business: only it knows its classes.
use crate::formats::comfy::api::invalid::{self, Invalid};
use crate::formats::comfy::api::{ids, python_json};
use crate::formats::comfy::workflow;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::io::Write as _;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The node graph: an object, maybe an empty one.
    pub prompt: Value,
    /// A canonical UUID, where the client chose one.
    pub prompt_id: Option<String>,
    /// Its place in the queue, where the client chose one.
    pub number: Option<f64>,
    /// Before all that wait now.
    pub front: bool,
    pub client_id: Option<String>,
    /// An object, without `client_id`, which ComfyUI keeps in it.
    pub extra_data: Value,
    pub partial_execution_targets: Option<Value>,
    /// Members that we do not know: packs may read them.
    pub others: Map<String, Value>,
    pub stillframe: Extras,
}

/// `extra_data.stillframe`: what ComfyUI has no word for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extras {
    /// Higher runs sooner.
    pub priority: i32,
    /// Whether it may be run again after the instance that ran it died.
    pub retry: bool,
    pub addresses: Addresses,
}

/// Where a job wants something sent to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub webhook: Option<String>,
    pub upload: Option<String>,
}

impl Addresses {
    /// Of the `extra_data` of a job that was accepted.
    pub fn of(extra_data: &Value) -> Addresses {
        let text = |name: &str| extra_data["stillframe"][name].as_str().map(String::from);
        Addresses { webhook: text("webhook"), upload: text("upload") }
    }
}

impl Default for Extras {
    fn default() -> Extras {
        Extras { priority: 0, retry: true, addresses: Addresses::default() }
    }
}

/// Where ComfyUI keeps who sent the job, and when it came: for its queue and history, written by the server.
pub const CLIENT_ID: &str = "client_id";
pub const CREATE_TIME: &str = "create_time";
/// What a header of this name says becomes a member of `extra_data`, unless the body has one.
pub const USAGE_SOURCE_HEADER: &str = "comfy-usage-source";
const USAGE_SOURCE: &str = "comfy_usage_source";
/// Credentials for Comfy's own API nodes: never shown in queue or history (`execution.py`).
pub const SECRETS: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];

/// Reads a body. Nothing is copied: the parts are moved out of what was read.
pub fn parse(body: &[u8]) -> Result<Submission, Invalid> {
    let (value, odd_numbers) = python_json::parse(body).map_err(|reason| invalid::not_json(&reason))?;
    let Value::Object(mut members) = value else { return Err(no_prompt()) };
    let number = members.remove("number").map(number).transpose()?;
    let front = members.remove("front").is_some_and(|value| truthy(&value));
    let mut prompt = members.remove("prompt").ok_or_else(no_prompt)?;
    if !prompt.is_object() {
        return Err(wrong("invalid_prompt", "prompt must be an object of nodes", &prompt));
    }
    if odd_numbers {
        forget_odd_changes(&mut prompt);
    }
    let prompt_id = match members.remove("prompt_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if ids::is_job_id(&id) => Some(id),
        Some(_) => return Err(not_an_id()),
    };
    let partial_execution_targets = match members.remove("partial_execution_targets") {
        None | Some(Value::Null) => None,
        Some(list @ Value::Array(_)) => Some(list),
        Some(other) => {
            let message = "partial_execution_targets must be a list of node ids";
            return Err(wrong("invalid_partial_execution_targets", message, &other));
        }
    };
    let mut extra_data = match members.remove("extra_data") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(extra)) => extra,
        Some(other) => return Err(wrong("invalid_extra_data", "extra_data must be an object", &other)),
    };
    // ComfyUI puts the first over the second, and reads the second.
    let inner = extra_data.shift_remove(CLIENT_ID);
    let client_id = match members.remove(CLIENT_ID).or(inner) {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(id).filter(|id| !id.is_empty()),
        Some(other) => return Err(wrong("invalid_client_id", "client_id must be a string", &other)),
    };
    let stillframe = extras(extra_data.get("stillframe"))?;
    let extra_data = Value::Object(extra_data);
    let others = members;
    Ok(Submission {
        prompt,
        prompt_id,
        number,
        front,
        client_id,
        extra_data,
        partial_execution_targets,
        others,
        stillframe,
    })
}

impl Submission {
    /// What the header of that name says of it.
    pub fn set_usage_source(&mut self, source: &str) {
        if let Value::Object(extra) = &mut self.extra_data
            && !source.is_empty()
        {
            extra.entry(USAGE_SOURCE).or_insert_with(|| source.into());
        }
    }
}

fn no_prompt() -> Invalid {
    Invalid::new(400, "no_prompt", "No prompt provided", "No prompt provided")
}

fn not_an_id() -> Invalid {
    let details = "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one";
    Invalid::new(400, "invalid_prompt_id", "prompt_id must be a valid UUID", details)
}

fn wrong(kind: &str, message: &str, found: &Value) -> Invalid {
    Invalid::new(400, kind, message, &format!("it is {}", type_of(found)))
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// As Python's `float` reads it. What is no finite number has no place in an order.
fn number(value: Value) -> Result<f64, Invalid> {
    let number = match &value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(one) => Some(f64::from(*one)),
        _ => None,
    };
    number.filter(|number| number.is_finite()).ok_or_else(|| {
        let details = match &value {
            Value::String(text) => format!("it is {:?}", text.chars().take(40).collect::<String>()),
            other => format!("it is {}", type_of(other)),
        };
        Invalid::new(400, "invalid_number", "number must be a number", &details)
    })
}

/// As Python sees it.
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

fn extras(given: Option<&Value>) -> Result<Extras, Invalid> {
    let refuse = |message: &str, found: &Value| Err(wrong("invalid_extra_data", message, found));
    let members = match given {
        None | Some(Value::Null) => return Ok(Extras::default()),
        Some(Value::Object(members)) => members,
        Some(other) => return refuse("extra_data.stillframe must be an object", other),
    };
    let mut extras = Extras::default();
    if let Some(value) = members.get("priority") {
        match value.as_i64().and_then(|priority| i32::try_from(priority).ok()) {
            Some(priority) => extras.priority = priority,
            None => return refuse("extra_data.stillframe.priority must be an integer of 32 bits", value),
        }
    }
    match members.get("retry") {
        None => {}
        Some(Value::Bool(retry)) => extras.retry = *retry,
        Some(other) => return refuse("extra_data.stillframe.retry must be true or false", other),
    }
    let addresses = &mut extras.addresses;
    for (name, address) in [("webhook", &mut addresses.webhook), ("upload", &mut addresses.upload)] {
        match members.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => *address = Some(text.clone()),
            Some(other) => return refuse(&format!("extra_data.stillframe.{name} must be an address"), other),
        }
    }
    Ok(extras)
}

/// A node that carries `is_changed` from a picture's metadata is one that must always run, which NaN says because it equals
/// nothing. Without the member ComfyUI asks the node's class again, and learns the same.
fn forget_odd_changes(prompt: &mut Value) {
    let odd = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(Value::is_null),
        _ => false,
    };
    for (_, node) in prompt.as_object_mut().into_iter().flatten() {
        if let Value::Object(node) = node
            && node.get("is_changed").is_some_and(odd)
        {
            node.shift_remove("is_changed");
        }
    }
}

/// SHA-256 of what was asked for: equal for the same request again, whatever the order of its members. Left out is what the
/// server adds, and credentials, which are renewed between two tries.
pub fn sum(submission: &Submission) -> [u8; 32] {
    let mut hash = Sha256::new();
    canonical(&submission.prompt, &[], &mut hash);
    hash.update(b"\n");
    canonical(submission.partial_execution_targets.as_ref().unwrap_or(&Value::Null), &[], &mut hash);
    hash.update(b"\n");
    let [token, key] = SECRETS;
    canonical(&submission.extra_data, &[CREATE_TIME, USAGE_SOURCE, token, key], &mut hash);
    hash.finalize().into()
}

/// JSON without blanks, the members of each object sorted, a comma after each.
fn canonical(value: &Value, without: &[&str], hash: &mut Sha256) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> =
                members.iter().filter(|(key, _)| !without.contains(&key.as_str())).collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            hash.update(b"{");
            for (key, value) in members {
                leaf(key, hash);
                hash.update(b":");
                canonical(value, &[], hash);
                hash.update(b",");
            }
            hash.update(b"}");
        }
        Value::Array(list) => {
            hash.update(b"[");
            for value in list {
                canonical(value, &[], hash);
                hash.update(b",");
            }
            hash.update(b"]");
        }
        other => leaf(other, hash),
    }
}

fn leaf(value: &(impl Serialize + ?Sized), hash: &mut Sha256) {
    // Neither a hash nor a text, a number or a word can fail to be written.
    if serde_json::to_writer(&mut *hash, value).is_err() {
        let _ = hash.write_all(b"?");
    }
}

/// A number for the model files that the nodes name; 0 where they name none. Jobs with the same number need the same models
/// in memory.
pub fn warmth(prompt: &Value) -> u64 {
    let files = workflow::model_files(prompt);
    if files.is_empty() {
        return 0;
    }
    let mut hash = Sha256::new();
    for file in &files {
        hash.update(file.as_bytes());
        hash.update([0]);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The workflow that a job was made from, by which `/api/jobs` filters.
pub fn workflow_id(extra_data: &Value) -> Option<String> {
    extra_data["extra_pnginfo"]["workflow"]["id"].as_str().map(String::from)
}

/// A job as an instance is given it, to validate or to run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ForInstance<'a> {
    pub prompt: &'a Value,
    pub prompt_id: &'a str,
    /// Whose WebSocket on that instance hears of it.
    pub client_id: &'a str,
    pub extra_data: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_execution_targets: Option<&'a Value>,
    #[serde(flatten)]
    pub others: &'a Map<String, Value>,
}

impl ForInstance<'_> {
    pub fn body(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// What an instance's validation found.
#[derive(Debug, Clone, PartialEq)]
pub enum Validated {
    /// It would run these output nodes; `node_errors` names those that it would leave out.
    Valid { outputs_to_execute: Vec<Value>, node_errors: Value },
    /// With the body that ComfyUI answers with.
    Invalid(Value),
    /// It cannot say: its main program has no such thing, or something failed in it.
    Unknown,
}

/// The answer to a request for validation (`host/scripts/sitecustomize.py`).
pub fn validated(status: u16, answer: &[u8]) -> Validated {
    match (status, python_json::parse(answer)) {
        (200, Ok((Value::Object(mut members), _))) => match members.remove("outputs_to_execute") {
            Some(Value::Array(outputs_to_execute)) => Validated::Valid {
                outputs_to_execute,
                node_errors: members.remove("node_errors").unwrap_or_else(|| Value::Object(Map::new())),
            },
            _ => Validated::Unknown,
        },
        (400, Ok((answer, _))) if answer["error"].is_object() => Validated::Invalid(answer),
        _ => Validated::Unknown,
    }
}

#[cfg(test)]
#[path = "submission_tests.rs"]
mod tests;
