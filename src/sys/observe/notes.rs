//! What is noted, and what is not.
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How a file was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ways {
    pub read: bool,
    pub written: bool,
    pub executed: bool,
    /// It was asked whether it may be executed, as whoever looks along PATH asks.
    pub asked: bool,
}

impl Ways {
    fn and(self, other: Ways) -> Ways {
        Ways {
            read: self.read || other.read,
            written: self.written || other.written,
            executed: self.executed || other.executed,
            asked: self.asked || other.asked,
        }
    }
}

/// A file that was used, by the path that the program named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    pub path: PathBuf,
    pub ways: Ways,
    /// The program that used it first.
    pub program: Option<PathBuf>,
    /// Whose code was loaded last then.
    pub after: Option<String>,
}

/// Code that runs while it is observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// It serves all: a standard library.
    Common,
    /// It is nobody's in particular: what loads the others.
    Main,
    /// Each entry of the folder is somebody's, whose name follows this text.
    Of(&'static str),
}

/// Files of which it is known whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub at: PathBuf,
    /// Whether it is worth a note that somebody would write there.
    pub writes: bool,
    pub code: Option<Code>,
}

impl Place {
    /// Nothing there is noted.
    pub fn quiet(at: impl Into<PathBuf>) -> Place {
        Place { at: at.into(), writes: false, code: None }
    }

    /// Only what is written there is noted.
    pub fn sealed(at: impl Into<PathBuf>) -> Place {
        Place { writes: true, ..Place::quiet(at) }
    }

    pub fn with(self, code: Code) -> Place {
        Place { code: Some(code), ..self }
    }

    fn inner<'a>(&self, path: &'a Path) -> Option<&'a [u8]> {
        // By bytes: `Path::starts_with` takes them apart each time.
        let rest = path.as_os_str().as_bytes().strip_prefix(self.at.as_os_str().as_bytes())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
    }
}

/// Of places within each other the inner one counts.
#[derive(Debug, Clone, Default)]
pub struct Places(Vec<Place>);

impl Places {
    pub fn new(mut places: Vec<Place>) -> Places {
        places.sort_by_key(|place| std::cmp::Reverse(place.at.as_os_str().len()));
        Places(places)
    }

    pub fn of(&self, path: &Path) -> Option<&Place> {
        self.0.iter().find(|place| place.inner(path).is_some())
    }

    /// Who is at work after a thread opened `path`. The outer option: nothing of ours was loaded yet.
    pub(super) fn loaded(&self, path: &Path, before: Option<Option<String>>) -> Option<Option<String>> {
        let Some((place, code)) = self.of(path).and_then(|place| Some((place, place.code.as_ref()?))) else {
            return before;
        };
        match code {
            Code::Common => before.or(Some(None)),
            Code::Main => Some(None),
            Code::Of(prefix) => {
                let inner = place.inner(path).unwrap_or_default();
                let name = inner.split(|byte| *byte == b'/').next().unwrap_or_default();
                let is_code = is_code(path);
                match named(name) {
                    Some(name) if is_code => Some(Some(format!("{prefix}{name}"))),
                    _ => before.or(Some(None)),
                }
            }
        }
    }
}

fn is_code(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    [b".py".as_slice(), b".pyc", b".so"].iter().any(|suffix| name.ends_with(suffix))
}

/// As it is imported: without the suffixes of modules. Folders of wheels' libraries are nobody's.
fn named(entry: &[u8]) -> Option<String> {
    let name = OsStr::from_bytes(entry).to_str()?;
    if name.is_empty() || name == "__pycache__" || name.ends_with(".libs") {
        return None;
    }
    if name.ends_with(".so") || name.ends_with(".pyc") {
        return name.split('.').next().map(String::from);
    }
    Some(name.strip_suffix(".py").unwrap_or(name).to_string())
}

/// Distinct paths that are kept. More are counted as one: there were more.
const MOST: usize = 20_000;

#[derive(Debug, Default)]
pub(super) struct Notes {
    at: HashMap<PathBuf, usize>,
    pub all: Vec<Noted>,
    pub more: bool,
}

impl Notes {
    /// Whether a use adds nothing to what is known.
    pub fn knows(&mut self, path: &Path, ways: Ways) -> bool {
        let Some(known) = self.at.get(path).and_then(|at| self.all.get_mut(*at)) else { return false };
        known.ways = known.ways.and(ways);
        true
    }

    pub fn add(&mut self, noted: Noted) {
        if self.all.len() >= MOST {
            self.more = true;
            return;
        }
        self.at.insert(noted.path.clone(), self.all.len());
        self.all.push(noted);
    }
}
