//! What an environment uses of the machine that it is on, and every host need not have: seen while its server and its modules
//! ran, kept in the snapshot's record, and told with the line of stillframe.toml that mends it.
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::sys::say::counted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Use {
    pub what: String,
    /// Whose code was loaded last when it was used: a module of site-packages, or `custom_nodes/NAME`. Null where nobody in
    /// particular asked.
    #[serde(default)]
    pub by: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Used {
    /// Shared libraries: by name, or by path where the dynamic linker would not look for them.
    pub libraries: Vec<Use>,
    /// Programs that were run, or found on PATH: by name, or by path where they are not on PATH.
    pub programs: Vec<Use>,
    /// Other files, and folders of them.
    pub files: Vec<Use>,
    /// Where it tried to write beside installed modules.
    pub caches: Vec<Use>,
    /// Folders below `models` that the server made.
    pub folders: Vec<String>,
    /// Files of packs and main program that the server writes and git ignores, relative to the environment.
    pub written: Vec<String>,
    /// Why not all was seen; null where it was.
    pub unseen: Option<String>,
}

/// What stillframe.toml says already. A line that is pasted takes the place of the one that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configured {
    pub libraries: Vec<String>,
    pub programs: Vec<String>,
    pub system_files: Vec<String>,
    pub exclude: Vec<String>,
    /// Path on the host, place, and whether it is writable, of each of `[[service.folders]]`.
    pub folders: Vec<(String, String, bool)>,
    /// The folder of models on the hosts.
    pub models: Option<String>,
}

/// A line of stillframe.toml.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Proposal {
    /// Its table; none: above all tables.
    pub table: Option<&'static str>,
    pub line: String,
    /// What it is about.
    pub why: String,
}

/// Named in a sentence; the line has all.
const SHOWN: usize = 5;

/// For the models of a host whose place is not configured.
const MODELS: &str = "/srv/models";

/// numba's cache of compiled functions, in a folder of the instance's own. (numba's manual: "Environment variables".)
const NUMBA: (&str, &str) = ("NUMBA_CACHE_DIR", "{slot}/base/.cache/numba");

fn quoted(text: &str) -> String {
    // TOML's basic strings are written as JSON's.
    serde_json::json!(text).to_string()
}

fn list(key: &str, values: impl Iterator<Item = String>) -> String {
    format!("{key} = [{}]", values.collect::<Vec<_>>().join(", "))
}

