//! `/history/{id}`: how a job ended. `{}` is the answer both while it runs and for an id that is not known;
//! since 0.8 `/api/jobs/{id}` tells these two apart.
use serde_json::Value;

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// With `status` "error", also when it was interrupted.
    Failure {
        status: String,
        error: Option<NodeFailure>,
    },
}

/// What the node said that failed.
#[derive(Debug, PartialEq, Eq)]
pub struct NodeFailure {
    pub node: Option<String>,
    pub class: Option<String>,
    pub message: Option<String>,
}

/// How the job ended; `None` as long as the answer does not name it.
pub fn outcome(answer: &[u8], id: &str) -> Option<Outcome> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let status = &answer[id]["status"];
    Some(match status["status_str"].as_str()? {
        "success" => Outcome::Success,
        other => Outcome::Failure { status: other.into(), error: failure(status) },
    })
}

fn failure(status: &Value) -> Option<NodeFailure> {
    let error = status["messages"].as_array()?.iter().find(|message| message[0] == "execution_error")?;
    let text = |key: &str| error[1][key].as_str().map(|text| text.trim().to_string());
    Some(NodeFailure { node: text("node_id"), class: text("node_type"), message: text("exception_message") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_recorded_jobs() {
        let golden = include_bytes!("../../../../tests/golden/comfyui-wire/history.json");
        let success = outcome(golden, "632c0795-6093-485d-959e-6fa2f32398e4");
        assert_eq!(success, Some(Outcome::Success));
        let interrupted = outcome(golden, "19f01e50-f5e7-4488-94bf-6d3c9eea2582");
        assert_eq!(interrupted, Some(Outcome::Failure { status: "error".into(), error: None }));
        assert_eq!(outcome(golden, "another"), None);
        assert_eq!(outcome(b"{}", "a"), None);
    }

    #[test]
    fn a_node_that_failed() {
        let answer = json!({"a": {"status": {"status_str": "error", "messages": [["execution_start", {}],
            ["execution_error", {"node_id": "7", "node_type": "Edge", "exception_message": "no such file\n"}]]}}});
        let error = NodeFailure {
            node: Some("7".into()),
            class: Some("Edge".into()),
            message: Some("no such file".into()),
        };
        let failed = Outcome::Failure { status: "error".into(), error: Some(error) };
        assert_eq!(outcome(answer.to_string().as_bytes(), "a"), Some(failed));
    }
}
