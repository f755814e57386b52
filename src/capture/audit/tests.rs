use super::*;
use crate::formats::elf::{Patch, patch};

/// An environment of objects made from one small library of this machine.
struct Environment {
    dir: tempfile::TempDir,
    files: Vec<(String, PathBuf)>,
}

impl Environment {
    fn new() -> Environment {
        Environment { dir: tempfile::tempdir().expect("temp dir"), files: Vec::new() }
    }

    fn add(&mut self, label: &str, rpath: Option<&str>, needed: &[&str]) {
        let source = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/libz.so.1", "/usr/lib/libz.so.1"]
            .iter()
            .find_map(|p| std::fs::read(p).ok())
            .unwrap_or_else(|| std::fs::read(std::env::current_exe().expect("own path")).expect("own bytes"));
        let patched = Patch {
            rpath: rpath.map(str::to_owned),
            add_needed: needed.iter().map(|n| (*n).to_owned()).collect(),
            ..Patch::default()
        };
        self.write(label, &patch(&source, &patched).expect("patched"));
    }

    fn write(&mut self, label: &str, data: &[u8]) {
        let path = self.dir.path().join(label);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        std::fs::write(&path, data).expect("write");
        self.files.push((label.to_owned(), path));
    }

    fn audit(&self) -> AuditReport {
        self.audit_with((2, 36))
    }

    fn audit_with(&self, glibc: (u32, u32)) -> AuditReport {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        let loaded = ["libc.so.6", "libgcc_s.so.1", "libm.so.6", "ld-linux-x86-64.so.2"];
        let mut runtime =
            Provided { names: names(&loaded), linkable: names(&loaded), loaded: names(&loaded), glibc };
        runtime.names.insert("libgomp.so.1".to_owned());
        runtime.linkable.insert("libgomp.so.1".to_owned());
        audit(self.files.iter().cloned(), &runtime).expect("audit")
    }
}

fn unmet(report: &AuditReport) -> Vec<(&str, &str)> {
    report.unmet.iter().map(|u| (u.file.as_str(), u.library.as_str())).collect()
}

#[test]
fn a_search_path_across_distributions_is_followed() {
    let mut env = Environment::new();
    env.add(
        "torch/lib/libtorch.so",
        Some("$ORIGIN/../../nvidia/cublas/lib:$ORIGIN"),
        &["libcublas.so.12", "libc10.so"],
    );
    env.add("torch/lib/libc10.so", Some("$ORIGIN"), &["libcuda.so.1"]);
    env.add("nvidia/cublas/lib/libcublas.so.12", None, &["libcublasLt.so.12"]);
    env.add("nvidia/cublas/lib/libcublasLt.so.12", None, &[]);
    let report = env.audit();
    // cublasLt is found through the DT_RPATH that cublas inherits from torch.
    assert_eq!((unmet(&report), &report.preloaded), (vec![], &vec![]));
    let driver = Unmet { file: "torch/lib/libc10.so".into(), library: "libcuda.so.1".into() };
    assert_eq!(report.driver, [driver]);
    assert_eq!(report.objects, 4);
    assert_eq!(report.cuda_majors.keys().collect::<Vec<_>>(), [&12]);
    assert!(report.conflicts.is_empty());
}

#[test]
fn a_missing_library_is_named_with_its_file() {
    let mut env = Environment::new();
    env.add("cv2/cv2.abi3.so", Some("$ORIGIN/../cv2.libs"), &["libGL.so.1", "libav.so.1"]);
    env.add("cv2.libs/libav.so.1", None, &[]);
    env.write("cv2/readme.bin", b"not an object");
    env.write("cv2/damaged.so", b"\x7fELF\x02\x01");
    let report = env.audit();
    assert_eq!(unmet(&report), [("cv2/cv2.abi3.so", "libGL.so.1")]);
    assert_eq!(report.passed_over.len(), 1);
}

