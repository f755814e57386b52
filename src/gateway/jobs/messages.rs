//! What ComfyUI's history says of a job's end, and what the gateway itself says where no instance can.
use crate::formats::comfy::api::shapes::messages::{self as shapes, Failure, Node};
use crate::gateway::hub::Message;
use crate::gateway::jobs::engine::now;
use crate::jobs::model::{History, Job, Reason, ReasonKind, State};
use serde_json::json;

/// State and reason of a history's entry.
pub fn outcome(history: &History) -> (State, Option<Reason>) {
    let status = &history["status"];
    if status["status_str"] == "success" {
        return (State::Succeeded, None);
    }
    let messages = status["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let of = |kind: &str| messages.iter().find(|message| message[0] == kind).map(|message| &message[1]);
    if let Some(error) = of("execution_error") {
        let text = |key: &str| error[key].as_str().unwrap_or_default().trim().to_string();
        // torch.OutOfMemoryError, torch.cuda.OutOfMemoryError: the exception's type, not its text.
        let kind = match text("exception_type").rsplit('.').next() {
            Some("OutOfMemoryError") => ReasonKind::OutOfMemory,
            // torch.AcceleratorError (from 2.8 on): CUDA keeps such an error, so every later job would fail there too.
            Some("AcceleratorError") => ReasonKind::GpuFailed,
            _ => ReasonKind::NodeFailed,
        };
        let message =
            format!("node {} ({}): {}", text("node_id"), text("node_type"), text("exception_message"));
        return (State::Failed, Some(Reason { kind, message, details: Some(error.clone()) }));
    }
    if let Some(interrupted) = of("execution_interrupted") {
        let message = match interrupted["node_id"].as_str() {
            Some(node) => format!("it was interrupted at node {node}"),
            None => "it was interrupted".into(),
        };
        return (State::Cancelled, Some(Reason { kind: ReasonKind::Interrupted, message, details: None }));
    }
    let message = format!("it ended with the status {}", status["status_str"]);
    (State::Failed, Some(Reason { kind: ReasonKind::NodeFailed, message, details: None }))
}

/// For the client of a job that failed without an instance: an error in ComfyUI's shape, then the end.
pub fn failure(job: &Job, reason: &Reason) -> Vec<Message> {
    let failure = Failure { kind: kind_name(reason.kind), message: &reason.message, ..Failure::default() };
    let error =
        json!({ "type": "execution_error", "data": shapes::execution_error(&job.id, &failure, now()) });
    [error, shapes::over(&job.id)].iter().map(Message::json).collect()
}

/// In the place of an exception's type.
pub fn kind_name(kind: ReasonKind) -> &'static str {
    match kind {
        ReasonKind::Refused => "stillframe.Refused",
        ReasonKind::NodeFailed => "stillframe.NodeFailed",
        ReasonKind::OutOfMemory => "stillframe.OutOfMemory",
        ReasonKind::Interrupted => "stillframe.Interrupted",
        ReasonKind::InstanceDied => "stillframe.InstanceDied",
        ReasonKind::InstanceStuck => "stillframe.InstanceStuck",
        ReasonKind::GpuFailed => "stillframe.GpuFailed",
        ReasonKind::Drained => "stillframe.Drained",
        ReasonKind::Forgotten => "stillframe.Forgotten",
        ReasonKind::TriesUsedUp => "stillframe.TriesUsedUp",
        ReasonKind::Other => "stillframe.JobFailed",
    }
}

/// For the client of a job whose instance was not heard when it ended: what its history says.
pub fn end_of(id: &str, history: &History) -> Vec<Message> {
    let ends = ["execution_success", "execution_error", "execution_interrupted"];
    let messages = history["status"]["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let last = messages.iter().rev().find(|message| ends.iter().any(|end| message[0] == *end));
    let last = last.map(|message| json!({ "type": message[0], "data": message[1] }));
    last.iter().chain([&shapes::over(id)]).map(Message::json).collect()
}

/// For the client of a job that was taken back before it began.
pub fn interruption(id: &str) -> Vec<Message> {
    let data = shapes::execution_interrupted(id, Node::default(), now());
    vec![Message::json(&json!({ "type": "execution_interrupted", "data": data }))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn ends_of_recorded_jobs() {
        let golden = include_bytes!("../../../tests/golden/comfyui-wire/history.json");
        let all: Value = serde_json::from_slice(golden).unwrap();
        assert_eq!(outcome(&all["632c0795-6093-485d-959e-6fa2f32398e4"]), (State::Succeeded, None));
        let (state, reason) = outcome(&all["19f01e50-f5e7-4488-94bf-6d3c9eea2582"]);
        let reason = reason.unwrap();
        assert_eq!((state, reason.kind), (State::Cancelled, ReasonKind::Interrupted));
        assert_eq!(reason.message, "it was interrupted at node 2");
    }

    #[test]
    fn the_end_of_a_recorded_job_as_its_client_hears_it() {
        let golden = include_bytes!("../../../tests/golden/comfyui-wire/history.json");
        let all: Value = serde_json::from_slice(golden).unwrap();
        let id = "632c0795-6093-485d-959e-6fa2f32398e4";
        let [Message::Text(end), Message::Text(over)] = &end_of(id, &all[id])[..] else { panic!("not two") };
        let [end, over]: [Value; 2] = [end, over].map(|text| serde_json::from_slice(text).unwrap());
        assert_eq!((&end["type"], &end["data"]["prompt_id"]), (&"execution_success".into(), &id.into()));
        assert_eq!(over, json!({"type": "executing", "data": {"node": null, "prompt_id": id}}));
    }

    #[test]
    fn a_node_that_failed_and_one_without_memory() {
        let ended = |kind: &str| {
            let error = json!({"node_id": "7", "node_type": "KSampler", "exception_message": "no\n",
                               "exception_type": kind});
            let status = json!({"status_str": "error", "messages": [["execution_error", error]]});
            outcome(&json!({ "status": status }))
        };
        let (state, reason) = ended("ValueError");
        let reason = reason.unwrap();
        assert_eq!((state, reason.kind), (State::Failed, ReasonKind::NodeFailed));
        assert_eq!(reason.message, "node 7 (KSampler): no");
        assert_eq!(reason.details.unwrap()["exception_type"], "ValueError");
        assert_eq!(ended("torch.AcceleratorError").1.unwrap().kind, ReasonKind::GpuFailed);
        for kind in ["torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"] {
            assert_eq!(ended(kind).1.unwrap().kind, ReasonKind::OutOfMemory, "{kind}");
        }
    }
}
