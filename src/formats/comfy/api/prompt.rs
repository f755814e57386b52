//! `/prompt`: a job is queued with POST, which is not idempotent (the same `prompt_id` twice runs twice), and
//! answered with 200 (see `ids::job_of`) or 400. GET tells how many jobs have not ended.
use serde_json::{Value, json};

/// The body that queues a workflow of the API format.
pub fn request(workflow: &Value, client_id: &str) -> Value {
    json!({ "prompt": workflow, "client_id": client_id })
}

/// Why a workflow was not taken: `error` says it for the whole, `node_errors` for single nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    pub message: Option<String>,
    pub node: Option<NodeError>,
}

/// The first error of the first node that has one.
#[derive(Debug, PartialEq, Eq)]
pub struct NodeError {
    pub node: String,
    pub class: Option<String>,
    pub message: String,
    pub details: String,
}

/// What the body of an answer other than 200 says.
pub fn refusal(answer: &[u8]) -> Refusal {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let node = answer["node_errors"].as_object().and_then(|all| all.iter().next());
    Refusal {
        message: answer["error"]["message"].as_str().map(String::from),
        node: node.map(|(id, errors)| {
            let text = |key: &str| errors["errors"][0][key].as_str().unwrap_or_default().to_string();
            NodeError {
                node: id.clone(),
                class: errors["class_type"].as_str().map(String::from),
                message: text("message"),
                details: text("details"),
            }
        }),
    }
}

/// Jobs that wait or run, of the answer to GET.
pub fn queue_remaining(answer: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(answer).ok()?["exec_info"]["queue_remaining"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_is_not_installed() {
        let golden = include_bytes!("../../../../tests/golden/comfyui-wire/prompt_400_unknown_node.json");
        let message = "Node 'NoSuchNode' not found. The custom node may not be installed.";
        assert_eq!(refusal(golden), Refusal { message: Some(message.into()), node: None });
        assert_eq!(refusal(b"nonsense"), Refusal::default());
    }

    #[test]
    fn an_input_that_is_not_valid() {
        let answer = json!({"error": {"message": "Prompt outputs failed validation"}, "node_errors": {
            "4": {"class_type": "Loader", "errors": [{"message": "Value not in list", "details": "ckpt_name"}]},
            "1": {"errors": []}}});
        let node = NodeError {
            node: "4".into(),
            class: Some("Loader".into()),
            message: "Value not in list".into(),
            details: "ckpt_name".into(),
        };
        assert_eq!(refusal(answer.to_string().as_bytes()).node, Some(node));
    }

    #[test]
    fn jobs_that_have_not_ended() {
        assert_eq!(queue_remaining(br#"{"exec_info": {"queue_remaining": 2}}"#), Some(2));
        assert_eq!(queue_remaining(b"{}"), None);
        // The status messages of a WebSocket have the same shape.
        let golden = include_bytes!("../../../../tests/golden/comfyui-wire/ws_success.json");
        let messages: Vec<(String, Value)> = serde_json::from_slice(golden).unwrap();
        let counts = messages.iter().filter(|(_, message)| message["type"] == "status");
        let counts: Vec<_> =
            counts.map(|(_, m)| queue_remaining(m["data"]["status"].to_string().as_bytes())).collect();
        assert_eq!((counts.first(), counts.get(1)), (Some(&Some(0)), Some(&Some(1))));
    }
}
