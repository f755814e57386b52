use super::*;
use crate::capture::model::report::Topic;
use std::fs;
use std::os::unix::fs::symlink;

struct Place {
    _dir: tempfile::TempDir,
    base: PathBuf,
    root: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    let root = base.join("pack");
    fs::create_dir(&root).unwrap();
    fs::create_dir(base.join("models")).unwrap();
    Place { _dir: dir, base, root }
}

fn gather(place: &Place) -> Collected {
    let models = [place.base.join("models")];
    let policy = Policy {
        left_out: &LeftOut::default(),
        label: "custom_nodes/pack",
        models: &models,
        split_weights: true,
        config_secrets: true,
        leave_out: &|_, _| false,
    };
    collect(&place.root, &policy)
}

fn names(collected: &Collected) -> Vec<String> {
    collected.tree.entries.keys().map(|k| show(k)).collect()
}

fn told(collected: &Collected, topic: Topic) -> Vec<&str> {
    let prefix = "custom_nodes/pack/";
    let all = collected.findings.iter().filter(|f| f.topic == topic);
    all.map(|f| f.path.strip_prefix(prefix).unwrap_or(&f.path)).collect()
}

#[test]
fn litter_secrets_and_bytecode_stay_out() {
    let place = place();
    let root = &place.root;
    for dir in [".git", "__pycache__", "hollow", "sub"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for (path, text) in [
        ("a.py", "x"),
        ("a.pyc", "x"),
        ("only.pyc", "x"),
        ("__pycache__/a.cpython-312.pyc", "x"),
        (".git/HEAD", "x"),
        (".env", "TOKEN=x"),
        (".env.example", "TOKEN="),
        ("config.ini", "[x]\ntoken = hf_0123456789\n"),
        ("sub/config.ini", "[x]\nsize = 3\n"),
        ("id_rsa", "x"),
        ("x.disabled", "x"),
    ] {
        fs::write(root.join(path), text).unwrap();
    }
    let collected = gather(&place);
    assert_eq!(names(&collected), [".env.example", "a.py", "hollow", "only.pyc", "sub/config.ini"]);
    assert_eq!(told(&collected, Topic::Secret), [".env", "config.ini", "id_rsa"]);
    let text = format!("{:?}", collected.findings);
    assert!(!text.contains("hf_0123456789"), "a report never shows the secret");
}

#[test]
fn links_inside_are_kept_and_links_outside_are_followed() {
    let place = place();
    let root = &place.root;
    fs::create_dir_all(place.base.join("far/deep")).unwrap();
    fs::write(place.base.join("far/deep/f"), "far").unwrap();
    fs::write(place.base.join("single"), "s").unwrap();
    fs::write(place.base.join("models/m.txt"), "m").unwrap();
    fs::create_dir(root.join("sub")).unwrap();
    fs::write(root.join("sub/x"), "x").unwrap();
    symlink("sub/x", root.join("inner")).unwrap();
    symlink("../pack/sub/x", root.join("name-dependent")).unwrap();
    symlink(root.join("sub"), root.join("absolute")).unwrap();
    symlink("../far", root.join("far")).unwrap();
    symlink(place.base.join("single"), root.join("sub/single")).unwrap();
    symlink("../models/m.txt", root.join("model")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("knot", root.join("knot")).unwrap();
    symlink("/dev/null", root.join("null")).unwrap();
    let collected = gather(&place);
    assert_eq!(
        names(&collected),
        ["absolute/single", "absolute/x", "far/deep/f", "inner", "name-dependent", "sub/single", "sub/x"]
    );
    let inner = &collected.tree.entries[b"inner".as_slice()];
    assert_eq!(*inner, Entry::Symlink(b"sub/x".to_vec()));
    assert_eq!(told(&collected, Topic::Symlink), ["dangling", "knot", "null"]);
    assert_eq!(told(&collected, Topic::Outside), ["model"]);
    let captured = |from: &str| collected.outside.iter().find(|o| o.from.ends_with(from)).unwrap();
    assert!(captured("/far").captured && captured("sub/single").captured);
    assert!(!captured("/model").captured);
}

#[test]
fn loops_end() {
    let place = place();
    let root = &place.root;
    fs::create_dir(place.base.join("other")).unwrap();
    fs::write(place.base.join("other/f"), "f").unwrap();
    symlink(&place.base, root.join("up")).unwrap();
    symlink(root, root.join("me")).unwrap();
    symlink(".", root.join("dot")).unwrap();
    symlink("../other", root.join("other")).unwrap();
    symlink(root, place.base.join("other/back")).unwrap();
    let collected = gather(&place);
    assert_eq!(names(&collected), ["dot", "other/f"]);
    assert_eq!(told(&collected, Topic::Symlink), ["me", "other/back", "up"]);
}

#[test]
fn a_secret_under_an_innocent_name() {
    let place = place();
    fs::write(place.base.join("id_ed25519"), "key").unwrap();
    symlink("../id_ed25519", place.root.join("notes.txt")).unwrap();
    let collected = gather(&place);
    assert!(names(&collected).is_empty());
    assert_eq!(told(&collected, Topic::Secret), ["notes.txt"]);
}

#[test]
fn weights_apart() {
    let place = place();
    let root = &place.root;
    let sparse = |path: PathBuf| fs::File::create(path).unwrap().set_len(5_000_000).unwrap();
    fs::create_dir(root.join("ckpt")).unwrap();
    sparse(root.join("ckpt/a.safetensors"));
    sparse(root.join("movie.mp4"));
    fs::write(root.join("small.pt"), "tiny").unwrap();
    sparse(place.base.join("shared.ckpt"));
    symlink("../shared.ckpt", root.join("shared.ckpt")).unwrap();
    let collected = gather(&place);
    assert_eq!(names(&collected), ["movie.mp4", "small.pt"]);
    assert_eq!(collected.weights.len(), 1);
    assert_eq!(collected.weights[0].path, "ckpt/a.safetensors");
    assert_eq!(collected.size, 10_000_004);
    assert_eq!(told(&collected, Topic::Outside), ["shared.ckpt"]);
}

#[test]
fn links_stay_below_at_every_step() {
    assert!(stays_below(b"a/b", b"../c"));
    assert!(!stays_below(b"a", b"../pack/c"));
    assert!(!stays_below(b"a/b", b"../../x"));
    assert!(stays_below(b"a/b", b"./c/../d"));
}
