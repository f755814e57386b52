//! The standard library and the headers as they lie on disk, without what belongs to the host, what
//! only tests it, and what is compiled again later.
use std::path::{Component, Path, PathBuf};

use super::{RuntimeFile, Tree};
use crate::sys::error::{Error, Kind, Result};

/// Tests of the standard library, a fifth of its files.
const TESTS: [&str; 9] = [
    "test",
    "ctypes/test",
    "distutils/tests",
    "idlelib/idle_test",
    "lib2to3/tests",
    "sqlite3/test",
    "tkinter/test",
    "turtledemo",
    "unittest/test",
];

const TEST_MODULES: [&str; 4] = ["_test", "_ctypes_test", "_xxtestfuzz", "xxlimited"];

/// Whether a path of the standard library stays out, and why if that is worth telling.
fn verdict(relative: &str) -> Option<Option<&'static str>> {
    let (first, name) =
        (relative.split('/').next().unwrap_or_default(), relative.rsplit('/').next().unwrap_or_default());
    let top = !relative.contains('/');
    if name == "__pycache__" || (top && name == "lib-dynload") {
        // Bytecode is compiled anew; extension modules are patched and added apart.
        return Some(None);
    }
    if top && matches!(name, "site-packages" | "dist-packages") {
        return Some(None);
    }
    if TESTS.contains(&relative) {
        return Some(Some("tests and demonstrations of the standard library"));
    }
    if top && matches!(name, "sitecustomize.py" | "usercustomize.py") {
        return Some(Some("configuration of this machine"));
    }
    if top && name == "EXTERNALLY-MANAGED" {
        return Some(Some("a mark for this machine's package manager"));
    }
    let link_time = name.ends_with(".a") || name.ends_with(".o") || name.starts_with("libpython");
    if first.starts_with("config-") && link_time {
        return Some(Some("only for linking Python into another program"));
    }
    None
}

/// Files of the standard library under `dest` (`lib/python3.11`).
pub fn standard_library(
    stdlib: &Path,
    dest: &str,
    tree: &mut Tree,
    left_out: &mut Vec<String>,
) -> Result<()> {
    let mut walk = Walk::new(stdlib, dest, &verdict, tree, left_out)?;
    walk.directory(stdlib, "", 0)?;
    if !walk.tree.contains_key(&format!("{dest}/os.py")) {
        return Err(Error::new(
            Kind::Environment,
            format!("the standard library at {} has no os.py", stdlib.display()),
        )
        .hint("an installation whose standard library is a zip file cannot be captured"));
    }
    Ok(())
}

/// Extension modules of the standard library, not yet patched: name and real file.
pub fn extension_modules(lib_dynload: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut modules = Vec::new();
    for (name, path) in entries(lib_dynload)? {
        let test = TEST_MODULES.iter().any(|prefix| name.starts_with(prefix));
        if name.ends_with(".so") && !test {
            let real = std::fs::canonicalize(&path).map_err(|e| Error::io("resolve", &path, e))?;
            modules.push((name, real));
        }
    }
    Ok(modules)
}

/// The C headers, which some packages compile against while they run. Debian keeps `pyconfig.h` in
/// a directory per architecture and includes it from there.
pub fn headers(
    include: &Path,
    multiarch: Option<&str>,
    tree: &mut Tree,
    left_out: &mut Vec<String>,
) -> Result<()> {
    let Some(name) = include.file_name().and_then(|n| n.to_str()) else {
        return Ok(());
    };
    let dest = format!("include/{name}");
    Walk::new(include, &dest, &|_| None, tree, left_out)?.directory(include, "", 0)?;
    if let (Some(arch), Some(parent)) = (multiarch, include.parent()) {
        let split = parent.join(arch).join(name);
        if split.is_dir() {
            let dest = format!("{dest}/{arch}/{name}");
            Walk::new(&split, &dest, &|_| None, tree, left_out)?.directory(&split, "", 0)?;
        }
    }
    Ok(())
}

type Verdict<'a> = &'a dyn Fn(&str) -> Option<Option<&'static str>>;

struct Walk<'a> {
    root: PathBuf,
    dest: &'a str,
    verdict: Verdict<'a>,
    tree: &'a mut Tree,
    left_out: &'a mut Vec<String>,
}

