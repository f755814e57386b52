//! What changed between two snapshots: packs, distributions, cache, node classes, bytes to ship.
use crate::capture::model::lock::{Lock, PackLock, RuntimeLock, WeightLock};
use crate::capture::model::probe::ProbeResult;
use crate::capture::trees::tree::TreeRef;
use crate::protocol::launch::Launch;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What became of something from one snapshot to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    Added,
    Removed,
    Changed,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            What::Added => "added",
            What::Removed => "removed",
            What::Changed => "changed",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Change {
    pub name: String,
    pub what: What,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// Files that differ, when the trees could be compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Diff {
    pub main: Option<Change>,
    pub runtime: Option<Change>,
    pub packs: Vec<Change>,
    pub distributions: Vec<Change>,
    pub cache: Vec<Change>,
    /// Folders outside that `.pth` files and editable installs name.
    pub sources: Vec<Change>,
    pub unowned: Option<Change>,
    /// Programs of the workstation, and files and folders of its system.
    pub system: Vec<Change>,
    /// How the service is started: arguments, variables, whether its program and packs have bytecode.
    pub service: Vec<Change>,
    /// Whether both were probed: without, their node classes are not known.
    pub classes_known: bool,
    pub classes_added: Vec<String>,
    pub classes_removed: Vec<String>,
    /// Paths of the new closure that the old one lacks.
    pub new_paths: u64,
    pub new_bytes: u64,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        let Diff { new_paths, new_bytes, classes_known, .. } = *self;
        *self == Diff { new_paths, new_bytes, classes_known, ..Diff::default() }
    }
}

/// Name -> (what identifies the content, what a person reads).
type Items = BTreeMap<String, (String, String)>;

fn compare(old: &Items, new: &Items) -> Vec<Change> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (a, b) = (old.get(name), new.get(name));
            let what = match (a, b) {
                (Some(a), Some(b)) if a.0 == b.0 => return None,
                (Some(_), Some(_)) => What::Changed,
                (None, _) => What::Added,
                (_, None) => What::Removed,
            };
            Some(Change {
                name: name.clone(),
                what,
                old: a.map(|i| i.1.clone()),
                new: b.map(|i| i.1.clone()),
                files: Vec::new(),
            })
        })
        .collect()
}

fn git_text(git: &Option<crate::capture::model::lock::GitLock>) -> String {
    match git {
        Some(git) => {
            let commit = git.commit.as_deref().map_or("no commit", |c| c.get(..10).unwrap_or(c));
            format!("{commit}{}", if git.dirty == Some(true) { ", dirty" } else { "" })
        }
        None => "plain files".into(),
    }
}

fn packs(lock: &Lock) -> Items {
    lock.packs
        .iter()
        .map(|p| {
            let shown = git_text(&p.git);
            // The commit is part of the snapshot, also where the files are as they were.
            let commit = p.git.as_ref().and_then(|git| git.commit.as_deref());
            let mut id = format!("{}{shown}{commit:?}", p.tree.nar_hash);
            for weight in &p.weights {
                id.push_str(&format!("{}{}", weight.path, weight.tree.nar_hash));
            }
            (p.name.clone(), (id, shown))
        })
        .collect()
}

/// The weights that differ between two states of a pack.
fn weights(old: &PackLock, new: &PackLock) -> Vec<String> {
    let of = |pack: &PackLock| -> Items {
        let weight = |w: &WeightLock| (w.path.clone(), (w.tree.nar_hash.to_string(), String::new()));
        pack.weights.iter().map(weight).collect()
    };
    compare(&of(old), &of(new)).into_iter().map(|change| change.name).collect()
}

fn distributions(lock: &Lock) -> Items {
    lock.distributions
        .iter()
        .map(|d| {
            let files = if d.real_files { ", as real files" } else { "" };
            let shown = format!("{} ({}{files})", d.version, d.provenance.name());
            (d.name.clone(), (format!("{}{shown}{:?}", d.tree.nar_hash, d.scripts), shown))
        })
        .collect()
}

