use super::*;
use crate::formats::comfy::api::history::{NodeFailure, Outcome, outcome};
use crate::formats::comfy::api::shapes::item::Extra;
use crate::formats::comfy::api::shapes::number;
use serde_json::value::to_raw_value;

const GOLDEN: &[u8] = include_bytes!("../../../../../tests/golden/comfyui-wire/history.json");

#[test]
fn recorded_entries_of_an_instance_and_its_jobs() {
    let golden: Value = serde_json::from_slice(GOLDEN).unwrap();
    let mut entries = Vec::new();
    for (id, recorded) in golden.as_object().unwrap() {
        // As the instance has it: with a number and a client that only the gateway knows.
        let mut entry = entry_of(GOLDEN, id).unwrap();
        entry["prompt"][0] = json!(99);
        entry["prompt"][3] = json!({"client_id": "gateway", "create_time": 3});
        let outputs = take_outputs_to_execute(&mut entry);
        assert_eq!((outputs, entry.get("prompt")), (vec![json!("3")], None));
        let [prompt, outputs] = [2, 4].map(|at| to_raw_value(&recorded["prompt"][at]).unwrap());
        entries.push((id, &recorded["prompt"], prompt, outputs, entry.to_string()));
    }
    let shown = entries.iter().map(|(id, recorded, prompt, outputs, rest)| {
        let created = recorded[3]["create_time"].as_u64().unwrap();
        let item = Item {
            number: recorded[0].as_f64().unwrap(),
            id,
            prompt: Some(prompt),
            extra: Extra { given: None, client_id: Some("A"), create_time: created },
            outputs_to_execute: Some(outputs),
        };
        Entry { item, rest }
    });
    let answer = Answer(shown.collect());
    assert_eq!(serde_json::to_string(&answer).unwrap(), golden.to_string());
    assert_eq!(serde_json::to_string(&Answer::default()).unwrap(), "{}");
}

#[test]
fn entries_that_are_not_there() {
    assert_eq!(entry_of(b"{}", "a"), None);
    assert_eq!(entry_of(b"nonsense", "a"), None);
    assert_eq!(entry_of(br#"{"a": 3}"#, "a"), None);
    assert_eq!(
        entry_of(br#"{"a": {"outputs": {"1": {"x": [NaN]}}}}"#, "a"),
        Some(json!({"outputs": {"1": {"x": [null]}}}))
    );
    assert!(take_outputs_to_execute(&mut json!({"prompt": [1, "a"]})).is_empty());
    assert!(take_outputs_to_execute(&mut Value::Null).is_empty());
}

#[test]
fn entries_that_no_instance_made() {
    let traceback = ["a".to_string()];
    let node = Node { id: "7", class: "Edge" };
    let failure =
        Failure { node, kind: "stillframe.InstanceDied", message: "it died", traceback: &traceback };
    let entry = failed("a", Some(5), 9, &failure);
    let messages = json!([["execution_start", {"prompt_id": "a", "timestamp": 5}],
        ["execution_error", {"prompt_id": "a", "node_id": "7", "node_type": "Edge", "executed": [],
            "exception_message": "it died", "exception_type": "stillframe.InstanceDied", "traceback": ["a"],
            "current_inputs": {}, "current_outputs": [], "timestamp": 9}]]);
    let status = json!({"status_str": "error", "completed": false, "messages": messages});
    assert_eq!(entry, json!({"outputs": {}, "status": status, "meta": {}}));
    let error =
        NodeFailure { node: Some("7".into()), class: Some("Edge".into()), message: Some("it died".into()) };
    let read = outcome(json!({"a": entry}).to_string().as_bytes(), "a");
    assert_eq!(read, Some(Outcome::Failure { status: "error".into(), error: Some(error) }));

    let entry = interrupted("a", None, 9, Node::default());
    let messages = json!([["execution_interrupted",
        {"prompt_id": "a", "node_id": "", "node_type": "", "executed": [], "timestamp": 9}]]);
    assert_eq!(entry["status"]["messages"], messages);
}

#[test]
fn pages_as_comfyui_counts_them() {
    let page = |query: &str| {
        Page::parse(query).unwrap().part().map(|Part { last, offset, limit }| (last, offset, limit))
    };
    assert_eq!(page(""), Some((false, 0, None)));
    assert_eq!(page("offset=2"), Some((false, 2, None)));
    assert_eq!(page("max_items=2"), Some((true, 0, Some(2))));
    assert_eq!(page("max_items=2&offset=1"), Some((false, 1, Some(2))));
    assert_eq!(page("max_items=2&offset=-7"), Some((true, 0, Some(2))));
    // Of none it takes none where it counts from the end, and one where it does not.
    assert_eq!(page("max_items=0"), None);
    assert_eq!(page("max_items=0&offset=0"), Some((false, 0, Some(1))));
    assert_eq!(page("max_items=-1"), None);
    let refused = Page::parse("max_items=all").unwrap_err();
    let error = json!({"type": "invalid_parameter", "message": "max_items must be an integer",
        "details": "it is \"all\"", "extra_info": {}});
    assert_eq!((refused.status, refused.body), (400, json!({"error": error, "node_errors": {}})));
    assert!(Page::parse("offset=").is_err());
    assert_eq!(number(2.0), json!(2));
}
