//! scikit-build-core's hook: `install({module: source}, {module: installed file}, build folder, rebuild, …)` (0.5 to 0.12); from 1.0 on the
//! packages' folders and names stand before the build folder. What CMake installs lies in the site directory already, or in a
//! folder of its own; the modules and what is beside them lie in the project. CMake's file API
//! (cmake-file-api(7), which scikit-build-core asks for) says what each product was made of.
use super::plan::{Plan, changed, files_below, json, newer};
use crate::formats::python::literal::{Literal, last_call};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The arguments that matter, of whatever version.
struct Hook<'a> {
    sources: Vec<(&'a str, &'a str)>,
    installed: Vec<(&'a str, &'a str)>,
    /// Each package with its folders.
    folders: Vec<(&'a str, &'a str)>,
    build: &'a str,
    /// Where CMake installs, if not into the site directory.
    install: Option<&'a str>,
}

fn read(arguments: &[Literal]) -> Option<Hook<'_>> {
    let (sources, installed) = (arguments.first()?.texts()?, arguments.get(1)?.texts()?);
    let mut folders = Vec::new();
    if let Some(Literal::Dict(pairs)) = arguments.get(2) {
        for (package, all) in pairs {
            let Literal::Items(all) = all else { return None };
            for folder in all {
                folders.push((package.text()?, folder.text()?));
            }
        }
    }
    let build = arguments[2..].iter().find_map(Literal::text)?;
    let install =
        arguments.last().and_then(Literal::text).filter(|path| path.starts_with('/') && *path != build);
    Some(Hook { sources, installed, folders, build, install })
}

pub fn plan(hook: &str, site: &Path) -> Option<Plan> {
    let arguments = last_call(hook, "install")?;
    let hook = read(&arguments)?;
    let build = PathBuf::from(hook.build);
    let mut plan =
        Plan { stale: stale(&build), build, install: hook.install.map(PathBuf::from), ..Plan::default() };
    // Folders of packages: their data is found beside the modules.
    let mut folders: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for (package, folder) in hook.folders.iter().filter(|(_, folder)| folder.starts_with('/')) {
        if package.split('.').any(str::is_empty) {
            return None;
        }
        folders.entry(package.replace('.', "/")).or_default().insert(folder.into());
    }
    let elsewhere = hook.installed.iter().filter(|(_, file)| file.starts_with('/'));
    for (module, file) in hook.sources.iter().chain(elsewhere) {
        let file = PathBuf::from(file);
        let name = file.file_name()?.to_str()?;
        let path = module.replace('.', "/");
        if path.split('/').any(str::is_empty) {
            return None;
        }
        let folder = match name.starts_with("__init__.") {
            true => path.clone(),
            false => path.rsplit_once('/').map(|(folder, _)| folder.to_string()).unwrap_or_default(),
        };
        if folder.is_empty() {
            plan.files.insert(name.to_string(), file);
            continue;
        }
        folders.entry(folder.clone()).or_default().insert(file.parent()?.to_path_buf());
        plan.files.insert(format!("{folder}/{name}"), file);
    }
    for (package, all) in &folders {
        for folder in all.iter().filter(|folder| folder.is_dir()) {
            files_below(folder, &|_| false, |name, disk| {
                plan.files.entry(format!("{package}/{name}")).or_insert(disk);
            })?;
        }
    }
    // A module that was built and is gone cannot ship.
    hook.installed.iter().all(|(_, file)| site.join(file).is_file()).then_some(plan)
}

/// A source that is newer than what was made of it.
fn stale(build: &Path) -> Option<PathBuf> {
    let reply = build.join(".cmake/api/v1/reply");
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(&reply).ok()?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    let begins = |path: &PathBuf, with: &str| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(with))
    };
    // The newest answer: those of earlier ones may lie there still.
    let model = names.iter().filter(|path| begins(path, "codemodel-v2-")).max_by_key(|path| changed(path))?;
    let model = json(model)?;
    let project = PathBuf::from(model.pointer("/paths/source")?.as_str()?);
    let targets = model.pointer("/configurations/0/targets")?.as_array()?.iter();
    targets.filter_map(|target| json(&reply.join(target.get("jsonFile")?.as_str()?))).find_map(|target| {
        let all = |key: &str| target.get(key).and_then(Value::as_array).into_iter().flatten();
        let written = |source: &&Value| source.get("isGenerated").and_then(Value::as_bool) != Some(true);
        let path = |value: &Value| value.get("path").and_then(Value::as_str).map(str::to_string);
        let sources: Vec<PathBuf> =
            all("sources").filter(written).filter_map(path).map(|path| project.join(path)).collect();
        let product = all("artifacts").find_map(path)?;
        newer(sources, &build.join(product))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_says_where_its_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in [
            "src/pkg/__init__.py",
            "src/pkg/d.txt",
            "src/one.py",
            "site/pkg/_core.so",
            "install/pkg/_core.so",
            "install/pkg/x/y.h",
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let sources = format!("{{'pkg': '{}', 'one': '{}'}}", at("src/pkg/__init__.py"), at("src/one.py"));
        let build = at("build");
        let site = dir.path().join("site");
        let files = |hook: &str| -> Vec<String> {
            let plan = plan(hook, &site).unwrap();
            assert_eq!(plan.build, Path::new(&build));
            plan.files
                .into_iter()
                .map(|(name, disk)| format!("{name} {}", disk.strip_prefix(dir.path()).unwrap().display()))
                .collect()
        };
        let own = ["one.py src/one.py", "pkg/__init__.py src/pkg/__init__.py"];
        let old =
            format!("install({sources}, {{'pkg._core': 'pkg/_core.so'}}, '{build}', True, False, [], [])\n");
        assert_eq!(files(&old), [own[0], own[1], "pkg/d.txt src/pkg/d.txt"]);
        let folders = format!("{{'pkg': ['{}', '{}']}}, ['pkg']", at("src/pkg"), at("install/pkg"));
        let new = format!(
            "def entrypoint() -> None:\n    install({sources}, {{'pkg._core': '{}'}}, {folders}, '{build}', True, False, [], [], '{}')\n",
            at("install/pkg/_core.so"),
            at("install")
        );
        let mut wanted = vec![
            own[0],
            own[1],
            "pkg/_core.so install/pkg/_core.so",
            "pkg/d.txt src/pkg/d.txt",
            "pkg/x/y.h install/pkg/x/y.h",
        ];
        wanted.sort_unstable();
        assert_eq!(files(&new), wanted);
        assert_eq!(plan(&new, &site).unwrap().install, Some(dir.path().join("install")));
        assert_eq!(plan(&old.replace("pkg/_core.so", "pkg/gone.so"), &site), None);
    }
}
