//! Editable installs that are built anew at each import (meson-python, scikit-build-core). A store is read-only and has no compiler: in
//! place of the hook that builds, what its last build made ships, laid out as the install would be. The hook says where that
//! is, and is read as text. Where it cannot be read, or something of the build is missing, the install stays as it is, and
//! `import_hooks` says that it does not import.
mod meson;
mod plan;
mod scikit;

use crate::capture::files::left_out::LeftOut;
use crate::capture::files::paths::{finding, read_small};
use crate::capture::files::rules;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::import_hooks;
use crate::capture::python::installed::{Installed, LastBuild, Owned};
use crate::words::show;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Gives an editable install the files of its last build in place of its hook.
pub fn take(one: &mut Installed, left_out: &LeftOut) {
    if !import_hooks::editable(one) {
        return;
    }
    let Some((hook, text, builder)) = import_hooks::hook(one) else { return };
    let Some(project) = one.direct_url.as_ref().and_then(|direct| direct.path()) else { return };
    let plan = match builder {
        import_hooks::MESON => meson::plan(&text, &project),
        _ => scikit::plan(&text, &one.scheme.site),
    };
    let Some(plan) = plan else { return };
    let roots = [Some(&plan.build), Some(&project), plan.install.as_ref()];
    let roots: Vec<PathBuf> =
        roots.into_iter().flatten().filter_map(|folder| folder.canonicalize().ok()).collect();
    // A hook that names the machine's own folders would have them ship.
    let wide = |root: &PathBuf| {
        root.components().count() < 3
            || one.scheme.site.starts_with(root)
            || project.starts_with(root) && **root != project
    };
    if roots.iter().any(wide) {
        return;
    }
    let mut files = BTreeMap::new();
    for (name, disk) in plan.files {
        let Ok(real) = disk.canonicalize() else { return };
        // What lies elsewhere is not the project's.
        if !real.is_file() || !roots.iter().any(|root| real.starts_with(root)) {
            return;
        }
        if !rules::within_litter(name.as_bytes()) && !left_out.has(&real) {
            files.insert(name, Owned { disk, stated: None });
        }
    }
    if files.is_empty() {
        return;
    }
    let module = hook.strip_suffix(".py").unwrap_or(&hook).to_string();
    let own = |name: &String, disk: &Path| {
        *name == hook
            || *name == format!("{module}.start")
            || (name.ends_with(".pth") && only_begins(disk, &module))
    };
    let hooks = one.files.iter().filter(|(name, file)| own(name, &file.disk));
    let hooks: BTreeMap<String, PathBuf> =
        hooks.map(|(name, file)| (name.clone(), file.disk.clone())).collect();
    one.files.retain(|name, _| !hooks.contains_key(name));
    for (name, file) in files {
        one.files.entry(name).or_insert(file);
    }
    let from = project.display();
    one.reason = Some(format!(
        "editable install of {from} by {builder}, which builds it at each import: what its last build made ships, without that hook"
    ));
    one.last_build = Some(LastBuild { hooks: hooks.into_values().collect(), roots, stale: plan.stale });
}

/// Whether a `.pth` file does nothing but begin a hook, for what its further lines name.
fn only_begins(file: &Path, module: &str) -> bool {
    let text = read_small(file, 1 << 16).and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(text) = text else { return false };
    let mut imports = text.lines().filter_map(|line| line.trim().strip_prefix("import "));
    // Newer hooks are begun by a call behind that: `import hook; hook.init()`.
    let begins = imports.next().and_then(|line| line.split(';').next()).map(str::trim) == Some(module);
    begins && imports.next().is_none()
}

/// What the report says of builds that are older than their sources.
pub fn findings(all: &[Installed]) -> Vec<Finding> {
    let about = |one: &Installed| {
        let source = one.last_build.as_ref()?.stale.as_ref()?;
        let message = format!(
            "stale: {} is newer than what was built of it, and what was built ships; import {} once in the environment, which builds it",
            show(source.as_os_str().as_bytes()),
            one.name
        );
        Some(finding(Severity::Warning, Topic::Imports, one.name.clone(), message))
    };
    all.iter().filter_map(about).collect()
}
