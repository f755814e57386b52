//! `[service] programs` and `system-files`: what cannot be a program's name, and which folders an instance must have of
//! its host.
use super::types::ServiceConfig;
use super::wrong::{Wrong, clean_path, wrong};
use std::path::Path;

const PROGRAMS: &str = "service.programs";
const FILES: &str = "service.system-files";

/// The host's own: with the workstation's in their place no program of the host starts, and no name is found.
const WHOLE: [&str; 21] = [
    "/",
    "/bin",
    "/boot",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/mnt",
    "/opt",
    "/root",
    "/sbin",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/sbin",
    "/var",
    "/var/lib",
    "/var/tmp",
];

/// The kernel's, and what goes with the machine or with a service.
const BELOW: [&str; 6] = ["/dev", "/nix", "/proc", "/run", "/sys", "/var/run"];

pub fn check(service: &ServiceConfig) -> Result<(), Wrong> {
    for program in service.programs.iter().flatten() {
        if program.contains('/') {
            clean_path(PROGRAMS, program)?;
        }
        let name = program.rsplit('/').next().unwrap_or_default();
        let strange = |c: char| c.is_whitespace() || c.is_control() || "\"'\\%$:;".contains(c);
        if name.is_empty() || name == "." || name.contains(strange) {
            return Err(wrong(
                PROGRAMS,
                format!("names {program:?}: write a program's name, or its absolute path"),
            ));
        }
    }
    for path in service.system_files.iter().flatten() {
        clean_path(FILES, path)?;
        let path = Path::new(path.as_str());
        if WHOLE.iter().any(|whole| path == Path::new(whole)) {
            let text = format!(
                "names {path:?}, which an instance needs of its host: name the folder in it that is read"
            );
            return Err(wrong(FILES, text));
        }
        if let Some(below) = BELOW.iter().find(|below| path.starts_with(below)) {
            return Err(wrong(FILES, format!("names {path:?}: what is in {below} is each machine's own")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_hosts_own_is_refused() {
        let said = |programs: &[&str], files: &[&str]| {
            let list = |all: &[&str]| Some(all.iter().map(|one| one.to_string()).collect());
            let service = ServiceConfig {
                programs: list(programs),
                system_files: list(files),
                ..ServiceConfig::default()
            };
            check(&service).err().map(|wrong| wrong.to_string()).unwrap_or_default()
        };
        assert_eq!(said(&["ffmpeg", "/opt/tools/bin/git"], &["/etc/fonts", "/usr/share/fonts/"]), "");
        for programs in ["", ".", "a b", "bin/git", "/usr/bin/", "/opt/../git", "a:b"] {
            assert!(said(&[programs], &[]).starts_with(PROGRAMS), "{programs}");
        }
        for files in [
            "",
            "fonts",
            "/etc/../x",
            "/",
            "/etc",
            "/usr/lib/",
            "/proc/self",
            "/nix/store/x",
            "/run/x",
            "/a b",
        ] {
            assert!(said(&[], &[files]).starts_with(FILES), "{files}");
        }
        assert!(said(&[], &["/usr"]).contains("which an instance needs of its host"));
        assert!(said(&[], &["/run/x"]).contains("each machine's own"));
    }
}
