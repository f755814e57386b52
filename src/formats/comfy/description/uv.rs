//! What `[tool.uv]` adds to requirements: where a package comes from, which indexes there are, and constraints. A source says of
//! a package that it comes from there and from nowhere else, so a source that gives nothing exact leaves its package out.
use super::model::{Description, Index};
use super::requirement::{Judged, Requirement, is_commit, judge, name_of};
use crate::formats::python::name::normalize;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Uv {
    #[serde(default)]
    sources: BTreeMap<String, OneOrMore>,
    #[serde(default)]
    index: Vec<UvIndex>,
    #[serde(default)]
    constraint_dependencies: Vec<String>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(UvSource),
    More(Vec<UvSource>),
}

#[derive(Default, Deserialize)]
struct UvSource {
    git: Option<String>,
    rev: Option<String>,
    tag: Option<String>,
    branch: Option<String>,
    subdirectory: Option<String>,
    url: Option<String>,
    index: Option<String>,
    marker: Option<String>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct UvIndex {
    name: Option<String>,
    url: String,
    #[serde(default)]
    explicit: bool,
}

pub fn requirements(out: &mut Description, lines: Vec<String>, uv: Uv) {
    let sources: BTreeMap<String, &OneOrMore> = uv.sources.iter().map(|(n, s)| (normalize(n), s)).collect();
    let mut from: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut met = BTreeSet::new();
    for line in lines {
        let judged = judge(&line, false);
        let about = judged.name().cloned();
        match (about.as_ref().and_then(|name| sources.get_key_value(name)), judged) {
            (Some((name, source)), Judged::Taken(requirement)) => {
                met.insert(name.clone());
                match place(source, &requirement, &uv.index) {
                    Ok(Place::Address(text)) => out.requirements.push(text),
                    Ok(Place::Index(index)) => {
                        out.requirements.push(of_index(&requirement.text, &index, &uv.index));
                        from.entry(index).or_default().insert(name.clone());
                    }
                    Err(why) => {
                        out.lacks(Some(name.clone()), format!("requirement {}: {why}", requirement.text))
                    }
                }
            }
            _ => out.requirements(&line),
        }
    }
    for line in uv.constraint_dependencies {
        match judge(&line, false) {
            Judged::Taken(taken) if taken.name.is_some() => out.constraints.push(taken.text),
            Judged::Taken(_) => out.unresolved.push(format!("constraint {line}: no package is named")),
            Judged::Lacks(_, why) => out.unresolved.push(format!("constraint {line}: {why}")),
            Judged::Nothing => {}
        }
    }
    for (name, source) in sources.iter().filter(|(name, _)| !met.contains(*name)) {
        // A constraint is about a package that others require: torch, of packs.
        let only = Requirement { name: None, extras: String::new(), marker: None, text: name.clone() };
        match place(source, &only, &uv.index) {
            Ok(Place::Index(index)) if out.names(name) => {
                let constraint = out.constraints.iter().find(|line| name_of(line).as_ref() == Some(name));
                let line = constraint.unwrap_or(name);
                out.requirements.push(of_index(line, &index, &uv.index));
                from.entry(index).or_default().insert(name.clone());
            }
            Ok(Place::Address(text)) => {
                out.unresolved.push(format!("source {text}: no requirement names the package"))
            }
            Ok(Place::Index(index)) => out
                .unresolved
                .push(format!("source of {name}, the index {index}: no requirement names the package")),
            Err(why) => out.unresolved.push(format!("source of {name}: {why}")),
        }
    }
    for (at, index) in uv.index.iter().enumerate() {
        let name = index.name.clone().unwrap_or_else(|| format!("{}", at + 1));
        let url = index.url.clone();
        match from.remove(&name) {
            Some(packages) => out.indexes.push(Index { name: name.clone(), url: url.clone(), packages }),
            None if index.explicit => {
                out.unresolved.push(format!("index {name} {url}: no package comes from it"))
            }
            None => {}
        }
        if !index.explicit {
            out.unresolved.push(format!(
                "index {name} {url}: of indexes without names of packages pip takes the newest of all; only packages whose \
                 source it is come from it"
            ));
        }
    }
    uv.other.iter().for_each(|(name, value)| out.unknown(&format!("[tool.uv] {name}"), value));
}

/// A requirement that says, in a comment, which index it is for.
fn of_index(line: &str, index: &str, indexes: &[UvIndex]) -> String {
    let url = indexes.iter().find(|i| i.name.as_deref() == Some(index)).map_or("", |i| &i.url);
    format!("{line} # index {index}: {url}")
}

enum Place {
    /// The requirement with its address.
    Address(String),
    Index(String),
}

fn place(source: &OneOrMore, of: &Requirement, indexes: &[UvIndex]) -> Result<Place, String> {
    let source = match source {
        OneOrMore::One(source) => source,
        OneOrMore::More(several) => match &several[..] {
            [source] => source,
            _ => {
                let told: Vec<String> = several.iter().map(UvSource::told).collect();
                return Err(format!("it has several sources ({})", told.join("; ")));
            }
        },
    };
    if source.marker.is_some() {
        return Err(format!("its source ({}) is for some platforms alone", source.told()));
    }
    let address = match source {
        UvSource { git: Some(git), rev: Some(rev), .. } if is_commit(rev) => format!("git+{git}@{rev}"),
        UvSource { git: Some(_), .. } => {
            return Err(format!("of its source ({}) no commit is named", source.told()));
        }
        UvSource { url: Some(url), .. } => url.clone(),
        UvSource { index: Some(name), .. } => {
            let one_line = |text: &str| !text.contains(['\n', '\r']);
            let named = |i: &&UvIndex| {
                i.name.as_ref() == Some(name) && is_web(&i.url) && one_line(&i.url) && one_line(name)
            };
            return match indexes.iter().find(named) {
                Some(_) => Ok(Place::Index(name.clone())),
                None => Err(format!("its index {name} has no address")),
            };
        }
        _ => return Err(format!("its source ({}) is on another machine", source.told())),
    };
    let name = of.text.split(['[', ' ', '=', '<', '>', '!', '~', ';', '(', '@']).next().unwrap_or_default();
    let fragment = source.subdirectory.as_ref().map(|s| format!("#subdirectory={s}")).unwrap_or_default();
    let marker = of.marker.as_ref().map(|m| format!(" ; {m}")).unwrap_or_default();
    let text = format!("{name}{} @ {address}{fragment}{marker}", of.extras);
    match judge(&text, true) {
        Judged::Taken(_) => Ok(Place::Address(text)),
        Judged::Lacks(_, why) => Err(format!("its source ({}): {why}", source.told())),
        Judged::Nothing => Err(format!("its source ({}) says nothing", source.told())),
    }
}

fn is_web(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && !url.contains(char::is_whitespace)
}

impl UvSource {
    fn told(&self) -> String {
        let known = [
            ("git", &self.git),
            ("rev", &self.rev),
            ("tag", &self.tag),
            ("branch", &self.branch),
            ("subdirectory", &self.subdirectory),
            ("url", &self.url),
            ("index", &self.index),
            ("marker", &self.marker),
        ];
        let mut told: Vec<String> = known
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value}")))
            .collect();
        told.extend(self.other.iter().map(|(name, value)| format!("{name} {value}")));
        told.join(", ")
    }
}
