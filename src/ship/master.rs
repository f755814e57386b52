//! The master connection to a host: one `ssh` that logs in and then waits in the background. The clients of all
//! commands share it by its control socket.
//!
//! Master and clients are out of reach of a Ctrl-C in the terminal (`sys::signals`), also what a master starts for a
//! jump host or a ProxyCommand: a deployment that the user stops must still be told so.
use crate::ship::way::{Client, Way};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::process::{self, Failure, Place};
use crate::sys::signals;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How a host is reached. What is empty is left to the user's ssh configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The host's name here.
    pub name: String,
    /// A host name, an address, or an alias of ssh_config.
    pub address: String,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub identity: Option<PathBuf>,
    pub jump: Option<String>,
    /// In place of `~/.ssh/config`.
    pub config: Option<PathBuf>,
}

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Besides the limit of ssh itself, which does not count what a jump host takes.
const LOGIN_LIMIT: Duration = Duration::from_secs(20);
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Beside letters and digits, what means nothing to a shell.
const PLAIN: &str = "-_=/,.+";

pub struct Master {
    /// The control socket and the master's log.
    folder: TempDir,
}

/// ssh as every master and client runs it. The host itself asks for nothing (BatchMode). A jump host may; but a program
/// that asked the terminal from behind would be stopped there: it asks by SSH_ASKPASS, if the user has such a program.
fn ssh(socket: &Path) -> Command {
    let mut command = Command::new("ssh");
    if signals::heeded() {
        command.env("SSH_ASKPASS_REQUIRE", "force");
    }
    command.arg("-S").arg(socket).args(["-o", "BatchMode=yes"]);
    command
}

impl Master {
    /// Logs in, for as long as `stop` says no.
    pub fn start(target: &Target, stop: &mut dyn FnMut() -> bool) -> Result<Master> {
        // ssh would go on with other keys, or with none, and blame the host.
        if let Some(identity) = target.identity.as_ref().filter(|identity| !identity.is_file()) {
            let text = format!("{}: the key {} is not there", target.name, identity.display());
            return Err(Error::new(Kind::Input, text).hint("correct identity-file in the host's file"));
        }
        let parent = control_directory();
        let folder = tempfile::Builder::new()
            .prefix(".ssh-connection")
            .tempdir_in(&parent)
            .map_err(|e| Error::io("create a directory in", &parent, e))?;
        let master = Master { folder };
        let log = master.folder.path().join("log");
        let mut command = ssh(&master.socket());
        command.arg("-E").arg(&log).args(["-M", "-f", "-N"]);
        // Not for ever: a killed stillframe must not leave a connection behind. A silent connection is asked every ten
        // seconds, and given up after three times without an answer.
        for option in ["ControlPersist=60s", "StrictHostKeyChecking=yes", "ServerAliveInterval=10"] {
            command.args(["-o", option]);
        }
        command.arg("-o").arg(format!("ConnectTimeout={}", CONNECT_LIMIT.as_secs()));
        reach(&mut command, target);
        match process::unheard(command, "ssh", LOGIN_LIMIT, stop) {
            Ok(Some(0)) => Ok(master),
            Ok(_) => {
                let said = std::fs::read(&log).unwrap_or_default();
                Err(unreachable(target, &String::from_utf8_lossy(&said)))
            }
            Err(Failure::TooLong { limit, .. }) => {
                let (name, address) = (&target.name, &target.address);
                let message = format!("{name}: no SSH connection to {address} within {} s", limit.as_secs());
                Err(Error::new(Kind::Host, message).hint(target.by_hand()))
            }
            Err(failure) => Err(Error::from(failure).within(&target.name)),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("master")
    }

    /// The client of one command, whose words arrive as they are.
    fn client(&self, words: &[&str]) -> Command {
        let mut command = ssh(&self.socket());
        // The discard port: were the master gone, the client must not connect by itself.
        command.args(["-T", "-p", "9", "none", "--"]);
        command.args(words.iter().map(|word| quoted(word)));
        command
    }
}

impl Way for Master {
    fn attempt(
        &self,
        words: &[&str],
        shown: &str,
        input: &[u8],
        limit: Duration,
        stop: &mut dyn FnMut() -> bool,
    ) -> std::result::Result<process::Output, Failure> {
        process::attempt(self.client(words), shown, Place::Behind, Some(input.to_vec()), limit, stop)
    }

