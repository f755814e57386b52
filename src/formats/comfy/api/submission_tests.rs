use super::*;
use serde_json::json;

const ID: &str = "632c0795-6093-485d-959e-6fa2f32398e4";

fn read(body: Value) -> Submission {
    parse(body.to_string().as_bytes()).unwrap()
}

fn refused(body: &str) -> Invalid {
    parse(body.as_bytes()).unwrap_err()
}

fn shape(kind: &str, message: &str, details: &str) -> Invalid {
    let error = json!({"type": kind, "message": message, "details": details, "extra_info": {}});
    Invalid { status: 400, body: json!({"error": error, "node_errors": {}}) }
}

#[test]
fn a_job_with_all_that_it_may_have() {
    let body = json!({
        "prompt": {"1": {"class_type": "Save", "inputs": {}}}, "prompt_id": ID, "number": 2, "front": true,
        "client_id": "A", "partial_execution_targets": ["1"], "pack": {"x": 1},
        "extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}, "stillframe": {"priority": -3, "retry": false,
            "webhook": "https://a.example/x"}},
    });
    let found = read(body.clone());
    assert_eq!(found.prompt, body["prompt"]);
    assert_eq!(found.prompt_id.as_deref(), Some(ID));
    assert_eq!((found.number, found.front, found.client_id.as_deref()), (Some(2.0), true, Some("A")));
    assert_eq!(found.extra_data, body["extra_data"]);
    assert_eq!(found.partial_execution_targets, Some(json!(["1"])));
    assert_eq!(Value::Object(found.others), json!({"pack": {"x": 1}}));
    assert_eq!(
        found.stillframe,
        Extras {
            priority: -3,
            retry: false,
            addresses: Addresses { webhook: Some("https://a.example/x".into()), upload: None },
        }
    );
    assert_eq!(workflow_id(&found.extra_data).as_deref(), Some("w"));
}

#[test]
fn a_job_with_as_little_as_it_may_have() {
    let least = Submission {
        prompt: json!({}),
        prompt_id: None,
        number: None,
        front: false,
        client_id: None,
        extra_data: json!({}),
        partial_execution_targets: None,
        others: Map::new(),
        stillframe: Extras::default(),
    };
    assert_eq!(read(json!({"prompt": {}})), least);
    let nulls = json!({"prompt": {}, "prompt_id": null, "client_id": null, "partial_execution_targets": null,
        "extra_data": null, "front": 0});
    assert_eq!(read(nulls), least);
    assert_eq!(read(json!({"prompt": {}, "client_id": "", "extra_data": {"client_id": ""}})), least);
    assert_eq!(workflow_id(&json!({"extra_pnginfo": {"workflow": {"id": 3}}})), None);
    assert_eq!(workflow_id(&json!({"extra_pnginfo": null})), None);
}

#[test]
fn the_client_is_where_comfyui_looks_for_it() {
    let inside = read(json!({"prompt": {}, "extra_data": {"client_id": "B", "a": 1}}));
    assert_eq!((inside.client_id.as_deref(), inside.extra_data), (Some("B"), json!({"a": 1})));
    let both = read(json!({"prompt": {}, "client_id": "A", "extra_data": {"client_id": "B"}}));
    assert_eq!((both.client_id.as_deref(), both.extra_data), (Some("A"), json!({})));
}

