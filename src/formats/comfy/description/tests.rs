//! One file of each kind, as its own tool writes it, with everything in it that cannot be fetched again.
use super::*;
use std::io::{Cursor, Write};

const A: &str = "27870ec3c30e56be9707d89a120eb7f0e2836be1";
const B: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn pack(name: &str, repository: &str) -> Pack {
    Pack { name: name.into(), source: Source { repository: repository.into(), revision: B.into() } }
}

fn comfyui(revision: &str) -> Option<Source> {
    Some(Source { repository: COMFYUI.into(), revision: revision.into() })
}

#[test]
fn a_manager_snapshot() {
    let text = format!(
        r##"{{"comfyui": "{A}", "git_custom_nodes": {{
            "https://git.example/a/Impact-Pack.git": {{"hash": "{B}", "disabled": false}},
            "https://git.example/off": {{"hash": "{B}", "disabled": true}},
            "https://git.example/moving": {{"hash": "main"}},
            "ext::sh -c id": {{"hash": "{B}"}}}},
        "cnr_custom_nodes": {{"comfyui-manager": "3.30.4"}}, "file_custom_nodes": [{{"filename": "loose.py"}}],
        "pips": {{"numpy==1.26.4": "", "evil==1\n--index-url https://evil.example": "", "at==1 @ git+file:///x": "", "mine @ file:///home/x/mine": "", "-e git+https://git.example/e": "", "# Editable install with no version control (x==1)": "", "newest": "",
            "by-value": "git+https://git.example/v@{A}", "branch": "git+https://git.example/v@main", "-e git+https://git.example/w@{A}#egg=w": "",
            "torch @ https://files.example/torch.whl": ""}}}}"##
    );
    let read = of_manager_snapshot(text.as_bytes()).unwrap();
    assert_eq!(read.comfyui, comfyui(A));
    assert_eq!(read.packs, [pack("Impact-Pack", "https://git.example/a/Impact-Pack.git")]);
    let kept = [
        &*format!("-e git+https://git.example/w@{A}#egg=w"),
        &format!("by-value @ git+https://git.example/v@{A}"),
        "evil==1",
        "numpy==1.26.4",
        "torch @ https://files.example/torch.whl",
    ];
    assert_eq!(read.requirements, kept);
    assert_eq!(read.disabled, ["pack off of https://git.example/off"]);
    assert_eq!((&read.files[..], read.without(|_| true)), (&["loose.py".to_string()][..], vec![]));
    assert_eq!(read.files_of_others(), ["pack loose.py: a single file that only its machine has"]);
    assert_eq!(
        read.lacking.iter().map(String::as_str).collect::<Vec<_>>(),
        ["at", "branch", "mine", "newest"]
    );
    assert_eq!(read.dependencies, Dependencies::Frozen);
    assert_eq!(
        read.unresolved,
        [
            "pack sh -c id of \"ext::sh -c id\": no repository is named",
            "pack moving of https://git.example/moving at \"main\": no commit is named",
            "pack comfyui-manager 3.30.4: the Comfy registry has it, no repository is named",
            "requirement -e git+https://git.example/e: no commit is named",
            "requirement at==1 @ git+file:///x: it is on another machine",
            "requirement branch @ git+https://git.example/v@main: no commit is named",
            "requirement --index-url https://evil.example: an option of an installer",
            "requirement mine @ file:///home/x/mine: it is on another machine",
            "requirement newest: no version is named",
        ]
    );
}

fn archive(members: &[(&str, &str)]) -> Cursor<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap()
}

