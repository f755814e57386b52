//! The shared libraries of programs. Programs that would load the same file for each name share a tree of them.
use crate::capture::runtime::closure::{Resolver, inspect};
use crate::capture::runtime::{Tree, add_c_library, beside_the_others};
use crate::sys::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name that is asked for, to the file that is loaded.
pub type Libraries = BTreeMap<String, PathBuf>;

/// A program that a dynamic linker loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    pub file: PathBuf,
    pub libraries: Libraries,
    /// The name of its linker among them.
    pub loader: String,
    /// What it needs and this machine does not have: `libx.so.1 (/usr/lib/liby.so.2 needs it)`.
    pub missing: Vec<String>,
}

impl Native {
    /// None: it needs no linker, or is no program.
    pub fn of(file: &Path) -> Result<Option<Native>> {
        let info = inspect(file)?;
        let Some(interp) = info.interp.filter(|_| info.class64 && info.is_executable) else {
            return Ok(None);
        };
        let mut resolver = Resolver::for_program(file)?;
        let interp = std::fs::canonicalize(&interp).map_err(|e| Error::io("resolve", &interp, e))?;
        let gnu = interp.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-linux"));
        // Other C libraries are a single file.
        if gnu {
            add_c_library(&mut resolver)?;
        }
        let closure = resolver.finish();
        let named =
            |(name, path): (String, PathBuf)| (name.rsplit('/').next().unwrap_or_default().to_string(), path);
        let libraries: Libraries = closure.found.into_iter().map(named).collect();
        let loader = libraries.iter().find(|(_, path)| **path == interp).map(|(name, _)| name.clone());
        let loader = loader.ok_or_else(|| {
            let text = format!("{} is loaded by {}, which has no name", file.display(), interp.display());
            Error::new(Kind::Environment, text)
        })?;
        let missing = closure.unresolved.iter();
        let missing = missing.map(|lost| format!("{} ({} needs it)", lost.library, lost.file.display()));
        Ok(Some(Native { file: file.to_path_buf(), libraries, loader, missing: missing.collect() }))
    }
}

/// Sets of libraries in each of which a name is one file.
#[derive(Debug, Default)]
pub struct Groups(pub Vec<Libraries>);

impl Groups {
    /// The first set that agrees with all of a program's. For one that has joined it is the same for ever: what
    /// disagrees stays in its set.
    pub fn of(&self, libraries: &Libraries) -> Option<usize> {
        let agrees = |group: &Libraries| {
            libraries.iter().all(|(name, path)| group.get(name).is_none_or(|other| other == path))
        };
        self.0.iter().position(agrees)
    }

    /// That set has all of them from now on.
    pub fn join(&mut self, libraries: &Libraries) {
        let at = self.of(libraries);
        match at.and_then(|at| self.0.get_mut(at)) {
            Some(group) => group.extend(libraries.iter().map(|(name, path)| (name.clone(), path.clone()))),
            None => self.0.push(libraries.clone()),
        }
    }
}

/// `lib/NAME` of each.
pub fn tree(libraries: &Libraries) -> Result<Tree> {
    let file = |(name, path): (&String, &PathBuf)| {
        Ok((format!("lib/{name}"), beside_the_others(path, name.starts_with("ld-"))?))
    };
    libraries.iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_share_what_they_agree_on() {
        let of = |pairs: &[(&str, &str)]| -> Libraries {
            pairs.iter().map(|(name, path)| (name.to_string(), PathBuf::from(path))).collect()
        };
        let mut groups = Groups::default();
        // Another file of that name: both are right, each for its program.
        let programs = [
            of(&[("libc.so.6", "/lib/libc"), ("libz.so.1", "/lib/libz")]),
            of(&[("libc.so.6", "/lib/libc"), ("libz.so.1", "/opt/libz")]),
            of(&[("libc.so.6", "/lib/libc"), ("libq.so", "/lib/libq")]),
            of(&[("libz.so.1", "/opt/libz")]),
        ];
        programs.iter().for_each(|libraries| groups.join(libraries));
        let homes: Vec<Option<usize>> = programs.iter().map(|libraries| groups.of(libraries)).collect();
        assert_eq!(homes, [Some(0), Some(1), Some(0), Some(1)]);
        let names: Vec<Vec<&String>> = groups.0.iter().map(|group| group.keys().collect()).collect();
        assert_eq!(names, [vec!["libc.so.6", "libq.so", "libz.so.1"], vec!["libc.so.6", "libz.so.1"]]);
    }

    #[test]
    fn a_programs_libraries_are_all_there_and_its_linker_is_one_of_them() {
        let me = std::env::current_exe().unwrap();
        let native = Native::of(&me).unwrap().unwrap();
        assert!(native.missing.is_empty(), "{native:?}");
        assert!(native.loader.starts_with("ld-linux") && native.libraries.contains_key(&native.loader));
        // Opened by the C library itself.
        assert!(native.libraries.contains_key("libnss_dns.so.2"));
        assert_eq!(Native::of(&native.libraries["libc.so.6"]).unwrap(), None);
    }
}
