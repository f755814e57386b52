//! The nodes of a workflow that will run, for whoever says how far they have got.
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// Each node with its class.
    pub nodes: BTreeMap<String, String>,
}

impl Graph {
    /// The outputs that are to run, and what those need. Where nobody has said which outputs run, it is all nodes.
    pub fn of(prompt: &Value, outputs: &[Value]) -> Graph {
        let class = |node: &str| prompt[node]["class_type"].as_str().unwrap_or_default().to_string();
        let Some(all) = prompt.as_object() else { return Graph::default() };
        if outputs.is_empty() {
            return Graph { nodes: all.keys().map(|node| (node.clone(), class(node))).collect() };
        }
        let mut found = BTreeSet::new();
        let mut next: Vec<&str> = outputs.iter().filter_map(Value::as_str).collect();
        while let Some(node) = next.pop() {
            if all.contains_key(node) && found.insert(node) {
                let inputs = prompt[node]["inputs"].as_object().into_iter().flatten();
                next.extend(inputs.filter_map(|(_, input)| link(input)));
            }
        }
        Graph { nodes: found.into_iter().map(|node| (node.to_string(), class(node))).collect() }
    }
}

/// An input that is another node's output: its id, and which output.
fn link(input: &Value) -> Option<&str> {
    match input.as_array()?.as_slice() {
        [Value::String(node), Value::Number(_)] => Some(node),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_output_needs() {
        let prompt = json!({"1": {"class_type": "A"}, "2": {"class_type": "B", "inputs": {"x": ["1", 0], "y": ["z", "w"]}},
                            "3": {"class_type": "C", "inputs": {"x": ["2", 0], "self": ["3", 0]}}, "4": {"class_type": "D"}});
        let some = Graph::of(&prompt, &[json!("3")]);
        assert_eq!(some.nodes.keys().collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(some.nodes["3"], "C");
        assert_eq!(Graph::of(&prompt, &[]).nodes.len(), 4);
        assert_eq!(Graph::of(&Value::Null, &[]), Graph::default());
    }
}
