//! The captured runtime runs from anywhere and maps nothing but itself.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use stillframe::capture::runtime::{InterpreterFacts, RuntimeFile, RuntimePlan, materialise};

const IMPORTS: &str = "import ssl, sqlite3, ctypes, zlib, hashlib, lzma, bz2, decimal, socket, sys
socket.getaddrinfo('localhost', 80)
sys.stdout.write(open('/proc/self/maps').read())";

/// Interpreters of this machine: the one on PATH, and the distribution's.
fn interpreters() -> Vec<PathBuf> {
    let on_path = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let mut found: BTreeSet<PathBuf> = on_path
        .ok()
        .filter(|o| o.status.success())
        .map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()))
        .into_iter()
        .collect();
    found.insert("/usr/bin/python3.11".into());
    found.into_iter().filter(|p| p.exists()).collect()
}

fn mapped(python: &Path, code: &str) -> BTreeSet<PathBuf> {
    // An empty environment: nothing may come from LD_LIBRARY_PATH, nothing from PATH.
    let output = Command::new(python)
        .args(["-I", "-S", "-B", "-c", code])
        .env_clear()
        .current_dir("/")
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}: {}", python.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .collect()
}

/// Locale and character set data of the C library is the host's; code is not.
fn objects_outside<'a>(maps: &'a BTreeSet<PathBuf>, root: &Path) -> Vec<&'a PathBuf> {
    let code = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.contains(".so") || name.starts_with("python")
    };
    maps.iter().filter(|path| code(path) && !path.starts_with(root)).collect()
}

#[test]
fn a_runtime_maps_nothing_from_outside() {
    for python in interpreters() {
        let facts = InterpreterFacts::of(&python).expect("facts");
        let plan = RuntimePlan::new(facts.clone(), &[]).expect("plan");
        let dir = tempfile::tempdir().expect("temp dir");
        let root = std::fs::canonicalize(dir.path()).expect("real path");
        let (base, runtime) = (root.join("base"), root.join("runtime"));
        let second = plan.runtime(base.to_str().expect("UTF-8")).expect("runtime");
        materialise(&plan.base, &base).expect("base on disk");
        materialise(&second.tree, &runtime).expect("runtime on disk");

        let program = runtime.join(format!("bin/python{}", facts.short_version()));
        let maps = mapped(&program, IMPORTS);
        let outside = objects_outside(&maps, &root);
        assert!(outside.is_empty(), "{}: {outside:?}", python.display());
        for library in ["libstdc++.so.6", "libz.so.1", "libgcc_s.so.1", "libc.so.6"] {
            assert!(maps.contains(&base.join("lib").join(library)), "{library} is not loaded");
        }

        let modules: Vec<String> = second
            .tree
            .keys()
            .filter_map(|k| k.split_once("/lib-dynload/"))
            .filter_map(|(_, file)| file.split('.').next().map(str::to_owned))
            .filter(|m| m != "_tkinter" && !plan.missing.iter().any(|line| line.contains(m)))
            .collect();
        assert!(modules.len() > 10);
        let all = format!(
            "import sys\nfor m in {modules:?}: __import__(m)\nsys.stdout.write(open('/proc/self/maps').read())"
        );
        let maps = mapped(&runtime.join("bin/python"), &all);
        let outside = objects_outside(&maps, &root);
        assert!(outside.is_empty(), "{}: {outside:?}", python.display());

        // The captured runtime can be captured: it is as good an interpreter as the first.
        let again = InterpreterFacts::of(&runtime.join("bin/python3")).expect("facts");
        assert_eq!(again.base_prefix, runtime);
        assert_eq!((again.soabi, again.cache_tag), (facts.soabi, facts.cache_tag));
    }
}

#[test]
fn planning_twice_gives_the_same_trees() {
    for python in interpreters() {
        let facts = InterpreterFacts::of(&python).expect("facts");
        let one = RuntimePlan::new(facts.clone(), &[]).expect("plan");
        let two = RuntimePlan::new(facts, &[]).expect("plan");
        assert_eq!(one.base, two.base);
        assert_eq!(one.runtime("/b").expect("tree").tree, two.runtime("/b").expect("tree").tree);
        assert!(one.base.keys().all(|k| k.starts_with("lib/")));
        assert!(one.sonames.contains("libdl.so.2") && one.sonames.contains("libpthread.so.0"));
        assert!(!one.sonames.iter().any(|n| n.starts_with("libpython")));
        assert!(one.glibc >= (2, 17));
        assert!(one.base.values().all(|f| !matches!(f, RuntimeFile::Symlink { .. })));
    }
}

#[test]
fn extra_libraries_come_with_what_they_need() {
    let Some(python) = interpreters().pop() else {
        return;
    };
    let facts = InterpreterFacts::of(&python).expect("facts");
    let error = RuntimePlan::new(facts.clone(), &["libnowhere.so.7".into()]).expect_err("missing");
    assert!(error.message.contains("libnowhere.so.7"));
    // Any library that is not in the plan already will do.
    let plain = RuntimePlan::new(facts.clone(), &[]).expect("plan");
    let libc = plain.base.get("lib/libc.so.6");
    let Some(RuntimeFile::Disk { path, .. }) = libc else { panic!("no libc") };
    let extra = path.parent().expect("parent").join("libgthread-2.0.so.0");
    if !extra.exists() || plain.sonames.contains("libgthread-2.0.so.0") {
        return;
    }
    for asked in ["libgthread-2.0.so.0".to_owned(), extra.display().to_string()] {
        let plan = RuntimePlan::new(facts.clone(), &[asked]).expect("plan");
        assert!(plan.sonames.contains("libgthread-2.0.so.0"));
        assert!(plan.sonames.contains("libglib-2.0.so.0"));
        assert!(!plan.loaded.contains("libglib-2.0.so.0"));
    }
}

#[test]
fn a_virtual_environment_leads_to_its_base() {
    for python in interpreters() {
        let facts = InterpreterFacts::of(&python).expect("facts");
        let dir = tempfile::tempdir().expect("temp dir");
        for copies in [false, true] {
            let venv = dir.path().join(format!("venv-{copies}"));
            let kind = if copies { "--copies" } else { "--symlinks" };
            let made = Command::new(&python)
                .args(["-m", "venv", "--without-pip", kind])
                .arg(&venv)
                .output()
                .expect("python starts");
            if !made.status.success() {
                continue;
            }
            let inside = InterpreterFacts::of(&venv.join("bin/python")).expect("facts");
            assert_eq!(inside.executable, facts.executable);
            assert_eq!(inside.base_prefix, facts.base_prefix);
            assert_eq!(inside.stdlib, facts.stdlib);
            assert_eq!(inside.lib_dynload, facts.lib_dynload);
        }
    }
}
