//! Installations without a wheel: `setup.py install` and `develop`, and what pip made of them before it built wheels. They
//! have no RECORD: an `.egg-info` names its files in installed-files.txt, or only its top levels; an egg is a folder or a zip
//! archive of its own, which a `.pth` file puts on the path; an egg-link stands for a project somewhere else.
use crate::capture::files::paths::{lexical, read_at_most, read_small};
use crate::capture::model::report::Finding;
use crate::capture::python::installed::{Installed, LONGEST, Scheme, is_interpreter, read_scripts};
use crate::capture::python::leftover;
use crate::capture::python::pth;
use crate::formats::python::metadata::Metadata;
use crate::formats::python::name::normalize;
use crate::formats::python::zip_directory;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// No script is larger.
const SCRIPT_LIMIT: u64 = 1 << 20;

/// Gives a distribution without a RECORD the files that its metadata folder `dir` names.
pub fn own(installed: &mut Installed, dir: &Path, findings: &mut Vec<Finding>) {
    if let Some(listed) = lines(&dir.join("installed-files.txt")) {
        for line in listed {
            installed.own(lexical(&dir.join(line)), None, findings);
        }
        return;
    }
    let site = installed.scheme.site.clone();
    let tops = lines(&dir.join("top_level.txt")).unwrap_or_default();
    let tops = tops.into_iter().filter(|top| !top.contains('/') && top != "..");
    let mut roots: Vec<PathBuf> =
        tops.flat_map(|top| [site.join(&top), site.join(format!("{top}.py"))]).collect();
    roots.push(dir.to_path_buf());
    for source in lines(&dir.join("SOURCES.txt")).unwrap_or_default() {
        let (folder, name) = source.rsplit_once('/').unwrap_or(("", &source));
        let path = lexical(&site.join(&source));
        if !folder.is_empty() && path.starts_with(&site) && path.is_file() {
            roots.push(path);
        } else if matches!(folder, "" | "bin" | "scripts") {
            script(installed, name, |text| first_line(text).contains("python"), findings);
        }
    }
    below(installed, roots, findings);
}

fn lines(path: &Path) -> Option<Vec<String>> {
    let bytes = read_small(path, LONGEST)?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect())
}

fn first_line(text: &str) -> &str {
    text.strip_prefix("#!").and_then(|rest| rest.lines().next()).unwrap_or_default()
}

/// Takes the script of a name, if it lies there and is the distribution's by what it says.
fn script(installed: &mut Installed, name: &str, own: impl Fn(&str) -> bool, findings: &mut Vec<Finding>) {
    let path = installed.scheme.scripts.join(name);
    if name.is_empty() || installed.scripts.contains_key(name) || is_interpreter(name) {
        return;
    }
    let text = read_small(&path, SCRIPT_LIMIT).unwrap_or_default();
    if std::str::from_utf8(&text).is_ok_and(own) {
        installed.own(path, None, findings);
    }
}

fn below(installed: &mut Installed, mut stack: Vec<PathBuf>, findings: &mut Vec<Finding>) {
    while let Some(path) = stack.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            if let Ok(entries) = fs::read_dir(&path) {
                stack.extend(entries.flatten().map(|e| e.path()));
            }
        } else if meta.is_file() {
            installed.own(path, None, findings);
        }
    }
}

/// The eggs and egg-links of a site directory, `names` being what is in it, sorted. Only what a `.pth` file names is on the
/// path; what is not, and what has the name of a distribution that is `known`, stays a file like any other.
pub fn eggs(
    scheme: &Scheme,
    names: &[&str],
    known: &[Installed],
    findings: &mut Vec<Finding>,
) -> Vec<Installed> {
    let eggs: Vec<&&str> =
        names.iter().filter(|name| name.ends_with(".egg") || name.ends_with(".egg-link")).collect();
    let mut found: Vec<Installed> = Vec::new();
    if eggs.is_empty() {
        return found;
    }
    let on_path = pth::named(&scheme.site);
    for name in eggs {
        let path = scheme.site.join(name);
        let one = match name.ends_with(".egg") {
            true if on_path.contains(&path) => egg(scheme, name, &path, findings),
            true => None,
            false => link(scheme, name, &path, findings)
                .filter(|(_, folder)| on_path.contains(folder))
                .map(|l| l.0),
        };
        let Some(one) = one else { continue };
        if !known.iter().chain(&found).any(|other| other.name == one.name) {
            found.push(one);
        }
    }
    found
}

