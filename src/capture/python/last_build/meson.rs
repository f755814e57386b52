//! meson-python's hook: `install(…, {modules}, build folder, build command, verbose)` (0.13 to 0.18), or the same of
//! `MesonpyMetaFinder` (from 0.19 on). What it serves is what Meson's introspection calls the install plan (`meson-info/intro-install_plan.json`): the products in the build folder and
//! the sources in the project, each with its place in the site directory.
use super::plan::{Plan, files_below, json, newer};
use crate::formats::python::literal::{Literal, last_call};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub fn plan(hook: &str, project: &Path) -> Option<Plan> {
    let arguments = ["install", "MesonpyMetaFinder"].iter().find_map(|call| last_call(hook, call))?;
    // Newer versions have the package's name before the modules.
    let modules = arguments.iter().position(|argument| matches!(argument, Literal::Items(_)))?;
    let build = PathBuf::from(arguments.get(modules + 1)?.text()?);
    if !build.is_absolute() {
        return None;
    }
    let mut plan = Plan { stale: stale(&build, project), build, ..Plan::default() };
    let info = plan.build.join("meson-info/intro-install_plan.json");
    for (kind, sources) in json(&info)?.as_object()? {
        for (source, target) in sources.as_object()? {
            let Some(place) = place(target.get("destination")?.as_str()?) else { continue };
            let source = PathBuf::from(source);
            let folder = kind == "install_subdirs" || (kind == "targets" && source.is_dir());
            if !folder {
                plan.files.insert(place, source);
                continue;
            }
            let listed = |key: &str| -> Vec<String> {
                let all = target.get(key).and_then(Value::as_array).into_iter().flatten();
                all.filter_map(|one| Some(one.as_str()?.to_string())).collect()
            };
            let left = [listed("exclude_files"), listed("exclude_dirs")].concat();
            let skip = |name: &str| left.iter().any(|out| out == name);
            files_below(&source, &skip, |name, disk| {
                plan.files.insert(format!("{place}/{name}"), disk);
            })?;
        }
    }
    Some(plan)
}

/// Where in a site directory. Scripts, data and headers have other schemes, which an editable install lacks.
fn place(destination: &str) -> Option<String> {
    let (scheme, rest) = destination.split_once('/')?;
    let inside = !rest.split('/').any(|part| matches!(part, "" | "." | ".."));
    (matches!(scheme, "{py_platlib}" | "{py_purelib}") && inside).then(|| rest.to_string())
}

/// A source, or a file that describes the build, that is newer than what was made of it.
fn stale(build: &Path, project: &Path) -> Option<PathBuf> {
    let texts = |value: &Value| -> Vec<PathBuf> {
        let all = value.as_array().into_iter().flatten();
        // Names may begin at the project.
        all.filter_map(|one| Some(project.join(one.as_str()?))).collect()
    };
    let description = json(&build.join("meson-info/intro-buildsystem_files.json"));
    let described = description.map(|files| texts(&files)).unwrap_or_default();
    newer(described, &build.join("build.ninja")).or_else(|| {
        let targets = json(&build.join("meson-info/intro-targets.json"))?;
        targets.as_array()?.iter().find_map(|target| {
            let groups = target.get("target_sources").and_then(Value::as_array).into_iter().flatten();
            let sources: Vec<PathBuf> =
                groups.filter_map(|group| group.get("sources")).flat_map(texts).collect();
            let product = texts(target.get("filename")?).into_iter().next()?;
            newer(sources, &product)
        })
    })
}
