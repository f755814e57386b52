//! What a request is refused with. ComfyUI has two shapes: `/prompt` answers with `error` as an object, and with
//! `node_errors`, which its web interface and the SDKs read; `/api/jobs` answers with `error` as a text.
use serde_json::{Value, json};

/// An answer other than 200, with its body.
#[derive(Debug, Clone, PartialEq)]
pub struct Invalid {
    pub status: u16,
    pub body: Value,
}

impl Invalid {
    /// In the shape of `/prompt`.
    pub fn new(status: u16, kind: &str, message: &str, details: &str) -> Invalid {
        Invalid::with(status, kind, message, details, json!({}))
    }

    /// The same, with more for programs.
    pub fn with(status: u16, kind: &str, message: &str, details: &str, extra_info: Value) -> Invalid {
        let error = json!({"type": kind, "message": message, "details": details, "extra_info": extra_info});
        Invalid { status, body: json!({"error": error, "node_errors": {}}) }
    }

    /// In the shape of `/api/jobs`.
    pub fn text(status: u16, message: &str) -> Invalid {
        Invalid { status, body: json!({"error": message}) }
    }
}

/// A body that is no JSON, with the words of `/api/jobs/cancel`; `/prompt` itself has none: it answers 500.
pub fn not_json(reason: &serde_json::Error) -> Invalid {
    Invalid::new(400, "invalid_json", "Request body must be valid JSON", &reason.to_string())
}

/// As many jobs wait as may: in the service, or of this client. The caller adds `Retry-After`.
pub fn queue_full(waiting: usize, limit: usize, own: bool) -> Invalid {
    let (message, whose) =
        if own { ("Too many of your jobs wait", " of yours") } else { ("The queue is full", "") };
    let details = format!("{waiting} jobs{whose} wait and {limit} may; nothing was queued: try again later");
    Invalid::with(429, "queue_full", message, &details, json!({"waiting": waiting, "limit": limit}))
}

/// The id is that of another job.
pub fn conflict(id: &str) -> Invalid {
    let details =
        format!("{id} was given to a job with another prompt; give each job an id of its own, or none");
    let message = "prompt_id belongs to another job";
    Invalid::with(409, "prompt_id_conflict", message, &details, json!({"prompt_id": id}))
}

/// No job can be kept now, and why; what was accepted goes on.
pub fn unavailable(reason: &str) -> Invalid {
    Invalid::new(503, "service_unavailable", "No job can be accepted now", reason)
}

/// The body is larger than a body may be.
pub fn too_large(limit: u64) -> Invalid {
    let details = format!("a body may have {limit} bytes");
    Invalid::with(413, "request_too_large", "Request body is too large", &details, json!({"limit": limit}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_the_shape_of_prompt() {
        let full = queue_full(10_000, 10_000, false);
        let error = json!({"error": {"type": "queue_full", "message": "The queue is full",
            "details": "10000 jobs wait and 10000 may; nothing was queued: try again later",
            "extra_info": {"waiting": 10000, "limit": 10000}}, "node_errors": {}});
        assert_eq!((full.status, full.body), (429, error));
        let own = queue_full(3, 3, true);
        let error = json!({"error": {"type": "queue_full", "message": "Too many of your jobs wait",
            "details": "3 jobs of yours wait and 3 may; nothing was queued: try again later",
            "extra_info": {"waiting": 3, "limit": 3}}, "node_errors": {}});
        assert_eq!((own.status, own.body), (429, error));
        let taken = conflict("a");
        let error = json!({"error": {"type": "prompt_id_conflict", "message": "prompt_id belongs to another job",
            "details": "a was given to a job with another prompt; give each job an id of its own, or none",
            "extra_info": {"prompt_id": "a"}}, "node_errors": {}});
        assert_eq!((taken.status, taken.body), (409, error));
        let later = unavailable("the disk is full");
        let error = json!({"error": {"type": "service_unavailable", "message": "No job can be accepted now",
            "details": "the disk is full", "extra_info": {}}, "node_errors": {}});
        assert_eq!((later.status, later.body), (503, error));
        let large = too_large(9);
        let error = json!({"error": {"type": "request_too_large", "message": "Request body is too large",
            "details": "a body may have 9 bytes", "extra_info": {"limit": 9}}, "node_errors": {}});
        assert_eq!((large.status, large.body), (413, error));
    }
}
