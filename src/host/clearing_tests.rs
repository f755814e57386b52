//! Slots and pictures on a real disk: what a crash left there, what two folders have under one name.
use super::*;

fn touch(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn order(data: &Path, task: Task, heirs: &[&str]) -> Order {
    let heir = |id: &&str| Heir { id: id.to_string(), output: data.join("output").join(id) };
    let heirs = heirs.iter().map(heir).collect();
    let slots = data.join("own-slots");
    Order { version: ORDER_VERSION, data: data.into(), slots, outputs: Vec::new(), task, heirs }
}

fn carry_out(data: &Path, task: Task, heirs: &[&str]) -> Vec<Cleared> {
    let file = data.join("order.json");
    fs::write(&file, serde_json::to_vec(&order(data, task, heirs)).unwrap()).unwrap();
    run(&file).unwrap()
}

fn clear(data: &Path, keep: &[&str]) -> Vec<String> {
    let task = Task::Clear { keep: keep.iter().map(|id| id.to_string()).collect(), known: Vec::new() };
    let cleared = carry_out(data, task, keep);
    assert!(cleared.iter().all(|one| one.error.is_none()), "{cleared:?}");
    cleared.into_iter().map(|one| one.id).collect()
}

#[test]
fn pictures_are_handed_over_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("s0-g1"), dir.path().join("s0-g2"));
    touch(&from.join("a_00001_.png"), "old");
    touch(&from.join("b.png"), "only old");
    touch(&from.join("sub/c.png"), "old");
    touch(&from.join("sub/d.png"), "only old");
    touch(&to.join("a_00001_.png"), "new");
    touch(&to.join("sub/c.png"), "new");
    hand_over(&from, &to, &to.join("s0-g1")).unwrap();
    let read = |path: &str| fs::read_to_string(to.join(path)).unwrap();
    assert_eq!(
        ["a_00001_.png", "b.png", "sub/c.png", "sub/d.png", "s0-g1/a_00001_.png", "s0-g1/sub/c.png"]
            .map(read),
        ["new", "only old", "new", "only old", "old", "old"]
    );
}

/// The power was lost after a commit: nobody remembers the old instances, and their pictures are all there is.
#[test]
fn what_nobody_remembers_is_found_by_what_lies_there() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    for (path, text) in [
        ("slots/s0-g3/base/main.py", "serves"),
        ("slots/s0-g2/base/main.py", "left"),
        ("slots/s1-g2.gone/base/main.py", "left"),
        ("slots/notes.txt", "somebody's own"),
        ("output/s0-g1/a.png", "of one whose slot is gone"),
        ("output/s0-g2/b.png", "of one whose slot is not"),
        ("output/s1-g2/sub/c.png", "of a slot that is no more"),
        ("output/s0-g3/d.png", "its own"),
        ("output/manual/e.png", "somebody's own"),
    ] {
        touch(&data.join(path), text);
    }
    assert_eq!(clear(data, &["s0-g3"]), ["s0-g1", "s0-g2", "s1-g2"]);
    let mut slots = names(&data.join("slots"));
    slots.sort();
    assert_eq!(slots, ["notes.txt", "s0-g3"]);
    let mut outputs = names(&data.join("output"));
    outputs.sort();
    assert_eq!(outputs, ["manual", "s0-g3"]);
    for picture in ["a.png", "b.png", "sub/c.png", "d.png"] {
        assert!(data.join("output/s0-g3").join(picture).exists(), "{picture}");
    }
    assert_eq!(clear(data, &["s0-g3"]), [""; 0]);
    // Where nobody goes on, pictures stay where they are until somebody does.
    assert_eq!(clear(data, &[]), ["s0-g3"]);
    assert!(data.join("output/s0-g3/d.png").exists() && !data.join("slots/s0-g3").exists());
}

#[test]
fn pictures_are_seen_before_they_are_moved() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    touch(&data.join("output/s0-g1/a.png"), "old");
    touch(&data.join("output/s0-g1/sub/b.png"), "old");
    carry_out(data, Task::Share { from: vec!["s0-g1".into()] }, &["s0-g2"]);
    let seen = |path: &str| fs::read_to_string(data.join("output/s0-g2").join(path)).unwrap();
    assert_eq!((seen("a.png"), seen("sub/b.png")), ("old".into(), "old".into()));
    // Both run on for a while.
    touch(&data.join("output/s0-g1/c.png"), "old, later");
    touch(&data.join("output/s0-g2/d.png"), "new");
    carry_out(data, Task::Share { from: vec!["s0-g1".into()] }, &["s0-g2"]);
    touch(&data.join("slots/s0-g1/x"), "");
    assert_eq!(clear(data, &["s0-g2"]), ["s0-g1"]);
    assert_eq!(["a.png", "sub/b.png", "c.png", "d.png"].map(seen), ["old", "old", "old, later", "new"]);
    // Nothing has a second name any more.
    let count = |path: &str| fs::metadata(data.join("output/s0-g2").join(path)).unwrap().nlink();
    assert_eq!(["a.png", "sub/b.png", "c.png"].map(count), [1, 1, 1]);
    assert!(!data.join("output/s0-g2/s0-g1").exists() && !data.join("output/s0-g1").exists());
}

/// A folder for pictures may be shared with other services: only what is known to be ours moves.
#[test]
fn a_folder_that_others_have_too_is_not_searched() {
    let dir = tempfile::tempdir().unwrap();
    let (data, shared) = (dir.path().join("data"), dir.path().join("shared"));
    touch(&shared.join("s0-g7/theirs.png"), "");
    touch(&shared.join("s0-g1/ours.png"), "");
    touch(&data.join("slots/s0-g1/x"), "");
    let task = Task::Clear { keep: vec!["s0-g2".into()], known: Vec::new() };
    let mut order = order(&data, task, &[]);
    order.outputs = vec![shared.clone()];
    order.heirs = vec![Heir { id: "s0-g2".into(), output: shared.join("s0-g2") }];
    let file = dir.path().join("order.json");
    fs::write(&file, serde_json::to_vec(&order).unwrap()).unwrap();
    run(&file).unwrap();
    assert!(shared.join("s0-g2/ours.png").exists() && shared.join("s0-g7/theirs.png").exists());
}
