use super::*;
use crate::capture::model::inventory::{Pack, PackKind};
use crate::capture::model::report::{Finding, Topic};
use crate::words::show;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

#[path = "fixture.rs"]
mod fixture;
use fixture::{environment, git, write};

fn plain_scan(root: &Path) -> Scan {
    scan(root, &ScanOptions::default(), &|_, _| None).unwrap()
}

fn names(tree: &crate::capture::trees::tree::Tree) -> Vec<String> {
    tree.entries.keys().map(|path| show(path)).collect()
}

fn pack<'a>(scan: &'a Scan, name: &str) -> &'a Pack {
    scan.packs.iter().find(|pack| pack.name == name).unwrap()
}

fn told(scan: &Scan, topic: Topic) -> BTreeSet<String> {
    scan.findings.iter().filter(|f| f.topic == topic).map(|f| f.path.clone()).collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_string()).collect()
}

#[test]
fn a_whole_environment() {
    let (_dir, root) = environment();
    let scan = plain_scan(&root);
    assert_eq!(
        names(&scan.main.tree),
        [
            "comfy/cli_args.py",
            "comfyui_version.py",
            "custom_nodes/example_node.py.example",
            "main.py",
            "nodes.py",
            "user.txt"
        ]
    );
    assert_eq!(scan.main.version.as_deref(), Some("0.33.0"));
    assert_eq!(scan.main.flags, ["--listen", "--port"]);
    assert!(scan.main.git.is_none());

    let shown: Vec<(&str, PackKind, bool, usize)> = scan
        .packs
        .iter()
        .map(|p: &Pack| (p.name.as_str(), p.kind, p.enabled, p.tree.entries.len()))
        .collect();
    assert_eq!(
        shown,
        [
            (".disabled/old@1", PackKind::Folder, false, 0),
            ("linked", PackKind::Link, true, 1),
            ("loose.py", PackKind::File, true, 1),
            ("off.disabled", PackKind::Folder, false, 0),
            ("off.py.disabled", PackKind::File, false, 0),
            ("plain", PackKind::Folder, true, 1),
            ("repo", PackKind::Git, true, 2),
            ("websocket_image_save.py", PackKind::File, true, 1),
        ]
    );
    let repo = pack(&scan, "repo");
    let state = repo.git.as_ref().unwrap();
    assert_eq!(state.changed, ["?? inner"]);
    assert_eq!(repo.nested.len(), 1);
    assert_eq!((repo.nested[0].path.as_str(), repo.nested[0].git.dirty), ("inner", Some(false)));

    let cache: Vec<&str> = scan.cache.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(
        cache,
        [
            "huggingface/hub/models--a--b",
            "huggingface/hub/version.txt",
            "rembg",
            "torch/hub/checkpoints/c.pth",
            "torch/hub/repo_x"
        ]
    );
    assert_eq!(names(&scan.cache[0].tree), ["blobs/1234", "refs/main", "snapshots/rev/config.json"]);
    assert_eq!(names(&scan.cache[3].tree), [""], "a tree that is one file");

    assert_eq!(told(&scan, Topic::Secret), set(&[".cache/huggingface/token", ".env"]));
    assert_eq!(told(&scan, Topic::Symlink), set(&["custom_nodes/broken"]));
    let excluded = [".cache/huggingface/hub/.locks", ".cache/pip", ".cache/uv"];
    let mut excluded = set(&excluded);
    excluded.insert("custom_nodes/readme.txt".to_string());
    assert_eq!(told(&scan, Topic::Excluded), excluded);
    let models: Vec<(&str, u64, u64)> =
        scan.models.iter().map(|m| (m.path.as_str(), m.files, m.bytes)).collect();
    assert_eq!(models, [("models/checkpoints", 1, 5), ("models/vae", 1, 0)]);
    let user: Vec<&str> = scan.user.iter().map(|m| m.path.as_str()).collect();
    assert_eq!(user, ["user", "input", "output"]);
    assert_eq!(scan.outside.len(), 1);
    assert!(scan.outside[0].captured && scan.outside[0].from == "custom_nodes/linked");
}

