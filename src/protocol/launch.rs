//! The launch file: how to start one service from a snapshot, with the base directory (shared data:
//! input, output, user), the models folder, a slot directory (this instance's own) and a port given at
//! run time. Data, and where it is read; `host` carries it out.
//!
//! Placeholders in values: `{base}`, `{output}`, `{models}`, `{slot}`, `{listen}`, `{port}`.
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

pub const LAUNCH_VERSION: u32 = 1;

/// Where a snapshot keeps the launch file of a service.
pub fn file_of(service: &str) -> String {
    format!("launch/{service}.json")
}

/// A store tree that the instance sees at `{slot}/AT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub at: String,
    pub lower: String,
    /// Packs write into their own folder; a cache entry is only read.
    pub writable: bool,
    /// A tree of `__pycache__` folders to be seen beside the modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytecode: Option<String>,
}

/// The variable that `scripts/start.py` heeds.
pub const DEFER_GC: &str = "STILLFRAME_DEFER_GC";

/// What `{port}` is where nothing listens on a port: the program's arguments need a number, and a server that asks
/// for this one gets its socket.
pub const NOMINAL_PORT: u16 = 8188;

/// Names files that say where more models are; it may be given several times.
pub const EXTRA_MODELS: &str = "--extra-model-paths-config";

/// Where a slot has its packs.
pub const PACKS: &str = "base/custom_nodes/";

impl Layer {
    pub fn is_pack(&self) -> bool {
        self.at.starts_with(PACKS)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub at: String,
    pub to: String,
}

/// A file or folder of the system: the store's `from` is seen at `at`, in place of whatever the machine has there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemFile {
    pub at: String,
    pub from: String,
}

/// Whether a path can be a line of a unit: absolute, and without what systemd takes for something else.
pub fn is_plain(path: &str) -> bool {
    let strange = |c: char| c.is_whitespace() || c.is_control() || "\"'\\%$:;".contains(c);
    path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.contains(strange)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
pub struct Launch {
    pub version: u32,
    pub service: String,
    pub program: String,
    pub arguments: Vec<String>,
    /// Relative to the slot.
    pub directory: String,
    pub environment: BTreeMap<String, String>,
    pub layers: Vec<Layer>,
    /// Links made in the slot: weights in their packs, the models folder.
    pub links: Vec<Link>,
    /// Directories to create in the slot and in the base.
    pub directories: Vec<String>,
    /// Folders of a store tree (`to`) whose files are put into a shared folder (`at`) where it has none of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<Link>,
    /// Folders of programs: first of all on PATH.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    /// What of the workstation's system is at its own place for the instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub system_files: Vec<SystemFile>,
    /// Files below the slot with marks for places of the instance (`sys/places`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_places: Vec<String>,
}

impl Launch {
    /// Reads a launch file of a store that is at its place.
    pub fn read(file: &Path) -> Result<Launch> {
        Launch::parse(&files::read(file)?, &file.display().to_string())
    }

    /// Reads the text of a launch file; `origin` is for messages.
    pub fn parse(bytes: &[u8], origin: &str) -> Result<Launch> {
        let malformed = |e| Error::new(Kind::Store, format!("{origin} is malformed: {e}"));
        let document: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
        version::check_document(&document, LAUNCH_VERSION).map_err(|e| {
            let text = format!("{origin} has version {}, this stillframe reads {}", e.found, e.reads);
            Error::new(Kind::Store, text).hint("use the stillframe that took the snapshot")
        })?;
        serde_json::from_value(document).map_err(malformed)
    }
}

/// Values for the placeholders.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(Default))]
pub struct Values {
    pub base: String,
    /// This instance's own: two that name their pictures alike would overwrite each other's.
    pub output: String,
    pub models: String,
    pub slot: String,
    pub listen: String,
    pub port: u16,
}

impl Values {
    pub fn fill(&self, text: &str) -> String {
        text.replace("{base}", &self.base)
            .replace("{output}", &self.output)
            .replace("{models}", &self.models)
            .replace("{slot}", &self.slot)
            .replace("{listen}", &self.listen)
            .replace("{port}", &self.port.to_string())
    }
}

/// The flags that are set for every instance, and their values.
pub const FLAGS: [(&str, &str); 8] = [
    ("--base-directory", "{slot}/base"),
    ("--input-directory", "{base}/input"),
    ("--output-directory", "{output}"),
    ("--user-directory", "{base}/user"),
    ("--temp-directory", "{slot}"),
    ("--database-url", "sqlite:///{slot}/comfyui.db"),
    ("--listen", "{listen}"),
    ("--port", "{port}"),
];

/// The flags a main program knows decide which are passed: `--database-url` came later than
/// `--base-directory`, and an unknown flag ends ComfyUI at once.
pub fn arguments(flags: &[String], extra: &[String]) -> Vec<String> {
    let known = |flag: &str| flags.iter().any(|f| f == flag);
    let mut out: Vec<String> = vec!["-s".into(), "{slot}/main/main.py".into()];
    for (flag, value) in FLAGS {
        if known(flag) || flag == "--listen" || flag == "--port" {
            out.push(flag.into());
            out.push(value.into());
        }
    }
    out.extend(extra.iter().cloned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_the_main_program_knows_are_passed() {
        let got = arguments(&["--base-directory".into(), "--port".into()], &["--cpu".into()]);
        assert_eq!(
            got,
            [
                "-s",
                "{slot}/main/main.py",
                "--base-directory",
                "{slot}/base",
                "--listen",
                "{listen}",
                "--port",
                "{port}",
                "--cpu"
            ]
        );
    }

    #[test]
    fn placeholders_are_filled() {
        let values = Values {
            base: "/b".into(),
            output: "/o".into(),
            models: "/m".into(),
            slot: "/s".into(),
            listen: "127.0.0.1".into(),
            port: 8188,
        };
        assert_eq!(
            values.fill("{slot}:{base}:{output}:{models}:{listen}:{port}"),
            "/s:/b:/o:/m:127.0.0.1:8188"
        );
    }
}
