use super::*;

fn of(outputs: Value) -> (u64, u64, Value) {
    let summary = summary(&outputs);
    (summary.count, summary.previewable, summary.preview.unwrap_or_default())
}

fn file(name: &str, kind: &str) -> Value {
    json!({"filename": name, "subfolder": "", "type": kind})
}

fn preview(name: &str, kind: &str, node: &str, media: &str) -> Value {
    json!({"filename": name, "subfolder": "", "type": kind, "nodeId": node, "mediaType": media})
}

#[test]
fn saved_files_before_temporary_ones_before_texts() {
    let (a, b) = (file("a.png", "temp"), file("b.png", "output"));
    let both = json!({"1": {"images": [a.clone()]}, "2": {"images": [b]}});
    assert_eq!(of(both), (2, 2, preview("b.png", "output", "2", "images")));
    assert_eq!(of(json!({"1": {"images": [a.clone()]}})), (1, 1, preview("a.png", "temp", "1", "images")));
    let note = file("n.md", "output");
    let outputs = json!({"0": {"text": ["words"]}, "1": {"files": [note.clone()]}, "2": {"images": [a]}});
    assert_eq!(of(outputs), (2, 2, preview("a.png", "temp", "2", "images")));
    let outputs = json!({"0": {"text": ["words"]}, "1": {"files": [note]}});
    assert_eq!(of(outputs), (1, 1, preview("n.md", "output", "1", "files")));
}

#[test]
fn words_alone() {
    let words = |content: &str| json!({"content": content, "nodeId": "1", "mediaType": "text"});
    assert_eq!(of(json!({"1": {"text": ["a", "b"]}})), (0, 0, words("a")));
    assert_eq!(of(json!({"1": {"text": [["a", 1]]}})), (0, 0, words("a")));
    assert_eq!(of(json!({"1": {"text": [5]}})), (0, 0, words("5")));
    assert_eq!(of(json!({"1": {"text": [null]}})), (0, 0, words("None")));
    let long = "ä".repeat(1025);
    let cut = json!({"content": "ä".repeat(1024), "truncated": true, "nodeId": "1", "mediaType": "text"});
    assert_eq!(of(json!({"1": {"text": [long]}})), (0, 0, cut));
    assert_eq!(of(json!({"1": {"text": ["ä".repeat(1024)]}})).2.get("truncated"), None);
    assert_eq!(of(json!({"1": {"tags": ["a"]}})), (0, 0, Value::Null));
}

#[test]
fn kinds_and_formats() {
    let latent = file("x.latent", "output");
    assert_eq!(of(json!({"1": {"latents": [latent]}})), (1, 0, Value::Null));
    let mut gif = file("x.bin", "output");
    gif["format"] = json!("video/h264-mp4");
    assert_eq!(of(json!({"1": {"gifs": [gif.clone()]}})).1, 1);
    gif["format"] = json!("image/gif");
    assert_eq!(of(json!({"1": {"gifs": [gif]}})).1, 0);
    let named =
        json!({"filename": "X.GLB", "type": "output", "subfolder": "", "mediaType": "3d", "nodeId": "1"});
    assert_eq!(of(json!({"1": {"result": ["X.GLB", null, "camera"]}})), (1, 1, named));
    let own = json!({"1": {"images": [{"filename": "a", "mediaType": "mine", "type": "output"}]}});
    let kept = json!({"filename": "a", "mediaType": "mine", "type": "output", "nodeId": "1"});
    assert_eq!(of(own), (1, 1, kept));
    assert_eq!(of(json!({"1": {"animated": [true]}, "2": {"images": 3}, "3": 4})), (0, 0, Value::Null));
    assert_eq!(of(Value::Null), (0, 0, Value::Null));
}

#[test]
fn as_one_job_shows_them() {
    let outputs =
        json!({"1": {"result": ["a.obj", null, "camera", {"x": 1}], "animated": [null], "n": 3}, "2": 4});
    let model = json!({"filename": "a.obj", "type": "output", "subfolder": "", "mediaType": "3d"});
    let shown = json!({"1": {"result": [model, "camera", {"x": 1}], "animated": [null], "n": 3}, "2": 4});
    assert_eq!(normalized(&outputs), shown);
}
