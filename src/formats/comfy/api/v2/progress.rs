//! How far a job has got, gathered from what an instance says of it over its WebSocket.
use crate::formats::comfy::api::v2::graph::Graph;
use crate::formats::comfy::socket;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One picture of the state: it needs none before it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// From 0 to 1.
    pub value: f64,
    pub nodes_done: u64,
    pub nodes_total: u64,
    pub current_node: Option<String>,
    pub current_node_class: Option<String>,
    pub step: Option<u64>,
    pub steps: Option<u64>,
    pub message: Option<String>,
}

/// The last preview of a picture that is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    pub node: String,
    pub content_type: &'static str,
    pub picture: Vec<u8>,
}

/// What has been heard of a job that runs.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Nodes that need not run, and those that have.
    done: BTreeMap<String, ()>,
    current: Option<String>,
    /// Of the current node: how many steps it has made, and of how many.
    steps: Option<(f64, f64)>,
    /// Each node's output, in the order in which they came: what the history will say.
    pub outputs: Map<String, Value>,
    pub preview: Option<Preview>,
}

impl Heard {
    /// A text message of this job. Says whether anything of it can be seen.
    pub fn text(&mut self, kind: &str, data: &Value) -> bool {
        match kind {
            "execution_start" => *self = Heard::default(),
            "execution_cached" => {
                let nodes = data["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                self.done.extend(nodes.map(|node| (node.to_string(), ())));
            }
            "executing" => self.turn_to(data["node"].as_str()),
            "progress" => {
                if let Some(node) = data["node"].as_str() {
                    self.turn_to(Some(node));
                }
                self.steps = steps(data);
            }
            "progress_state" => self.state(&data["nodes"]),
            "executed" => {
                let Some(node) = data["node"].as_str() else { return false };
                self.done.insert(node.into(), ());
                if !data["output"].is_null() {
                    self.outputs.insert(node.into(), data["output"].clone());
                }
            }
            _ => return false,
        }
        true
    }

    fn turn_to(&mut self, node: Option<&str>) {
        if self.current.as_deref() != node {
            // One that another follows has done its work.
            if let Some(before) = self.current.take() {
                self.done.insert(before, ());
            }
            (self.current, self.steps) = (node.map(String::from), None);
        }
    }

    fn state(&mut self, nodes: &Value) {
        for (node, state) in nodes.as_object().into_iter().flatten() {
            match state["state"].as_str() {
                Some("finished") => drop(self.done.insert(node.clone(), ())),
                Some("running") => {
                    self.turn_to(Some(node));
                    // A node that tells no progress has one step, and not made it.
                    self.steps = steps(state).filter(|(_, most)| *most > 1.0);
                }
                _ => {}
            }
        }
    }

    /// A binary message while this job runs.
    pub fn binary(&mut self, message: &[u8]) -> bool {
        let Some((metadata, content_type, picture)) = socket::preview(message) else { return false };
        let node = metadata["node_id"].as_str().or(self.current.as_deref()).unwrap_or_default();
        self.preview = Some(Preview { node: node.into(), content_type, picture: picture.to_vec() });
        true
    }

    /// Nodes count alike; the one that runs by its steps.
    pub fn progress(&self, graph: &Graph) -> Progress {
        let current = self.current.as_deref().filter(|node| !self.done.contains_key(*node));
        let total = graph.nodes.len() as u64;
        let done = self.done.keys().filter(|node| graph.nodes.contains_key(*node)).count() as u64;
        let part = match (current, self.steps) {
            (Some(_), Some((made, most))) if most > 0.0 => (made / most).clamp(0.0, 1.0),
            _ => 0.0,
        };
        let value = if total == 0 { 0.0 } else { ((done as f64 + part) / total as f64).clamp(0.0, 1.0) };
        let class = current.and_then(|node| graph.nodes.get(node)).filter(|class| !class.is_empty());
        let (step, steps) = match (current, self.steps) {
            (Some(_), Some((made, most))) => (Some(made as u64), Some(most as u64)),
            _ => (None, None),
        };
        let message = class.map(|class| match (step, steps) {
            (Some(step), Some(steps)) => format!("{class} {step}/{steps}"),
            _ => class.clone(),
        });
        Progress {
            value,
            nodes_done: done,
            nodes_total: total,
            current_node: current.map(String::from),
            current_node_class: class.cloned(),
            step,
            steps,
            message,
        }
    }
}

fn steps(data: &Value) -> Option<(f64, f64)> {
    Some((data["value"].as_f64()?, data["max"].as_f64()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_recorded_job() {
        let golden = include_bytes!("../../../../../tests/golden/comfyui-wire/ws_success.json");
        let messages: Vec<(String, Value)> = serde_json::from_slice(golden).unwrap();
        let mut heard = Heard::default();
        let mut values = Vec::new();
        let mut graph = Graph::default();
        for (_, message) in &messages {
            for node in message["data"]["nodes"].as_object().into_iter().flatten() {
                graph.nodes.insert(node.0.clone(), "Class".into());
            }
        }
        for (_, message) in &messages {
            if heard.text(message["type"].as_str().unwrap_or_default(), &message["data"]) {
                values.push(heard.progress(&graph).value);
            }
        }
        assert_eq!(values.last(), Some(&1.0));
        assert!(values.iter().all(|value| (0.0..=1.0).contains(value)), "{values:?}");
        assert!(!heard.outputs.is_empty());
    }

    #[test]
    fn steps_of_the_node_that_runs() {
        let prompt = json!({"1": {"class_type": "Load"}, "2": {"class_type": "KSampler"}, "3": {"class_type": "Save"},
                            "4": {"class_type": "Other"}});
        let graph = Graph::of(&prompt, &[]);
        let mut heard = Heard::default();
        heard.text("execution_start", &json!({}));
        heard.text("execution_cached", &json!({"nodes": ["1"]}));
        heard.text("executing", &json!({"node": "2"}));
        heard.text("progress", &json!({"node": "2", "value": 5, "max": 10}));
        let progress = heard.progress(&graph);
        assert_eq!((progress.value, progress.nodes_done, progress.nodes_total), (0.375, 1, 4));
        assert_eq!(progress.message.as_deref(), Some("KSampler 5/10"));
        assert_eq!((progress.step, progress.steps), (Some(5), Some(10)));
        heard.text("executing", &json!({"node": "3"}));
        let progress = heard.progress(&graph);
        assert_eq!((progress.value, progress.step, progress.current_node.as_deref()), (0.5, None, Some("3")));
        heard.text("executed", &json!({"node": "3", "output": {"images": []}}));
        assert_eq!(heard.outputs["3"], json!({"images": []}));
        assert!(heard.binary(b"\0\0\0\x01\0\0\0\x02png"));
        let preview = heard.preview.clone().unwrap();
        assert_eq!((preview.content_type, &preview.picture[..]), ("image/png", &b"png"[..]));
        heard.text("execution_start", &json!({}));
        assert_eq!((heard.outputs.len(), heard.preview.is_some()), (0, false));
        assert!(!heard.text("status", &json!({})));
        assert!(!heard.binary(b"\0\0"));
    }
}
