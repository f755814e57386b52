//! The state of a service on disk: the file, which is the truth; a copy of it, written right after; and one file for
//! each generation with one for the next number, from which a state is built anew where neither can be read.
//!
//! The checksum is of the file's own text, with zeros in its place.
use crate::formats::hex::hex;
use crate::host::state::{Generation, STATE_VERSION, ServiceState, WITH_PORTS};
use crate::protocol::messages::Stopped;
use crate::protocol::spec::Spec;
use crate::protocol::version;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::say::say;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const GENERATION_VERSION: u32 = 1;
const SUM: &str = "{\n  \"sha256\": \"";
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A state, and what was wrong with the file that it should have come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub state: ServiceState,
    pub warning: Option<String>,
}

/// Why a file is no state.
enum Unread {
    Absent,
    /// The copy counts in its place.
    Damaged(Error),
    /// Whole, and not for this program: an older copy must not take its place.
    OtherVersion(Error),
}

pub fn copy_of(file: &Path) -> PathBuf {
    file.with_file_name("state.copy.json")
}

/// The number of the next generation: those that came to nothing have left no file. And whether the service was stopped.
#[derive(Serialize, Deserialize)]
struct Next {
    version: u32,
    next_generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped: Option<Stopped>,
}

fn next_of(file: &Path) -> PathBuf {
    generations_of(file).join("next.json")
}

/// The number that the next generation was to have, for where the state cannot say it, and by whom the service was
/// stopped; 1 where nothing does.
pub fn next_generation(file: &Path) -> (u64, Option<Stopped>) {
    let next =
        std::fs::read(next_of(file)).ok().and_then(|bytes| serde_json::from_slice::<Next>(&bytes).ok());
    next.filter(|next| next.version == GENERATION_VERSION)
        .map_or((1, None), |next| (next.next_generation, next.stopped))
}

fn generations_of(file: &Path) -> PathBuf {
    file.with_file_name("generations")
}

/// Whether a service has, or had, a state here.
pub fn is_known(file: &Path) -> bool {
    file.exists() || copy_of(file).exists() || generations_of(file).exists()
}

/// Whether nothing of another version would be lost with it.
pub fn may_be_replaced(file: &Path) -> bool {
    [file, &copy_of(file)].iter().all(|file| !matches!(one(file), Err(Unread::OtherVersion(_))))
}

const REPAIR: &str = "stillframe host repair builds it anew from what is there; what serves goes on as it is";

impl ServiceState {
    /// The state of a service; a new one where there is none yet. A warning goes to the log.
    pub fn load(file: &Path, service: &str) -> Result<ServiceState> {
        let found = Self::read(file, service)?;
        if let Some(warning) = found.warning {
            say(format_args!("{service}: {warning}"));
        }
        Ok(found.state)
    }

    pub fn read(file: &Path, service: &str) -> Result<Found> {
        let why = match one(file) {
            Ok(state) => return Ok(Found { state, warning: None }),
            Err(Unread::OtherVersion(e)) => return Err(e),
            Err(Unread::Damaged(e)) => Some(e),
            Err(Unread::Absent) => None,
        };
        let copy = copy_of(file);
        match (one(&copy), why) {
            (Ok(state), why) => {
                let why = why.map_or_else(|| format!("{} is gone", file.display()), |e| e.full());
                Ok(Found { state, warning: Some(format!("{why}; its copy {} is used", copy.display())) })
            }
            (Err(Unread::OtherVersion(e)), _) | (Err(_), Some(e)) => Err(e.hint(REPAIR)),
            (Err(Unread::Damaged(e)), None) => Err(e.hint(REPAIR)),
            (Err(Unread::Absent), None) if read_generations(file).is_empty() => {
                let (next_generation, _) = next_generation(file);
                let state = ServiceState { next_generation, ..ServiceState::new(service) };
                Ok(Found { state, warning: None })
            }
            (Err(Unread::Absent), None) => {
                let text = format!("{} is gone, and so is its copy", file.display());
                Err(Error::new(Kind::Io, text).hint(REPAIR))
            }
        }
    }

