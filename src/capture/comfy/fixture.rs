//! A small environment on disk, for the tests of `scan`.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub fn git(dir: &Path, arguments: &[&str]) {
    let out = Command::new("git")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// A path a line, with its content.
const FILES: &str = r#"main.py: print('main')
nodes.py
comfyui_version.py: # generated\n__version__ = "0.33.0"\n
comfy/cli_args.py: p.add_argument("--listen", type=str)\np.add_argument('--port', '-p')\n# "--old"\n
comfy/__pycache__/x.pyc
custom_nodes/example_node.py.example
custom_nodes/websocket_image_save.py
custom_nodes/loose.py: x
custom_nodes/readme.txt: x
custom_nodes/plain/__init__.py: x
custom_nodes/repo/__init__.py: x
custom_nodes/off.disabled/__init__.py: x
custom_nodes/off.py.disabled: x
custom_nodes/.disabled/old@1/__init__.py: x
custom_nodes/__pycache__/x.pyc: x
models/checkpoints/a.safetensors: 12345
models/vae/put_vae_here
user/default/workflows/w.json: {}
input/example.png: p
output/o.png: pp
venv/pyvenv.cfg
comfyui.log
user.txt: kept
stillframe.lock
.env: X=1
.cache/huggingface/token: hf_x
.cache/huggingface/hub/version.txt: 1
.cache/huggingface/hub/models--a--b/blobs/1234: blob
.cache/huggingface/hub/models--a--b/refs/main: rev
.cache/huggingface/hub/.locks/models--a--b/x.lock
.cache/torch/hub/checkpoints/c.pth: c
.cache/torch/hub/repo_x/hubconf.py
.cache/rembg/u2net.onnx: u
.cache/pip/http/x
.cache/uv/x"#;

/// An environment with a pack of every kind; the returned path is canonical.
pub fn environment() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    let root = base.join("ComfyUI");
    for line in FILES.lines() {
        let (path, text) = line.split_once(": ").unwrap_or((line, ""));
        write(root.join(path), &text.replace("\\n", "\n"));
    }
    let snapshot = root.join(".cache/huggingface/hub/models--a--b/snapshots/rev");
    fs::create_dir_all(&snapshot).unwrap();
    symlink("../../blobs/1234", snapshot.join("config.json")).unwrap();
    write(base.join("elsewhere/linked/__init__.py"), "x");
    symlink("../../elsewhere/linked", root.join("custom_nodes/linked")).unwrap();
    symlink("../nowhere", root.join("custom_nodes/broken")).unwrap();
    let repo = root.join("custom_nodes/repo");
    git(&repo, &["init", "-q"]);
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "one"]);
    write(repo.join("inner/x.py"), "x");
    git(&repo.join("inner"), &["init", "-q"]);
    git(&repo.join("inner"), &["add", "-A"]);
    git(&repo.join("inner"), &["commit", "-qm", "one"]);
    (dir, root)
}
