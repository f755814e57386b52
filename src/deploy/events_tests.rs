use super::*;
use crate::protocol::messages::Status;
use crate::sys::error::{Error, Kind};
use serde_json::json;

/// Each line is read as the event it was printed of, and printed again it is the same, field for field.
#[test]
fn the_stream_is_these_types() {
    let error = json!({"kind": "host", "message": "m", "causes": ["c"], "hint": null});
    let attempt = json!({"version": 1, "attempt": 3, "service": "demo", "deployment": "d", "kind": "deploy", "by": "a@b",
        "hosts": ["alpha"], "began": 5});
    let mut of_project = attempt.clone();
    of_project["project"] = json!({"id": "0f", "folder": "/p"});
    of_project["take_over"] = json!(true);
    let outcome = json!({"status": "succeeded", "generation": 4, "previous": 3});
    let host = json!({"host": "alpha", "status": "failed", "generation": null, "error": "e", "hint": null, "on_host": true,
        "changed": null});
    let taken = json!({"version": 1, "snapshot": "/nix/store/x", "id": "x", "label": null, "unchanged": false,
        "derivation": "/nix/store/x.drv", "closure_paths": 2, "closure_bytes": 3,
        "realise": {"sent_paths": 1, "sent_bytes": 2, "derivations_written": 3, "built": 4, "unchanged": false,
            "present": false, "derivations_ms": 0.5, "build_seconds": 1.5},
        "graph_ms": 0.5, "derivations": 9, "seconds": 2.5, "index": null, "probe": null,
        "findings": [{"severity": "problem", "topic": "audit", "path": "p", "message": "m"}]});
    let lines = [
        json!({"type": "snapshot", "version": 1, "snapshot": taken}),
        json!({"type": "begin", "version": 1, "deployment": "d", "snapshot": "/nix/store/x", "id": "x", "label": null,
            "hosts": ["alpha"]}),
        json!({"type": "begin", "version": 1, "deployment": "d", "rollback": "previous", "hosts": ["alpha"]}),
        json!({"type": "begin", "version": 1, "deployment": "d", "rollback": {"generation": 3}, "hosts": ["alpha"]}),
        json!({"type": "unavailable", "host": "alpha", "error": error}),
        json!({"type": "copied", "host": "alpha",
            "sent": {"paths": 1, "nar_bytes": 2, "wire_bytes": 3, "resumed_bytes": 4, "seconds": 0.5}}),
        json!({"type": "lost", "host": "alpha", "error": error}),
        json!({"type": "event", "host": "alpha", "event": {"at": 1, "status": "copying", "text": "t", "bytes": [1, 2]}}),
        json!({"type": "attempt", "version": 1, "host": "alpha", "attempt": attempt}),
        json!({"type": "attempt", "version": 1, "host": "alpha", "attempt": of_project}),
        json!({"type": "result", "deployment": "d", "failed": 1, "seconds": 1.5, "hosts": [host]}),
        json!({"type": "result", "dry_run": true, "failed": 0}),
        json!({"type": "result", "failed": 1, "hosts": [{"host": "alpha", "attempt": attempt, "outcome": outcome},
            {"host": "beta", "attempt": attempt, "outcome": null}, {"host": "gamma", "error": error}]}),
        json!({"error": error}),
    ];
    for line in lines {
        let text = line.to_string();
        let read = Line::read(&text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(matches!(read, Line::Error { .. }), line["type"].is_null(), "{text}");
    }
    assert_eq!(Line::read("warning: something"), None);
}

#[test]
fn a_warning_of_a_success_is_told_beside_its_status() {
    let outcome = Outcome {
        status: Status::Succeeded,
        generation: Some(2),
        snapshot: None,
        previous: Some(1),
        error: None,
        hint: None,
        warnings: vec!["the old instance did not stop".into()],
    };
    let result = HostResult::of("alpha", &outcome);
    assert_eq!(
        (result.status, result.error.as_deref()),
        (Status::Succeeded, Some("the old instance did not stop"))
    );
}

#[test]
fn an_error_is_the_same_after_its_way_through_a_stream() {
    let error = Error::new(Kind::Busy, "m").hint("h").caused_by("c");
    let again = Error::from(error.report());
    assert_eq!(again.report(), error.report());
}
