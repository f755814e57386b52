//! The environment as it will be laid out, searched as ld.so will search it.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::formats::elf::ElfInfo;

/// Where the search paths of each object lead.
pub(super) struct Layout<'a> {
    labels: &'a BTreeMap<String, ElfInfo>,
    /// File name or SONAME, to the objects that go by it.
    by_name: HashMap<&'a str, BTreeSet<&'a str>>,
    /// The directories each object's needs are searched in, inherited ones included.
    dirs: HashMap<&'a str, BTreeSet<String>>,
}

impl<'a> Layout<'a> {
    pub fn new(labels: &'a BTreeMap<String, ElfInfo>) -> Layout<'a> {
        let mut by_name: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        let mut dirs: HashMap<&str, BTreeSet<String>> = HashMap::new();
        for (label, info) in labels {
            let file = label.rsplit('/').next().unwrap_or(label);
            for name in [Some(file), info.soname.as_deref()].into_iter().flatten() {
                by_name.entry(name).or_default().insert(label);
            }
            let own = if info.runpath.is_empty() { &info.rpath } else { &info.runpath };
            let own = own.iter().filter_map(|entry| place(label, entry)).collect();
            dirs.insert(label, own);
        }
        let mut layout = Layout { labels, by_name, dirs };
        layout.inherit();
        layout
    }

    /// DT_RPATH also serves what an object loads, and what that loads. Passed on until nothing
    /// changes; sets only grow, so it ends.
    fn inherit(&mut self) {
        let mut queue: Vec<&'a str> =
            self.labels.iter().filter(|(_, i)| passes_on(i)).map(|(l, _)| l.as_str()).collect();
        while let Some(label) = queue.pop() {
            let Some(info) = self.labels.get(label) else {
                continue;
            };
            let given = self.dirs.get(label).cloned().unwrap_or_default();
            for library in &info.needed {
                let Some(loaded) = self.found(label, library) else {
                    continue;
                };
                let takes = self.labels.get(loaded).is_some_and(passes_on);
                let Some(has) = self.dirs.get_mut(loaded).filter(|_| takes) else {
                    continue;
                };
                let before = has.len();
                has.extend(given.iter().cloned());
                if has.len() > before {
                    queue.push(loaded);
                }
            }
        }
    }

    fn found(&self, label: &str, library: &str) -> Option<&'a str> {
        let key = |dir: &String| {
            let at = if dir.is_empty() { library.to_owned() } else { format!("{dir}/{library}") };
            self.labels.get_key_value(&at).map(|(label, _)| label.as_str())
        };
        self.dirs.get(label)?.iter().find_map(key)
    }

    /// A folder of site-packages with objects in it that the search paths of `label` lead to. What is elsewhere lies in
    /// a tree of its own, which the environment adds nothing to.
    pub fn folder_of(&self, label: &str) -> Option<&str> {
        let elsewhere = ["/", "custom_nodes/", ".cache/"].iter().any(|place| label.starts_with(place));
        // A wheel's folder of data goes elsewhere in the environment (binary distribution format, "The .data directory").
        let elsewhere = elsewhere || label.split('/').next().is_some_and(|first| first.ends_with(".data"));
        let holds = |dir: &&String| {
            let inside = format!("{dir}/");
            let next = self.labels.range(inside.clone()..).next();
            !dir.is_empty() && next.is_some_and(|(label, _)| label.starts_with(&inside))
        };
        self.dirs.get(label)?.iter().find(holds).filter(|_| !elsewhere).map(String::as_str)
    }

    pub fn leads_to(&self, label: &str, library: &str) -> bool {
        self.found(label, library).is_some()
    }

    /// A file of that name no search path leads to, of the same package if there is one.
    pub fn provider(&self, label: &str, library: &str) -> Option<&'a str> {
        let all = self.by_name.get(library)?;
        let near = all.iter().find(|p| package(p) == package(label));
        near.or_else(|| all.first()).copied()
    }
}

/// An object with a DT_RUNPATH neither uses the DT_RPATH of its loader nor has one to give.
fn passes_on(info: &ElfInfo) -> bool {
    info.runpath.is_empty()
}

/// The directory in the layout that a search path entry of `label` names. Directories of the machine
/// the library was built on are none.
fn place(label: &str, entry: &str) -> Option<String> {
    let rest = entry.strip_prefix("$ORIGIN").or_else(|| entry.strip_prefix("${ORIGIN}"))?;
    let mut parts: Vec<&str> = label.split('/').collect();
    parts.pop();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The top directory of a label, which all files of a distribution's package share.
pub(super) fn package(label: &str) -> &str {
    label.split('/').next().unwrap_or(label)
}
