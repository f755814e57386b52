//! Where installers have put things: each site directory of an environment, in the order of `sys.path`,
//! with the places of scripts, headers and data that belong to it.
use crate::capture::environment::{PythonLocation, Variables};
use crate::capture::installed::Scheme;
use crate::capture::interpreter::InterpreterFacts;
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
        // An interpreter that is no virtual environment: its own site-packages, or Debian's.
        let own = prefix.join("lib").join(&version).join("site-packages");
        let debian = [
            PathBuf::from("/usr/local/lib").join(&version).join("dist-packages"),
            PathBuf::from("/usr/lib/python3/dist-packages"),
        ];
        if own.is_dir() || !prefix.starts_with("/usr") {
            vec![own]
        } else {
            debian.into_iter().filter(|p| p.is_dir()).collect()
        }
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