#[test]
fn a_comfy_pack_package() {
    let snapshot = format!(
        r#"{{"python": "3.12", "comfyui": "{A}",
        "models": [{{"filename": "models/loras/x.safetensors", "size": 1, "sha256": "ab", "disabled": false,
            "source": {{"download_url": "https://models.example/x"}}}}, {{"filename": "models/off", "disabled": true, "sha256": null}}],
        "custom_nodes": [{{"url": "https://git.example/p", "commit_hash": "{B}", "disabled": false}},
            {{"url": "", "commit_hash": "", "disabled": false}}]}}"#
    );
    let read = of_comfy_pack(archive(&[
        ("snapshot.json", &snapshot),
        ("requirements.txt", "a==1\n# note\n\nb==2 \\\n    --hash=sha256:00 # why\n"),
    ]));
    let read = read.unwrap();
    assert_eq!((read.python.as_deref(), read.comfyui), (Some("3.12"), comfyui(A)));
    assert_eq!(read.packs, [pack("p", "https://git.example/p")]);
    assert_eq!(read.requirements, ["a==1", "b==2 --hash=sha256:00"]);
    assert_eq!(read.models.len(), 1);
    assert_eq!(read.models[0].url.as_deref(), Some("https://models.example/x"));
    assert_eq!(read.unresolved, ["pack \"\": no name for a folder"]);
    assert_eq!(read.disabled, ["model models/off"]);
    let lacking = of_comfy_pack(archive(&[("snapshot.json", &snapshot)])).unwrap_err();
    assert_eq!(lacking.to_string(), "not a comfy-pack package: it has no requirements.txt");
    assert!(of_comfy_pack(Cursor::new(b"PK nothing".to_vec())).is_err());
}

#[test]
fn a_comfygit_manifest() {
    let text = format!(
        r#"
[project]
name = "comfygit-env-x"
dependencies = ["torch", "pillow>=10"]
[dependency-groups]
pack-a1 = ["ultralytics>=8"]
odd = [{{ include-group = "pack-a1" }}]
[tool.comfygit]
comfyui_repository = "https://git.example/fork/ComfyUI.git"
comfyui_version = "vsa"
comfyui_commit_sha = "{A}"
python_version = "3.12"
[tool.comfygit.nodes.impact]
name = "Impact"
registry_id = "impact"
repository = "https://git.example/impact"
version = "5.5.0"
source = "registry"
[tool.comfygit.nodes.team]
source = "development"
repository = "https://git.example/team.git"
pinned_commit = "{B}"
[tool.comfygit.nodes.bare]
source = "git"
[tool.comfygit.nodes.own]
source = "bundled"
bundle_path = "bundled_nodes/own"
[tool.comfygit.models]
0b2 = {{ filename = "x.safetensors", size = 1, relative_path = "checkpoints/x.safetensors", category = "checkpoints" }}
1c3 = {{ filename = "y.safetensors", relative_path = "loras/y.safetensors", sources = ["https://models.example/y"] }}
"#
    );
    let read = of_comfygit(&text).unwrap();
    let fork = Source { repository: "https://git.example/fork/ComfyUI.git".into(), revision: A.into() };
    assert_eq!((read.comfyui, read.python.as_deref()), (Some(fork), Some("3.12")));
    assert_eq!(read.packs, [pack("team", "https://git.example/team.git")]);
    assert_eq!(read.requirements, ["torch", "pillow>=10", "ultralytics>=8"]);
    assert_eq!(
        read.unresolved,
        [
            "pack bare: no repository is named",
            "pack Impact 5.5.0: the Comfy registry has it, no commit is named",
            "pack own: its files lie beside the manifest, not in a repository",
            "dependency group odd: {\"include-group\":\"pack-a1\"} is no requirement",
            "model models/checkpoints/x.safetensors (short hash 0b2): no source is named",
        ]
    );
    assert_eq!(
        of_comfygit("[project]\nname = \"x\"\n").unwrap_err().to_string(),
        "not a comfygit manifest: it has no [tool.comfygit]"
    );
}

