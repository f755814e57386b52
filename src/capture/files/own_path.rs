//! The environment's own path in texts that ship: a pack's configuration that names a folder as it is on this machine works here
//! and does something else on a host. Where such a path stands is named, with its line; where the configuration says
//! so (`own-paths`), it becomes a mark that is filled with the place on the host when an instance starts
//! (`protocol/launch`).
use crate::capture::files::paths::{file_name, finding, read_small};
use crate::capture::files::rules::{extension, text};
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::sys::places::Place;
use crate::words::{glob, show};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A configuration is smaller; what is larger is data.
pub const LIMIT: u64 = 1 << 20;

/// Kinds of files in which an own path means nothing to an instance: programs find their places themselves, documents are read by people.
const NOT_READ: [&str; 22] = [
    "py",
    "pyi",
    "pyc",
    "pyx",
    "pxd",
    "so",
    "md",
    "rst",
    "html",
    "css",
    "svg",
    "map",
    "png",
    "jpg",
    "jpeg",
    "webp",
    "gif",
    "ttf",
    "woff2",
    "safetensors",
    "pt",
    "onnx",
];

/// A folder of the environment, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub folder: PathBuf,
    pub kind: OwnKind,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnKind {
    /// With packs, models and everything else at their usual places in it.
    Environment,
    /// The prefix of its Python.
    Python,
    /// One that is `below` a place of an instance: a site directory, a pack that lies elsewhere.
    At(Place, String),
}

/// The environment's folders as texts may spell them.
#[derive(Debug, Clone, Default)]
pub struct OwnPaths {
    /// The longest first, each with the folder that it means.
    spellings: Vec<(String, PathBuf, OwnKind)>,
    /// Files in which an instance finds its own places, relative to the environment; with `*` and `?`.
    rewritten: Vec<String>,
    /// Which of these patterns have taken a file.
    taken: Arc<Mutex<BTreeSet<usize>>>,
}

impl OwnPaths {
    /// `home`: the user's. `rewritten`: as the configuration has it.
    pub fn of(folders: &[Own], home: Option<&OsStr>, rewritten: &[String]) -> OwnPaths {
        let mut spellings: Vec<(String, PathBuf, OwnKind)> = Vec::new();
        for Own { folder, kind } in folders {
            // Texts are UTF-8, and a folder as wide as the root is everybody's.
            let Some(name) = folder.to_str().filter(|_| folder.components().count() > 1) else { continue };
            let mut forms = vec![name.to_string()];
            let below = home.and_then(|home| folder.strip_prefix(home).ok()).and_then(Path::to_str);
            if let Some(below) = below.filter(|below| !below.is_empty()) {
                forms.extend(["~", "$HOME", "${HOME}"].map(|home| format!("{home}/{below}")));
            }
            // JSON may write a slash with a backslash before it.
            let escaped: Vec<String> = forms.iter().map(|form| form.replace('/', "\\/")).collect();
            spellings
                .extend(forms.into_iter().chain(escaped).map(|form| (form, folder.clone(), kind.clone())));
        }
        spellings.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        spellings.dedup_by(|a, b| a.0 == b.0);
        OwnPaths { spellings, rewritten: rewritten.to_vec(), taken: Arc::default() }
    }

    /// What an answer of earlier depends on.
    pub fn fingerprint(&self) -> String {
        self.spellings.iter().map(|(form, ..)| format!("{form}\n")).collect()
    }

    /// Whether a file is one that paths are read from.
    pub fn concern(&self, path: &[u8], size: u64) -> bool {
        let name = text(file_name(path));
        !self.spellings.is_empty() && (1..=LIMIT).contains(&size) && !NOT_READ.contains(&extension(&name))
    }

    /// The lines of a file that have one, and the first path itself.
    pub fn look(&self, real: &Path) -> Option<(Vec<usize>, String)> {
        let content = read_small(real, LIMIT)?;
        let content = std::str::from_utf8(&content).ok()?;
        let found = self.places(content);
        let (mut at, mut line, mut lines) = (0, 1, Vec::new());
        for one in &found {
            // Two of the environment's folders may overlap in a text.
            line += content.get(at..one.at).map_or(0, |between| between.matches('\n').count());
            at = one.at.max(at);
            lines.push(line);
        }
        lines.dedup();
        let first = found.first()?;
        Some((lines, content[first.at..first.end].to_string()))
    }

    /// Whether an instance is to find its own places in this file; `name`: relative to the environment.
    pub fn rewrites(&self, name: &[u8]) -> bool {
        let Ok(name) = std::str::from_utf8(name) else { return false };
        // An editable project and a file of the system have no copy in a slot.
        if name.starts_with('/') {
            return false;
        }
        let taken: Vec<usize> =
            (0..self.rewritten.len()).filter(|at| glob(&self.rewritten[*at], name)).collect();
        let any = !taken.is_empty();
        self.taken.lock().extend(taken);
        any
    }