/// Whether one of these paths is this path, or a folder of it.
fn covers(paths: &[String], path: &str) -> bool {
    paths
        .iter()
        .map(|outer| outer.trim_end_matches('/'))
        .any(|outer| path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// By its name or by its path, however each of both names it.
fn names(configured: &[String], what: &str) -> bool {
    configured.iter().any(|one| one == what || file_name(one) == file_name(what))
}

/// Whether the configuration has this already.
type Has = fn(&[String], &str) -> bool;

fn some(uses: &[&Use]) -> String {
    let named = |one: &&Use| match &one.by {
        Some(by) => format!("{} (asked for by {by})", one.what),
        None => one.what.clone(),
    };
    let shown: Vec<String> = uses.iter().take(SHOWN).map(named).collect();
    let more = uses.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

impl Used {
    pub fn is_empty(&self) -> bool {
        *self == Used::default()
    }

    /// What another look saw, too.
    pub fn merge(&mut self, other: Used) {
        for (mine, theirs) in [
            (&mut self.libraries, other.libraries),
            (&mut self.programs, other.programs),
            (&mut self.files, other.files),
            (&mut self.caches, other.caches),
        ] {
            mine.extend(theirs);
            // Who is named counts more than nobody.
            mine.sort_by(|a, b| (&a.what, a.by.is_none(), &a.by).cmp(&(&b.what, b.by.is_none(), &b.by)));
            mine.dedup_by(|next, kept| next.what == kept.what);
        }
        for (mine, theirs) in [(&mut self.folders, other.folders), (&mut self.written, other.written)] {
            mine.extend(theirs);
            mine.sort();
            mine.dedup();
        }
        self.unseen = self.unseen.take().or(other.unseen);
    }

    /// What is not configured yet, a line for each kind.
    pub fn proposals(&self, configured: &Configured) -> Vec<Proposal> {
        let line = |table, key, (one, several), uses: &[Use], known: &[String], has: Has| {
            let new: Vec<&Use> = uses.iter().filter(|one| !has(known, &one.what)).collect();
            let all = known.iter().map(String::as_str).chain(new.iter().map(|one| one.what.as_str()));
            let (count, some) = (counted(new.len(), one, several), some(&new));
            (!new.is_empty()).then(|| Proposal {
                table: Some(table),
                line: list(key, all.map(quoted)),
                why: format!("uses {count} of this machine: {some}; a host may lack what does not ship"),
            })
        };
        let libraries = ("shared library", "shared libraries");
        let programs = ("program", "programs");
        let files = ("file or folder", "files and folders");
        [
            line("python", "libraries", libraries, &self.libraries, &configured.libraries, names),
            line("service", "programs", programs, &self.programs, &configured.programs, names),
            line("service", "system-files", files, &self.files, &configured.system_files, covers),
            self.folders_line(configured),
            self.cache_line(),
            self.exclude_line(configured),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn folders_line(&self, configured: &Configured) -> Option<Proposal> {
        let at = |name: &String| format!("models/{name}");
        let known: Vec<String> = configured.folders.iter().map(|(_, at, _)| at.clone()).collect();
        let new: Vec<&String> = self.folders.iter().filter(|name| !covers(&known, &at(name))).collect();
        if new.is_empty() {
            return None;
        }
        let models = configured.models.as_deref().unwrap_or(MODELS).trim_end_matches('/');
        let wanted = new.iter().map(|name| (format!("{models}/{name}"), at(name), true));
        let all = configured.folders.iter().cloned().chain(wanted).map(|(path, at, writable)| {
            let writable = if writable { ", writable = true" } else { "" };
            format!("{{ path = {}, at = {}{writable} }}", quoted(&path), quoted(&at))
        });
        let names: Vec<&str> = new.iter().map(|name| name.as_str()).collect();
        Some(Proposal {
            table: Some("service"),
            line: list("folders", all),
            why: format!(
                "makes {} in its models, which an instance may not: {}; make each in the models of every host",
                counted(new.len(), "folder", "folders"),
                names.join(", ")
            ),
        })
    }

    fn cache_line(&self) -> Option<Proposal> {
        let compiled = |one: &&Use| {
            let name = file_name(&one.what);
            name == "__pycache__" || name.ends_with(".nbi") || name.ends_with(".nbc")
        };
        let all: Vec<&Use> = self.caches.iter().filter(compiled).collect();
        (!all.is_empty()).then(|| Proposal {
            table: Some("service.environment"),
            line: format!("{} = {}", NUMBA.0, quoted(NUMBA.1)),
            why: format!("compiles, as numba does, and would keep that beside its modules: {}", some(&all)),
        })
    }

    fn exclude_line(&self, configured: &Configured) -> Option<Proposal> {
        let known = &configured.exclude;
        let new: Vec<&String> = self.written.iter().filter(|path| !covers(known, path)).collect();
        let names: Vec<&str> = new.iter().take(SHOWN).map(|path| path.as_str()).collect();
        let more = new.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!new.is_empty()).then(|| Proposal {
            table: None,
            line: list("exclude", known.iter().chain(new.iter().copied()).map(|path| quoted(path))),
            why: format!(
                "writes at its start into {} of its own: {}{more}; with them, each start makes another snapshot",
                counted(new.len(), "file", "files"),
                names.join(", ")
            ),
        })
    }

    /// One line of the report for each kind.
    pub fn findings(&self, configured: &Configured) -> Vec<Finding> {
        let finding = |severity, path: &str, message| Finding {
            severity,
            topic: Topic::Probe,
            path: path.into(),
            message,
        };
        let proposals = self.proposals(configured).into_iter().map(|Proposal { table, line, why }| {
            let place = table.map_or("above all tables".to_string(), |table| format!("under [{table}]"));
            finding(Severity::Warning, CONFIG, format!("the environment {why}; {place}: {line}"))
        });
        let elsewhere = self.caches.iter().filter(|one| file_name(&one.what) != "__pycache__");
        let elsewhere: Vec<&Use> = elsewhere.collect();
        let written = (!elsewhere.is_empty()).then(|| {
            let text = format!(
                "the environment tries to write beside installed modules, which nothing can on a host: {}",
                some(&elsewhere)
            );
            finding(Severity::Info, CONFIG, text)
        });
        let unseen = self.unseen.iter().map(|why| {
            finding(
                Severity::Info,
                CONFIG,
                format!("not all is known of what the environment uses of this machine: {why}"),
            )
        });
        proposals.chain(written).chain(unseen).collect()
    }
}

/// Where the lines belong.
pub const CONFIG: &str = "stillframe.toml";

#[cfg(test)]
mod tests {
    use super::*;

    fn one(what: &str, by: Option<&str>) -> Use {
        Use { what: what.into(), by: by.map(String::from) }
    }

    fn used() -> Used {
        Used {
            libraries: vec![one("libfribidi.so.0", Some("PIL")), one("/opt/x/liby.so", None)],
            programs: vec![one("git", Some("custom_nodes/a"))],
            files: vec![one("/usr/share/fonts/truetype", None), one("/etc/ssl/certs", None)],
            caches: vec![one("/venv/lib/librosa/__pycache__", Some("librosa"))],
            folders: vec!["new".into()],
            written: vec!["custom_nodes/a/cache.json".into()],
            unseen: None,
        }
    }

    fn lines(used: &Used, configured: &Configured) -> Vec<(Option<&'static str>, String)> {
        used.proposals(configured).into_iter().map(|p| (p.table, p.line)).collect()
    }

    #[test]
    fn each_kind_is_one_line_to_paste() {
        let wanted = [
            (Some("python"), "libraries = [\"libfribidi.so.0\", \"/opt/x/liby.so\"]"),
            (Some("service"), "programs = [\"git\"]"),
            (Some("service"), "system-files = [\"/usr/share/fonts/truetype\", \"/etc/ssl/certs\"]"),
            (
                Some("service"),
                "folders = [{ path = \"/srv/models/new\", at = \"models/new\", writable = true }]",
            ),
            (Some("service.environment"), "NUMBA_CACHE_DIR = \"{slot}/base/.cache/numba\""),
            (None, "exclude = [\"custom_nodes/a/cache.json\"]"),
        ];
        assert_eq!(lines(&used(), &Configured::default()), wanted.map(|(t, l)| (t, l.to_string())));
        let findings = used().findings(&Configured::default());
        assert_eq!(findings.len(), 6);
        assert_eq!(
            findings[0].message,
            "the environment uses 2 shared libraries of this machine: libfribidi.so.0 (asked for by PIL), /opt/x/liby.so; a host \
             may lack what does not ship; under [python]: libraries = [\"libfribidi.so.0\", \"/opt/x/liby.so\"]"
        );
    }

    #[test]
    fn lines_hold_what_is_configured_and_say_it_no_second_time() {
        let texts = |all: &[&str]| all.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let configured = Configured {
            libraries: texts(&["/usr/lib/libfribidi.so.0", "libz.so.1"]),
            programs: texts(&["/usr/bin/git"]),
            system_files: texts(&["/usr/share/fonts/"]),
            exclude: texts(&["custom_nodes/a"]),
            folders: vec![("/srv/in".into(), "input/in".into(), false)],
            models: Some("/data/models".into()),
        };
        let wanted = [
            (Some("python"), "libraries = [\"/usr/lib/libfribidi.so.0\", \"libz.so.1\", \"/opt/x/liby.so\"]"),
            (Some("service"), "system-files = [\"/usr/share/fonts/\", \"/etc/ssl/certs\"]"),
            (
                Some("service"),
                "folders = [{ path = \"/srv/in\", at = \"input/in\" }, \
                 { path = \"/data/models/new\", at = \"models/new\", writable = true }]",
            ),
            (Some("service.environment"), "NUMBA_CACHE_DIR = \"{slot}/base/.cache/numba\""),
        ];
        assert_eq!(lines(&used(), &configured), wanted.map(|(t, l)| (t, l.to_string())));
        assert!(Used::default().findings(&configured).is_empty());
    }

    #[test]
    fn two_looks_become_one() {
        let mut both = used();
        both.merge(Used { libraries: vec![one("/opt/x/liby.so", Some("y"))], ..used() });
        assert_eq!(both.libraries, [one("/opt/x/liby.so", Some("y")), one("libfribidi.so.0", Some("PIL"))]);
        assert_eq!(both.programs, used().programs);
        assert_eq!(both.folders, ["new"]);
    }
}
