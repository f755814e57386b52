//! The error envelope: `{"error": {"code", "message", "details"}}`. Programs decide by the code.
use crate::formats::comfy::api::invalid::Invalid;
use serde_json::{Map, Value, json};

#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    pub details: Option<Box<Value>>,
    /// Seconds after which to come again.
    pub retry_after: Option<u64>,
}

impl Refused {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Refused {
        Refused { status, code, message: message.into(), details: None, retry_after: None }
    }

    pub fn with(mut self, details: Value) -> Refused {
        self.details = Some(Box::new(details));
        self
    }

    /// Of a body or a query that is not what the description says.
    pub fn request(message: impl Into<String>) -> Refused {
        Refused::new(400, "invalid_request", message)
    }

    pub fn workflow(message: impl Into<String>) -> Refused {
        Refused::new(422, "invalid_workflow", message)
    }

    pub fn not_found(what: &str) -> Refused {
        Refused::new(404, "not_found", format!("there is no such {what}"))
    }

    pub fn too_large(limit: u64) -> Refused {
        Refused::new(413, "request_too_large", format!("a body may have {limit} bytes"))
    }

    /// No job and no asset can be kept now, and why.
    pub fn unavailable(why: impl Into<String>) -> Refused {
        Refused { retry_after: Some(10), ..Refused::new(503, "service_unavailable", why) }
    }

    /// The key belongs to a job that is there: it is asked for, and not sent again.
    pub fn key_reuse(job: &str) -> Refused {
        let message = "this Idempotency-Key was used: ask for the job that it made";
        Refused::new(422, "idempotency_key_reuse", message).with(json!({"job_id": job}))
    }

    pub fn body(&self) -> Value {
        json!({"error": {"code": self.code, "message": self.message, "details": self.details}})
    }
}

/// What `/prompt` is refused with, in the words of this API.
pub fn of_invalid(invalid: &Invalid) -> Refused {
    let error = &invalid.body["error"];
    let text = |key: &str| error[key].as_str().unwrap_or_default();
    let message = match (text("message"), text("details")) {
        (message, "") => message.to_string(),
        (message, details) if message == details => message.to_string(),
        (message, details) => format!("{message}: {details}"),
    };
    match invalid.status {
        429 => {
            let refused = Refused { retry_after: Some(5), ..Refused::new(429, "queue_full", message) };
            refused.with(error["extra_info"].clone())
        }
        503 => Refused::unavailable(message),
        413 => Refused::new(413, "request_too_large", message),
        400 if text("type") == "invalid_extra_data" => Refused::request(message),
        400..=499 => {
            let nodes = node_errors(&invalid.body);
            let refused = Refused::workflow(message);
            if nodes.is_empty() { refused } else { refused.with(json!({"node_errors": nodes})) }
        }
        status => Refused::new(status, "upstream_error", message),
    }
}

/// ComfyUI's errors of single nodes: for each node a list of `{field, reason, message}`.
fn node_errors(body: &Value) -> Map<String, Value> {
    let of_node = |errors: &Value| {
        let errors = errors["errors"].as_array().into_iter().flatten();
        let all = errors.map(|error| {
            let field = error["extra_info"]["input_name"].as_str();
            let text = |key: &str| error[key].as_str().unwrap_or_default();
            let message = match text("details") {
                "" => text("message").to_string(),
                details => format!("{}: {details}", text("message")),
            };
            json!({"field": field, "reason": text("type"), "message": message})
        });
        Value::Array(all.collect())
    };
    let nodes = body["node_errors"].as_object().into_iter().flatten();
    let mut all: Map<String, Value> = nodes.map(|(id, errors)| (id.clone(), of_node(errors))).collect();
    // An unknown class is told in the error itself.
    let error = &body["error"];
    if let Some(node) = error["extra_info"]["node_id"].as_str() {
        let only = json!([{"field": null, "reason": error["type"], "message": error["message"]}]);
        all.entry(node).or_insert(only);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::comfy::api::invalid;

    #[test]
    fn the_envelope() {
        let refused = Refused::key_reuse("j");
        assert_eq!(refused.status, 422);
        assert_eq!(refused.body()["error"]["code"], "idempotency_key_reuse");
        assert_eq!(refused.body()["error"]["details"], json!({"job_id": "j"}));
        assert_eq!(Refused::not_found("job").body()["error"]["details"], Value::Null);
    }

    #[test]
    fn what_prompt_is_refused_with() {
        let full = of_invalid(&invalid::queue_full(3, 3, true));
        assert_eq!((full.status, full.code, full.retry_after), (429, "queue_full", Some(5)));
        assert_eq!(full.details, Some(Box::new(json!({"waiting": 3, "limit": 3}))));
        let later = of_invalid(&invalid::unavailable("the disk is full"));
        assert_eq!((later.status, later.code, later.retry_after), (503, "service_unavailable", Some(10)));
        assert!(later.message.contains("the disk is full"));
    }

    #[test]
    fn errors_of_nodes() {
        let body = json!({"error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation",
            "details": "", "extra_info": {}}, "node_errors": {"12": {"class_type": "KSampler", "dependent_outputs": [],
            "errors": [{"type": "required_input_missing", "message": "Required input is missing", "details": "model",
                        "extra_info": {"input_name": "model"}}]}}});
        let refused = of_invalid(&Invalid { status: 400, body });
        assert_eq!((refused.status, refused.code), (422, "invalid_workflow"));
        let found = &refused.details.unwrap()["node_errors"]["12"][0];
        assert_eq!((&found["field"], &found["reason"]), (&json!("model"), &json!("required_input_missing")));
        let golden = include_bytes!("../../../../../tests/golden/comfyui-wire/prompt_400_unknown_node.json");
        let body: Value = serde_json::from_slice(golden).unwrap();
        let node = body["error"]["extra_info"]["node_id"].as_str().unwrap().to_string();
        let refused = of_invalid(&Invalid { status: 400, body });
        assert_eq!(refused.details.unwrap()["node_errors"][&node][0]["reason"], "missing_node_type");
    }
}
