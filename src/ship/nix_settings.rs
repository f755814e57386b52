//! How a host's Nix is set, as far as it decides who can put what into the store that services run from. None of it stops a
//! deployment; whoever looks at a host is told.
use crate::ship::preflight::Problem;
use crate::ship::ssh::Remote;
use crate::sys::error::Result;
use std::time::Duration;

const QUESTIONS: &str = concat!(include_str!("places.sh"), include_str!("nix_settings.sh"));
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NixSettings {
    pub sandbox: Option<String>,
    pub trusted: Vec<String>,
    pub allowed: Vec<String>,
    pub require_sigs: Option<String>,
    /// The modes of the daemon's socket and of its folder.
    pub socket: Option<(u32, u32)>,
    /// Where the daemon's socket unit listens.
    pub listens: Vec<String>,
}

/// Asks a host that has Nix.
pub fn ask(remote: &Remote) -> Result<NixSettings> {
    let said = remote.must(&["sh", "-c", QUESTIONS], &[], LIMIT)?;
    Ok(parse(&String::from_utf8_lossy(&said)))
}

fn parse(text: &str) -> NixSettings {
    let mut settings = NixSettings::default();
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let words = || value.split_whitespace().map(String::from).collect();
        let mode = |text: &str| u32::from_str_radix(text, 8).ok();
        match key {
            "sandbox" => settings.sandbox = Some(value.into()),
            "trusted-users" => settings.trusted = words(),
            "allowed-users" => settings.allowed = words(),
            "require-sigs" => settings.require_sigs = Some(value.into()),
            "socket" => {
                settings.socket =
                    value.split_once(' ').and_then(|(own, folder)| Some((mode(own)?, mode(folder)?)))
            }
            "listens" => settings.listens.push(value.into()),
            _ => {}
        }
    }
    settings
}

/// What of it is not safe.
pub fn notes(settings: &NixSettings) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut note = |what: String, hint: &str| {
        found.push(Problem { what, hint: hint.into(), mended_by_prepare: false });
    };
    if let Some(sandbox) = settings.sandbox.as_deref().filter(|sandbox| *sandbox != "true") {
        note(
            format!(
                "Nix builds with sandbox = {sandbox}: a build sees and may use the host's files and network"
            ),
            "set sandbox = true in /etc/nix/nix.conf, and restart nix-daemon.service",
        );
    }
    let others: Vec<&str> =
        settings.trusted.iter().map(String::as_str).filter(|user| *user != "root").collect();
    if !others.is_empty() {
        note(
            format!(
                "trusted-users has {}: to Nix each of them is root, and can put anything into the store",
                others.join(", ")
            ),
            "set trusted-users = root in /etc/nix/nix.conf, unless each of them may deploy; and restart nix-daemon.service",
        );
    }
    if settings.require_sigs.as_deref() == Some("false") {
        note(
            "require-sigs = false: any user of the daemon can bring store paths that nobody signed".into(),
            "set require-sigs = true in /etc/nix/nix.conf, and restart nix-daemon.service",
        );
    }
    let beyond: Vec<&str> =
        settings.listens.iter().map(String::as_str).filter(|at| !at.starts_with('/')).collect();
    if !beyond.is_empty() {
        note(
            format!("the Nix daemon listens on {}: whoever reaches that can use it", beyond.join(", ")),
            "a ListenStream of nix-daemon.socket says so: remove it (systemctl cat nix-daemon.socket)",
        );
    }
    if let Some((_, folder)) =
        settings.socket.filter(|(_, folder)| folder & 0o002 != 0 && folder & 0o1000 == 0)
    {
        note(
            format!(
                "/nix/var/nix/daemon-socket has mode {folder:o}: any user can put another socket in the daemon's place"
            ),
            "chmod 755 /nix/var/nix/daemon-socket",
        );
    }
    let everybody = settings.allowed.iter().any(|user| user == "*");
    if let Some((own, _)) =
        settings.socket.filter(|(own, folder)| everybody && own & 0o002 != 0 && folder & 0o001 != 0)
    {
        note(
            format!(
                "the Nix daemon's socket is open to every user of the host (mode {own:o}, allowed-users = *)"
            ),
            "this is how Nix is installed; on a host that others use too, set allowed-users = root in /etc/nix/nix.conf, and restart nix-daemon.service",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        notes(&parse(text)).into_iter().map(|note| note.what).collect()
    }

    #[test]
    fn what_is_safe_is_not_mentioned() {
        let safe = "sandbox true\ntrusted-users root\nallowed-users root @wheel\nrequire-sigs true\nsocket 666 755\nlistens /nix/var/nix/daemon-socket/socket\n";
        assert_eq!(told(safe), [""; 0]);
        assert_eq!(told(""), [""; 0]);
        // A folder that others may not enter.
        assert_eq!(told("allowed-users *\nsocket 666 750\n"), [""; 0]);
    }

    #[test]
    fn what_is_not_is() {
        let all = "sandbox relaxed\ntrusted-users root @wheel me\nallowed-users *\nrequire-sigs false\nsocket 666 777\nlistens 0.0.0.0:7777\nlistens /x\n";
        assert_eq!(
            told(all),
            [
                "Nix builds with sandbox = relaxed: a build sees and may use the host's files and network",
                "trusted-users has @wheel, me: to Nix each of them is root, and can put anything into the store",
                "require-sigs = false: any user of the daemon can bring store paths that nobody signed",
                "the Nix daemon listens on 0.0.0.0:7777: whoever reaches that can use it",
                "/nix/var/nix/daemon-socket has mode 777: any user can put another socket in the daemon's place",
                "the Nix daemon's socket is open to every user of the host (mode 666, allowed-users = *)",
            ]
        );
        assert_eq!(told("sandbox false\n").len(), 1);
    }
}
