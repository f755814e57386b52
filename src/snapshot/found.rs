//! What can be known without asking a person: the environment, its interpreter and models, this machine's GPUs, and the port
//! that the environment's own server has.
use crate::capture::python::find::{self, FoundBy, PythonLocation};
use crate::sys::error::Result;
use crate::sys::process;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub environment: PathBuf,
    pub python: PathBuf,
    /// Set where the next run would not find it by itself.
    pub name_python: bool,
    pub how: FoundBy,
    /// Name and memory of each GPU of this machine.
    pub gpus: Vec<String>,
    /// Where `models` of the environment leads.
    pub models: PathBuf,
    /// The port of the environment's own server, if it runs.
    pub port: Option<u16>,
    pub memory_kib: u64,
}

impl Found {
    pub fn look(root: &Path) -> Result<Found> {
        let variables = |name: &str| std::env::var_os(name);
        let (python, _): (PythonLocation, _) = find::find_python(root, None, &variables)?;
        let models = root.join("models");
        Ok(Found {
            environment: root.to_path_buf(),
            name_python: python.how != FoundBy::Beside,
            python: python.executable,
            how: python.how,
            gpus: gpus(),
            models: models.canonicalize().unwrap_or(models),
            port: running(root),
            memory_kib: memory(),
        })
    }
}

fn gpus() -> Vec<String> {
    let words = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"];
    let output = process::run(&words, Duration::from_secs(10)).ok().filter(|o| o.code == Some(0));
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect()
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The port of a process that runs this environment's main.py.
fn running(root: &Path) -> Option<u16> {
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let proc = entry.path();
        // Other users' processes, and those that end meanwhile, tell nothing.
        let Ok(bytes) = std::fs::read(proc.join("cmdline")) else { continue };
        let words: Vec<String> =
            bytes.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let Some(at) = words.iter().position(|w| w.ends_with("main.py")) else { continue };
        let Ok(cwd) = std::fs::read_link(proc.join("cwd")) else { continue };
        let main = cwd.join(&words[at]);
        if main.canonicalize().ok().as_deref() == Some(&root.join("main.py")) {
            return Some(port_of(&words[at + 1..]));
        }
    }
    None
}

/// Of ComfyUI's arguments; 8188 is its own default.
fn port_of(arguments: &[String]) -> u16 {
    let value = arguments.iter().enumerate().find_map(|(at, word)| match word.strip_prefix("--port") {
        Some("") => arguments.get(at + 1).cloned(),
        Some(rest) => rest.strip_prefix('=').map(String::from),
        None => None,
    });
    value.and_then(|v| v.parse().ok()).unwrap_or(8188)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_arguments() {
        let port = |text: &str| port_of(&text.split_whitespace().map(String::from).collect::<Vec<_>>());
        assert_eq!(
            ["", "--port 9000", "--listen --port=9001", "--port", "--portal 5"].map(port),
            [8188, 9000, 9001, 8188, 8188]
        );
    }
}