fn cache(lock: &Lock) -> Items {
    lock.cache
        .iter()
        .map(|c| (c.path.clone(), (c.tree.nar_hash.to_string(), format!("{} bytes", c.tree.nar_size))))
        .collect()
}

fn sources(lock: &Lock) -> Items {
    lock.sources.iter().map(|s| (s.path.clone(), (s.tree.nar_hash.to_string(), "files".into()))).collect()
}

fn system(lock: &Lock) -> Items {
    let item = |name: String, tree: &TreeRef| {
        (name, (format!("{}{:?}", tree.nar_hash, tree.references), format!("{} bytes", tree.nar_size)))
    };
    let programs = lock.programs.iter().map(|p| item(format!("program {}", p.name), &p.tree));
    programs.chain(lock.system_files.iter().map(|f| item(f.at.clone(), &f.tree))).collect()
}

fn single(name: &str, id: Option<String>, shown: String) -> Items {
    id.map(|id| (name.to_string(), (id, shown))).into_iter().collect()
}

/// What a launch file says besides store paths.
fn service(launch: &Launch) -> Items {
    let variables = launch.environment.iter().map(|(name, value)| (name.clone(), value.clone()));
    let compiled = launch.layers.iter().filter(|layer| layer.bytecode.is_some());
    let compiled: Vec<&str> = compiled.map(|layer| layer.at.as_str()).collect();
    let own = [("arguments", launch.arguments.join(" ")), ("bytecode", compiled.join(", "))];
    let own = own.map(|(name, value)| (name.to_string(), if value.is_empty() { "-".into() } else { value }));
    variables.chain(own).map(|(name, value)| (name, (value.clone(), value))).collect()
}

