//! What the tests that call real Nix share: scratch directories that a read-only store does not keep
//! from going away, and tools whose absence is a failure with a name.
// Each test crate uses its part.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use stillframe::formats::nix::nar::Visitor;

/// A directory of one test; store directories below it are read-only until it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("stillframe-").tempdir().expect("a temporary directory");
        // Nix refuses a store below a symlink.
        let path = fs::canonicalize(dir.keep()).expect("a real path");
        // Build users look into it.
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// As NIX_REMOTE: the scratch store of this directory.
    pub fn remote(&self) -> String {
        format!("local?root={}", self.0.display())
    }

    /// Where a store path of the scratch store lies.
    pub fn physical(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// A command of the machine's Nix on the scratch store.
    pub fn nix<I: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.0).env("NIX_REMOTE", self.remote());
        for name in ["NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_PATH"] {
            command.env_remove(name);
        }
        command
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        writable(&self.0);
        if let Err(e) = fs::remove_dir_all(&self.0)
            && !std::thread::panicking()
        {
            panic!("{} stays behind: {e}", self.0.display());
        }
    }
}

/// Directories below `dir` become writable; links are not followed.
fn writable(dir: &Path) {
    let _ = fs::set_permissions(dir, Permissions::from_mode(0o755));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            writable(&entry.path());
        }
    }
}

/// Makes the root of the later Nix, once.
fn newer_root() -> PathBuf {
    static SCRIPT: OnceLock<PathBuf> = OnceLock::new();
    SCRIPT
        .get_or_init(|| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/nix26.sh");
            let built = outcome(Command::new(&script).arg("build"));
            let said = String::from_utf8_lossy(&built.stderr);
            assert!(
                built.status.success(),
                "no Nix 2.26: {said}\ntests/lib/setup.sh, as root, brings what it needs"
            );
            script
        })
        .clone()
}

/// The words before a command that run it where the later Nix is, on the store of `scratch`.
pub fn newer(scratch: &Scratch) -> Vec<String> {
    let script = newer_root();
    let shared = scratch.path().to_str().expect("text");
    let remote = format!("NIX_REMOTE={}", scratch.remote());
    let words = [script.to_str().expect("text"), "run", shared, "env", &remote];
    words.map(String::from).to_vec()
}

/// Runs a command to its end, whatever that is.
pub fn outcome(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| {
        let program = command.get_program().display();
        panic!("cannot start {program}: {e}; tests/lib/setup.sh brings what the tests need")
    })
}

/// Runs a command that must succeed; what it printed.
pub fn stdout(command: &mut Command) -> Vec<u8> {
    let output = outcome(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The same, as the lines of a text.
pub fn lines(command: &mut Command) -> Vec<String> {
    let text = String::from_utf8(stdout(command)).expect("text");
    text.lines().map(String::from).collect()
}

/// The one line that a command printed.
pub fn line(command: &mut Command) -> String {
    let mut all = lines(command);
    assert_eq!(all.len(), 1, "{command:?} printed {all:?}");
    all.remove(0)
}

/// Hears an archive and takes nothing from it.
pub struct Deaf;

impl Visitor for Deaf {
    type Error = io::Error;

    fn directory(&mut self, _: &[Vec<u8>]) -> io::Result<()> {
        Ok(())
    }

    fn symlink(&mut self, _: &[Vec<u8>], _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, _: &[Vec<u8>], _: bool, _: u64, _: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}
