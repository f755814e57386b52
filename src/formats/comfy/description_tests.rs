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
        r#"{{"comfyui": "{A}", "git_custom_nodes": {{
            "https://git.example/a/Impact-Pack.git": {{"hash": "{B}", "disabled": false}},
            "https://git.example/off": {{"hash": "{B}", "disabled": true}},
            "https://git.example/moving": {{"hash": "main"}},
            "ext::sh -c id": {{"hash": "{B}"}}}},
        "cnr_custom_nodes": {{"comfyui-manager": "3.30.4"}}, "file_custom_nodes": [{{"filename": "loose.py"}}],
        "pips": {{"numpy==1.26.4": "", "evil==1\n--index-url https://evil.example": "", "at==1 @ git+file:///x": "", "mine @ file:///home/x/mine": "", "-e git+https://git.example/e": "",
            "torch @ https://files.example/torch.whl": ""}}}}"#
    );
    let read = Description::of_manager_snapshot(text.as_bytes()).unwrap();
    assert_eq!(read.comfyui, comfyui(A));
    assert_eq!(read.packs, [pack("Impact-Pack", "https://git.example/a/Impact-Pack.git")]);
    assert_eq!(read.requirements, ["evil==1", "numpy==1.26.4", "torch @ https://files.example/torch.whl"]);
    assert_eq!(read.dependencies, Dependencies::Frozen);
    assert_eq!(
        read.unresolved,
        [
            "pack sh -c id: no repository is named",
            "pack moving: no commit is named, only its repository",
            "pack comfyui-manager 3.30.4: the Comfy registry has it, no repository is named",
            "pack loose.py: a single file that only its machine has",
            "requirement -e git+https://git.example/e: it is on another machine",
            "requirement at==1 @ git+file:///x: it is on another machine",
            "requirement --index-url https://evil.example: an option of an installer",
            "requirement mine @ file:///home/x/mine: it is on another machine",
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
    let read = Description::of_comfy_pack(archive(&[
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
    let lacking = Description::of_comfy_pack(archive(&[("snapshot.json", &snapshot)])).unwrap_err();
    assert_eq!(lacking.to_string(), "not a comfy-pack package: it has no requirements.txt");
    assert!(Description::of_comfy_pack(Cursor::new(b"PK nothing".to_vec())).is_err());
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
    let read = Description::of_comfygit(&text).unwrap();
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
        Description::of_comfygit("[project]\nname = \"x\"\n").unwrap_err().to_string(),
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
    let read = Description::of_comfy_build(&text).unwrap();
    assert_eq!((read.comfyui, read.python.as_deref()), (comfyui("v0.3.40"), Some("3.12")));
    assert_eq!(read.packs, [pack("p", "https://git.example/p")]);
    assert_eq!(read.requirements, ["a==1"]);
    assert_eq!(
        read.unresolved,
        [
            "pack q: no commit is named, only its repository",
            "pack r 1.2.3: the Comfy registry has it, no repository is named",
            "pack p of https://git.example/other/p: another has its folder",
            "pack s: only Comfy's platform has its files",
            "pack \"../t\": no name for a folder",
            "requirement --extra-index-url https://x.example: an option of an installer",
            "model models/vae/y.pt: only Comfy's platform has it",
        ]
    );
    let other = Description::of_comfy_build("schema: comfy-build/2\ndefinition: {}\n").unwrap_err();
    assert_eq!(
        other.to_string(),
        "not a comfy-build.yaml: its schema is \"comfy-build/2\", not comfy-build/1"
    );
    assert!(Description::of_comfy_build("a: [").is_err());
}
