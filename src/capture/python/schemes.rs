//! Where installers have put things: each site directory of an environment, in the order of `sys.path`,
//! with the places of scripts, headers and data that belong to it.
use crate::capture::python::find::{PythonLocation, Variables};
use crate::capture::python::installed::Scheme;
use crate::capture::python::interpreter::InterpreterFacts;
use std::path::{Path, PathBuf};

/// Every site directory, and the user's own if that is one of them.
pub fn of(
    location: &PythonLocation,
    facts: &InterpreterFacts,
    variables: &Variables<'_>,
) -> (Vec<Scheme>, Option<PathBuf>) {
    let version = format!("python{}", facts.short_version());
    let prefix = location.venv.clone().unwrap_or_else(|| facts.base_prefix.clone());
    let mut sites = if location.site_packages.is_empty() {
        // An interpreter that is no virtual environment.
        let there: Vec<PathBuf> = facts.sites.iter().filter(|site| site.is_dir()).cloned().collect();
        if there.is_empty() { vec![prefix.join("lib").join(&version).join("site-packages")] } else { there }
    } else {
        location.site_packages.clone()
    };
    let interpreter =
        std::fs::canonicalize(&location.executable).unwrap_or_else(|_| facts.executable.clone());
    let user = user_site(location, facts, variables);
    if let Some(user) = &user {
        let own = |site: &PathBuf| location.venv.as_ref().is_some_and(|venv| site.starts_with(venv));
        let at = sites.iter().position(|site| !own(site)).unwrap_or(sites.len());
        sites.insert(at, user.clone());
    }
    let schemes = sites
        .into_iter()
        .map(|site| {
            // `PREFIX/lib/pythonX.Y/site-packages`, or Debian's `PREFIX/lib/python3/dist-packages`.
            let prefix = site.ancestors().nth(3).map_or_else(|| prefix.clone(), Path::to_path_buf);
            // The user's headers lie elsewhere than an environment's.
            let headers = if user.as_ref() == Some(&site) { "include" } else { "include/site" };
            Scheme {
                site,
                scripts: prefix.join("bin"),
                headers: prefix.join(headers).join(&version),
                data: prefix,
                interpreter: interpreter.clone(),
            }
        })
        .collect();
    (schemes, user)
}

/// What `pip install --user` fills (`site` module, ENABLE_USER_SITE): looked in before the system's own
/// site-packages, and not at all by a virtual environment that does not include those.
fn user_site(
    location: &PythonLocation,
    facts: &InterpreterFacts,
    variables: &Variables<'_>,
) -> Option<PathBuf> {
    let set = |name: &str| variables(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if (location.venv.is_some() && !location.system) || set("PYTHONNOUSERSITE").is_some() {
        return None;
    }
    let base = set("PYTHONUSERBASE").or_else(|| Some(set("HOME")?.join(".local")))?;
    let site = base.join(format!("lib/python{}/site-packages", facts.short_version()));
    site.is_dir().then_some(site)
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
        for name in &names[1..] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let facts = json!({
            "version": [3, 13, 1], "full_version": "3.13.1", "implementation": "cpython", "cache_tag": "cpython-313",
            "ext_suffix": ".so", "platform": "linux", "machine": "x86_64", "platlibdir": "lib64", "base_prefix": root.path(),
            "stdlib": at("lib64/python3.13"), "platstdlib": at("lib64/python3.13"), "executable": at("bin/python3"),
            "scheme_names": [], "markers": {}, "sites": names.map(at),
        });
        let mut facts: InterpreterFacts = serde_json::from_value(facts).unwrap();
        let location = PythonLocation {
            executable: at("bin/python3"),
            venv: None,
            site_packages: vec![],
            system: false,
            how: crate::capture::python::find::FoundBy::Given,
        };
        let found = |facts: &InterpreterFacts| -> Vec<(PathBuf, PathBuf)> {
            of(&location, facts, &|_| None).0.into_iter().map(|s| (s.site, s.scripts)).collect()
        };
        assert_eq!(found(&facts), [(at(names[1]), at("bin")), (at(names[2]), at("bin"))]);
        facts.sites.clear();
        assert_eq!(found(&facts), [(at(names[2]), at("bin"))]);
    }
}