#[test]
fn what_the_programs_commit_has_in_models_and_input_ships() {
    let (dir, root) = environment();
    for (path, text) in [
        ("models/configs/v1.yaml", "a: 1"),
        ("models/configs/mine.yaml", "a: 2"),
        ("models/configs/changed.yaml", "as committed"),
        ("models/configs/gone.yaml", "g"),
        ("models/moved/x.yaml", "x"),
        ("input/3d/a.glb", "g"),
    ] {
        write(root.join(path), text);
    }
    // Where a link leads is the user's storage, whatever the commit has there.
    git(&root, &["init", "-q"]);
    let tracked = ["v1", "changed", "gone"].map(|name| format!("models/configs/{name}.yaml"));
    let mut add =
        vec!["add", "main.py", "models/vae/put_vae_here", "models/moved", "input/example.png", "input/3d"];
    add.extend(tracked.iter().map(String::as_str));
    git(&root, &add);
    git(&root, &["commit", "-qm", "one"]);
    write(root.join("models/configs/changed.yaml"), "as it is");
    fs::remove_file(root.join("models/configs/gone.yaml")).unwrap();
    fs::rename(root.join("models/moved"), dir.path().join("moved")).unwrap();
    symlink(dir.path().join("moved"), root.join("models/moved")).unwrap();
    let later =
        ScanOptions { started_at: SystemTime::now() + Duration::from_secs(60), ..ScanOptions::default() };
    let scanned = scan(&root, &later, &|_, _| None).unwrap();
    let mut data = names(&scanned.main.tree);
    data.retain(|path| path.starts_with("models") || path.starts_with("input"));
    let wanted =
        ["input/3d/a.glb", "input/example.png", "models/configs/changed.yaml", "models/configs/v1.yaml"];
    assert_eq!(data, wanted);
    assert_eq!((scanned.main.models, scanned.main.input), (vec!["configs".to_string()], true));
    let state = scanned.main.git.unwrap();
    assert!(state.changed.contains(&" M models/configs/changed.yaml".to_string()), "{state:?}");
    // A changed file is another program.
    write(root.join("models/configs/v1.yaml"), "a: 3");
    let changed = scan(&root, &later, &|_, _| None).unwrap();
    assert_ne!(changed.main.stat_digest.unwrap(), scanned.main.stat_digest.unwrap());
    // A secret that the configuration names stays out here, too.
    let private =
        crate::capture::files::left_out::LeftOut::of(&root, &[], &[root.join("models/configs/v1.yaml")]);
    let scanned = scan(&root, &ScanOptions { left_out: private, ..later.clone() }, &|_, _| None).unwrap();
    assert!(!names(&scanned.main.tree).contains(&"models/configs/v1.yaml".to_string()));
    let options = ScanOptions { exclude: vec!["models/configs".into(), "input".into()], ..later };
    let scanned = scan(&root, &options, &|_, _| None).unwrap();
    assert_eq!((scanned.main.models, scanned.main.input), (vec![], false));
}

#[test]
fn two_scans_are_equal_and_the_second_asks_git_nothing() {
    let (_dir, root) = environment();
    let options = ScanOptions {
        // As if the environment had been at rest for a while.
        started_at: SystemTime::now() + Duration::from_secs(60),
        ..ScanOptions::default()
    };
    let first = scan(&root, &options, &|_, _| None).unwrap();
    assert!(first.main.stat_digest.is_some());
    assert!(first.packs.iter().filter(|p| p.enabled).all(|p| p.stat_digest.is_some()));
    assert_eq!(first.git_reads.len(), 2);
    let hits = Mutex::new(0);
    let reuse = |key: &str, digest: &str| {
        let read = first.git_reads.iter().find(|r| r.key == key && r.digest == digest)?;
        *hits.lock().unwrap() += 1;
        Some(read.state.clone())
    };
    let second = scan(&root, &options, &reuse).unwrap();
    assert_eq!(*hits.lock().unwrap(), 2);
    assert_eq!(format!("{first:?}"), format!("{second:?}"));

    fs::write(root.join("custom_nodes/repo/__init__.py"), "y").unwrap();
    let third = scan(&root, &options, &reuse).unwrap();
    let state = pack(&third, "repo").git.clone().unwrap();
    assert_eq!(state.changed, [" M __init__.py", "?? inner"]);
    assert_ne!(pack(&third, "repo").stat_digest, pack(&second, "repo").stat_digest);
    assert!(plain_scan(&root).packs.iter().all(|p| p.stat_digest.is_none()), "too fresh");
}

