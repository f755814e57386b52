use super::*;
use crate::formats::elf::parse;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn full_patch(data: &[u8]) -> (Patch, Vec<u8>) {
    let before = parse(data).expect("an ELF file");
    let patch = Patch {
        interp: before.interp.as_ref().map(|i| format!("/.//.{i}")),
        rpath: Some("$ORIGIN/../lib:/a/long/directory/name".into()),
        add_needed: vec!["libm.so.6".into(), "libc.so.6".into(), "libdl.so.2".into()],
    };
    let out = super::patch(data, &patch).expect("patched");
    assert_eq!(out, super::patch(data, &patch).expect("patched"), "not deterministic");
    (patch, out)
}

/// Patches a real object, reads it back, and for a program runs it.
fn check(path: &Path, args: &[&str]) {
    let data = std::fs::read(path).expect("read");
    let before = parse(&data).expect("an ELF file");
    let (patch, out) = full_patch(&data);
    let after = parse(&out).expect("patched file is readable");
    assert_eq!(after.interp, patch.interp);
    assert_eq!(after.rpath, ["$ORIGIN/../lib", "/a/long/directory/name"]);
    assert!(after.runpath.is_empty());
    let mut needed = before.needed.clone();
    needed.extend(patch.add_needed.iter().filter(|n| !before.needed.contains(n)).cloned());
    assert_eq!(after.needed, needed);
    assert_eq!(after.soname, before.soname);
    assert_eq!(after.glibc_floor, before.glibc_floor);
    // All but the file header and the section headers is where it was.
    let sections = u64_at(&data, 40).expect("header") as usize;
    assert_eq!(out[64..sections], data[64..sections]);

    let again = parse(&full_patch(&out).1).expect("patched twice");
    assert_eq!(again.needed, after.needed);
    if before.is_executable {
        let dir = tempfile::tempdir().expect("temp dir");
        let copy = dir.path().join("program");
        std::fs::write(&copy, &out).expect("write");
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).expect("chmod");
        // Another test's fork may hold the copy open for writing for a moment (ETXTBSY).
        let output = loop {
            match Command::new(&copy).args(args).output() {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                other => break other.expect("it starts"),
            }
        };
        assert!(output.status.success(), "{path:?}: {output:?}");
    }
}

#[test]
fn its_own_test_program_runs_patched() {
    check(&std::env::current_exe().expect("own path"), &["--list"]);
}

#[test]
fn programs_and_libraries_of_this_machine() {
    for path in ["/usr/bin/python3.11", "/bin/sh", "/usr/bin/env"] {
        if Path::new(path).exists() {
            check(
                Path::new(path),
                if path.contains("python") {
                    &["-ISc", "import os"]
                } else {
                    &["-c", "true"][..usize::from(path == "/bin/sh") * 2]
                },
            );
        }
    }
    for path in ["/lib/x86_64-linux-gnu/libz.so.1", "/lib/x86_64-linux-gnu/libstdc++.so.6"] {
        if Path::new(path).exists() {
            check(Path::new(path), &[]);
        }
    }
}

#[test]
fn a_library_has_no_interpreter_to_replace() {
    let path = Path::new("/lib/x86_64-linux-gnu/libz.so.1");
    if path.exists() {
        let patch = Patch { interp: Some("/x".into()), ..Patch::default() };
        let result = super::patch(&std::fs::read(path).expect("read"), &patch);
        assert!(matches!(result, Err(ElfError::Unsupported(_))));
    }
}

proptest! {
    #[test]
    fn damage_never_panics(
        keep in 0.0..1.0f64,
        changes in proptest::collection::vec((0usize..1024, any::<u8>()), 1..16),
    ) {
        let mut data = std::fs::read("/bin/sh").unwrap_or_default();
        data.truncate((data.len() as f64 * keep) as usize);
        for (at, byte) in changes {
            if let Some(slot) = data.get_mut(at) {
                *slot = byte;
            }
        }
        let patch = Patch { rpath: Some("/x".into()), ..Patch::default() };
        // Padding behind a huge false segment is legal, only slow.
        let _ = super::patch(&data, &patch);
    }
}
