//! The lock: every item of the inventory pinned by hash, with its provenance. Written as
//! `stillframe.lock` (TOML, sorted, one item a table) so that a change in the environment is a
//! readable diff. The trees' content is on disk or in the store; the lock holds only what names it.
use crate::capture::model::change::FileChange;
use crate::capture::trees::tree::TreeRef;
use crate::formats::nix::hash::Sha256;
use crate::sys::error::{Error, Kind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bumped when a reader of an older version could misread the file.
pub const LOCK_VERSION: u32 = 1;

/// How sure we are of where a distribution came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Every installed file equals the wheel's RECORD; the wheel is named by URL and hash.
    Pinned,
    /// A wheel of the index with some files changed, each named; what is on disk ships.
    Patched,
    /// No wheel vouches for it; what is on disk ships.
    Captured,
}

impl Provenance {
    pub fn name(self) -> &'static str {
        match self {
            Provenance::Pinned => "pinned",
            Provenance::Patched => "patched",
            Provenance::Captured => "captured",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WheelRef {
    pub file: String,
    pub url: String,
    pub sha256: Sha256,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DistributionLock {
    pub name: String,
    pub version: String,
    pub provenance: Provenance,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Real files instead of links: for code that follows `realpath(__file__)` across wheels.
    #[serde(default, rename = "real-files", skip_serializing_if = "std::ops::Not::not")]
    pub real_files: bool,
    /// Which of the site directories it is in, counted as on `sys.path`: of a file that two have, the first's is imported.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub site: usize,
    /// The folder of its headers, where it is not its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    /// The scripts of its entry points: `name = module:function`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<String>,
    /// Whether it has modules to compile.
    #[serde(default, rename = "has-modules", skip_serializing_if = "std::ops::Not::not")]
    pub has_modules: bool,
    pub tree: TreeRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wheel: Option<WheelRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<FileChange>,
    /// Of the repository that it was installed from, as direct_url.json says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitLock {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MainLock {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Folders below the tree's `models` whose files a service finds behind those of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Whether the tree has an `input`, whose files a service finds among those of the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub input: bool,
    /// Its files with marks for places of an instance.
    #[serde(default, rename = "own-paths", skip_serializing_if = "Vec::is_empty")]
    pub own_paths: Vec<String>,
    pub tree: TreeRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitLock>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WeightLock {
    pub path: String,
    pub tree: TreeRef,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackLock {
    pub name: String,
    pub kind: crate::capture::model::inventory::PackKind,
    pub tree: TreeRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitLock>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightLock>,
    /// Repositories below its own: submodules, and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nested: Vec<NestedLock>,
    /// Its files with marks for places of an instance.
    #[serde(default, rename = "own-paths", skip_serializing_if = "Vec::is_empty")]
    pub own_paths: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NestedLock {
    /// In the pack.
    pub path: String,
    pub git: GitLock,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheLock {
    pub path: String,
    pub tree: TreeRef,
}

/// The interpreter: captured and patched, or a store path that stands in for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeLock {
    pub version: String,
    #[serde(default, rename = "store-path", skip_serializing_if = "Option::is_none")]
    pub store_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libraries: Option<TreeRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeRef>,
    /// Libraries that the configuration names besides, and the interpreter that finds them, too.
    #[serde(default, rename = "further-libraries", skip_serializing_if = "Option::is_none")]
    pub further: Option<TreeRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<TreeRef>,
}

/// A folder outside the environment that a `.pth` file or an editable install puts on the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceLock {
    pub path: String,
    pub tree: TreeRef,
}

/// A program of the workstation that a service finds on its PATH: `bin/NAME` of its tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramLock {
    pub name: String,
    pub tree: TreeRef,
}

/// A file or folder of the workstation's system, which a service sees at the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SystemFileLock {
    pub at: String,
    pub tree: TreeRef,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lock {
    #[serde(rename = "lock-version")]
    pub version: u32,
    pub system: String,
    pub main: MainLock,
    pub runtime: RuntimeLock,
    /// Files of site-packages that no distribution owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unowned: Option<TreeRef>,
    /// Links in site-packages to base libraries that objects there would not find.
    #[serde(default, rename = "library-links", skip_serializing_if = "Option::is_none")]
    pub library_links: Option<TreeRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<PackLock>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceLock>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<CacheLock>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ProgramLock>,
    /// What the programs, and those in the files of the system, load: each refers to one of these.
    #[serde(default, rename = "program-libraries", skip_serializing_if = "Vec::is_empty")]
    pub program_libraries: Vec<TreeRef>,
    #[serde(default, rename = "system-files", skip_serializing_if = "Vec::is_empty")]
    pub system_files: Vec<SystemFileLock>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distributions: Vec<DistributionLock>,
}

/// What every version of the file has.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "lock-version")]
    version: u32,
}

fn other_version(origin: &str, version: u32) -> Error {
    let message = format!("{origin} has lock version {version}, this stillframe reads {LOCK_VERSION}");
    Error::new(Kind::Input, message)
}

impl Lock {
    /// The file's text. A header says what it is; the rest is plain TOML.
    pub fn to_toml(&self) -> Result<String> {
        let body = toml::to_string(self)
            .map_err(|e| Error::new(Kind::Input, "cannot write stillframe.lock as TOML").caused_by(e))?;
        Ok(format!(
            "# Written by `stillframe lock`; commit it. It pins every item of the environment by hash.\n{body}"
        ))
    }

    pub fn from_toml(text: &str, origin: &str) -> Result<Lock> {
        let broken = |e: toml::de::Error| {
            Error::new(Kind::Input, format!("{origin} is not a stillframe lock: {}", e.message()))
                .hint("take the snapshot again; the same environment gives the same lock")
        };
        let head: Head = toml::from_str(text).map_err(broken)?;
        if head.version != LOCK_VERSION {
            let hint = "use the stillframe that wrote it, or take the snapshot again";
            return Err(other_version(origin, head.version).hint(hint));
        }
        toml::from_str(text).map_err(broken)
    }

    /// Refuses to write over a lock of a newer version: someone else of the project works with that
    /// one. Anything older, or no lock at all, may be replaced.
    pub fn may_replace(text: &str, origin: &str) -> Result<()> {
        match toml::from_str::<Head>(text) {
            Ok(head) if head.version > LOCK_VERSION => {
                let hint = "use the stillframe that wrote it, or remove it and run `stillframe lock`";
                Err(other_version(origin, head.version).hint(hint))
            }
            _ => Ok(()),
        }
    }

    /// Every tree the lock names, in a fixed order.
    pub fn trees(&self) -> Vec<&TreeRef> {
        let mut all = vec![&self.main.tree];
        all.extend(self.runtime.libraries.iter());
        all.extend(self.runtime.tree.iter());
        all.extend(self.runtime.further.iter().chain(&self.runtime.interpreter));
        all.extend(self.unowned.iter());
        all.extend(self.library_links.iter());
        for pack in &self.packs {
            all.push(&pack.tree);
            all.extend(pack.weights.iter().map(|w| &w.tree));
        }
        all.extend(self.sources.iter().map(|s| &s.tree));
        all.extend(self.cache.iter().map(|c| &c.tree));
        all.extend(&self.program_libraries);
        all.extend(self.programs.iter().map(|p| &p.tree));
        all.extend(self.system_files.iter().map(|f| &f.tree));
        all.extend(self.distributions.iter().map(|d| &d.tree));
        all
    }

    /// Files with marks for places of an instance, by their places in its slot.
    pub fn own_places(&self) -> Vec<String> {
        let main = self.main.own_paths.iter().map(|path| format!("main/{path}"));
        let pack = |pack: &PackLock| {
            let at = format!("base/custom_nodes/{}", pack.name);
            // A pack that is one file has no path in it.
            let place = |path: &String| if path.is_empty() { at.clone() } else { format!("{at}/{path}") };
            pack.own_paths.iter().map(place).collect::<Vec<_>>()
        };
        main.chain(self.packs.iter().flat_map(pack)).collect()
    }

    /// How many distributions have each provenance.
    pub fn provenance_counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for d in &self.distributions {
            *counts.entry(d.provenance.name()).or_insert(0) += 1;
        }
        counts
    }
}