    fn start(&self, words: &[&str]) -> std::io::Result<Client> {
        let mut command = self.client(words);
        signals::shield(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(std::io::Error::other("it has no pipes"));
        };
        Ok(Client { input, output, errors: Box::new(errors), child: Some(child) })
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let mut command = ssh(&self.socket());
        command.args(["-O", "exit", "none"]);
        // Where it does not hear, it ends by itself later.
        let _ = process::unheard(command, "ssh", CLOSE_LIMIT, &mut || false);
    }
}

fn reach(command: &mut Command, target: &Target) {
    if let Some(user) = &target.user {
        command.args(["-l", user]);
    }
    if let Some(port) = target.port {
        command.args(["-p", &port.to_string()]);
    }
    if let Some(identity) = &target.identity {
        command.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(identity);
    }
    if let Some(jump) = &target.jump {
        command.args(["-J", jump]);
    }
    if let Some(config) = &target.config {
        command.arg("-F").arg(config);
    }
    command.args(["--", &target.address]);
}

/// A word as a POSIX shell reads it back; csh looks for `!` between apostrophes too.
fn quoted(word: &str) -> String {
    if !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || PLAIN.contains(c)) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', "'\\''").replace('!', "'\\!'"))
}

/// A short path, because a socket's may have 108 bytes only (unix(7)), that exists.
fn control_directory() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_dir());
    runtime.unwrap_or_else(std::env::temp_dir)
}

impl Target {
    pub fn by_hand(&self) -> String {
        let user = self.user.as_deref().map(|u| format!("{u}@")).unwrap_or_default();
        let jump = self.jump.as_deref().map(|j| format!("-J {j} ")).unwrap_or_default();
        format!("try it by hand: ssh {jump}{user}{}", self.address)
    }
}

/// What ssh said, and what to do about it.
fn unreachable(target: &Target, said: &str) -> Error {
    let has = |text: &str| said.contains(text);
    let hint = if has("REMOTE HOST IDENTIFICATION HAS CHANGED")
        || has("Host key verification failed") && has("changed")
    {
        format!(
            "the host's key is not the known one: if it was installed anew, remove the old key (ssh-keygen -R {0}) and \
             accept the new one by hand (ssh {0}); if not, do not connect",
            target.address
        )
    } else if has("Host key verification failed") || has("host key is known") {
        format!(
            "the host's key is not known here: compare it and accept it by hand once: ssh {}",
            target.address
        )
    } else if let Some(key) = said.lines().find_map(too_open) {
        format!("ssh does not use a private key that others may read: chmod 600 {key}")
    } else if let Some(key) = said.lines().find(|line| line.starts_with("Load key ")) {
        format!("ssh cannot use the key: {}", key.trim())
    } else if has("Permission denied") {
        format!(
            "the host does not accept your key: check the user and the key, or add it with ssh-copy-id {}",
            target.address
        )
    } else {
        target.by_hand()
    };
    // The last line says it; those before it are drawn with frames.
    let line = said.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or("ssh gave no reason");
    let line = line.strip_prefix("ssh: ").unwrap_or(line);
    Error::new(Kind::Host, format!("{}: cannot connect to {}: {line}", target.name, target.address))
        .hint(hint)
}

/// The key of a line of ssh's: `Permissions 0644 for '/home/me/key' are too open.`
fn too_open(line: &str) -> Option<&str> {
    line.strip_prefix("Permissions ")?.strip_suffix(" are too open.")?.split('\'').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_that_ssh_gives_is_told() {
        let target = Target { name: "a".into(), address: "a.example".into(), ..Target::default() };
        let hint = |said: &str| unreachable(&target, said).hint.unwrap();
        let denied = "root@a.example: Permission denied (publickey).\n";
        assert!(hint(denied).starts_with("the host does not accept your key"));
        let open = "@@@@\n@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\n@@@@\nPermissions 0644 for '/k/id' are too open.\n";
        assert_eq!(
            hint(&format!("{open}{denied}")),
            "ssh does not use a private key that others may read: chmod 600 /k/id"
        );
        let broken = "Load key \"/k/id\": error in libcrypto\r\n";
        assert_eq!(
            hint(&format!("{broken}{denied}")),
            "ssh cannot use the key: Load key \"/k/id\": error in libcrypto"
        );
    }

    #[test]
    fn a_key_that_is_not_there_is_not_passed_over() {
        let target = Target { name: "a".into(), identity: Some("/no/such/key".into()), ..Target::default() };
        let error = Master::start(&target, &mut || false).err().unwrap();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (Kind::Input, "a: the key /no/such/key is not there")
        );
    }

    #[test]
    fn words_arrive_as_they_are() {
        let words = ["", "a b", "it's", "$HOME `x` \"y\" \\", "a!b", "-n", "line\nline", "ü*?"];
        let text = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        let script = format!("printf '%s\\0' {text}");
        let out = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        let told: Vec<&str> = std::str::from_utf8(&out.stdout).unwrap().split_terminator('\0').collect();
        assert_eq!(told, words);
        assert_eq!(quoted("/nix/store/a-b/bin/x"), "/nix/store/a-b/bin/x");
    }
}