impl<'a> Walk<'a> {
    fn new(
        root: &Path,
        dest: &'a str,
        verdict: Verdict<'a>,
        tree: &'a mut Tree,
        left_out: &'a mut Vec<String>,
    ) -> Result<Walk<'a>> {
        let root = std::fs::canonicalize(root).map_err(|e| Error::io("resolve", root, e))?;
        Ok(Walk { root, dest, verdict, tree, left_out })
    }

    fn directory(&mut self, dir: &Path, relative: &str, depth: usize) -> Result<()> {
        if depth > 32 {
            return Err(Error::new(
                Kind::Environment,
                format!("{} lies too deep: a link into its own parent?", dir.display()),
            ));
        }
        for (name, path) in entries(dir)? {
            let relative = if relative.is_empty() { name } else { format!("{relative}/{name}") };
            if let Some(why) = (self.verdict)(&relative) {
                if let Some(why) = why {
                    self.left_out.push(format!("{}/{relative}: {why}", self.dest));
                }
                continue;
            }
            self.entry(&path, &relative, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, relative: &str, depth: usize) -> Result<()> {
        let io = |e| Error::io("look at", path, e);
        let found = std::fs::symlink_metadata(path).map_err(io)?;
        if found.is_symlink() {
            let target = std::fs::read_link(path).map_err(io)?;
            let Ok(real) = std::fs::canonicalize(path) else {
                self.left_out.push(format!("{}/{relative}: a link to nothing", self.dest));
                return Ok(());
            };
            if self.stays_inside(&target, &real) {
                let target = target.to_string_lossy().into_owned();
                self.insert(relative, RuntimeFile::Symlink { target });
                return Ok(());
            }
        }
        // From here on a link counts as what it leads to: its target is not in the tree.
        let found = std::fs::metadata(path).map_err(io)?;
        if found.is_dir() {
            self.directory(path, relative, depth + 1)
        } else if found.is_file() {
            let path = std::fs::canonicalize(path).map_err(io)?;
            self.insert(relative, RuntimeFile::on_disk(path, &found));
            Ok(())
        } else {
            self.left_out.push(format!("{}/{relative}: neither file nor directory", self.dest));
            Ok(())
        }
    }

    /// Only a plain relative link, whose target is taken along, is kept as a link.
    fn stays_inside(&self, target: &Path, real: &Path) -> bool {
        let plain = target.to_str().is_some()
            && target.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        let Some(relative) = real.strip_prefix(&self.root).ok().and_then(Path::to_str) else {
            return false;
        };
        let mut upto = String::new();
        let kept = relative.split('/').all(|part| {
            if !upto.is_empty() {
                upto.push('/');
            }
            upto.push_str(part);
            (self.verdict)(&upto).is_none()
        });
        plain && kept
    }

    fn insert(&mut self, relative: &str, file: RuntimeFile) {
        self.tree.insert(format!("{}/{relative}", self.dest), file);
    }
}

/// The entries of a directory in order of name.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        let name = entry.file_name().into_string().map_err(|name| {
            Error::new(Kind::Environment, format!("the name of {} is not UTF-8", dir.join(&name).display()))
        })?;
        found.push((name, entry.path()));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_belongs_to_the_host_stays_out() {
        let dir = tempfile::tempdir().expect("temp dir");
        let lib = dir.path().join("python3.99");
        let host = dir.path().join("host.py");
        std::fs::write(&host, "host").expect("write");
        for file in [
            "os.py",
            "json/__init__.py",
            "json/__pycache__/x.pyc",
            "test/regrtest.py",
            "unittest/test/x.py",
            "unittest/case.py",
            "site-packages/numpy.py",
            "config-3.99-x86_64-linux-gnu/libpython3.99.a",
            "config-3.99-x86_64-linux-gnu/Makefile",
            "EXTERNALLY-MANAGED",
        ] {
            let path = lib.join(file);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, file).expect("write");
        }
        symlink(&host, lib.join("sitecustomize.py")).expect("link");
        symlink(&host, lib.join("followed.py")).expect("link");
        symlink("os.py", lib.join("kept.py")).expect("link");
        symlink("test/regrtest.py", lib.join("copied.py")).expect("link");
        symlink("nowhere", lib.join("dangling.py")).expect("link");

        let (mut tree, mut left_out) = (Tree::new(), Vec::new());
        standard_library(&lib, "lib/python3.99", &mut tree, &mut left_out).expect("walk");
        let names: Vec<&str> = tree.keys().filter_map(|k| k.strip_prefix("lib/python3.99/")).collect();
        assert_eq!(
            names,
            [
                "config-3.99-x86_64-linux-gnu/Makefile",
                "copied.py",
                "followed.py",
                "json/__init__.py",
                "kept.py",
                "os.py",
                "unittest/case.py"
            ]
        );
        let file = |name: &str| &tree[&format!("lib/python3.99/{name}")];
        assert!(matches!(file("kept.py"), RuntimeFile::Symlink { target } if target == "os.py"));
        assert!(matches!(file("copied.py"), RuntimeFile::Disk { .. }));
        assert!(matches!(file("followed.py"), RuntimeFile::Disk { .. }));
        assert!(left_out.iter().any(|l| l.contains("sitecustomize.py")), "{left_out:?}");
        assert!(left_out.iter().any(|l| l.contains("dangling.py")), "{left_out:?}");
    }
}