    pub fn save(&self, file: &Path) -> Result<()> {
        let folder = generations_of(file);
        for (number, generation) in &self.generations {
            let text = serde_json::to_vec_pretty(&Kept {
                version: GENERATION_VERSION,
                number: *number,
                generation: generation.clone(),
            });
            files::write_if_changed(&folder.join(format!("{number:06}.json")), &text.map_err(unwritten)?)?;
        }
        let next = Next {
            version: GENERATION_VERSION,
            next_generation: self.next_generation,
            stopped: self.stopped.clone(),
        };
        let next = serde_json::to_vec_pretty(&next).map_err(unwritten)?;
        files::write_if_changed(&next_of(file), &next)?;
        let text = self.text()?;
        files::write_atomic(file, text.as_bytes())?;
        // From here on this state counts. What fails now must not be taken for a state that was not written.
        let copy = copy_of(file);
        if let Err(e) =
            files::write_atomic(&copy, text.as_bytes()).or_else(|e| files::remove(&copy).and(Err(e)))
        {
            say(format_args!("{}: the state has no copy: {}", self.service, e.full()));
        }
        for (number, path) in numbered(&folder) {
            if !self.generations.contains_key(&number)
                && let Err(e) = files::remove(&path)
            {
                say(format_args!("{}: {}", self.service, e.full()));
            }
        }
        Ok(())
    }

    fn text(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(unwritten)?;
        let text = format!("{SUM}{ZEROS}\",{}", text.strip_prefix('{').unwrap_or(&text));
        Ok(text.replacen(ZEROS, &sum(&text), 1))
    }
}

fn unwritten(e: serde_json::Error) -> Error {
    Error::new(Kind::Io, "cannot write the state").caused_by(e)
}

fn sum(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Whether the bytes are those that were written.
fn is_whole(text: &str) -> bool {
    let written = text.strip_prefix(SUM).and_then(|rest| rest.get(..ZEROS.len()));
    written.is_some_and(|written| sum(&text.replacen(written, ZEROS, 1)) == written)
}

fn one(file: &Path) -> Result<ServiceState, Unread> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Unread::Absent),
        Err(e) => return Err(Unread::Damaged(Error::io("read", file, e))),
    };
    let is_none =
        |why: String| Error::new(Kind::Io, format!("{} is not a service's state: {why}", file.display()));
    let broken = |why: String| Unread::Damaged(is_none(why).hint(REPAIR));
    let other = |why: String| {
        Unread::OtherVersion(is_none(why).hint("a newer stillframe wrote it: deploy with that one"))
    };
    let text = String::from_utf8(bytes).map_err(|e| broken(e.to_string()))?;
    let mut value: Value = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    // One without a sum is from before there was one, or from a hand that knew what it did.
    if value.get("sha256").is_some() && !is_whole(&text) {
        return Err(broken("its bytes are not those that were written".into()));
    }
    if value["version"] == WITH_PORTS {
        value["version"] = STATE_VERSION.into();
    }
    version::check_document(&value, STATE_VERSION)
        .map_err(|e| other(format!("version {}, this agent reads {}", e.found, e.reads)))?;
    for (number, generation) in value["generations"].as_object().into_iter().flatten() {
        Spec::check_document(&generation["wanted"]["spec"])
            .map_err(|e| other(format!("what generation {number} is to serve is of {e}")))?;
    }
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove("sha256");
    }
    serde_json::from_value(value).map_err(|e| broken(e.to_string()))
}

/// A generation in a file of its own.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    number: u64,
    generation: Generation,
}

fn numbered(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok();
    entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect()
}

/// The generations that have files beside a state that cannot be read; one whose file cannot be read is left out.
pub fn read_generations(file: &Path) -> BTreeMap<u64, Generation> {
    let read = |(number, path): (u64, PathBuf)| {
        let value: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        version::check_document(&value, GENERATION_VERSION).ok()?;
        Spec::check_document(&value["generation"]["wanted"]["spec"]).ok()?;
        let kept: Kept = serde_json::from_value(value).ok()?;
        (kept.number == number).then_some((number, kept.generation))
    };
    numbered(&generations_of(file)).into_iter().filter_map(read).collect()
}

#[cfg(test)]
#[path = "state_file_tests.rs"]
mod tests;
