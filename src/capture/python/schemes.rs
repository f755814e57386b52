//! Install schemes: each site directory of an environment, in the order of `sys.path`, with the places of scripts, headers
//! and data that belong to it.
use crate::capture::python::installed::Scheme;
use crate::capture::python::interpreter::InterpreterFacts;
use std::path::{Path, PathBuf};

/// Every site directory that is there: those that PYTHONPATH names, then those that the interpreter looks in by itself.
/// `executable` is the interpreter as it was found.
pub fn of(facts: &InterpreterFacts, executable: &Path, path: &[PathBuf]) -> Vec<Scheme> {
    let version = format!("python{}", facts.short_version());
    let interpreter = std::fs::canonicalize(executable).unwrap_or_else(|_| facts.executable.clone());
    let own = own(facts);
    let flat = path.iter().filter(|site| !own.contains(site)).map(|site| Scheme {
        site: site.clone(),
        scripts: site.join("bin"),
        headers: site.join("include").join(&version),
        data: site.clone(),
        interpreter: interpreter.clone(),
    });
    let usual = own.iter().map(|site| {
        // `PREFIX/lib/pythonX.Y/site-packages`, or Debian's `PREFIX/lib/python3/dist-packages`.
        let prefix = site.ancestors().nth(3).map_or_else(|| facts.prefix.clone(), Path::to_path_buf);
        // The user's headers lie elsewhere than an environment's.
        let headers = if facts.user_site.as_ref() == Some(site) { "include" } else { "include/site" };
        Scheme {
            site: site.clone(),
            scripts: prefix.join("bin"),
            headers: prefix.join(headers).join(&version),
            data: prefix,
            interpreter: interpreter.clone(),
        }
    });
    flat.chain(usual).collect()
}

/// Those that the interpreter looks in by itself and that are there. One folder with two names (`lib64` is mostly a link to
/// `lib`) is one: by the name that goes through no link, at the place of the first.
fn own(facts: &InterpreterFacts) -> Vec<PathBuf> {
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    for site in facts.sites.iter().filter(|site| site.is_dir()) {
        let Ok(real) = site.canonicalize() else { continue };
        match found.iter_mut().find(|(_, other)| *other == real) {
            Some((name, _)) => {
                if links(name) > links(site) {
                    name.clone_from(site);
                }
            }
            None => found.push((site.clone(), real)),
        }
    }
    found.into_iter().map(|(site, _)| site).collect()
}

fn links(path: &Path) -> usize {
    path.ancestors().filter(|at| at.is_symlink()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_interpreter_says_where_its_own_packages_are() {
        let root = tempfile::tempdir().unwrap();
        let at = |text: &str| root.path().join(text);
        // As Fedora has them; one is not there.
        let names = [
            "local/lib64/python3.13/site-packages",
            "lib64/python3.13/site-packages",
            "lib/python3.13/site-packages",
        ];
        std::fs::create_dir_all(at(names[2])).unwrap();
        let facts = json!({
            "version": [3, 13, 1], "full_version": "3.13.1", "implementation": "cpython", "cache_tag": "cpython-313",
            "ext_suffix": ".so", "platform": "linux", "machine": "x86_64", "platlibdir": "lib64", "base_prefix": root.path(),
            "stdlib": at("lib64/python3.13"), "platstdlib": at("lib64/python3.13"), "executable": at("bin/python3"),
            "scheme_names": [], "markers": {}, "prefix": root.path(), "sites": names.map(at),
        });
        let mut facts: InterpreterFacts = serde_json::from_value(facts).unwrap();
        let found = |facts: &InterpreterFacts, path: &[PathBuf]| -> Vec<(PathBuf, PathBuf)> {
            of(facts, &at("bin/python3"), path).into_iter().map(|s| (s.site, s.scripts)).collect()
        };
        // As in a virtual environment there.
        std::os::unix::fs::symlink("lib", at("lib64")).unwrap();
        assert_eq!(found(&facts, &[]), [(at(names[2]), at("bin"))]);
        std::fs::remove_file(at("lib64")).unwrap();
        std::fs::create_dir_all(at(names[1])).unwrap();
        assert_eq!(found(&facts, &[]), [(at(names[1]), at("bin")), (at(names[2]), at("bin"))]);
        let flat = at("flat");
        assert_eq!(found(&facts, std::slice::from_ref(&flat))[0], (flat.clone(), flat.join("bin")));
        facts.sites.clear();
        assert_eq!(found(&facts, &[]), []);
    }
}
