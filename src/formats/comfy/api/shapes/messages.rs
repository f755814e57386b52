//! Messages of a job that no instance sends, because it died, never had the job, or was not asked: in the shapes of its own.
use serde_json::{Value, json};

/// What a WebSocket carries, as a text.
pub fn message(kind: &str, data: &Value) -> Value {
    json!({"type": kind, "data": data})
}

/// The last message of each job: no node of it runs.
pub fn over(id: &str) -> Value {
    message("executing", &json!({"node": null, "prompt_id": id}))
}

/// A node, and its class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Node<'a> {
    pub id: &'a str,
    pub class: &'a str,
}

/// What failed, for `execution_error`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failure<'a> {
    /// The node that ran, where that is known.
    pub node: Node<'a>,
    /// As Python names an exception's class.
    pub kind: &'a str,
    pub message: &'a str,
    pub traceback: &'a [String],
}

pub fn execution_start(id: &str, at: u64) -> Value {
    json!({"prompt_id": id, "timestamp": at})
}

/// The data of `execution_error`. ComfyUI's web interface reads each of these.
pub fn execution_error(id: &str, failure: &Failure, at: u64) -> Value {
    json!({
        "prompt_id": id, "node_id": failure.node.id, "node_type": failure.node.class, "executed": [],
        "exception_message": failure.message, "exception_type": failure.kind, "traceback": failure.traceback,
        "current_inputs": {}, "current_outputs": [], "timestamp": at,
    })
}

/// The data of `execution_interrupted`.
pub fn execution_interrupted(id: &str, node: Node, at: u64) -> Value {
    json!({"prompt_id": id, "node_id": node.id, "node_type": node.class, "executed": [], "timestamp": at})
}
