use super::*;
use crate::capture::model::inventory::PackKind;
use crate::capture::model::lock::{GitLock, Provenance, WheelRef};
use crate::capture::model::report::Topic;
use crate::capture::trees::tree::TreeRef;
use crate::formats::nix::hash::Sha256;

fn tree() -> TreeRef {
    TreeRef { name: "t".into(), nar_hash: Sha256([0; 32]), nar_size: 0, references: vec![] }
}

fn distribution(name: &str, version: &str, wheel: Option<u8>) -> DistributionLock {
    let wheel = wheel.map(|byte| WheelRef {
        file: format!("{name}-{version}-py3-none-any.whl"),
        url: "u".into(),
        sha256: Sha256([byte; 32]),
        size: None,
    });
    DistributionLock {
        name: name.into(),
        version: version.into(),
        provenance: Provenance::Pinned,
        reason: None,
        real_files: false,
        headers: None,
        site: 0,
        scripts: Vec::new(),
        has_modules: true,
        tree: tree(),
        wheel,
        changed: vec![],
        commit: (name == "torch").then(|| "a1".repeat(20)),
    }
}

fn pack(name: &str, remote: Option<&str>, commit: Option<&str>) -> PackLock {
    let git = remote.map(|r| GitLock {
        remote: Some(r.into()),
        commit: commit.map(String::from),
        dirty: Some(false),
    });
    PackLock {
        name: name.into(),
        kind: PackKind::Folder,
        tree: tree(),
        git,
        weights: vec![],
        nested: vec![],
        own_paths: vec![],
    }
}

/// Writes a file and checks it against a small environment.
fn messages(name: &str, text: &str) -> Result<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(name);
    std::fs::write(&file, text).unwrap();
    let registry = dir.path().join("custom_nodes/Registry-Pack");
    std::fs::create_dir_all(&registry).unwrap();
    std::fs::write(registry.join("pyproject.toml"), "[project]\nversion = \"1.2.0\"\n").unwrap();
    let main = MainLock {
        version: None,
        flags: vec![],
        models: vec![],
        input: false,
        own_paths: vec![],
        tree: tree(),
        git: Some(GitLock { remote: None, commit: Some("c0".into()), dirty: None }),
    };
    let installed = Installed {
        environment: dir.path(),
        distributions: &[
            distribution("click", "8.1.8", Some(0xab)),
            distribution("torch", "2.1.0+cu121", None),
        ],
        packs: &[
            pack("a", Some("https://git.example/o/a.git"), Some("a1")),
            pack("b", Some("git@git.example:o/B"), Some("b1")),
            pack("Registry-Pack", None, None),
            pack("one.py", None, None),
        ],
        disabled_packs: &["old.disabled".into(), ".disabled/older".into()],
        main: &main,
    };
    let found = check(&file, &installed).map_err(|mut e| {
        e.message = e.message.replace(&dir.path().display().to_string(), "DIR");
        e
    })?;
    assert!(found.iter().all(|f| f.topic == Topic::Intent && f.path.ends_with(name)));
    Ok(found.into_iter().map(|f| f.message).collect())
}

#[test]
fn requirements_with_hashes_are_complete() {
    let (a, b) = ("ab".repeat(32), "cd".repeat(32));
    let agree = format!("click==8.1.8 --hash=sha256:{a}\ntorch==2.1.0 --hash=sha256:{b}\n");
    assert_eq!(messages("requirements.txt", &agree).unwrap(), [""; 0]);
    let differ = format!("click==8.1.8 --hash=sha256:{b}\nmissing==1.0 --hash=sha256:{a}\n");
    assert_eq!(
        messages("requirements.txt", &differ).unwrap(),
        [
            "names other files for click 8.1.8 than the installed click-8.1.8-py3-none-any.whl",
            "wants missing 1.0, which is not installed",
            "does not name what is installed: torch 2.1.0+cu121",
        ]
    );
}

#[test]
fn plain_requirements_state_only_what_they_pin() {
    let text = "Click==8.0\nnumpy>=1\ncolorama==0.4 ; sys_platform == \"win32\"\n";
    assert_eq!(
        messages("requirements-dev.txt", text).unwrap(),
        [
            "wants click 8.0, installed is 8.1.8",
            "names for some platforms or extras, not installed here: colorama 0.4",
        ]
    );
}

#[test]
fn a_universal_lock_may_hold_several_versions() {
    let text = "version = 1\n[[package]]\nname = \"click\"\nversion = \"7\"\nsource = { registry = \"r\" }\n\
        [[package]]\nname = \"click\"\nversion = \"8.1.8\"\nsource = { registry = \"r\" }\n\
        [[package]]\nname = \"torch\"\nversion = \"2.1.0+cpu\"\nsource = { registry = \"r\" }\n";
    assert_eq!(messages("uv.lock", text).unwrap(), ["wants torch 2.1.0+cpu, installed is 2.1.0+cu121"]);
}

