//! Runs git's plumbing on a repository's objects, with nothing of the user's environment and nothing of the repository's
//! configuration: what git takes for the repository is a folder of ours, which names its objects alone. So no setting of the
//! repository names a program or a remote, and an older git reads the objects of a repository whose refs it does not know.
use crate::capture::git::Head;
use crate::sys::programs;
use crate::sys::signals;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Plumbing on a local repository takes milliseconds; a hostile one may try to wait for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// A repository's objects, index and ignore rules.
pub struct Objects<'a> {
    head: &'a Head,
    stand_in: tempfile::TempDir,
}

impl<'a> Objects<'a> {
    /// `None`: no room for the folder that stands in for the repository.
    pub fn of(head: &'a Head) -> Option<Self> {
        let stand_in = tempfile::Builder::new().prefix("stillframe-git-").tempdir().ok()?;
        let place = stand_in.path();
        let format = if head.sha256 { "sha256" } else { "sha1" };
        let config = format!("[core]\nrepositoryformatversion = 1\n[extensions]\nobjectformat = {format}\n");
        std::fs::create_dir(place.join("refs")).ok()?;
        std::fs::create_dir(place.join("objects")).ok()?;
        std::fs::create_dir(place.join("info")).ok()?;
        std::fs::write(place.join("HEAD"), "ref: refs/heads/none\n").ok()?;
        std::fs::write(place.join("config"), config).ok()?;
        std::fs::write(place.join("info/exclude"), &head.exclude).ok()?;
        Some(Objects { head, stand_in })
    }

    /// What the command prints. `None`: no git, an error, or no end.
    pub fn run(&self, arguments: &[&str]) -> Option<Vec<u8>> {
        self.answer(None, arguments, None).and_then(|(ok, out)| ok.then_some(out))
    }

    /// Those of `paths` (each ended by a zero byte) that ignore rules of the work tree cover.
    pub fn ignored(&self, work_tree: &Path, paths: &[u8]) -> Option<Vec<u8>> {
        // The exit status is 1 where none is.
        let arguments = ["check-ignore", "--no-index", "-z", "--stdin"];
        self.answer(Some(work_tree), &arguments, Some(paths)).map(|(_, out)| out)
    }

    /// The paths of the index with their tags (git-ls-files(1), `-t`). A folder that a sparse index holds as one entry ends with `/`.
    pub fn index(&self) -> Option<Vec<u8>> {
        // The larger part of a split index lies beside it.
        for entry in std::fs::read_dir(&self.head.git_dir).ok()?.flatten() {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b"sharedindex.") {
                // One that is there from an earlier question is the same.
                let _ = std::os::unix::fs::symlink(entry.path(), self.stand_in.path().join(name));
            }
        }
        // An older git has no such index and no word for it.
        self.run(&["ls-files", "-t", "-z", "--sparse"]).or_else(|| self.run(&["ls-files", "-t", "-z"]))
    }

    fn command(&self, work_tree: Option<&Path>) -> Option<Command> {
        let absolute = |path: PathBuf| std::path::absolute(path).ok();
        let mut command = Command::new(programs::find("git")?);
        command.env_clear().env("PATH", programs::path());
        command.env("GIT_OBJECT_DIRECTORY", absolute(self.head.common_dir.join("objects"))?);
        command.env("GIT_INDEX_FILE", absolute(self.head.git_dir.join("index"))?);
        for (key, value) in [
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            // A whitelist of transports that names none: an older git that would fetch missing objects
            // can reach nobody.
            ("GIT_ALLOW_PROTOCOL", "none"),
            ("GIT_TERMINAL_PROMPT", "0"),
        ] {
            command.env(key, value);
        }
        for setting in [
            "safe.directory=*",
            "core.fsmonitor=false",
            "core.hooksPath=/dev/null",
            "core.pager=cat",
            "core.untrackedCache=false",
            "core.sshCommand=false",
        ] {
            command.args(["-c", setting]);
        }
        if self.head.ignore_case {
            command.args(["-c", "core.ignoreCase=true"]);
        }
        if let (Some(file), Some(dir)) = (&self.head.excludes_file, work_tree) {
            let file = dir.join(file);
            // A FIFO would be waited for.
            if file.is_file() {
                command.arg("-c").arg(format!("core.excludesFile={}", file.display()));
            }
        }
        command.arg("--git-dir").arg(self.stand_in.path());
        if let Some(dir) = work_tree {
            command.arg("--work-tree").arg(dir).current_dir(dir);
        }
        Some(command)
    }

    /// An exit status of 1 counts as an answer.
    fn answer(
        &self,
        work_tree: Option<&Path>,
        arguments: &[&str],
        input: Option<&[u8]>,
    ) -> Option<(bool, Vec<u8>)> {
        let mut command = self.command(work_tree)?;
        command.args(arguments).stderr(Stdio::null()).stdout(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        signals::shield(&mut command);
        let mut child = command.spawn().ok()?;
        let mut stdin = child.stdin.take();
        let mut stdout = child.stdout.take()?;
        let input = input.map(<[u8]>::to_vec);
        // Both ends at once: git may answer before it has read everything.
        std::thread::spawn(move || {
            if let (Some(pipe), Some(input)) = (stdin.as_mut(), input) {
                // A closed pipe shows in the exit status.
                let _ = pipe.write_all(&input);
            }
        });
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut out = Vec::new();
            let read = std::io::Read::read_to_end(&mut stdout, &mut out);
            // The receiver may have given up.
            let _ = send.send(read.is_ok().then_some(out));
        });
        let out = receive.recv_timeout(PATIENCE).ok().flatten();
        if out.is_none() {
            // Already gone is as good.
            let _ = child.kill();
        }
        let status = child.wait().ok()?;
        let code = status.code()?;
        (code <= 1).then_some((code == 0, out?))
    }
}