#[test]
fn what_another_package_loads_first_is_not_missing() {
    let mut env = Environment::new();
    env.add("torchvision/_C.so", None, &["libc10.so"]);
    env.add("torch/lib/libc10.so", Some("$ORIGIN"), &[]);
    let report = env.audit();
    assert!(unmet(&report).is_empty());
    assert_eq!(report.preloaded[0].provider, "torch/lib/libc10.so");
}

#[test]
fn directories_of_the_build_machine_do_not_count() {
    let mut env = Environment::new();
    env.add("a/a.so", Some("/usr/local/cuda/lib64:$ORIGIN/../../../lib"), &["libx.so.1"]);
    assert_eq!(unmet(&env.audit()), [("a/a.so", "libx.so.1")]);
}

#[test]
fn mixed_cuda_and_a_newer_c_library_are_conflicts() {
    let mut env = Environment::new();
    env.add("torch/a.so", None, &["libcudart.so.12"]);
    env.add("xformers/b.so", None, &["libcudart.so.13"]);
    let report = env.audit_with((2, 0));
    assert_eq!(report.cuda_majors.len(), 2);
    let (mixed, newer): (Vec<_>, Vec<_>) =
        report.conflicts.iter().partition(|conflict| matches!(conflict, Conflict::Cuda(_)));
    assert_eq!(mixed[0].to_string(), "CUDA versions are mixed: CUDA 12 by torch; CUDA 13 by xformers");
    assert_eq!((mixed.len(), newer.len()), (1, 2));
    let text = newer[0].to_string();
    assert!(
        text.starts_with("torch/a.so needs glibc ") && text.ends_with("the captured one is 2.0"),
        "{text}"
    );
    let kept = serde_json::to_value(&report).unwrap();
    assert_eq!(serde_json::from_value::<AuditReport>(kept).unwrap(), report);
    assert!(report.glibc_floor.is_some());
}

#[test]
fn a_runpath_hides_the_base_libraries() {
    let info = |runpath: &[&str]| ElfInfo {
        needed: vec!["libgomp.so.1".into(), "libc.so.6".into()],
        runpath: runpath.iter().map(|p| (*p).to_owned()).collect(),
        ..ElfInfo::default()
    };
    let objects = [
        ("a/a.so", info(&["/opt/built/lib"])),
        ("b/b.so", info(&[])),
        ("c/c.so", info(&["/opt/built/lib", "$ORIGIN/../c.libs", "$ORIGIN"])),
        ("custom_nodes/d/d.so", info(&["$ORIGIN"])),
    ];
    let runtime = Provided {
        names: ["libgomp.so.1", "libc.so.6"].map(str::to_owned).into(),
        linkable: ["libgomp.so.1", "libc.so.6"].map(str::to_owned).into(),
        loaded: ["libc.so.6".to_owned()].into(),
        glibc: (2, 36),
    };
    let objects = objects.into_iter().map(|(label, info)| (label.to_owned(), info)).collect();
    let report = judge(&objects, &runtime);
    let hidden: Vec<&str> = report.hidden.iter().map(|unmet| unmet.file.as_str()).collect();
    assert_eq!(hidden, ["a/a.so", "custom_nodes/d/d.so"]);
    // Of the folders that it is led to, the one that is there.
    assert_eq!(report.links, ["c/libgomp.so.1".to_string()].into());
    assert!(report.unmet.is_empty());
}

#[test]
fn programs_of_the_hosts_linker_are_listed() {
    let mut env = Environment::new();
    let me = std::fs::read(std::env::current_exe().expect("own path")).expect("own bytes");
    env.write("triton/backends/nvidia/bin/ptxas", &me);
    assert_eq!(env.audit().host_programs.len(), 1);
}

#[test]
fn driver_names_are_whole_names() {
    assert!(is_driver("libcuda.so.1") && is_driver("libcuda.so"));
    assert!(!is_driver("libcudart.so.12") && !is_driver("libcuda.something"));
    assert_eq!(cuda_major("libnvrtc.so.11.2"), Some(11));
    assert_eq!(cuda_major("libcufft.so.11"), None);
}