#[test]
fn commits_of_repositories_are_compared() {
    let (one, other) = ("a1".repeat(20), "B2".repeat(20));
    let locked = |commit: &str| {
        format!(
            "version = 1\n[[package]]\nname = \"torch\"\nversion = \"2.1.0\"\n\
             source = {{ git = \"https://git.example/t?rev=main#{commit}\" }}\n\
             [[package]]\nname = \"click\"\nsource = {{ registry = \"r\" }}\n"
        )
    };
    let wants = format!("wants torch at commit {}, it is at {one}", "b2".repeat(20));
    assert_eq!(messages("uv.lock", &locked(&one)).unwrap(), [""; 0]);
    assert_eq!(messages("uv.lock", &locked(&other)).unwrap(), [wants.as_str()]);
    let pylock = format!(
        "lock-version = \"1.0\"\ncreated-by = \"uv\"\n[[packages]]\nname = \"torch\"\n\
         vcs = {{ type = \"git\", url = \"u\", commit-id = \"{other}\" }}\n[[packages]]\nname = \"click\"\n"
    );
    assert_eq!(messages("pylock.toml", &pylock).unwrap(), [wants.as_str()]);
    let line = |name: &str, at: &str| format!("{name} @ git+https://git.example/t@{at}#subdirectory=x");
    let pips = format!("{{\"comfyui\":\"c0\",\"pips\":{{\"{}\":\"\"}}}}", line("Torch", &other));
    assert_eq!(
        messages("snapshot.json", &pips).unwrap(),
        ["does not name these packs: a, b", wants.as_str()]
    );
    // As ComfyUI-Manager writes it, in JSON and in YAML.
    let at = format!("git+https://git.example/t@{other}");
    let json = format!("{{\"comfyui\":\"c0\",\"pips\":{{\"Torch\":\"{at}\"}}}}");
    assert_eq!(messages("snapshot.json", &json).unwrap()[1..], [wants.as_str()]);
    let yaml = format!("custom_nodes:\n  comfyui: c0\n  pips:\n    Torch: {at}\n");
    assert_eq!(messages("snapshot.yaml", &yaml).unwrap()[1..], [wants.as_str()]);
    // A branch states nothing; a file that came from an index is of no commit.
    let text = format!("{}\n{}\n{}\n", line("torch", "main"), line("click[x]", &one), line("gone", &one));
    assert_eq!(
        messages("requirements.txt", &text).unwrap(),
        [
            format!("wants click from a repository at commit {one}; it was not installed from one"),
            "wants gone, which is not installed".into(),
        ]
    );
}

#[test]
fn a_pylock_of_another_tool_counts_and_our_own_does_not() {
    let text = |by: &str| {
        format!(
            "lock-version = \"1.0\"\ncreated-by = \"{by}\"\n[[packages]]\nname = \"click\"\nversion = \"1\"\n"
        )
    };
    assert_eq!(messages("pylock.toml", &text("stillframe")).unwrap(), [""; 0]);
    assert_eq!(
        messages("pylock.gpu.toml", &text("uv")).unwrap(),
        ["wants click 1, installed is 8.1.8", "does not name what is installed: torch 2.1.0+cu121"]
    );
}

#[test]
fn a_manager_snapshot_is_compared_part_by_part() {
    let text = r#"{"comfyui":"c9",
        "git_custom_nodes":{"https://git.example/o/a":{"hash":"a2"},
            "https://git.example/o/b.git":{"hash":"b1","disabled":true},
            "https://git.example/o/old":{"hash":"x"},
            "https://git.example/o/gone":{"hash":"x"},
            "https://git.example/o/off":{"hash":"x","disabled":true}},
        "cnr_custom_nodes":{"registry-pack":"1.3.0","other":"1"},
        "file_custom_nodes":[{"filename":"one.py","disabled":false},{"filename":"two.py","disabled":false}],
        "pips":{"click==8.1.7":"","mine @ file:///x":""}}"#;
    assert_eq!(
        messages("snapshot.json", text).unwrap(),
        [
            "wants the main program at commit c9, it is at c0",
            "wants the pack a at commit a2, it is at a1",
            "wants the pack https://git.example/o/b.git disabled; it is enabled",
            "wants the pack https://git.example/o/gone, which is not there",
            "wants the pack https://git.example/o/old, which is disabled",
            "wants the pack other, which is not there",
            "wants the pack Registry-Pack 1.3.0, it is 1.2.0",
            "wants the pack two.py, which is not there",
            "wants click 8.1.7, installed is 8.1.8",
        ]
    );
}

#[test]
fn what_cannot_be_read_is_an_error_that_names_the_file() {
    let error = |name: &str, text: &str| messages(name, text).unwrap_err().to_string();
    assert_eq!(error("requirements.txt", "!!\n"), "DIR/requirements.txt: line 1: \"!!\" is no requirement");
    assert_eq!(
        error("uv.lock", "version = 9"),
        "DIR/uv.lock: uv.lock has version 9, only version 1 is known"
    );
    assert_eq!(
        error("notes.md", ""),
        "DIR/notes.md: not a kind of file that can be checked (uv.lock, pylock*.toml, *.txt, a ManagerSnapshot *.json or *.yaml)"
    );
}

#[test]
fn statements_beside_the_environment_are_found() {
    let dir = tempfile::tempdir().unwrap();
    for name in
        ["uv.lock", "pylock.toml", "pylock.a.toml", "pylock.a.b.toml", "requirements-x.txt", "snapshot.json"]
    {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let names: Vec<String> = discover(dir.path(), dir.path())
        .into_iter()
        .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["pylock.a.toml", "pylock.toml", "requirements-x.txt", "uv.lock"]);
}

/// A sparse file costs whoever makes it nothing.
#[test]
fn a_statement_of_eight_gigabytes_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let main = MainLock {
        version: None,
        flags: vec![],
        models: vec![],
        input: false,
        own_paths: vec![],
        tree: tree(),
        git: None,
    };
    let installed = Installed {
        environment: dir.path(),
        distributions: &[],
        packs: &[],
        disabled_packs: &[],
        main: &main,
    };
    for name in ["uv.lock", "requirements.txt", "pylock.toml", "snapshot.json"] {
        let file = dir.path().join(name);
        std::fs::File::create(&file).unwrap().set_len(8 << 30).unwrap();
        let error = check(&file, &installed).unwrap_err();
        assert_eq!(error.full(), format!("cannot read {}: larger than 67108864 bytes", file.display()));
    }
}