#[test]
fn a_comfy_build() {
    let text = format!(
        "schema: comfy-build/1\nid: null\nname: x\ndescription: \"\"\nsyncedRevision: null\ndefinition:\n  schema: distribution-definition/0\n  \
         baseComfyVersion: 0.3.40\n  environment: {{os: linux, pythonVersion: '3.12'}}\n  pipDependencies: |\n    a==1\n    --extra-index-url https://x.example\n  \
         models:\n    - {{type: loras, filename: x.safetensors, sourceUri: 'https://models.example/x', sha256: ab}}\n    - {{type: vae, filename: y.pt, blobId: b1}}\n  \
         customNodes:\n    - {{name: p, repository: 'https://git.example/p', gitRef: {B}}}\n    - {{name: q, repository: 'https://git.example/q', gitRef: main}}\n    \
         - {{name: r, id: r, registryVersion: 1.2.3}}\n    - {{name: p, repository: 'https://git.example/other/p', gitRef: {B}}}\n    - {{name: s, blobId: b2}}\n    - {{name: ../t, repository: 'https://git.example/t', commit: {B}}}\n"
    );
    let read = of_comfy_build(&text).unwrap();
    assert_eq!((read.comfyui, read.python.as_deref()), (comfyui("v0.3.40"), Some("3.12")));
    assert_eq!(read.packs, [pack("p", "https://git.example/p")]);
    assert_eq!(read.requirements, ["a==1"]);
    assert_eq!(
        read.unresolved,
        [
            "pack q of https://git.example/q at \"main\": no commit is named",
            "pack r 1.2.3: the Comfy registry has it, no repository is named",
            "pack p of https://git.example/other/p: another has its folder",
            "pack s: only Comfy's platform has its files",
            "pack \"../t\": no name for a folder",
            "requirement --extra-index-url https://x.example: an option of an installer",
            "model models/vae/y.pt: only Comfy's platform has it",
        ]
    );
    let other = of_comfy_build("schema: comfy-build/2\ndefinition: {}\n").unwrap_err();
    assert_eq!(
        other.to_string(),
        "not a comfy-build.yaml: its schema is \"comfy-build/2\", not comfy-build/1"
    );
    assert!(of_comfy_build("a: [").is_err());
}

/// As ComfyUI-Manager writes it (`yaml.dump`), and comfy-cli around it.
#[test]
fn a_manager_snapshot_in_yaml() {
    let digits = "1234567890123456789012345678901234567890";
    let exponent = "12345678901234567890123456789012345678e9";
    let inner = format!(
        "  cnr_custom_nodes:\n    essentials: 1.10\n  comfyui: {digits}\n  file_custom_nodes:\n  - disabled: false\n    filename: websocket_image_save.py\n  \
         git_custom_nodes:\n    https://git.example/p:\n      disabled: false\n      hash: {exponent}\n  pips:\n    by-value: git+https://git.example/v@{A}\n    \
         numpy==2.2.6: ''\n    torch==2.10.0+cu128:\n"
    );
    let models = "models:\n- model: x\n  url: https://models.example/x\n  paths:\n  - path: models\\loras\\x.safetensors\n  hashes:\n  - hash: ab\n    type: SHA256\n- model: y\n  paths: []\nbasics:\n  gpu: one\n";
    let read = of_yaml(&format!("custom_nodes:\n{inner}{models}")).unwrap();
    assert_eq!(read.comfyui, comfyui(digits));
    assert_eq!(read.packs.iter().map(|p| &*p.source.revision).collect::<Vec<_>>(), [exponent]);
    let kept = [&*format!("by-value @ git+https://git.example/v@{A}"), "numpy==2.2.6", "torch==2.10.0+cu128"];
    assert_eq!(read.requirements, kept);
    assert_eq!((&read.files[..], read.files_of_others()), (&["websocket_image_save.py".into()][..], vec![]));
    let model = Model {
        path: "models/loras/x.safetensors".into(),
        sha256: Some("ab".into()),
        url: Some("https://models.example/x".into()),
    };
    assert_eq!(read.models, [model]);
    assert_eq!(
        read.unresolved,
        [
            "pack essentials 1.10: the Comfy registry has it, no repository is named",
            "model y: no source is named",
            "model y: no path is named",
            "basics {\"gpu\":\"one\"}: no part of the format that is known here",
        ]
    );
    // The same without the key around it, and in JSON.
    let bare = inner.replace("\n  ", "\n");
    let bare = of_yaml(bare.trim_start()).unwrap();
    assert_eq!((bare.requirements, bare.packs), (read.requirements, read.packs));
    let other = of_yaml("a: 1\n").unwrap_err().to_string();
    assert!(other.starts_with("not a ComfyUI-Manager snapshot: "), "{other}");
}