#[test]
fn the_main_program_under_git() {
    let (_dir, root) = environment();
    fs::write(root.join(".gitignore"), "/venv\n/custom_nodes/*\n!example_node.py.example\n").unwrap();
    git(&root, &["init", "-q"]);
    git(&root, &["add", "-f", "custom_nodes/example_node.py.example", "input", "models"]);
    git(&root, &["add", "-f", "custom_nodes/websocket_image_save.py"]);
    git(&root, &["add", "main.py", "nodes.py", "comfy/cli_args.py", "comfyui_version.py"]);
    git(&root, &["add", ".gitignore", "user.txt"]);
    git(&root, &["commit", "-qm", "one"]);
    let main = plain_scan(&root).main;
    let state = main.git.unwrap();
    assert!(names(&main.tree).contains(&"custom_nodes/example_node.py.example".to_string()));
    // Tracked or not, ComfyUI loads it from the base directory: a loose pack, not the main program's.
    let scan = plain_scan(&root);
    assert!(scan.packs.iter().any(|pack| pack.name == "websocket_image_save.py"));
    assert_eq!(state.changed, ["?? .env"]);
    fs::remove_dir_all(root.join("models/vae")).unwrap();
    fs::write(root.join("main.py"), "edited").unwrap();
    let state = plain_scan(&root).main.git.unwrap();
    assert_eq!(state.changed, [" M main.py", "?? .env"], "models are not compared");
}

#[test]
fn what_is_outside_is_followed_or_told() {
    let (_dir, root) = environment();
    let base = root.parent().unwrap();
    write(base.join("big/checkpoints/m.ckpt"), "mm");
    write(base.join("packs/extra_pack/__init__.py"), "x");
    let yaml = format!(
        "comfyui:\n  base_path: {}\n  checkpoints: big/checkpoints\n  loras: gone\n  custom_nodes: packs\n",
        base.display()
    );
    write(root.join("extra_model_paths.yaml"), &yaml);
    fs::rename(root.join("models"), base.join("moved")).unwrap();
    symlink("../moved", root.join("models")).unwrap();
    symlink("../../../big/checkpoints/m.ckpt", root.join("custom_nodes/plain/m.ckpt")).unwrap();
    let scan = plain_scan(&root);
    assert!(!names(&scan.main.tree).iter().any(|name| name.contains("extra_model_paths")));
    assert!(scan.packs.iter().any(|p| p.name == "extra_pack" && !p.tree.is_empty()));
    let models: Vec<&str> = scan.models.iter().map(|m| m.path.as_str()).collect();
    let far = base.join("big/checkpoints");
    assert_eq!(models, ["models/checkpoints", "models/vae", far.to_str().unwrap()]);
    let line = |from: &str| scan.outside.iter().find(|o| o.from == from).unwrap().captured;
    assert!(!line("custom_nodes/plain/m.ckpt"));
    assert!(!line("models"));
    assert!(scan.findings.iter().any(|f| f.message.contains("gone for loras")));
}

#[test]
fn models_within_the_environment_are_models() {
    let (_dir, root) = environment();
    for place in
        ["own/sub/m.safetensors", "custom_nodes/plain/ckpts/m.pth", "custom_nodes/plain/ckpts2/kept.txt"]
    {
        write(root.join(place), "mm");
    }
    let yaml =
        format!("comfyui:\n  base_path: {}\n  vae: own\n  clip: custom_nodes/plain/ckpts/\n", root.display());
    write(root.join("extra_model_paths.yaml"), &yaml);
    let scan = plain_scan(&root);
    assert!(!names(&scan.main.tree).iter().any(|name| name.starts_with("own")));
    let pack = scan.packs.iter().find(|p| p.name == "plain").unwrap();
    let inside: Vec<String> =
        names(&pack.tree).into_iter().filter(|name| name.starts_with("ckpts")).collect();
    assert_eq!(inside, ["ckpts2/kept.txt"]);
    assert!(pack.weights.is_empty());
    for path in ["own", "custom_nodes/plain/ckpts"] {
        let message = "a models folder of extra_model_paths.yaml: not captured, like models";
        let told = |f: &&Finding| (f.path.as_str(), f.message.as_str()) == (path, message);
        assert_eq!(scan.findings.iter().filter(told).count(), 1, "{path}: {:?}", scan.findings);
    }
    let own = root.join("own").display().to_string();
    assert!(scan.models.iter().any(|m| m.path == own && m.bytes == 2));
}

