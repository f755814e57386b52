//! `/history`: entries of jobs that have ended, the oldest first.
use crate::formats::comfy::api::invalid::Invalid;
use crate::formats::comfy::api::query;
use crate::formats::comfy::api::shapes::item::Item;
use crate::formats::comfy::api::shapes::members::Members;
use crate::formats::comfy::api::shapes::messages::{self, Failure, Node};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// An instance's entry with the job as its client knows it: its number, its client and when it was accepted are the
/// service's, not the instance's.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub item: Item<'a>,
    /// The text of the entry without its `prompt`; with one, that one is left out.
    pub rest: &'a str,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("prompt", &self.item)?;
        for (key, value) in Members::of(self.rest).0.iter().filter(|(key, _)| key != "prompt") {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// `/history` and `/history/{id}`: each entry by its id.
#[derive(Debug, Default)]
pub struct Answer<'a>(pub Vec<Entry<'a>>);

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (entry.item.id, entry)))
    }
}

/// Takes the job out of an instance's entry, for whoever keeps that elsewhere: its output nodes are what is new in it.
pub fn take_outputs_to_execute(entry: &mut Value) -> Vec<Value> {
    let prompt = entry.as_object_mut().and_then(|entry| entry.shift_remove("prompt"));
    match prompt {
        Some(Value::Array(mut list)) if list.len() > 4 => match list.swap_remove(4) {
            Value::Array(outputs) => outputs,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The entry of one job in an instance's answer to `/history/{id}`; `None` while it has not ended there.
pub fn entry_of(answer: &[u8], id: &str) -> Option<Value> {
    let (mut answer, _) = crate::formats::comfy::api::python_json::parse(answer).ok()?;
    Some(answer.get_mut(id)?.take()).filter(Value::is_object)
}

/// An entry of a job that failed where no instance tells of it.
pub fn failed(id: &str, started: Option<u64>, ended: u64, failure: &Failure) -> Value {
    ended_with(id, started, "execution_error", messages::execution_error(id, failure, ended))
}

/// The same of a job that was interrupted or cancelled.
pub fn interrupted(id: &str, started: Option<u64>, ended: u64, node: Node) -> Value {
    ended_with(id, started, "execution_interrupted", messages::execution_interrupted(id, node, ended))
}

fn ended_with(id: &str, started: Option<u64>, kind: &str, data: Value) -> Value {
    let start = started.map(|at| json!(["execution_start", messages::execution_start(id, at)]));
    let messages: Vec<Value> = start.into_iter().chain([json!([kind, data])]).collect();
    let status = json!({"status_str": "error", "completed": false, "messages": messages});
    json!({"outputs": {}, "status": status, "meta": {}})
}

/// Which entries a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub max_items: Option<i64>,
    /// Below 0: the last `max_items`.
    pub offset: i64,
}

impl Page {
    /// Of a query. ComfyUI answers 500 to what is no number.
    pub fn parse(query: &str) -> Result<Page, Invalid> {
        let integer = |name: &str| match query::get(query, name) {
            None => Ok(None),
            Some(text) => query::integer(&text).map(Some).ok_or_else(|| {
                let details = format!("it is {:?}", text.chars().take(40).collect::<String>());
                Invalid::new(400, "invalid_parameter", &format!("{name} must be an integer"), &details)
            }),
        };
        Ok(Page { max_items: integer("max_items")?, offset: integer("offset")?.unwrap_or(-1) })
    }

    /// What is read for it: ComfyUI counts from the end where there is no offset. `None`: nothing.
    pub fn part(self) -> Option<Part> {
        let limit = self.max_items.map(|most| u64::try_from(most).unwrap_or(0));
        match (u64::try_from(self.offset), limit) {
            // ComfyUI counts after it has taken one.
            (Ok(offset), limit) => Some(Part { last: false, offset, limit: limit.map(|most| most.max(1)) }),
            (Err(_), None) => Some(Part { last: false, offset: 0, limit: None }),
            (Err(_), Some(0)) => None,
            (Err(_), limit) => Some(Part { last: true, offset: 0, limit }),
        }
    }
}

/// So many entries of a history, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// They are the last ones.
    pub last: bool,
    pub offset: u64,
    /// `None`: all.
    pub limit: Option<u64>,
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