    /// Lines of the report for patterns that took no file.
    pub fn idle(&self) -> Vec<Finding> {
        let taken = self.taken.lock();
        let idle = self.rewritten.iter().enumerate().filter(|(at, _)| !taken.contains(at));
        let message = "own-paths of stillframe.toml names it, and no file that ships is called so";
        idle.map(|(_, pattern)| finding(Severity::Warning, Topic::OwnPath, pattern, message)).collect()
    }

    /// A file's text with a mark for each own path; nothing where it has none.
    pub fn marked(&self, real: &Path) -> Option<String> {
        let content = read_small(real, LIMIT)?;
        self.marked_text(std::str::from_utf8(&content).ok()?)
    }

    pub fn marked_text(&self, content: &str) -> Option<String> {
        let mut out = String::with_capacity(content.len());
        let mut done = 0;
        for found in self.places(content) {
            if found.at < done {
                continue;
            }
            out.push_str(&content[done..found.at]);
            let (place, kept) = found.place(&content[found.end..]);
            out.push_str(&place);
            done = found.end + kept;
        }
        out.push_str(&content[done..]);
        (done > 0).then_some(out)
    }

    /// In the order of the text; of two that begin together the longer.
    fn places(&self, content: &str) -> Vec<Found<'_>> {
        // A script that is started: what starts it says by which interpreter.
        let first_line = content.lines().next().filter(|line| line.starts_with("#!")).map_or(0, str::len);
        let mut all: BTreeMap<usize, Found<'_>> = BTreeMap::new();
        for (form, folder, kind) in &self.spellings {
            for (at, _) in content.match_indices(form.as_str()) {
                let end = at + form.len();
                if at >= first_line && whole(content, at, end) && there(&content[end..], folder) {
                    all.entry(at).or_insert(Found { at, end, kind });
                }
            }
        }
        all.into_values().collect()
    }
}

/// An own path in a text.
struct Found<'a> {
    at: usize,
    end: usize,
    kind: &'a OwnKind,
}

impl Found<'_> {
    /// What stands for it, and how many bytes of what follows (`rest`) that takes in.
    fn place(&self, rest: &str) -> (String, usize) {
        match self.kind {
            OwnKind::Python => (Place::Python.mark().into(), 0),
            OwnKind::At(place, below) => (format!("{}/{below}", place.mark()), 0),
            OwnKind::Environment => {
                let slash =
                    ["\\/", "/"].into_iter().find(|slash| rest.starts_with(slash)).unwrap_or_default();
                let inner = &rest[slash.len()..];
                let name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
                let first = &inner[..inner.find(|c| !name(c)).unwrap_or(inner.len())];
                let taken = slash.len() + first.len();
                match first {
                    "models" => (Place::Models.mark().into(), taken),
                    "input" => (Place::Input.mark().into(), taken),
                    "output" => (Place::Output.mark().into(), taken),
                    "user" => (Place::User.mark().into(), taken),
                    "temp" => (Place::Temp.mark().into(), taken),
                    "" | "custom_nodes" | ".cache" => (Place::Base.mark().into(), 0),
                    _ => (Place::Main.mark().into(), 0),
                }
            }
        }
    }
}

/// Neither the end of a longer path nor the beginning of another folder's name.
fn whole(content: &str, at: usize, end: usize) -> bool {
    let before = content[..at].chars().next_back();
    let after = content[end..].chars().next();
    let name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '~' | '$' | '}' | '/');
    (!before.is_some_and(name) || content[..at].ends_with("file://"))
        && !after.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+'))
}

/// `/app/x` may be a route of a web page. A folder of one name counts where what follows is there.
fn there(rest: &str, folder: &Path) -> bool {
    if folder.components().count() > 2 {
        return true;
    }
    let rest = rest.strip_prefix("\\/").or_else(|| rest.strip_prefix('/'));
    let end = |c: char| matches!(c, '/' | '\\' | '"' | '\'' | '\n' | '\r' | ',' | ';' | ':' | '<' | '>');
    let name = rest.map(|rest| rest.split(end).next().unwrap_or_default());
    name.is_some_and(|name| !name.is_empty() && folder.join(name).symlink_metadata().is_ok())
}

/// Where the configuration names a file that is not read.
pub fn too_large(at: &str) -> Finding {
    let message = "own-paths of stillframe.toml names it, and it is larger than 1 MiB: it ships as it is";
    finding(Severity::Warning, Topic::OwnPath, at, message)
}