#[test]
fn names_of_every_kind_are_kept_everywhere() {
    use std::os::unix::ffi::OsStrExt;
    let (_dir, root) = environment();
    let odd: [&[u8]; 2] = [b"latin\xe9.txt", b"new\nline.txt"];
    for folder in ["comfy", ".cache/odd/hub", "custom_nodes/plain"] {
        for name in odd {
            write(root.join(folder).join(std::ffi::OsStr::from_bytes(name)), "x");
        }
    }
    let scan = plain_scan(&root);
    let cache = scan.cache.iter().find(|c| c.path.starts_with("odd")).unwrap();
    for (tree, below) in [(&scan.main.tree, "comfy/"), (&cache.tree, ""), (&pack(&scan, "plain").tree, "")] {
        for name in odd {
            let ends = |path: &&Vec<u8>| path.ends_with(name) && path.starts_with(below.as_bytes());
            assert_eq!(tree.entries.keys().filter(ends).count(), 1, "{}", show(name));
        }
    }
    assert!(told(&scan, Topic::Name).iter().all(|path| path.contains("\\xe9") || path.contains("\\n")));
    assert_eq!(told(&scan, Topic::Name).len(), 6);
}

#[test]
fn excluded_by_the_user() {
    let (_dir, root) = environment();
    let options = ScanOptions {
        exclude: ["custom_nodes/plain", "comfy/cli_args.py", ".cache/rembg", "no/such"]
            .map(str::to_string)
            .to_vec(),
        ..ScanOptions::default()
    };
    let scan = scan(&root, &options, &|_, _| None).unwrap();
    assert!(!scan.packs.iter().any(|p| p.name == "plain"));
    assert!(!scan.cache.iter().any(|c| c.path == "rembg"));
    assert!(!names(&scan.main.tree).iter().any(|n| n.starts_with("comfy/")));
    assert!(told(&scan, Topic::Excluded).contains(".cache/rembg"));
    assert!(!told(&scan, Topic::Excluded).contains("no/such"));
}

#[test]
fn hostile_packs_are_read_to_the_end() {
    let (_dir, root) = environment();
    let pack = root.join("custom_nodes/plain");
    symlink("..", pack.join("up")).unwrap();
    symlink("/", pack.join("slash")).unwrap();
    symlink("/proc/self", pack.join("proc")).unwrap();
    assert!(Command::new("mkfifo").arg(pack.join("config.ini")).status().unwrap().success());
    assert!(Command::new("mkfifo").arg(root.join("custom_nodes/p.py")).status().unwrap().success());
    assert!(Command::new("mkfifo").arg(root.join(".cache/pipe")).status().unwrap().success());
    symlink(&root, root.join("custom_nodes/whole")).unwrap();
    symlink(&root, root.join(".cache/whole")).unwrap();
    fs::create_dir(root.join("custom_nodes/fake")).unwrap();
    write(root.join("custom_nodes/fake/.git"), "gitdir: /nonexistent");
    let scan = plain_scan(&root);
    assert_eq!(
        told(&scan, Topic::SpecialFile),
        set(&[".cache/pipe", "custom_nodes/p.py", "custom_nodes/plain/config.ini"])
    );
    let links = told(&scan, Topic::Symlink);
    for name in ["plain/up", "plain/slash", "plain/proc", "whole"] {
        assert!(links.contains(&format!("custom_nodes/{name}")), "{name}: {links:?}");
    }
    assert!(links.contains(".cache/whole"));
    let fake = scan.packs.iter().find(|p| p.name == "fake").unwrap();
    assert!(fake.git.is_none());
}