/// The pure part of a diff: the two locks, how they are started, and what their probes saw.
pub fn diff(
    old: &Lock,
    new: &Lock,
    launch: Option<(&Launch, &Launch)>,
    probes: (Option<&ProbeResult>, Option<&ProbeResult>),
) -> Diff {
    let main = |l: &Lock| {
        let shown = format!("{} ({})", l.main.version.as_deref().unwrap_or("unknown"), git_text(&l.main.git));
        single("main program", Some(format!("{}{shown}", l.main.tree.nar_hash)), shown)
    };
    let runtime = |l: &Lock| {
        let RuntimeLock { store_path, libraries, tree, further, .. } = &l.runtime;
        let id = format!("{store_path:?}{libraries:?}{tree:?}{further:?}");
        single("Python runtime", Some(id), l.runtime.version.clone())
    };
    let unowned = |l: &Lock| {
        let id = l.unowned.as_ref().map(|t| t.nar_hash.to_string());
        single("files no distribution owns", id, String::from("files"))
    };
    let classes = |p: Option<&ProbeResult>| -> BTreeSet<String> {
        p.map(|p| p.classes.keys().cloned().collect()).unwrap_or_default()
    };
    let (a, b) = match probes {
        (Some(a), Some(b)) => (classes(Some(a)), classes(Some(b))),
        // One side was never probed: nothing can be said.
        _ => Default::default(),
    };
    let mut changed = compare(&packs(old), &packs(new));
    for change in &mut changed {
        let of = |lock: &'_ Lock| lock.packs.iter().find(|p| p.name == change.name).cloned();
        if let (Some(old), Some(new)) = (of(old), of(new)) {
            change.files = weights(&old, &new);
        }
    }
    Diff {
        main: compare(&main(old), &main(new)).pop(),
        runtime: compare(&runtime(old), &runtime(new)).pop(),
        packs: changed,
        distributions: compare(&distributions(old), &distributions(new)),
        cache: compare(&cache(old), &cache(new)),
        sources: compare(&sources(old), &sources(new)),
        system: compare(&system(old), &system(new)),
        unowned: compare(&unowned(old), &unowned(new)).pop(),
        service: launch.map(|(old, new)| compare(&service(old), &service(new))).unwrap_or_default(),
        classes_known: probes.0.is_some() && probes.1.is_some(),
        classes_added: b.difference(&a).cloned().collect(),
        classes_removed: a.difference(&b).cloned().collect(),
        new_paths: 0,
        new_bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::model::inventory::PackKind;
    use crate::capture::model::lock::{
        CacheLock, DistributionLock, GitLock, LOCK_VERSION, MainLock, ProgramLock, Provenance, SourceLock,
        SystemFileLock,
    };
    use crate::formats::nix::hash::Sha256;
    use crate::protocol::launch::Layer;

    fn tree(byte: u8) -> TreeRef {
        TreeRef {
            name: "t".into(),
            nar_hash: Sha256([byte; 32]),
            nar_size: u64::from(byte),
            references: vec![],
        }
    }

    fn pack(name: &str, byte: u8, commit: &str, dirty: bool, weights: &[(&str, u8)]) -> PackLock {
        PackLock {
            name: name.into(),
            kind: PackKind::Git,
            tree: tree(byte),
            git: Some(GitLock { remote: None, commit: Some(commit.into()), dirty: Some(dirty) }),
            weights: weights
                .iter()
                .map(|(path, b)| WeightLock { path: (*path).into(), tree: tree(*b) })
                .collect(),
            nested: vec![],
            own_paths: vec![],
        }
    }

    fn distribution(name: &str, version: &str, byte: u8, provenance: Provenance) -> DistributionLock {
        DistributionLock {
            name: name.into(),
            version: version.into(),
            provenance,
            reason: None,
            real_files: false,
            headers: None,
            site: 0,
            scripts: vec![],
            has_modules: true,
            tree: tree(byte),
            wheel: None,
            changed: vec![],
            commit: None,
        }
    }

    fn lock() -> Lock {
        Lock {
            version: LOCK_VERSION,
            system: "x86_64-linux".into(),
            main: MainLock {
                version: Some("0.1".into()),
                flags: vec![],
                models: vec![],
                input: false,
                own_paths: vec![],
                tree: tree(1),
                git: None,
            },
            runtime: RuntimeLock {
                version: "3.11.7".into(),
                store_path: None,
                libraries: Some(tree(2)),
                tree: Some(tree(3)),
                further: None,
                interpreter: None,
            },
            unowned: Some(tree(4)),
            library_links: None,
            packs: vec![
                pack("kept", 5, "a", false, &[]),
                pack("p", 6, "0123456789abc", false, &[("w", 1), ("x", 2)]),
            ],
            sources: vec![SourceLock { path: "lib".into(), tree: tree(16) }],
            cache: vec![CacheLock { path: "hub/m".into(), tree: tree(7) }],
            programs: vec![ProgramLock { name: "jq".into(), tree: tree(21) }],
            program_libraries: vec![tree(22)],
            system_files: vec![SystemFileLock { at: "/etc/fonts".into(), tree: tree(23) }],
            distributions: vec![
                distribution("kept", "1.0", 8, Provenance::Pinned),
                distribution("d", "1.0", 9, Provenance::Pinned),
            ],
        }
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let line =
            |c: &Change| format!("{} {}: {} -> {} {:?}", c.what, c.name, side(&c.old), side(&c.new), c.files);
        changes.iter().map(line).collect()
    }

    fn launch() -> Launch {
        Launch {
            version: 1,
            service: "comfyui".into(),
            program: "/nix/store/x-python/bin/python".into(),
            arguments: vec!["-s".into(), "main.py".into()],
            directory: "main".into(),
            layers: vec![Layer {
                at: "main".into(),
                lower: "/nix/store/x-main".into(),
                writable: true,
                bytecode: Some("/nix/store/x-bytecode".into()),
            }],
            ..Launch::default()
        }
    }

    #[test]
    fn the_same_is_nothing() {
        let same = diff(&lock(), &lock(), None, (None, None));
        assert_eq!(same, Diff::default());
        assert!(same.is_empty());
    }

    #[test]
    fn each_group_tells_what_was_added_removed_and_changed() {
        let old = lock();
        let mut new = lock();
        new.main.tree = tree(11);
        new.main.version = Some("0.2".into());
        new.runtime.tree = Some(tree(12));
        new.runtime.version = "3.11.8".into();
        new.unowned = None;
        new.sources[0].tree = tree(17);
        new.packs[1] = pack("p", 6, "fedcba9876543", true, &[("w", 3), ("y", 4)]);
        new.packs.push(pack("q", 13, "b", false, &[]));
        new.cache = vec![CacheLock { path: "hub/n".into(), tree: tree(14) }];
        new.distributions = vec![
            distribution("kept", "1.0", 8, Provenance::Pinned),
            distribution("d", "1.0", 9, Provenance::Patched),
            distribution("e", "2.0", 15, Provenance::Captured),
        ];
        let there = diff(&old, &new, None, (None, None));
        assert_eq!(
            lines(there.main.as_slice()),
            ["changed main program: 0.1 (plain files) -> 0.2 (plain files) []"]
        );
        assert_eq!(lines(there.runtime.as_slice()), ["changed Python runtime: 3.11.7 -> 3.11.8 []"]);
        assert_eq!(
            lines(there.packs.as_slice()),
            ["changed p: 0123456789 -> fedcba9876, dirty [\"w\", \"x\", \"y\"]", "added q: - -> b []",]
        );
        assert_eq!(
            lines(&there.distributions),
            ["changed d: 1.0 (pinned) -> 1.0 (patched) []", "added e: - -> 2.0 (captured) []"]
        );
        assert_eq!(lines(&there.cache), ["removed hub/m: 7 bytes -> - []", "added hub/n: - -> 14 bytes []"]);
        assert_eq!(lines(there.unowned.as_slice()), ["removed files no distribution owns: files -> - []"]);
        assert_eq!(lines(&there.sources), ["changed lib: files -> files []"]);
        let back = diff(&new, &old, None, (None, None));
        assert_eq!(
            lines(&back.packs),
            ["changed p: fedcba9876, dirty -> 0123456789 [\"w\", \"x\", \"y\"]", "removed q: b -> - []",]
        );
        assert_eq!(lines(&back.distributions)[1], "removed e: 2.0 (captured) -> - []");
        assert_eq!(lines(back.unowned.as_slice()), ["added files no distribution owns: - -> files []"]);
        assert!(!there.is_empty());
    }

    #[test]
    fn how_it_is_started_and_laid_out_is_a_change() {
        let (old, mut new) = (launch(), launch());
        new.arguments.push("--lowvram".into());
        new.environment.insert("A".into(), "1".into());
        new.layers[0].bytecode = None;
        // Store paths are what they are.
        new.layers[0].lower = "/nix/store/y-main".into();
        let mut real = lock();
        real.distributions[1].real_files = true;
        let there = diff(&lock(), &real, Some((&old, &new)), (None, None));
        assert_eq!(
            lines(&there.service),
            [
                "added A: - -> 1 []",
                "changed arguments: -s main.py -> -s main.py --lowvram []",
                "changed bytecode: main -> - []"
            ]
        );
        assert_eq!(
            lines(&there.distributions),
            ["changed d: 1.0 (pinned) -> 1.0 (pinned, as real files) []"]
        );
        assert!(!there.is_empty());
    }

    #[test]
    fn classes_are_compared_only_where_both_were_probed() {
        let probe = |names: &[&str]| ProbeResult {
            classes: names.iter().map(|n| (n.to_string(), String::new())).collect(),
            ..ProbeResult::default()
        };
        let (a, b) = (probe(&["kept", "gone"]), probe(&["kept", "new"]));
        let both = diff(&lock(), &lock(), None, (Some(&a), Some(&b)));
        assert!(both.classes_known);
        assert_eq!(
            (both.classes_added, both.classes_removed),
            (vec!["new".to_string()], vec!["gone".to_string()])
        );
        for probes in [(Some(&a), None), (None, Some(&b)), (None, None)] {
            // Not "none": not known.
            assert_eq!(diff(&lock(), &lock(), None, probes), Diff::default());
        }
    }
}
