//! What was seen, sorted: by tables of paths.
use super::*;
use crate::sys::observe::{Place, Ways};

const READ: Ways = Ways { read: true, written: false, executed: false, asked: false };
const RUN: Ways = Ways { read: false, written: false, executed: true, asked: false };
const ASKED: Ways = Ways { read: false, written: false, executed: false, asked: true };
const WRITTEN: Ways = Ways { read: false, written: true, executed: false, asked: false };

fn known() -> Known {
    Known {
        own: Places::new(vec![
            Place::sealed("/venv"),
            Place::quiet("/slot"),
            Place::sealed("/usr/lib/python3.12"),
            Place::quiet("/usr/bin/python3.12"),
        ]),
        ships: ["libssl.so.3".to_string()].into(),
        path: ["/usr/bin", "/bin"].map(PathBuf::from).to_vec(),
    }
}

/// Used by the environment's interpreter; links lead nowhere, and what ends with a slash is a folder.
fn sorted(uses: &[(&str, Ways)]) -> Used {
    sorted_of("/usr/bin/python3.12", uses)
}

fn sorted_of(program: &str, uses: &[(&str, Ways)]) -> Used {
    let noted = uses.iter().map(|(path, ways)| Noted {
        path: path.trim_end_matches('/').into(),
        ways: *ways,
        program: Some(program.into()),
        after: Some("asker".into()),
    });
    let observed = Observed { noted: noted.collect(), ..Observed::default() };
    let folders: Vec<&str> = uses.iter().filter_map(|(path, _)| path.strip_suffix('/')).collect();
    let look = |path: &Path| {
        let shown = path.to_str().unwrap();
        let is = match () {
            () if folders.contains(&shown) => Is::Folder,
            () if shown.contains(".so") => Is::Library,
            () => Is::File,
        };
        let real = if shown == "/etc/alternatives/venv" { "/venv/bin/x" } else { shown };
        Some(Looked { real: real.into(), is })
    };
    sort(&observed, &known(), &look)
}

fn whats(uses: &[Use]) -> Vec<&str> {
    uses.iter().map(|one| one.what.as_str()).collect()
}

#[test]
fn what_is_the_environments_or_every_hosts_is_no_finding() {
    let own = [
        ("/venv/lib/a.so", READ),
        ("/slot/x", WRITTEN),
        ("/usr/lib/python3.12/os.py", READ),
        ("/etc/alternatives/venv", READ),
        ("/proc/self/maps", READ),
        ("/etc/passwd", READ),
        ("/etc/ld.so.conf.d/x.conf", READ),
        ("/usr/lib/locale/C.utf8/LC_CTYPE", READ),
        ("/usr/lib/x86_64-linux-gnu/libssl.so.3", READ),
        ("/lib/x86_64-linux-gnu/libnss_mdns4.so.2", READ),
        ("/usr/lib/x86_64-linux-gnu/gconv/UTF-7.so", READ),
        ("/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache", READ),
        ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", READ),
        ("/usr/lib/x86_64-linux-gnu/libnvidia-glcore.so.550", READ),
        ("/bin/sh", RUN),
        ("/usr/bin/env", RUN),
        ("/usr/bin/nvidia-smi", ASKED),
        ("/usr/bin/", ASKED),
        ("/etc/", READ),
        ("/usr/share/", READ),
        ("/root/", READ),
        ("/home/u/state", Ways { read: true, ..WRITTEN }),
    ];
    assert_eq!(sorted(&own), Used::default());
}

#[test]
fn each_kind_is_told_apart() {
    let used = sorted(&[
        ("/lib/x86_64-linux-gnu/libfribidi.so.0", READ),
        ("/opt/vendor/lib/liby.so.2", READ),
        ("/usr/bin/git", ASKED),
        ("/usr/bin/git", RUN),
        ("/opt/tool/bin/tool", RUN),
        ("/venv/lib/librosa/__pycache__/x.nbi", WRITTEN),
        ("/venv/lib/librosa/__pycache__", WRITTEN),
        ("/venv/lib/six/__pycache__/six.cpython-312.pyc.1234", WRITTEN),
        ("/venv/lib/other/state.db", WRITTEN),
    ]);
    assert_eq!(whats(&used.libraries), ["/opt/vendor/lib/liby.so.2", "libfribidi.so.0"]);
    assert_eq!(used.libraries[0].by.as_deref(), Some("asker"));
    assert_eq!(whats(&used.programs), ["/opt/tool/bin/tool", "git"]);
    assert_eq!(whats(&used.caches), ["/venv/lib/librosa/__pycache__", "/venv/lib/other"]);
    assert_eq!(whats(&used.files), Vec::<&str>::new());
}

#[test]
fn files_are_named_by_the_highest_folder_that_is_one_owners() {
    let grouped = |uses: &[&str]| -> Vec<String> {
        let uses: Vec<(&str, Ways)> = uses.iter().map(|path| (*path, READ)).collect();
        sorted(&uses).files.into_iter().map(|one| one.what).collect()
    };
    assert_eq!(grouped(&["/usr/share/fonts/truetype/"]), ["/usr/share/fonts/truetype"]);
    assert_eq!(
        grouped(&["/usr/share/fonts/truetype/dejavu/a.ttf", "/usr/share/fonts/opentype/b.otf"]),
        ["/usr/share/fonts/opentype", "/usr/share/fonts/truetype"]
    );
    assert_eq!(grouped(&["/usr/share/fonts/", "/usr/share/fonts/truetype/a.ttf"]), ["/usr/share/fonts"]);
    assert_eq!(grouped(&["/etc/magic", "/etc/fonts/conf.d/"]), ["/etc/fonts/conf.d", "/etc/magic"]);
    assert_eq!(grouped(&["/etc/fonts/conf.d/", "/etc/fonts/fonts.conf"]), ["/etc/fonts"]);
    assert_eq!(
        grouped(&["/usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"]),
        ["/etc/ssl/certs", "/usr/lib/ssl/cert.pem"]
    );
    assert_eq!(
        grouped(&["/usr/lib/x86_64-linux-gnu/ImageMagick-6/config/a.xml"]),
        ["/usr/lib/x86_64-linux-gnu/ImageMagick-6"]
    );
    assert_eq!(grouped(&["/srv/data/a", "/root/b"]), ["/root/b", "/srv/data/a"]);
    assert_eq!(grouped(&["/srv/x/data/a", "/srv/x/data/b", "/srv/x/data/c"]), ["/srv/x/data"]);
    assert_eq!(grouped(&["/root/a", "/root/b", "/root/c"]).len(), 3);
}

#[test]
fn what_a_program_of_this_machine_needs_is_that_programs() {
    let used = sorted_of(
        "/usr/bin/git",
        &[
            ("/usr/lib/x86_64-linux-gnu/libpcre2-8.so.0", READ),
            ("/etc/gitconfig", READ),
            ("/usr/share/git-core/templates/", READ),
            ("/usr/lib/git-core/git-remote-https", RUN),
            ("/usr/bin/ssh", RUN),
        ],
    );
    assert!(used.libraries.is_empty());
    assert_eq!(whats(&used.programs), ["ssh"]);
    assert_eq!(whats(&used.files), ["/usr/lib/git-core", "/usr/share/git-core/templates"]);
}