#[test]
fn an_archive_with_a_folder_around_it_and_of_windows() {
    let snapshot = format!(r#"{{"comfyui": "{A}", "models": [{{"filename": "models\\vae\\x.pt"}}]}}"#);
    for members in [
        ["snapshot.json", "requirements.txt", "input/a/b.png", "workflow.json"],
        ["pack/snapshot.json", "pack/requirements.txt", "pack/input/a/b.png", "pack/workflow.json"],
        ["pack\\snapshot.json", "pack\\requirements.txt", "pack\\input\\a\\b.png", "pack\\workflow.json"],
    ] {
        let texts = [&*snapshot, "a==1", "png", "{}"];
        let all: Vec<(&str, &str)> = members.into_iter().zip(texts).collect();
        let read = of_comfy_pack(archive(&all)).unwrap();
        assert_eq!(read.requirements, ["a==1"], "{members:?}");
        assert_eq!(read.models[0].path, "models/vae/x.pt");
        let paths: Vec<&str> = read.members.iter().map(|m| &*m.path).collect();
        assert_eq!(paths, ["input/a/b.png", "user/default/workflows/workflow.json"]);
        let text = member(archive(&all), &read.members[0].member, |from| {
            let mut text = String::new();
            from.read_to_string(&mut text).map(|_| text)
        });
        assert_eq!(text.unwrap().unwrap(), "png");
        assert_eq!(read.unresolved, [""; 0]);
    }
    let two = archive(&[("a/snapshot.json", &snapshot), ("b/snapshot.json", &snapshot)]);
    let error = of_comfy_pack(two).unwrap_err().to_string();
    assert_eq!(error, "not a comfy-pack package: both a/snapshot.json and b/snapshot.json are there");
}

/// Nothing of an archive is written anywhere but where such a file belongs.
#[test]
fn members_stay_in_input() {
    let bad = [
        "input/../main.py",
        "input//etc/x",
        "../x",
        "/etc/x",
        "input/c:x",
        "custom_nodes/x.py",
        "input\\..\\..\\x",
    ];
    let snapshot = format!(r#"{{"comfyui": "{A}"}}"#);
    let all = [("snapshot.json", &*snapshot), ("requirements.txt", "")];
    let all: Vec<_> = all.into_iter().chain(bad.iter().map(|name| (*name, ""))).collect();
    let read = of_comfy_pack(archive(&all)).unwrap();
    assert_eq!(read.members, []);
    assert_eq!(read.unresolved.len(), bad.len(), "{:?}", read.unresolved);
}

/// A TOML string may have line breaks, and pip's files have one requirement or option a line.
#[test]
fn no_text_of_uv_becomes_an_option_of_pip() {
    const OPTION: &str = "\\n--index-url https://evil.example/simple";
    let text = format!(
        r#"
[project]
dependencies = ["plain ; a == 'b'{OPTION}", "addressed", "nested", "elsewhere", "indexed ; a == 'b'{OPTION}"]
[tool.comfygit]
comfyui_commit_sha = "{A}"
[tool.uv]
constraint-dependencies = ["held ; a == 'b'{OPTION}"]
[[tool.uv.index]]
name = "odd{OPTION}"
url = "https://wheels.example/odd"
[[tool.uv.index]]
name = "worse"
url = "https://wheels.example/worse{OPTION}"
[tool.uv.sources]
addressed = {{ url = "https://files.example/a.whl{OPTION}" }}
nested = {{ git = "https://git.example/n", rev = "{B}", subdirectory = "x{OPTION}" }}
elsewhere = {{ index = "odd{OPTION}" }}
indexed = {{ index = "worse" }}
"#
    );
    let read = of_comfygit(&text).unwrap();
    let written = read.requirements.iter().chain(&read.constraints);
    let options: Vec<_> =
        written.filter(|line| line.contains(['\n', '\r']) || line.starts_with('-')).collect();
    assert_eq!(options, Vec::<&String>::new());
    assert_eq!((read.constraints.len(), read.indexes.len()), (0, 0));
    for name in ["addressed", "nested", "elsewhere", "held", "--index-url https://evil.example/simple"] {
        assert!(read.unresolved.iter().any(|item| item.contains(name)), "{name}: {:?}", read.unresolved);
    }
}

#[test]
fn sources_of_uv() {
    let text = format!(
        r#"
[project]
dependencies = ["numpy==1.26.4", "Sam2[x]>=1 ; python_version > '3.0'", "branchy", "pathy", "direct", "torch>=2", "many"]
[tool.comfygit]
comfyui_commit_sha = "{A}"
torch_backend = "cu128"
[tool.uv]
constraint-dependencies = ["torchvision==0.24.0+cu128", "bad @ file:///x"]
override-dependencies = ["numpy==2"]
[[tool.uv.index]]
name = "cu128"
url = "https://wheels.example/cu128"
explicit = true
[[tool.uv.index]]
url = "https://other.example/simple"
[tool.uv.sources]
sam2 = {{ git = "https://git.example/sam2", rev = "{B}", subdirectory = "x" }}
branchy = {{ git = "https://git.example/branchy", branch = "main" }}
pathy = {{ path = "../pathy", editable = true }}
direct = {{ url = "https://files.example/direct.whl" }}
torch = {{ index = "cu128" }}
torchvision = [{{ index = "cu128" }}]
many = [{{ index = "cu128", marker = "a" }}, {{ url = "https://files.example/many.whl" }}]
unmet = {{ index = "cu128" }}
"#
    );
    let read = of_comfygit(&text).unwrap();
    let kept = [
        "numpy==1.26.4",
        &format!("Sam2[x] @ git+https://git.example/sam2@{B}#subdirectory=x ; python_version > '3.0'"),
        "direct @ https://files.example/direct.whl",
        "torch>=2 # index cu128: https://wheels.example/cu128",
        "torchvision==0.24.0+cu128 # index cu128: https://wheels.example/cu128",
    ];
    assert_eq!(read.requirements, kept);
    assert_eq!(read.constraints, ["torchvision==0.24.0+cu128"]);
    let packages = ["torch", "torchvision"].map(String::from).into();
    let index = Index { name: "cu128".into(), url: "https://wheels.example/cu128".into(), packages };
    assert_eq!(read.indexes, [index]);
    assert_eq!(read.lacking.iter().map(String::as_str).collect::<Vec<_>>(), ["branchy", "many", "pathy"]);
    assert_eq!(
        read.unresolved,
        [
            "requirement branchy: of its source (git https://git.example/branchy, branch main) no commit is named",
            "requirement pathy: its source (editable true, path \"../pathy\") is on another machine",
            "requirement many: it has several sources (index cu128, marker a; url https://files.example/many.whl)",
            "constraint bad @ file:///x: it is on another machine",
            "source of unmet, the index cu128: no requirement names the package",
            "index 2 https://other.example/simple: of indexes without names of packages pip takes the newest of all; only packages whose source it is come from it",
            "[tool.uv] override-dependencies [\"numpy==2\"]: no part of the format that is known here",
        ]
    );
}

/// Every item has a mark; a file of each format has all kinds of items, those that no reader knows among them. Each mark is in
/// what the reader gives.
fn counted(format: &str, text: &str, read: &Description) {
    let marks: std::collections::BTreeSet<&str> = text
        .match_indices("item")
        .map(|(at, _)| &text[at..])
        .map(|rest| &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len())])
        .collect();
    let mut given = serde_json::to_string(read).unwrap();
    given.push_str(&read.files_of_others().join("\n"));
    let gone: Vec<&&str> = marks.iter().filter(|mark| !given.contains(**mark)).collect();
    assert!(gone.is_empty(), "{format}: {gone:?} of {} items are nowhere in {given}", marks.len());
    assert!(marks.len() > 8, "{format}: {marks:?}");
}

