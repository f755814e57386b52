//! A program that finds folders read-only, whoever runs it: in a mount namespace of its own (mount_namespaces(7)) each is bound on
//! itself and remounted read-only. Modes do not do that for root, whom nothing stops from writing into a Nix store; numba, for one,
//! writes its cache beside the modules that it compiles, wherever it may. Without root's rights a user namespace
//! (user_namespaces(7)), in which everything has the same owner as outside, gives the right to mount.
use crate::sys::cover::{self, Cover};
use crate::sys::say;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind_recursive, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::ffi::{CStr, CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file or folder that is seen at another place, read-only.
#[derive(Debug, Clone)]
pub struct Shown {
    pub from: PathBuf,
    pub at: PathBuf,
}

#[derive(Debug, Clone, Default)]
pub struct Seal {
    /// Where what is shown has no place yet.
    covers: Vec<Cover>,
    /// What is shown, from and at.
    shown: Vec<(CString, CString)>,
    /// Bound before, so that what is sealed around them leaves them as they are.
    writable: Vec<CString>,
    bound: Vec<CString>,
    /// Those, and what is mounted below them; with the flags that a remount must repeat.
    read_only: Vec<(CString, MountFlags)>,
}

fn c_string(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

/// The flags of a mount, without which a remount would take them off, and in a user namespace fail.
fn flags(path: &Path) -> MountFlags {
    let of = rustix::fs::statvfs(path).map(|s| s.f_flag).unwrap_or(StatVfsMountFlags::empty());
    let pairs = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    pairs.into_iter().filter(|(has, _)| of.contains(*has)).map(|(_, flag)| flag).collect()
}

/// Mount points of this process (proc_pid_mountinfo(5): the fifth field, with octal escapes).
fn mount_points(text: &[u8]) -> Vec<PathBuf> {
    let field = |line: &[u8]| line.split(|b| *b == b' ').nth(4).map(unescaped);
    text.split(|b| *b == b'\n')
        .filter_map(field)
        .map(|path| PathBuf::from(OsString::from_vec(path)))
        .collect()
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = field.get(at) {
        let octal = field.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        match octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

impl Seal {
    /// Folders that are there are read-only, but for those that stay writable. With why it cannot be done, where it
    /// cannot; the program then runs as it would without.
    pub fn of(sealed: &[PathBuf], writable: &[PathBuf], shown: &[Shown]) -> (Seal, Option<std::io::Error>) {
        let there = |paths: &[PathBuf]| -> Vec<PathBuf> {
            let mut found: Vec<PathBuf> = paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
            found.sort();
            found.dedup();
            found.retain(|path| path != Path::new("/"));
            found
        };
        let (sealed, writable) = (there(sealed), there(writable));
        let mounts = mount_points(&std::fs::read("/proc/self/mountinfo").unwrap_or_default());
        let inside = |path: &PathBuf, of: &[PathBuf]| of.iter().any(|outer| path.starts_with(outer));
        let below =
            mounts.iter().filter(|at| inside(at, &sealed) && !inside(at, &writable) && !sealed.contains(at));
        let read_only =
            sealed.iter().chain(below).filter_map(|path| Some((c_string(path)?, flags(path)))).collect();
        let all = |paths: &[PathBuf]| paths.iter().filter_map(|path| c_string(path)).collect();
        let mut seal = Seal { writable: all(&writable), bound: all(&sealed), read_only, ..Seal::default() };
        if let Err(e) = seal.show(shown) {
            return (Seal::of(&sealed, &writable, &[]).0, Some(e));
        }
        let mut tried = Command::new("/bin/sh");
        tried.args(["-c", ":"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        seal.apply(&mut tried);
        match tried.status() {
            Ok(_) => (seal, None),
            // What cannot be shown takes nothing of the rest away.
            Err(e) if !shown.is_empty() => (Seal::of(&sealed, &writable, &[]).0, Some(e)),
            Err(e) => (Seal::default(), Some(e)),
        }
    }

    /// The same. Where it cannot be done, people are told, once.
    pub fn of_or_told(sealed: &[PathBuf], writable: &[PathBuf], shown: &[Shown]) -> Seal {
        static TOLD: std::sync::Once = std::sync::Once::new();
        let (seal, why) = Seal::of(sealed, writable, shown);
        if let Some(why) = why {
            TOLD.call_once(|| {
                let sealed = "the store and the environment are not read-only for what runs";
                let files = "files of the system are this machine's, not the snapshot's";
                let what = match (seal.bound.is_empty(), shown.is_empty()) {
                    (true, true) => sealed.to_string(),
                    (true, false) => format!("{sealed}, and {files}"),
                    (false, _) => files.to_string(),
                };
                say::say(format_args!("warning: {what}: {why}"));
            });
        }
        seal
    }

    fn show(&mut self, shown: &[Shown]) -> std::io::Result<()> {
        let placed: Vec<(&Shown, PathBuf)> = shown.iter().map(|one| (one, cover::place(&one.at))).collect();
        let wanted: Vec<(PathBuf, bool)> =
            placed.iter().map(|(one, at)| (at.clone(), one.from.is_dir())).collect();
        self.covers = cover::covers(&wanted)?;
        for (one, at) in &placed {
            let at = cover::c_string(at)?;
            self.shown.push((cover::c_string(&one.from)?, at.clone()));
            self.read_only.push((at, flags(&one.from)));
        }
        Ok(())
    }

    /// The command runs so.
    pub fn apply(&self, command: &mut Command) {
        if self.bound.is_empty() && self.shown.is_empty() {
            return;
        }
        let seal = self.clone();
        let own = (!rustix::process::geteuid().is_root()).then(|| {
            let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            (format!("{user} {user} 1"), format!("{group} {group} 1"))
        });
        let mount = move || seal.mount(own.as_ref().map(|(user, group)| (user.as_bytes(), group.as_bytes())));
        // SAFETY: between fork and exec only system calls are made, on what was allocated before; no lock is taken.
        unsafe { command.pre_exec(mount) };
    }

    fn mount(&self, own: Option<(&[u8], &[u8])>) -> std::io::Result<()> {
        let user = if own.is_some() { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
        // SAFETY: the table of file descriptors stays shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | user)? };
        if let Some((user, group)) = own {
            // In this order (user_namespaces(7), "Gaps between..." and "Defining user and group ID mappings").
            for (file, text) in [
                (c"/proc/self/setgroups", b"deny".as_slice()),
                (c"/proc/self/uid_map", user),
                (c"/proc/self/gid_map", group),
            ] {
                write(file, text)?;
            }
        }
        // Nothing of it is to be seen outside.
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for cover in &self.covers {
            cover.mount()?;
        }
        for path in self.writable.iter().chain(&self.bound) {
            mount_bind_recursive(path.as_c_str(), path.as_c_str())?;
        }
        for (from, at) in &self.shown {
            mount_bind_recursive(from.as_c_str(), at.as_c_str())?;
        }
        for (path, flags) in &self.read_only {
            mount_remount(path.as_c_str(), MountFlags::BIND | MountFlags::RDONLY | *flags, c"")?;
        }
        Ok(())
    }
}

fn write(file: &CStr, text: &[u8]) -> std::io::Result<()> {
    let opened = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&opened, text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_cannot_be_shown_leaves_the_rest_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = [dir.path().to_path_buf()];
        let shown = [Shown { from: dir.path().into(), at: "/none-of-this-machine/x".into() }];
        let (seal, why) = Seal::of(&sealed, &[], &shown);
        assert!(why.is_some() && seal.shown.is_empty());
        assert_eq!(seal.bound, Seal::of(&sealed, &[], &[]).0.bound);
    }

    #[test]
    fn what_is_sealed_is_read_and_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["sealed/inner", "sealed/scratch", "free"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("sealed/text"), "text").unwrap();
        let sealed = [at("sealed"), at("sealed/inner"), at("gone")];
        let (seal, why) = Seal::of(&sealed, &[at("sealed/scratch")], &[]);
        if let Some(why) = why {
            // Neither root nor user namespaces: then nothing is claimed.
            assert!(seal.bound.is_empty(), "{why}");
            return;
        }
        let tried = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).current_dir(dir.path()).stderr(Stdio::null());
            seal.apply(&mut command);
            command.status().unwrap().success()
        };
        assert!(tried("cat sealed/text && : >free/x && : >sealed/scratch/x"));
        for script in
            [": >sealed/x", ": >sealed/inner/x", "rm sealed/text", "mkdir sealed/y", "echo >>sealed/text"]
        {
            assert!(!tried(script), "{script}");
        }
        assert!(at("sealed/scratch/x").exists() && at("free/x").exists());
        // Here nothing has changed.
        fs::write(at("sealed/x"), "").unwrap();
    }

    #[test]
    fn what_is_shown_is_there_whether_its_place_is_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        for folder in ["store/fonts/deep", "system/fonts", "system/other", "work"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for (file, text) in [
            ("store/fonts/a.ttf", "ours"),
            ("store/fonts/deep/b.ttf", "ours"),
            ("store/conf", "ours"),
            ("system/fonts/theirs.ttf", "theirs"),
            ("system/other/kept", "kept"),
            ("system/plain", "plain"),
        ] {
            fs::write(at(file), text).unwrap();
        }
        std::os::unix::fs::symlink("plain", at("system/link")).unwrap();
        let shown = |from: &str, to: &str| Shown { from: at(from), at: at(to) };
        let all = [
            shown("store/fonts", "system/fonts"),
            shown("store/fonts", "system/new/fonts"),
            shown("store/conf", "system/other/new.conf"),
        ];
        let (seal, why) = Seal::of(&[at("store")], &[at("work")], &all);
        if let Some(why) = why {
            assert!(seal.bound.is_empty(), "{why}");
            return;
        }
        let tried = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-ec", script]).current_dir(at("work"));
            seal.apply(&mut command);
            let out = command.output().unwrap();
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
        };
        let system = at("system").display().to_string();
        assert_eq!(
            tried(&format!(
                "cd {system}; ls; ls fonts new/fonts other; cat new/fonts/deep/b.ttf other/* link"
            )),
            "fonts\nlink\nnew\nother\nplain\n\
             fonts:\na.ttf\ndeep\n\nnew/fonts:\na.ttf\ndeep\n\nother:\nkept\nnew.conf\n\
             ourskeptoursplain"
        );
        for file in ["fonts/a.ttf", "fonts/new", "new/fonts/a.ttf", "other/new.conf", "new/x"] {
            assert!(tried(&format!(": >{system}/{file}")).contains("Read-only"), "{file}");
        }
        // What was there may be written to as before; on the disk nothing has changed.
        assert_eq!(
            tried(&format!("echo more >>{system}/other/kept; : >x; ls {system}/other")),
            "kept\nnew.conf\n"
        );
        assert!(at("work/x").exists() && !at("system/new").exists() && !at("system/other/new.conf").exists());
        assert_eq!(fs::read_to_string(at("system/other/kept")).unwrap(), "keptmore\n");
    }

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let text = b"36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime master:1 - ext3 /dev/root rw\n22 1 0:1 / /proc rw - proc proc rw\n";
        assert_eq!(mount_points(text), [PathBuf::from("/a b\\c"), "/proc".into()]);
    }
}