#[test]
fn numbers_as_python_reads_them() {
    for (number, read_as) in
        [(json!(1.5), 1.5), (json!("-2"), -2.0), (json!(" 3e1 "), 30.0), (json!(true), 1.0)]
    {
        assert_eq!(read(json!({"prompt": {}, "number": number})).number, Some(read_as), "{number}");
    }
    let not = |number: &str| refused(&format!(r#"{{"prompt": {{}}, "number": {number}}}"#));
    let wrong = |details: &str| shape("invalid_number", "number must be a number", details);
    assert_eq!(not("null"), wrong("it is null"));
    assert_eq!(not("[]"), wrong("it is a list"));
    assert_eq!(not("\"soon\""), wrong("it is \"soon\""));
    assert_eq!(not("\"nan\""), wrong("it is \"nan\""));
    assert_eq!(not("NaN"), wrong("it is null"));
}

#[test]
fn refused_with_the_words_of_comfyui() {
    let no_prompt = shape("no_prompt", "No prompt provided", "No prompt provided");
    for body in ["{}", "[]", "3", "\"prompt\"", "null", r#"{"prompt_id": "x", "client_id": "A"}"#] {
        assert_eq!(refused(body), no_prompt, "{body}");
    }
    let id = shape(
        "invalid_prompt_id",
        "prompt_id must be a valid UUID",
        "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one",
    );
    for value in ["\"abc\"", "\"\"", "3", "{}", "false", "\"632C0795-6093-485D-959E-6FA2F32398E4\""] {
        assert_eq!(refused(&format!(r#"{{"prompt": {{}}, "prompt_id": {value}}}"#)), id, "{value}");
    }
}

#[test]
fn refused_where_comfyui_fails() {
    let json = |details: &str| shape("invalid_json", "Request body must be valid JSON", details);
    assert_eq!(refused(""), json("EOF while parsing a value at line 1 column 0"));
    assert_eq!(refused("{\"prompt\": {}"), json("EOF while parsing an object at line 1 column 13"));
    assert_eq!(refused("<html>"), json("expected value at line 1 column 1"));
    let deep = format!("{{\"prompt\": {}1{}}}", "[".repeat(1000), "]".repeat(1000));
    assert_eq!(refused(&deep), json("recursion limit exceeded at line 1 column 138"));
    let cases = [
        ("prompt", "null", "invalid_prompt", "prompt must be an object of nodes", "it is null"),
        ("prompt", "[]", "invalid_prompt", "prompt must be an object of nodes", "it is a list"),
        ("prompt", "\"a\"", "invalid_prompt", "prompt must be an object of nodes", "it is a string"),
        ("extra_data", "[]", "invalid_extra_data", "extra_data must be an object", "it is a list"),
        ("client_id", "3", "invalid_client_id", "client_id must be a string", "it is a number"),
        (
            "partial_execution_targets",
            "\"1\"",
            "invalid_partial_execution_targets",
            "partial_execution_targets must be a list of node ids",
            "it is a string",
        ),
        (
            "extra_data",
            r#"{"stillframe": true}"#,
            "invalid_extra_data",
            "extra_data.stillframe must be an object",
            "it is a boolean",
        ),
        (
            "extra_data",
            r#"{"stillframe": {"webhook": 7}}"#,
            "invalid_extra_data",
            "extra_data.stillframe.webhook must be an address",
            "it is a number",
        ),
        (
            "extra_data",
            r#"{"stillframe": {"priority": 1.5}}"#,
            "invalid_extra_data",
            "extra_data.stillframe.priority must be an integer of 32 bits",
            "it is a number",
        ),
        (
            "extra_data",
            r#"{"stillframe": {"priority": 2147483648}}"#,
            "invalid_extra_data",
            "extra_data.stillframe.priority must be an integer of 32 bits",
            "it is a number",
        ),
        (
            "extra_data",
            r#"{"stillframe": {"retry": "no"}}"#,
            "invalid_extra_data",
            "extra_data.stillframe.retry must be true or false",
            "it is a string",
        ),
    ];
    for (member, value, kind, message, details) in cases {
        let prompt = if member == "prompt" { "" } else { r#""prompt": {}, "# };
        let body = format!("{{{prompt}\"{member}\": {value}}}");
        assert_eq!(refused(&body), shape(kind, message, details), "{body}");
    }
}

#[test]
fn numbers_of_python_alone() {
    let body = br#"{"prompt": {"1": {"class_type": "A", "inputs": {"x": NaN}, "is_changed": [NaN]},
        "2": {"class_type": "B", "inputs": {}, "is_changed": NaN}, "3": {"is_changed": ["a"]}}}"#;
    let found = parse(body).unwrap();
    let prompt = json!({"1": {"class_type": "A", "inputs": {"x": null}}, "2": {"class_type": "B", "inputs": {}},
        "3": {"is_changed": ["a"]}});
    assert_eq!(found.prompt, prompt);
    // Where it says null itself, that stays.
    let null = json!({"prompt": {"1": {"is_changed": [null]}}});
    assert_eq!(read(null.clone()).prompt, null["prompt"]);
}

#[test]
fn numbers_stay_as_they_are() {
    let text = r#"{"prompt":{"1":{"inputs":{"seed":18446744073709551615,"a":0.30000000000000004,"b":1.0,"c":-1e-7}}}}"#;
    let found = parse(text.as_bytes()).unwrap();
    assert_eq!(json!({"prompt": found.prompt}).to_string(), text);
}

#[test]
fn equal_requests_have_equal_sums() {
    let base = json!({"prompt": {"1": {"a": 1, "b": [1, {}]}}, "extra_data": {"x": 1, "y": 2}});
    let of = |body: &Value| sum(&read(body.clone()));
    let same = json!({"number": 3, "client_id": "A", "extra_data": {"y": 2, "x": 1, "client_id": "B",
        "create_time": 3, "auth_token_comfy_org": "new", "api_key_comfy_org": "k", "comfy_usage_source": "s"},
        "prompt": {"1": {"b": [1, {}], "a": 1}}});
    assert_eq!(of(&base), of(&same));
    let others = [
        json!({"prompt": {"1": {"a": 1, "b": [1, []]}}, "extra_data": {"x": 1, "y": 2}}),
        json!({"prompt": {"1": {"a": 1, "b": [1, {}, 2]}}, "extra_data": {"x": 1, "y": 2}}),
        json!({"prompt": {"1": {"a": "1", "b": [1, {}]}}, "extra_data": {"x": 1, "y": 2}}),
        json!({"prompt": {"1": {"a": 1}, "b": [1, {}]}, "extra_data": {"x": 1, "y": 2}}),
        json!({"prompt": {"1": {"a": 1, "b": [1, {}]}}, "extra_data": {"x": 1}}),
        json!({"prompt": {"1": {"a": 1, "b": [1, {}], "create_time": 1}}, "extra_data": {"x": 1, "y": 2}}),
        json!({"prompt": {"1": {"a": 1, "b": [1, {}]}}, "extra_data": {"x": 1, "y": 2}, "partial_execution_targets": []}),
    ];
    for other in others {
        assert_ne!(of(&base), of(&other), "{other}");
    }
}

#[test]
fn equal_models_are_equally_warm() {
    let with = |a: &str, b: &str| {
        warmth(
            &json!({"1": {"inputs": {"ckpt_name": a, "seed": 1}}, "2": {"inputs": {"lora_name": b}}, "3": 1}),
        )
    };
    assert_eq!(with("a.safetensors", "b.gguf"), with("b.gguf", "a.safetensors"));
    assert_ne!(with("a.safetensors", "b.gguf"), with("a.safetensors", "c.gguf"));
    assert_ne!(with("a.safetensors", "text"), 0);
    assert_eq!(with("text", "more text"), 0);
    assert_eq!(warmth(&json!({})), 0);
}

#[test]
fn what_a_header_says_of_its_source() {
    let mut found = read(json!({"prompt": {}}));
    found.set_usage_source("");
    assert_eq!(found.extra_data, json!({}));
    found.set_usage_source("editor");
    found.set_usage_source("other");
    assert_eq!(found.extra_data, json!({"comfy_usage_source": "editor"}));
}

#[test]
fn as_an_instance_is_given_it() {
    let found =
        read(json!({"prompt": {"1": {}}, "client_id": "A", "pack": 1, "partial_execution_targets": ["1"],
        "extra_data": {"a": 1}}));
    let given = ForInstance {
        prompt: &found.prompt,
        prompt_id: ID,
        client_id: "gateway",
        extra_data: &found.extra_data,
        partial_execution_targets: found.partial_execution_targets.as_ref(),
        others: &found.others,
    };
    let body: Value = serde_json::from_slice(&given.body().unwrap()).unwrap();
    let all = json!({"prompt": {"1": {}}, "prompt_id": ID, "client_id": "gateway", "extra_data": {"a": 1},
        "partial_execution_targets": ["1"], "pack": 1});
    assert_eq!(body, all);
    let again = parse(&given.body().unwrap()).unwrap();
    assert_eq!(sum(&again), sum(&found));
}

#[test]
fn what_validation_found() {
    let good = br#"{"outputs_to_execute": ["3"], "node_errors": {"4": {}}}"#;
    let valid = Validated::Valid { outputs_to_execute: vec![json!("3")], node_errors: json!({"4": {}}) };
    assert_eq!(validated(200, good), valid);
    let golden = include_bytes!("../../../../tests/golden/comfyui-wire/prompt_400_unknown_node.json");
    let body: Value = serde_json::from_slice(golden).unwrap();
    assert_eq!(validated(400, golden), Validated::Invalid(body));
    for (status, answer) in
        [(200, &b"{}"[..]), (400, b"{}"), (501, b"{}"), (200, b"nonsense"), (400, b""), (404, golden)]
    {
        assert_eq!(validated(status, answer), Validated::Unknown, "{status}");
    }
}
