//! The Nixes of the tests: the machine's own, and a later one in a root of its own. Each test has a
//! store of its own, and every test runs on both.
use crate::common::{Scratch, newer, outcome};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use stillframe::formats::nix::store_path::StorePath;
use stillframe::store::{Store, StoreConfig, Text};
use stillframe::sys::error::Error;

pub struct Host {
    pub scratch: Scratch,
    /// The words before a command that run it where this Nix is.
    enter: Vec<String>,
}

impl Host {
    pub fn installed() -> Host {
        Host { scratch: Scratch::new(), enter: vec![] }
    }

    pub fn newer() -> Host {
        let scratch = Scratch::new();
        Host { enter: newer(&scratch), scratch }
    }

    /// Runs one of Nix's commands on the store.
    pub fn nix(&self, words: &[&str]) -> Command {
        let mut all = self.enter.iter().map(String::as_str).chain(words.iter().copied());
        let program = all.next().expect("a program");
        self.scratch.nix(program, all)
    }

    /// With a daemon that leaves its process id in `pid`.
    pub fn config(&self) -> StoreConfig {
        let words: Vec<String> = self.enter.iter().map(|w| format!("'{w}'")).collect();
        let pid = self.scratch.join("pid");
        // What a killed build leaves behind goes with the rest.
        let temporary = self.scratch.join("tmp");
        fs::create_dir_all(&temporary).expect("a folder");
        let (pid, temporary) = (pid.display(), temporary.display());
        let script = format!(
            "echo $$ >{pid}\nexport TMPDIR={temporary}\nexec {} nix-daemon --stdio\n",
            words.join(" ")
        );
        fake(&self.scratch, &script)
    }

    /// For messages: where the daemon of `config` is.
    pub fn at(&self) -> String {
        at(&self.scratch)
    }

    pub fn store(&self) -> Store {
        Store::connect(&self.config()).unwrap_or_else(|e| {
            panic!("{}; tests/lib/setup.sh brings what the tests need", told(&e));
        })
    }

    /// Ends the daemon that was started last, as a crash would.
    pub fn killer(&self) -> impl Fn() + Send + 'static {
        let file = self.scratch.join("pid");
        move || kill_process(daemon(&file), Signal::KILL).expect("kill")
    }

    /// The most memory that the daemon that was started last had, in bytes.
    pub fn peak_memory(&self) -> usize {
        let mut id = daemon(&self.scratch.join("pid")).to_string();
        // What enters another root waits for it.
        while let Ok(children) = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
            && let Some(child) = children.split_whitespace().next()
        {
            id = child.into();
        }
        let text = fs::read_to_string(format!("/proc/{id}/status")).expect("the daemon's status");
        assert!(text.starts_with("Name:\tnix-daemon\n"), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib * 1024
    }

    pub fn collect(&self) {
        let output = outcome(&mut self.nix(&["nix-store", "--gc"]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn daemon(file: &Path) -> Pid {
    let text = fs::read_to_string(file).expect("the daemon's id");
    text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id")
}

/// One text, as `.drv` files are added.
pub fn add_text(
    store: &mut Store,
    name: &str,
    references: &BTreeSet<StorePath>,
    bytes: &[u8],
) -> Result<StorePath, Error> {
    let references: Vec<StorePath> = references.iter().cloned().collect();
    let mut found = None;
    store.add_texts([Text { name, references: &references, bytes }], |at| {
        found = Some(at);
        Ok(())
    })?;
    Ok(found.expect("an answer"))
}

/// A daemon that is a shell script. Not a program: to run what was just written fails while another
/// test's fork still holds it open.
pub fn fake(scratch: &Scratch, script: &str) -> StoreConfig {
    let path = scratch.join("daemon");
    fs::write(&path, script).expect("a file");
    StoreConfig {
        remote: Some(scratch.remote()),
        daemon: Some(vec!["sh".into(), path.to_str().expect("text").into()]),
        ..StoreConfig::default()
    }
}

pub fn at(scratch: &Scratch) -> String {
    format!("`sh {}`", scratch.join("daemon").display())
}

/// An error with all it says.
pub fn told(e: &Error) -> String {
    let source = e.source.as_ref().map(|s| format!(": {s}")).unwrap_or_default();
    format!("{:?}: {}{source} (hint: {})", e.kind, e.message, e.hint.as_deref().unwrap_or("none"))
}

/// Each of the functions becomes a test on either Nix.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod installed {
            $(#[test] fn $name() { super::$name(&crate::host::Host::installed()); })*
        }
        mod newer {
            $(#[test] fn $name() { super::$name(&crate::host::Host::newer()); })*
        }
    };
}
pub(crate) use on_both;
