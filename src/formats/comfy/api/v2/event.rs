//! Server-sent events, as `GET /api/v2/jobs/{id}/events` has them: no ids, since nothing is said twice.
use serde_json::Value;

/// Whoever hears nothing for long takes the connection for dead.
pub const KEEPALIVE: &[u8] = b": still here\n\n";

pub fn frame(kind: &str, data: &Value) -> Vec<u8> {
    // JSON has no line break of its own.
    format!("event: {kind}\ndata: {data}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let data = serde_json::json!({"status": "queued", "text": "a\nb"});
        let text = String::from_utf8(frame("status", &data)).unwrap();
        assert_eq!(text, "event: status\ndata: {\"status\":\"queued\",\"text\":\"a\\nb\"}\n\n");
    }
}
