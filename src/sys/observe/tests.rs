use super::*;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a program run in `dir` uses of it. All of `dir` is there for notes; what else it needs is quiet.
fn observed(dir: &Path, words: &[&str]) -> Option<BTreeMap<PathBuf, Noted>> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(dir).stdin(Stdio::null());
    let mut places = vec![Place::quiet(""), Place::quiet(dir.join("code")).with(Code::Main)];
    // Everything outside is somebody else's, and all that runs counts as begun.
    places.push(Place { code: Some(Code::Common), ..Place::quiet("/usr") });
    places.push(Place { code: Some(Code::Common), ..Place::quiet("/lib") });
    places.push(Place { code: Some(Code::Common), ..Place::quiet("/etc") });
    run(
        command,
        Places::new(places.into_iter().filter(|place| !place.at.as_os_str().is_empty()).collect()),
        dir,
    )
}

fn run(mut command: Command, places: Places, dir: &Path) -> Option<BTreeMap<PathBuf, Noted>> {
    let watch = Watch::over(&mut command, places);
    let mut child = command.spawn().unwrap();
    drop(command);
    assert!(child.wait().unwrap().success());
    let seen = watch.end();
    if seen.failed.is_some() {
        // Another filter has a listener already, or the kernel has none: then nothing is claimed.
        return None;
    }
    let inner = |noted: Noted| Some((noted.path.strip_prefix(dir).ok()?.to_path_buf(), noted));
    Some(seen.noted.into_iter().filter_map(inner).collect())
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap();
    (dir, at)
}

fn paths(seen: &BTreeMap<PathBuf, Noted>, way: impl Fn(&Ways) -> bool) -> Vec<&str> {
    seen.iter().filter(|(_, noted)| way(&noted.ways)).filter_map(|(path, _)| path.to_str()).collect()
}

fn executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn files_are_noted_as_they_are_used() {
    let (_dir, dir) = place();
    fs::create_dir_all(dir.join("sub/deep")).unwrap();
    for file in ["read", "sub/relative", "sub/deep/up", "both"] {
        fs::write(dir.join(file), "").unwrap();
    }
    let script = "cat read gone 2>/dev/null; : >written; cd sub; cat relative ./deep/../../both >/dev/null; \
                  cd deep; cat up; : >>../../both; :";
    let Some(seen) = observed(&dir, &["sh", "-c", script]) else { return };
    assert_eq!(paths(&seen, |ways| ways.read), ["both", "read", "sub/deep/up", "sub/relative"]);
    assert_eq!(paths(&seen, |ways| ways.written), ["both", "written"]);
    assert_eq!(seen[Path::new("read")].program.as_deref().and_then(Path::file_name), Some(OsStr::new("cat")));
}

#[test]
fn programs_are_noted_however_they_are_found() {
    let (_dir, dir) = place();
    executable(&dir.join("second/tool"), "#!/bin/sh\n");
    executable(&dir.join("second/asked"), "#!/bin/sh\n");
    fs::create_dir_all(dir.join("first")).unwrap();
    let path = format!("{0}/first:{0}/second:/usr/bin:/bin", dir.display());
    let script = format!(
        "import os, shutil, subprocess\nos.environ['PATH'] = {path:?}\nsubprocess.run(['tool'], check=True)\n\
         assert shutil.which('asked')\nassert not shutil.which('nowhere')\n"
    );
    let Some(seen) = observed(&dir, &["python3", "-I", "-c", &script]) else { return };
    assert_eq!(paths(&seen, |ways| ways.executed), ["second/tool"]);
    assert_eq!(paths(&seen, |ways| ways.asked), ["second/asked"]);
}

#[test]
fn threads_folders_and_libraries_are_seen() {
    let (_dir, dir) = place();
    for file in ["listed/a", "at/inner", "library.so", "late"] {
        fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
        fs::write(dir.join(file), "").unwrap();
    }
    let script = "import ctypes, os, threading, tempfile\nos.listdir('listed')\n\
        at = os.open('at', os.O_PATH)\nos.close(os.open('inner', os.O_RDONLY, dir_fd=at))\n\
        thread = threading.Thread(target=lambda: open('late').close())\nthread.start(); thread.join()\n\
        try: ctypes.CDLL('./library.so')\nexcept OSError: pass\n\
        try: os.close(os.open('at', os.O_TMPFILE | os.O_RDWR))\nexcept OSError: pass\n";
    let Some(seen) = observed(&dir, &["python3", "-I", "-c", script]) else { return };
    assert_eq!(paths(&seen, |ways| ways.read), ["at/inner", "late", "library.so", "listed"]);
    assert_eq!(paths(&seen, |ways| ways.written), ["at"]);
}

