//! Screens as text, under tests/golden/watch. STILLFRAME_WRITE_GOLDEN=1 writes them anew.
use super::*;
use crate::cli::watch::model::{Key, News};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y: u16| {
        (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_string() + "\n"
    };
    (0..height).map(line).collect()
}

fn golden(name: &str, now: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/watch")
        .join(format!("{name}.txt"));
    if std::env::var_os("STILLFRAME_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, now).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), now, "{name}");
}

fn instance(generation: u64, condition: &str, queue: Value) -> Value {
    json!({"id": format!("s0-g{generation}"), "unit": "u", "generation": generation, "slot": 0, "gpus": ["0"], "port": 20000,
        "condition": condition, "age_s": 3725, "restarts": 0, "queue": queue, "memory_bytes": 6_500_000_000u64, "requests": 1, "websockets": 2})
}

fn view(generation: u64, ready: u32, instances: Vec<Value>) -> News {
    let view = json!({"version": 1, "agent": "0.1.0", "services": [{"service": "demo", "serving": generation,
        "address": "127.0.0.1:8188", "wanted": 1, "ready": ready, "held": 0, "gateway_error": null, "instances": instances,
        "generations": [{"generation": generation, "snapshot": "/nix/store/x-snapshot", "created": 0, "attempt": 1, "before": null}],
        "deployment": null, "activating": false}]});
    News::View("alpha".into(), Box::new(serde_json::from_value(view).unwrap()))
}

fn step(host: &str, status: Status, text: &str, bytes: Option<(u64, u64)>) -> News {
    let event = crate::protocol::messages::Event { at: 0, status, text: text.into(), bytes, outcome: None };
    News::Step(host.into(), Box::new(event))
}

fn model() -> Model {
    let mut model = Model::new("demo", &["alpha".into(), "beta-with-a-very-long-name".into()]);
    model.clock = "12:00:05".into();
    model.known.insert("/nix/store/x-snapshot".into(), "xvhxdxzz1v (blue)".into());
    model
}

#[test]
fn at_the_beginning_and_when_nobody_answers() {
    let mut model = model();
    golden("asking", &screen(&model, 80, 24));
    model.hear(News::Lost("alpha".into(), "cannot connect to 10.0.0.1: no route to host".into()));
    golden("lost", &screen(&model, 80, 24));
}

#[test]
fn a_deployment_under_way() {
    let mut model = model();
    model.hear(view(7, 1, vec![instance(7, "healthy", json!(3)), instance(8, "starting", Value::Null)]));
    let attempt = json!({"version": 1, "attempt": 8, "service": "demo", "deployment": "d", "kind": "deploy", "by": "ada@desk",
        "hosts": ["alpha"], "began": 0});
    model.hear(News::Attempt("alpha".into(), Box::new(serde_json::from_value(attempt).unwrap())));
    model.hear(step("alpha", Status::Copying, "2 paths", Some((5 << 20, 20 << 20))));
    golden("copying", &screen(&model, 80, 24));
    model.hear(step("alpha", Status::Starting, "s0-g8 starts", None));
    model.hear(step("alpha", Status::Checking, "waiting for 1 healthy", None));
    for n in 0..30 {
        model.hear(News::Log("alpha".into(), format!("s0-g8: line {n} \u{1b}[31mof a log")));
    }
    golden("checking", &screen(&model, 80, 24));
    golden("checking-wide", &screen(&model, 120, 30));
    model.press(Key::Letter('c'));
    golden("asked", &screen(&model, 80, 24));
    model.press(Key::Escape);
    model.hear(step("alpha", Status::Failed, "was not healthy within 5min: it answers 500", None));
    model.hear(News::Done("nothing is under way".into()));
    golden("failed", &screen(&model, 80, 24));
    model.press(Key::Letter('l'));
    golden("log", &screen(&model, 80, 24));
}

#[test]
fn a_host_that_went_silent_is_not_shown_as_it_was() {
    let mut model = model();
    model.hear(view(7, 1, vec![instance(7, "healthy", json!(3))]));
    model.now = std::time::Duration::from_secs(4);
    assert!(screen(&model, 80, 24).contains("1/1"));
    model.now = std::time::Duration::from_secs(9);
    let shown = screen(&model, 80, 24);
    assert!(shown.contains("has said nothing for 9 s") && !shown.contains("1/1"), "{shown}");
    model.hear(view(7, 1, vec![instance(7, "healthy", json!(3))]));
    assert!(screen(&model, 80, 24).contains("1/1"));
}

#[test]
fn a_terminal_that_is_too_small_says_so() {
    golden("small", &screen(&model(), 40, 10));
    // None is too small to be drawn on.
    for (width, height) in [(1, 1), (59, 50), (200, 13), (60, 14)] {
        screen(&model(), width, height);
    }
}