/// The metadata of an egg, by name in EGG-INFO.
fn metadata_of(path: &Path) -> Option<BTreeMap<String, Vec<u8>>> {
    if path.is_dir() {
        let info = path.join("EGG-INFO");
        let mut found = BTreeMap::new();
        for name in ["PKG-INFO", "entry_points.txt"] {
            found.extend(read_small(&info.join(name), LONGEST).map(|bytes| (name.to_string(), bytes)));
        }
        let scripts = fs::read_dir(info.join("scripts")).into_iter().flatten().flatten();
        let names = scripts.filter_map(|entry| entry.file_name().into_string().ok());
        found.extend(names.map(|name| (format!("scripts/{name}"), Vec::new())));
        return Some(found);
    }
    let bytes = read_at_most(path, LONGEST).ok()?;
    let location = zip_directory::locate(&bytes, bytes.len() as u64).ok()?;
    let at = usize::try_from(location.offset).ok()?;
    let directory = bytes.get(at..at.checked_add(usize::try_from(location.size).ok()?)?)?;
    let mut found = BTreeMap::new();
    for entry in zip_directory::parse(directory, &location).ok()? {
        let Some(name) = entry.name.strip_prefix("EGG-INFO/").filter(|_| !entry.is_directory()) else {
            continue;
        };
        let from = bytes.get(usize::try_from(entry.offset).ok()?..)?;
        found.insert(name.to_string(), zip_directory::unpack(&entry, from, LONGEST).ok()?);
    }
    Some(found)
}

fn egg(scheme: &Scheme, name: &str, path: &Path, findings: &mut Vec<Finding>) -> Option<Installed> {
    let inside = metadata_of(path)?;
    let metadata = Metadata::parse(inside.get("PKG-INFO")?).ok()?;
    let mut one = Installed::new(metadata, scheme, name);
    one.reason = Some("an egg, as `setup.py install` makes it: no index has it as a wheel".into());
    if let Some(points) = inside.get("entry_points.txt") {
        read_scripts(&mut one, points, findings);
    }
    for file in inside.keys().filter_map(|file| file.strip_prefix("scripts/")) {
        script(&mut one, file, |text| text.contains("EASY-INSTALL-SCRIPT"), findings);
    }
    below(&mut one, vec![path.to_path_buf()], findings);
    Some(one)
}

/// What `setup.py develop` installs, and the folder that it puts on the path: that is captured as any other that a `.pth`
/// file names.
fn link(
    scheme: &Scheme,
    name: &str,
    path: &Path,
    findings: &mut Vec<Finding>,
) -> Option<(Installed, PathBuf)> {
    let folder = lexical(&scheme.site.join(lines(path)?.first()?));
    let wanted = normalize(name.trim_end_matches(".egg-link"));
    let listed =
        fs::read_dir(&folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let of_it = |info: &String| info.ends_with(".egg-info") && normalize(leftover::named(info)) == wanted;
    let info = folder.join(listed.filter(of_it).min()?);
    let metadata = Metadata::parse(&read_small(&info.join("PKG-INFO"), LONGEST)?).ok()?;
    let mut one = Installed::new(metadata, scheme, name);
    one.reason = Some("an editable install, as `setup.py develop` makes it".into());
    if let Some(points) = read_small(&info.join("entry_points.txt"), LONGEST) {
        read_scripts(&mut one, &points, findings);
    }
    let scripts = fs::read_dir(&scheme.scripts).into_iter().flatten().flatten();
    let own = format!("# EASY-INSTALL-DEV-SCRIPT: '{}==", name.trim_end_matches(".egg-link"));
    for file in scripts.filter_map(|entry| entry.file_name().into_string().ok()) {
        script(
            &mut one,
            &file,
            |text| text.lines().nth(1).is_some_and(|line| line.starts_with(&own)),
            findings,
        );
    }
    one.own(path.to_path_buf(), None, findings);
    Some((one, folder))
}
