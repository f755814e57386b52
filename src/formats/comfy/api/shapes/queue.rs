//! GET `/queue` and GET `/prompt`, and what POST `/prompt` answers to a job that it took.
use crate::formats::comfy::api::shapes::item::Item;
use crate::formats::comfy::api::shapes::number;
use serde::Serialize;
use serde_json::{Value, json};

/// GET `/queue`: what runs, and what waits in the order in which it is to run.
#[derive(Debug, Serialize)]
pub struct Queue<'a> {
    pub queue_running: Vec<Item<'a>>,
    pub queue_pending: Vec<Item<'a>>,
}

/// GET `/prompt`, and the `status` of a WebSocket's message of that name.
pub fn info(remaining: usize) -> Value {
    json!({"exec_info": {"queue_remaining": remaining}})
}

/// The 200 of POST `/prompt`. `node_errors` names what would be left out.
pub fn accepted(id: &str, place: f64, node_errors: &Value) -> Value {
    json!({"prompt_id": id, "number": number(place), "node_errors": node_errors})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::comfy::api::shapes::item::Extra;
    use crate::formats::comfy::api::{ids, prompt};
    use serde_json::value::to_raw_value;

    #[test]
    fn of_jobs() {
        let idle = serde_json::to_value(Queue { queue_running: vec![], queue_pending: vec![] }).unwrap();
        let golden = include_bytes!("../../../../../tests/golden/comfyui-wire/queue.json");
        assert_eq!(idle, serde_json::from_slice::<Value>(golden).unwrap());
        let nothing = to_raw_value(&json!({})).unwrap();
        let item = |id| Item {
            number: 1.0,
            id,
            prompt: Some(&nothing),
            extra: Extra { given: Some(&nothing), client_id: None, create_time: 5 },
            outputs_to_execute: None,
        };
        let queue = Queue { queue_running: vec![item("a")], queue_pending: vec![item("b"), item("c")] };
        let list = |id| json!([1, id, {}, {"create_time": 5}, []]);
        let all = json!({"queue_running": [list("a")], "queue_pending": [list("b"), list("c")]});
        assert_eq!(serde_json::to_value(queue).unwrap(), all);
    }

    #[test]
    fn what_a_reader_of_ours_reads() {
        assert_eq!(prompt::queue_remaining(info(3).to_string().as_bytes()), Some(3));
        let answer = accepted("a", -2.0, &json!({}));
        assert_eq!(answer, json!({"prompt_id": "a", "number": -2, "node_errors": {}}));
        assert_eq!(ids::job_of(answer.to_string().as_bytes()).as_deref(), Some("a"));
    }
}