#[test]
fn odd_names_are_taken_as_they_are_and_too_long_ones_not_at_all() {
    let (_dir, dir) = place();
    let name = OsStr::from_bytes(b"caf\xe9\n");
    fs::write(dir.join(name), "").unwrap();
    let long = format!("{}x", "./".repeat(2500));
    let script = format!(
        "import os\nopen(b'caf\\xe9\\n').close()\n\
         try: open({long:?})\nexcept OSError as e: assert e.errno == 36, e\nelse: assert False\n"
    );
    let Some(seen) = observed(&dir, &["python3", "-I", "-c", &script]) else { return };
    assert_eq!(seen.keys().collect::<Vec<_>>(), [Path::new(name)]);
}

#[test]
fn what_a_program_leaves_behind_is_observed_and_ended() {
    let (_dir, dir) = place();
    let script = "setsid sh -c 'cat code/x; echo $$ >left; exec sleep 1000' </dev/null >/dev/null 2>&1 & \
                  while [ ! -s left ]; do sleep 0.01; done";
    fs::create_dir(dir.join("code")).unwrap();
    fs::write(dir.join("code/x"), "").unwrap();
    if observed(&dir, &["sh", "-c", script]).is_none() {
        return;
    }
    let left: u32 = fs::read_to_string(dir.join("left")).unwrap().trim().parse().unwrap();
    // Whoever inherits what ended waits for it in its own time.
    for _ in 0..500 {
        if Life::of(left).is_none() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("process {left} goes on");
}

#[test]
fn a_program_that_cannot_start_says_so() {
    let mut command = Command::new("/nowhere/program");
    let watch = Watch::over(&mut command, Places::default());
    assert_eq!(command.spawn().unwrap_err().kind(), std::io::ErrorKind::NotFound);
    drop(command);
    let seen = watch.end();
    assert!(seen.noted.is_empty());
}

#[test]
fn a_sealed_program_is_observed_too() {
    let (_dir, dir) = place();
    fs::create_dir_all(dir.join("sealed")).unwrap();
    fs::write(dir.join("sealed/read"), "").unwrap();
    let (seal, why) = crate::sys::seal::Seal::of(&[dir.join("sealed")], &[], &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "cat sealed/read; echo >sealed/new; :"]).current_dir(&dir).stderr(Stdio::null());
    seal.apply(&mut command);
    let places = vec![
        Place::quiet("/usr").with(Code::Common),
        Place::quiet("/lib").with(Code::Common),
        Place::quiet("/etc").with(Code::Common),
        Place::sealed(dir.join("sealed")),
    ];
    let Some(seen) = run(command, Places::new(places), &dir) else { return };
    assert_eq!(paths(&seen, |ways| ways.written), ["sealed/new"]);
    assert_eq!(paths(&seen, |ways| ways.read), Vec::<&str>::new());
    assert_eq!(dir.join("sealed/new").exists(), why.is_some());
}

#[test]
fn whose_code_asked_is_known() {
    let place = |at: &str, code| Place::quiet(at).with(code);
    let places = Places::new(vec![
        place("/py/lib", Code::Common),
        place("/py/lib/site-packages", Code::Of("")),
        place("/slot/main", Code::Main),
        place("/slot/base/custom_nodes", Code::Of("custom_nodes/")),
    ]);
    let after = |path: &str, before: Option<Option<&str>>| {
        places.loaded(Path::new(path), before.map(|name| name.map(String::from)))
    };
    let name = |name: &str| Some(Some(name.to_string()));
    // Nothing of the environment runs yet.
    assert_eq!(after("/usr/bin/bash", None), None);
    assert_eq!(after("/py/lib/os.py", None), Some(None));
    assert_eq!(after("/py/lib/os.py", Some(Some("PIL"))), name("PIL"));
    assert_eq!(after("/py/lib/site-packages/PIL/_imagingft.so", Some(None)), name("PIL"));
    assert_eq!(
        after("/py/lib/site-packages/_cffi.cpython-312-x86_64-linux-gnu.so", Some(None)),
        name("_cffi")
    );
    assert_eq!(after("/py/lib/site-packages/six.py", Some(None)), name("six"));
    assert_eq!(after("/py/lib/site-packages/pillow.libs/libz.so", Some(Some("PIL"))), name("PIL"));
    assert_eq!(after("/py/lib/site-packages/x-1.0.dist-info/METADATA", Some(Some("y"))), name("y"));
    assert_eq!(after("/slot/base/custom_nodes/a/__init__.py", Some(Some("y"))), name("custom_nodes/a"));
    assert_eq!(after("/slot/main/server.py", Some(Some("custom_nodes/a"))), Some(None));
    assert_eq!(after("/etc/fonts", Some(Some("custom_nodes/a"))), name("custom_nodes/a"));
}
