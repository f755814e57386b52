//! Jobs for tests, told apart by their number.
use crate::jobs::model::{Body, Job, Reason, ReasonKind, State, Try};
use crate::jobs::store::Write;
use serde_json::json;

/// As ComfyUI wants them.
pub fn id(seq: u64) -> String {
    format!("00000000-0000-4000-8000-{seq:012}")
}

pub fn job(seq: u64) -> Job {
    Job {
        id: id(seq),
        seq,
        number: seq as f64,
        priority: 0,
        owner: format!("owner-{}", seq % 3),
        client: seq.is_multiple_of(2).then(|| format!("client-{seq}")),
        workflow: None,
        sum: [seq as u8; 32],
        warmth: u64::MAX - seq,
        retry: true,
        state: State::Queued,
        accepted: 1_000_000 + seq,
        dispatched: None,
        started: None,
        ended: None,
        instance: None,
        generation: None,
        cancelled: false,
        tries: Vec::new(),
        reason: None,
    }
}

pub fn body(seq: u64) -> Body {
    let mut others = serde_json::Map::new();
    others.insert("z".into(), json!({ "seq": seq }));
    others.insert("a".into(), json!([1.5, -0.0, 1e300, u64::MAX, i64::MIN, "é\u{0}"]));
    Body {
        prompt: json!({ "2": { "class_type": "Sleep", "inputs": { "seconds": seq } }, "1": {} }),
        extra_data: json!({ "client_id": format!("client-{seq}") }),
        partial_execution_targets: (!seq.is_multiple_of(2)).then(|| json!(["2"])),
        outputs_to_execute: vec!["2".into()],
        others,
    }
}

pub fn accept(seq: u64) -> Write {
    Write::Accept { job: Box::new(job(seq)), body: Box::new(body(seq)) }
}

pub fn dispatch(seq: u64, at: u64) -> Write {
    Write::Dispatch { id: id(seq), instance: "s0-g7".into(), generation: 7, at }
}

pub fn start(seq: u64, at: u64) -> Write {
    Write::Start { id: id(seq), at }
}

pub fn end(seq: u64, state: State, at: u64) -> Write {
    let history = Some(Box::new(json!({ "outputs": { "2": { "images": [seq] } } })));
    let reason = (state != State::Succeeded).then(|| reason("it did not end well"));
    Write::End { id: id(seq), state, at, reason, history }
}

pub fn reason(message: &str) -> Reason {
    Reason { kind: ReasonKind::NodeFailed, message: message.into(), details: Some(json!({ "node": "2" })) }
}

pub fn tried(at: u64) -> Try {
    let reason = Reason { kind: ReasonKind::InstanceDied, message: "killed".into(), details: None };
    Try { instance: "s0-g7".into(), generation: 7, began: at, ended: at + 5, reason }
}
