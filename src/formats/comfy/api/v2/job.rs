//! The job object, and the lighter one of a list. Times are texts (RFC 3339), which the caller makes.
use crate::formats::comfy::api::v2::output::Output;
use crate::formats::comfy::api::v2::progress::Progress;
use crate::formats::comfy::api::v2::route;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Queued,
    Running,
    Succeeded,
    /// It is to stop, and runs on to the end of a node or of a step.
    Canceling,
    Canceled,
    Failed,
    Expired,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Queued,
        Status::Running,
        Status::Succeeded,
        Status::Canceling,
        Status::Canceled,
        Status::Failed,
        Status::Expired,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Running => "running",
            Status::Succeeded => "succeeded",
            Status::Canceling => "canceling",
            Status::Canceled => "canceled",
            Status::Failed => "failed",
            Status::Expired => "expired",
        }
    }

    pub fn of_name(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.name() == name)
    }

    pub fn is_over(self) -> bool {
        matches!(self, Status::Succeeded | Status::Canceled | Status::Failed | Status::Expired)
    }
}

/// What a job is found by, and when what happened to it.
#[derive(Debug, Clone)]
pub struct Facts {
    pub id: String,
    pub status: Status,
    pub created: String,
    pub started: Option<String>,
    pub completed: Option<String>,
    pub expires: String,
    /// Its place among those that wait, from 1; 0: an instance has it, and runs it next.
    pub queue_position: Option<u64>,
    /// What it waits for besides its turn.
    pub waiting_for: Option<String>,
    pub queue_ms: Option<u64>,
    pub execution_ms: Option<u64>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct JobError {
    pub code: &'static str,
    pub message: String,
    pub node_id: Option<String>,
    pub class_type: Option<String>,
    pub traceback: Option<String>,
}

impl JobError {
    pub fn new(code: &'static str, message: String) -> JobError {
        JobError { code, message, node_id: None, class_type: None, traceback: None }
    }

    /// With what ComfyUI's `execution_error` says.
    pub fn with(mut self, error: Option<&Value>) -> JobError {
        let Some(error) = error else { return self };
        let text = |key: &str| error[key].as_str().filter(|text| !text.is_empty()).map(String::from);
        (self.node_id, self.class_type) = (text("node_id"), text("node_type"));
        if let Some(message) = text("exception_message") {
            self.message = message.trim().into();
        }
        let lines = error["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let trace: String = lines.collect();
        self.traceback = Some(trace).filter(|trace| !trace.is_empty());
        self
    }
}

pub fn urls(id: &str) -> Value {
    let job = route::job(id);
    // Without the host: a client takes the one that it asked.
    json!({"self": job, "events": format!("{job}/events"), "cancel": format!("{job}/cancel")})
}

pub fn job(
    facts: &Facts,
    progress: Option<&Progress>,
    outputs: &[Output],
    error: Option<&JobError>,
) -> Value {
    json!({
        "id": facts.id, "status": facts.status,
        "created_at": facts.created, "started_at": facts.started, "completed_at": facts.completed,
        "expires_at": facts.expires, "queue_position": facts.queue_position,
        "waiting_for": facts.waiting_for,
        "progress": progress, "outputs": outputs, "error": error,
        "metrics": {"queue_ms": facts.queue_ms, "execution_ms": facts.execution_ms},
        "metadata": facts.labels, "urls": urls(&facts.id),
    })
}

pub fn listed(facts: &Facts) -> Value {
    let last = facts.completed.as_ref().or(facts.started.as_ref()).unwrap_or(&facts.created);
    json!({
        "id": facts.id, "status": facts.status, "create_time": facts.created, "update_time": last,
        "created_at": facts.created, "started_at": facts.started, "completed_at": facts.completed,
        "expires_at": facts.expires, "queue_position": facts.queue_position,
        "waiting_for": facts.waiting_for,
        "metadata": facts.labels, "urls": urls(&facts.id),
    })
}

/// Of an event `status`.
pub fn status_event(facts: &Facts) -> Value {
    json!({"status": facts.status, "queue_position": facts.queue_position, "waiting_for": facts.waiting_for})
}

/// The graph that a job runs, in the format of its submission.
pub fn workflow(graph: &Value) -> Value {
    json!({"workflow": graph, "format": "api"})
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn facts() -> Facts {
        Facts {
            id: "j".into(),
            status: Status::Queued,
            created: "2026-01-01T00:00:00.000Z".into(),
            started: None,
            completed: None,
            expires: "2026-02-01T00:00:00.000Z".into(),
            queue_position: Some(1),
            waiting_for: None,
            queue_ms: None,
            execution_ms: None,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_job_has_all_that_the_description_requires() {
        let value = job(&facts(), None, &[], None);
        let required = "id status created_at started_at completed_at expires_at queue_position progress outputs error urls";
        for name in required.split(' ') {
            assert!(value.get(name).is_some(), "{name}");
        }
        assert_eq!(value["status"], "queued");
        assert_eq!(value["urls"]["events"], "/api/v2/jobs/j/events");
        assert_eq!(
            status_event(&facts()),
            json!({"status": "queued", "queue_position": 1, "waiting_for": null})
        );
        assert_eq!(listed(&facts())["update_time"], "2026-01-01T00:00:00.000Z");
    }

    #[test]
    fn names_are_the_serialised_ones() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
            assert_eq!(Status::of_name(status.name()), Some(status));
        }
    }

    #[test]
    fn an_error_of_a_node() {
        let data = json!({"node_id": "7", "node_type": "KSampler", "exception_message": "no\n", "traceback": ["a\n", "b\n"]});
        let error = JobError::new("node_execution_error", "x".into()).with(Some(&data));
        let shown = serde_json::to_value(&error).unwrap();
        assert_eq!(
            shown,
            json!({"code": "node_execution_error", "message": "no", "node_id": "7", "class_type": "KSampler",
                                 "traceback": "a\nb\n"})
        );
    }
}