#[test]
fn no_item_of_any_format_is_dropped() {
    let manager = format!(
        r#"{{"comfyui": "item00", "git_custom_nodes": {{"https://git.example/item01": {{"hash": "{B}"}}, "https://git.example/item02": {{"hash": null}},
        "https://git.example/item03": {{"hash": "{B}", "disabled": true}}, "item04": {{"hash": "{B}"}}, "https://git.example/other/item01": {{"hash": "{B}"}}}},
        "cnr_custom_nodes": {{"item05": "1", "item06": null}}, "file_custom_nodes": [{{"filename": "item07.py"}}, {{"filename": "a\\item08.py"}}, {{"filename": "item09.py", "disabled": true}}],
        "pips": {{"item10==1": "", "item11==1+cu121": "", "item12": "", "item13": "git+https://git.example/x@{A}", "item14": "file:///item14", "-e /srv/item15": "", "-e git+https://git.example/item16@{A}": "", "item17 @ https://x.example/a": "", "c:\\item18": ""}},
        "item19": [1]}}"#
    );
    counted("manager", &manager, &of_manager_snapshot(manager.as_bytes()).unwrap());
    let yaml: serde_json::Value = serde_json::from_str(&manager).unwrap();
    // JSON is YAML.
    let lock = format!(
        "custom_nodes: {yaml}\nmodels: [{{model: item20, url: 'https://x.example/item21', paths: [{{path: item22}}, {{path: item23}}]}}, {{model: item24}}]\nitem25: [x]\n"
    );
    // What says where a model is says which it is.
    counted("comfy-lock", &lock.replace("item20", "x"), &of_yaml(&lock).unwrap());

    let wrapped = serde_json::json!({"custom_nodes": yaml, "models": [{"model": "x", "url": "https://x.example/item21", "paths": [{"path": "item22"}]}], "item25": ["x"]}).to_string();
    counted("comfy-lock in JSON", &wrapped, &of_manager_snapshot(wrapped.as_bytes()).unwrap());

    let snapshot = format!(
        r#"{{"python": "item00", "comfyui": "item01", "custom_nodes": [{{"url": "https://git.example/item02", "commit_hash": "{B}"}}, {{"url": "https://git.example/item03", "commit_hash": "v1"}},
        {{"url": "https://git.example/item04", "commit_hash": "", "disabled": true}}], "models": [{{"filename": "item05"}}, {{"filename": "item06", "disabled": true}}], "item07": {{"a": 1}}}}"#
    );
    let requirements = "item08==1\nitem09>=1\n--find-links item10\nitem11 @ file:///x\n-r item12.txt\n";
    let members = ["input/item13.png", "item14.sh", "input/../item15", "sub/input/item16.png"];
    let mut all = vec![("snapshot.json", &*snapshot), ("requirements.txt", requirements)];
    all.extend(members.map(|name| (name, "")));
    let text = format!("{snapshot}{requirements}{}", members.join(" "));
    counted("comfy-pack", &text, &of_comfy_pack(archive(&all)).unwrap());

    let manifest = format!(
        r#"
[project]
requires-python = ">=3.item00"
dependencies = ["item01==1", "item02 @ git+https://git.example/x", "-e ./item03"]
optional-dependencies.item04 = ["item05"]
[dependency-groups]
a = ["item06", {{ include-group = "item07" }}]
[tool.comfygit]
comfyui_version = "item08"
torch_backend = "item09"
item10 = "x"
[tool.comfygit.nodes.item11]
source = "registry"
version = "item12"
[tool.comfygit.nodes.item13]
source = "bundled"
[tool.comfygit.nodes.item14]
repository = "https://git.example/item14"
pinned_commit = "{B}"
[tool.comfygit.nodes.item15]
[tool.comfygit.models]
item16 = {{ filename = "item17" }}
x = {{ filename = "item18", sources = ["https://x.example/item19"] }}
[tool.comfygit.workflows]
item20 = {{ path = "x" }}
[tool.uv]
constraint-dependencies = ["item21==1"]
no-binary-package = ["item22"]
[[tool.uv.index]]
name = "item23"
url = "https://x.example/item24"
[tool.uv.sources]
item01 = {{ index = "item23" }}
item25 = {{ git = "https://git.example/item26", tag = "item27" }}
item28 = {{ workspace = true }}
"#
    );
    counted("comfygit", &manifest, &of_comfygit(&manifest).unwrap());

    let build = format!(
        "schema: comfy-build/1\nitem00: x\ndefinition:\n  baseComfyVersion: item01\n  item02: x\n  environment: {{os: item03, pythonVersion: item04, item05: x}}\n  \
         pipDependencies: |\n    item06==1\n    --pre item07\n  models:\n  - {{type: a, filename: item08, sourceUri: 'https://x.example/item09'}}\n  - {{type: a, filename: item10}}\n  \
         customNodes:\n  - {{name: item11, repository: 'https://git.example/x', commit: {B}}}\n  - {{name: item12, registryVersion: item13}}\n  - {{name: item14}}\n  - {{name: item15, repository: 'https://git.example/item16'}}\n"
    );
    counted("comfy-build", &build, &of_yaml(&build).unwrap());
}