/// The line of the report; `shown`: the file's path relative to the environment.
pub fn report(shown: &str, lines: &[usize], path: &str, rewritten: bool) -> Finding {
    let at = lines.first().copied().unwrap_or(1);
    let more = match lines.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more lines)", count - 1),
    };
    let path = show(path.as_bytes());
    let (severity, message) = match rewritten {
        true => (
            Severity::Info,
            format!("names {path}{more}: an instance finds its own place there, as own-paths says"),
        ),
        false => (
            Severity::Warning,
            format!(
                "names {path}{more}, which is this machine's: no host has that; own-paths = [{}] in stillframe.toml gives an instance its own \
                 place there",
                serde_json::json!(shown)
            ),
        ),
    };
    finding(severity, Topic::OwnPath, format!("{shown}:{at}"), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(folders: &[(&str, OwnKind)], home: Option<&str>) -> OwnPaths {
        let folders: Vec<Own> =
            folders.iter().map(|(f, kind)| Own { folder: f.into(), kind: kind.clone() }).collect();
        OwnPaths::of(&folders, home.map(OsStr::new), &["custom_nodes/*/conf*.json".into(), "gone".into()])
    }

    fn with<T>(text: &str, look: impl Fn(&Path) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        std::fs::write(&file, text).unwrap();
        look(&file)
    }

    fn lines(own: &OwnPaths, text: &str) -> Vec<usize> {
        with(text, |file| own.look(file)).map(|(lines, _)| lines).unwrap_or_default()
    }

    #[test]
    fn however_it_is_spelled() {
        let folders = [("/home/me/My Comfy", OwnKind::Environment), ("/opt/venv", OwnKind::Python)];
        let own = own(&folders, Some("/home/me"));
        let found = "{\"a\": \"/home/me/My Comfy/custom_nodes\",\n\"b\": \"\\/home\\/me\\/My Comfy\\/x\",\nc: ~/My Comfy/x\n\
                     d=$HOME/My Comfy\ne=${HOME}/My Comfy/y:/opt/venv\nf=file:///home/me/My Comfy/z";
        assert_eq!(lines(&own, found), [1, 2, 3, 4, 5, 6]);
        let others = "/mnt/home/me/My Comfy/x\n/home/me/My Comfy2\n/home/me/My Comfy.old/x\n/home/me\n/opt/venv-2\n/x/opt/venv\n\
                      C:\\home\\me\\My Comfy\n";
        assert_eq!(lines(&own, others), [0; 0]);
        assert_eq!(lines(&own, "#!/opt/venv/bin/python\nx = 1\n"), [0; 0]);
        assert_eq!(lines(&own, "#!/bin/sh\ncd /opt/venv\n"), [2]);
    }

    #[test]
    fn a_folder_of_one_name_counts_where_something_is_there() {
        let usr = own(&[("/usr", OwnKind::Environment)], None);
        assert_eq!(lines(&usr, "\"/usr/lib/x\"\n\"/usr/api/list\"\n\"/usr\"\n"), [1]);
        assert!(own(&[("/", OwnKind::Environment)], None).spellings.is_empty());
    }

    #[test]
    fn one_folder_may_stand_in_anothers_path() {
        let own =
            own(&[("/mnt/disk (2)/comfy/env", OwnKind::Environment), ("/comfy/env", OwnKind::Python)], None);
        let text = "a\n/mnt/disk (2)/comfy/env/x\n";
        assert_eq!(lines(&own, text), [2]);
        assert_eq!(own.marked_text(text), Some(format!("a\n{}/x\n", Place::Main.mark())));
    }

    #[test]
    fn what_paths_are_read_from() {
        let own = own(&[("/a/b", OwnKind::Environment)], None);
        for (name, size, concerns) in [
            ("was_suite_config.json", 100, true),
            ("settings", 100, true),
            ("nodes.py", 100, false),
            ("README.md", 100, false),
            ("big.json", LIMIT + 1, false),
        ] {
            assert_eq!(own.concern(name.as_bytes(), size), concerns, "{name}");
        }
    }

    #[test]
    fn each_folder_has_its_place() {
        let site = OwnKind::At(Place::Python, "lib/python3.11/site-packages".into());
        let own = own(
            &[
                ("/a/comfy", OwnKind::Environment),
                ("/a/comfy/.venv", OwnKind::Python),
                ("/usr/lib/python3/dist-packages", site),
                ("/src/pack", OwnKind::At(Place::Base, "custom_nodes/pack".into())),
            ],
            None,
        );
        let text = r#"["/a/comfy", "/a/comfy/custom_nodes/p/x", "\/a\/comfy\/models\/vae", "/a/comfy/input/a.png", "/a/comfy/web",
            "/a/comfy/.venv/bin/python", "/usr/lib/python3/dist-packages/x", "/src/pack/y", "/a/comfy/models2", "/a/comfort"]"#;
        let wanted = r#"["@stillframe:base@", "@stillframe:base@/custom_nodes/p/x", "@stillframe:models@\/vae", "@stillframe:input@/a.png", "@stillframe:main@/web",
            "@stillframe:python@/bin/python", "@stillframe:python@/lib/python3.11/site-packages/x", "@stillframe:base@/custom_nodes/pack/y", "@stillframe:main@/models2", "/a/comfort"]"#;
        assert_eq!(with(text, |file| own.marked(file)).as_deref(), Some(wanted));
        assert_eq!(with("/a/comfort", |file| own.marked(file)), None);
    }

    #[test]
    fn a_pattern_that_takes_no_file_is_said() {
        let own = own(&[], None);
        assert!(own.rewrites(b"custom_nodes/p/config.json") && !own.rewrites(b"custom_nodes/p/x.json"));
        let idle: Vec<String> = own.idle().into_iter().map(|finding| finding.path).collect();
        assert_eq!(idle, ["gone"]);
    }
}
