use super::*;
use std::fs;
use std::os::unix::fs::symlink;

fn program() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap().join("ComfyUI");
    fs::create_dir_all(root.join("custom_nodes")).unwrap();
    fs::write(root.join("main.py"), "").unwrap();
    (dir, root)
}

fn script(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "#!/bin/sh\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn venv(place: &Path, config: &str) {
    script(&place.join("bin/python"));
    fs::create_dir_all(place.join("lib/python3.12/site-packages")).unwrap();
    symlink("lib", place.join("lib64")).unwrap();
    fs::write(place.join("pyvenv.cfg"), config).unwrap();
}

fn nothing(_: &str) -> Option<OsString> {
    None
}

#[test]
fn says_what_is_missing() {
    let (dir, root) = program();
    assert_eq!(check(&root).unwrap(), root);
    let error = check(dir.path()).unwrap_err();
    assert_eq!(error.kind, Kind::Environment);
    assert!(error.message.ends_with("is not a ComfyUI directory: it has no main.py"));
    assert!(error.hint.unwrap().contains("ComfyUI?"));
    fs::remove_dir(root.join("custom_nodes")).unwrap();
    assert!(check(&root).unwrap_err().message.contains("neither custom_nodes/"));
    assert!(check(Path::new("/nonexistent")).unwrap_err().message.contains("cannot be opened"));
    assert!(check(&root.join("main.py")).unwrap_err().message.contains("it is a file"));
}

#[test]
fn finds_a_venv_beside_the_program() {
    let (_dir, root) = program();
    venv(&root.join("../venv"), "home = /usr/bin\nversion = 3.12.3\n");
    let (found, notes) = find_python(&root, None, &nothing).unwrap();
    let place = root.parent().unwrap().join("venv");
    assert_eq!(found.executable, place.join("bin/python"));
    assert!(notes.is_empty());
    // The nearer one wins, and the given one over both.
    venv(&root.join(".venv"), "version_info = 3.12.0.final.0\n");
    let (near, _) = find_python(&root, None, &nothing).unwrap();
    assert_eq!(near.executable, root.join(".venv/bin/python"));
    let (given, _) = find_python(&root, Some(&place.join("bin/python")), &nothing).unwrap();
    assert_eq!(given.executable, place.join("bin/python"));
    assert_eq!(find_python(&root, Some(&place), &nothing).unwrap().0, given);
}

#[test]
fn of_two_environments_the_active_one_and_both_are_named() {
    let (dir, root) = program();
    let base = fs::canonicalize(dir.path()).unwrap();
    venv(&root.join(".venv"), "home = /usr/bin\n");
    venv(&base.join("opt"), "home = /usr/bin\n");
    script(&base.join("conda/bin/python"));
    let found = |set: &[(&str, &Path)]| {
        let variables =
            |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_os_str().to_owned());
        let (found, notes) = find_python(&root, None, &variables).unwrap();
        (found.executable, notes.iter().map(|n| format!("{} {}", n.path, n.message)).collect::<String>())
    };
    let (beside, opt, conda) = (root.join(".venv"), base.join("opt"), base.join("conda"));
    let (taken, said) = found(&[("VIRTUAL_ENV", &opt)]);
    assert_eq!(taken, opt.join("bin/python"));
    assert!(said.starts_with(&*opt.to_string_lossy()) && said.contains(&*beside.to_string_lossy()), "{said}");
    let (taken, said) = found(&[("CONDA_PREFIX", &conda), ("CONDA_DEFAULT_ENV", Path::new("comfy"))]);
    assert_eq!(taken, conda.join("bin/python"));
    assert!(said.contains(&*beside.to_string_lossy()), "{said}");
    // conda's `base` is active in every shell.
    let (taken, said) = found(&[("CONDA_PREFIX", &conda), ("CONDA_DEFAULT_ENV", Path::new("base"))]);
    assert_eq!(taken, beside.join("bin/python"));
    assert!(said.contains(&*conda.to_string_lossy()), "{said}");
    // The one beside the program by another name, and one that is gone.
    symlink(&beside, base.join("link")).unwrap();
    assert_eq!(found(&[("VIRTUAL_ENV", &base.join("link"))]), (beside.join("bin/python"), String::new()));
    assert_eq!(found(&[("VIRTUAL_ENV", &base.join("gone"))]), (beside.join("bin/python"), String::new()));
}

#[test]
fn a_broken_venv_is_not_passed_over() {
    let (_dir, root) = program();
    venv(&root.join("venv"), "version = 3.12.3\n");
    fs::remove_file(root.join("venv/bin/python")).unwrap();
    symlink("/nonexistent/python3.12", root.join("venv/bin/python")).unwrap();
    let error = find_python(&root, None, &nothing).unwrap_err();
    assert!(error.message.contains("links to /nonexistent/python3.12, which is gone"), "{error}");
    assert!(error.hint.is_some());
    fs::remove_file(root.join("venv/bin/python")).unwrap();
    let error = find_python(&root, None, &nothing).unwrap_err();
    assert!(error.message.contains("it has no bin/python"));
}

#[test]
fn the_active_environment_then_the_path() {
    let (dir, root) = program();
    let base = fs::canonicalize(dir.path()).unwrap();
    let error = find_python(&root, None, &nothing).unwrap_err();
    assert!(error.message.contains("no Python found"));
    script(&base.join("bin/python3"));
    let path = |name: &str| (name == "PATH").then(|| base.join("bin").into_os_string());
    let (found, notes) = find_python(&root, None, &path).unwrap();
    assert_eq!(found.executable, base.join("bin/python3"));
    assert_eq!(notes.len(), 1);
    script(&base.join("conda/bin/python"));
    let conda = |name: &str| (name == "CONDA_PREFIX").then(|| base.join("conda").into_os_string());
    let (found, notes) = find_python(&root, None, &conda).unwrap();
    assert_eq!((found.how, notes.len()), (FoundBy::Variable("CONDA_PREFIX"), 0));
}

#[test]
fn the_windows_build_is_refused() {
    let (_dir, root) = program();
    fs::create_dir(root.join("../python_embeded")).unwrap();
    let error = find_python(&root, None, &nothing).unwrap_err();
    assert!(error.message.contains("not supported"));
}

#[test]
fn a_given_python_must_work() {
    let (_dir, root) = program();
    let error = find_python(&root, Some(Path::new("/nonexistent/python")), &nothing).unwrap_err();
    assert!(error.message.contains("/nonexistent/python does not exist"));
    let error = find_python(&root, Some(&root), &nothing).unwrap_err();
    assert!(error.message.contains("holds no Python environment"));
}
