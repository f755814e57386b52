//! What a host has, asked in one round trip (`greet.sh`, `preflight.sh`), and what of it would stop a deployment: found before the
//! first byte is sent or the first unit written.
use crate::ship::ports::Ports;
use crate::ship::send::Channel;
use crate::ship::ssh::Remote;
use crate::sys::error::{Error, Kind, Result};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

const GREETING: &str = include_str!("greet.sh");
const QUESTIONS: &str = concat!(include_str!("places.sh"), include_str!("preflight.sh"));

/// systemd 250 brought `systemd-creds` and encrypted credentials; Debian 12 has 252.
pub const MIN_SYSTEMD: u32 = 250;
/// The oldest Nix that is tested: Debian 12's.
pub const MIN_NIX: (u32, u32) = (2, 8);

/// What a host says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Facts {
    pub machine: String,
    pub kernel: String,
    pub os: String,
    pub hostname: String,
    /// The name of process 1.
    pub init: String,
    pub systemd: Option<u32>,
    pub nix: Option<String>,
    pub daemon: Option<String>,
    pub glibc: Option<String>,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub store_free_bytes: u64,
    /// `None` where the file system has no limit of its own (btrfs, for one).
    pub store_free_inodes: Option<u64>,
    pub state_free_bytes: u64,
    /// The newest version of the C library that the GPU driver's libraries ask for.
    pub driver_glibc: Option<String>,
    /// The NVIDIA kernel driver's version.
    pub cuda_driver: Option<String>,
    pub gpus: Vec<String>,
    /// TCP ports that something listens on.
    pub ports: BTreeSet<u16>,
    /// Of the asked ones, those that are there.
    pub folders: BTreeSet<String>,
    pub files: BTreeSet<String>,
    /// The link to the agent and the boot service are there.
    pub prepared: bool,
    /// Where that link leads, if no agent answers there.
    pub broken_agent: Option<String>,
    /// Our own services and their public ports.
    pub serves: BTreeMap<String, u16>,
    /// The boot service did not bring all services back.
    pub boot_failed: bool,
    /// Services whose state is not as it should be, by name: why.
    pub broken: BTreeMap<String, String>,
    /// Those whose metrics have a port.
    pub measures: BTreeMap<String, u16>,
}

/// What a deployment needs of a host. Empty is "nothing".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// `x86_64-linux`.
    pub system: String,
    /// Whether `host prepare` must have been there.
    pub prepared: bool,
    pub folders: Vec<String>,
    /// `A//B` is B in some folder of A.
    pub files: Vec<String>,
    /// The service, which may have its port already.
    pub service: String,
    pub port: Option<u16>,
    pub metrics_port: Option<u16>,
    /// The version of the C library that the snapshot brings.
    pub glibc: Option<(u32, u32)>,
    pub gpus: Vec<String>,
    /// CUDA as the wheels want it: `12.4`.
    pub cuda: Option<String>,
    pub memory_bytes: u64,
}

/// One thing that is not as it must be, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    pub what: String,
    pub hint: String,
    /// `host prepare` sees to it.
    #[serde(skip)]
    pub mended_by_prepare: bool,
}

/// The first words with a host. With the agent's channel, if the host has that agent.
pub fn greet(
    remote: &mut Remote,
    needs: &Needs,
    agent: &str,
    ask: impl FnOnce(&mut Channel),
) -> Result<(Facts, Option<Channel>)> {
    let mut words = vec!["sh", "-c", GREETING, "sh", QUESTIONS, agent];
    words.extend(needs.folders.iter().chain(&needs.files).map(String::as_str));
    let (mut channel, last_words) = remote.channel(&words)?;
    ask(&mut channel);
    let mut text = String::new();
    loop {
        let mut line = String::new();
        let read = channel.input.read_line(&mut line);
        if read.is_err() || line.is_empty() {
            let said = last_words.text();
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            return Err(Error::new(
                Kind::Host,
                format!("{}: the host ended the first conversation{said}", remote.name),
            )
            .hint("the user's login shell must run commands; try one by hand: ssh HOST id"));
        }
        if line == "end\n" {
            break;
        }
        text.push_str(&line);
        if text.len() > 1 << 20 {
            return Err(talks(remote, &text));
        }
    }
    let Some(text) = text.strip_prefix("begin\n") else { return Err(talks(remote, &text)) };
    if let Some(said) = text.strip_prefix("refused ") {
        let said = said.trim();
        return Err(Error::new(Kind::Host, format!("{}: no root's rights: `sudo -n true`: {said}", remote.name)).hint(
            "deploy as root, or let the user run sudo without a password (a line `USER ALL=(root) NOPASSWD: ALL` in \
             /etc/sudoers.d/stillframe)",
        ));
    }
    if text.starts_with("elevate sudo\n") {
        remote.elevate_by(&["sudo", "-n"]);
    }
    let (facts, has_agent) = parse(text).ok_or_else(|| {
        Error::new(Kind::Host, format!("{}: the first questions were not answered in time", remote.name))
            .hint("a file system of the host may hang: try `df` there")
    })?;
    Ok((facts, has_agent.then_some(channel)))
}

fn talks(remote: &Remote, text: &str) -> Error {
    let line = text.lines().next().unwrap_or_default();
    Error::new(
        Kind::Host,
        format!("{}: its login prints {line:?} before a command's own output", remote.name),
    )
    .hint("the user's login shell must run commands and print nothing of its own (see .bashrc there)")
}

/// What the answers say, and whether the agent is there. `None` when they did not all come.
fn parse(text: &str) -> Option<(Facts, bool)> {
    let mut facts = Facts::default();
    let mut agent = false;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ').filter(|(_, v)| !v.is_empty()) else { continue };
        let text = || value.to_string();
        let kib = || value.parse::<u64>().unwrap_or(0) * 1024;
        match key {
            "machine" => facts.machine = text(),
            "kernel" => facts.kernel = text(),
            "os" => facts.os = text(),
            "hostname" => facts.hostname = text(),
            "init" => facts.init = text(),
            "systemd" => facts.systemd = value.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok(),
            "nix" => facts.nix = Some(text()),
            "daemon" => facts.daemon = Some(text()),
            "glibc" => facts.glibc = Some(text()),
            "cpus" => facts.cpus = value.parse().unwrap_or(0),
            "memory_kib" => facts.memory_bytes = kib(),
            "store_free_kib" => facts.store_free_bytes = kib(),
            // 0 of 0 is how a file system without inodes of its own answers.
            "store_free_inodes" => facts.store_free_inodes = value.parse().ok().filter(|n| *n > 0),
            "state_free_kib" => facts.state_free_bytes = kib(),
            "cuda_driver" => facts.cuda_driver = Some(text()),
            "driver_glibc" => facts.driver_glibc = Some(text()),
            "gpu" => facts.gpus.push(text()),
            "listens" => {
                let port = value.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
                facts.ports.extend(port);
            }
            "folder" => drop(facts.folders.insert(text())),
            "file" => drop(facts.files.insert(text())),
            "prepared" => facts.prepared = true,
            "broken_agent" => facts.broken_agent = Some(text()),
            "serves" => {
                let (name, port) = value.split_once(' ')?;
                facts.serves.insert(name.into(), port.parse().ok()?);
            }
            "boot_failed" => facts.boot_failed = true,
            "broken" => {
                let (name, why) = value.split_once(' ')?;
                facts.broken.insert(name.into(), why.into());
            }
            "measures" => {
                // Without a port there is a name alone.
                let (name, port) = value.split_once(' ')?;
                facts.measures.extend(port.parse().ok().map(|port| (name.to_string(), port)));
            }
            "agent" => agent = true,
            "failed" => return None,
            _ => {}
        }
    }
    Some((facts, agent))
}

fn problem(what: String, hint: impl Into<String>) -> Problem {
    Problem { what, hint: hint.into(), mended_by_prepare: false }
}

/// `2.8.0+1` as (2, 8).
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The oldest NVIDIA driver for a CUDA major version (CUDA compatibility, "minor version compatibility").
fn driver_for(cuda: &str) -> Option<(u32, &'static str)> {
    match cuda.split('.').next()? {
        "11" => Some((450, "450.80.02")),
        "12" => Some((525, "525.60.13")),
        "13" => Some((580, "580.65.06")),
        _ => None,
    }
}

/// Everything that would stop a deployment. Pure: what a host has against what is needed.
pub fn check(facts: &Facts, needs: &Needs) -> Vec<Problem> {
    let mut found = Vec::new();
    if facts.init != "systemd" {
        found.push(problem(
            format!("process 1 is {:?}, not systemd", facts.init),
            "stillframe runs services as systemd units",
        ));
    }
    match facts.systemd {
        Some(version) if version < MIN_SYSTEMD => found.push(problem(
            format!("systemd {version} is too old; {MIN_SYSTEMD} or later is needed"),
            "upgrade the host (Debian 12 or later, Ubuntu 22.10 or later, NixOS 22.05 or later)",
        )),
        _ => {}
    }
    match facts.nix.as_deref() {
        None => found.push(Problem {
            mended_by_prepare: ["Debian", "Ubuntu"].iter().any(|os| facts.os.starts_with(os)),
            ..problem(
                "Nix is not installed".into(),
                "stillframe host prepare installs it on Debian and Ubuntu; elsewhere see https://nixos.org/download",
            )
        }),
        Some(text) if version(text).is_some_and(|v| v < MIN_NIX) => found.push(problem(
            format!("Nix {text} is too old; {}.{} or later is needed", MIN_NIX.0, MIN_NIX.1),
            "upgrade Nix on the host",
        )),
        Some(_) if facts.daemon.is_none() => {
            found.push(problem("Nix is there, but nix-daemon is not".into(), "install Nix for all users (multi-user)"))
        }
        Some(_) => {}
    }
    if needs.prepared && !facts.prepared && facts.nix.is_some() {
        found.push(Problem {
            mended_by_prepare: true,
            ..problem(
                "the host is not prepared".into(),
                "stillframe host prepare NAME shows what it needs, and does it",
            )
        });
    }
    if let Some(path) = facts.broken_agent.as_ref().filter(|_| needs.prepared && facts.prepared) {
        found.push(Problem {
            mended_by_prepare: true,
            ..problem(
                format!("the host's agent does not run: {path} is not what was brought there"),
                "stillframe host prepare NAME brings it again; a power cut may have taken more: stillframe host check --deep NAME",
            )
        });
    }
    // The driver's libraries are the host's, and are loaded beside the snapshot's own C library.
    if let (Some(brought), Some(wanted)) = (needs.glibc, facts.driver_glibc.as_deref().and_then(version))
        && !needs.gpus.is_empty()
        && wanted > brought
    {
        found.push(problem(
            format!(
                "the host's GPU driver needs a C library {}.{}, the snapshot brings {}.{}",
                wanted.0, wanted.1, brought.0, brought.1
            ),
            "take the snapshot on a workstation with a newer system",
        ));
    }
    let system = format!("{}-linux", facts.machine);
    if !needs.system.is_empty() && system != needs.system {
        found.push(problem(
            format!("the host is {system}, the snapshot is for {}", needs.system),
            "take the snapshot on a workstation of the host's kind, or leave this host out",
        ));
    }
    for folder in needs.folders.iter().filter(|f| !facts.folders.contains(*f)) {
        found.push(problem(
            format!("there is no folder {folder}"),
            "mount or make it, or correct the service's folders",
        ));
    }
    for file in needs.files.iter().filter(|f| !facts.files.contains(*f)) {
        found.push(problem(
            format!("there is no file {}", file.replace("//", "/*/")),
            "the smoke workflow names it: bring it there, or name another workflow",
        ));
    }
    let ports = Ports { listening: &facts.ports, serves: &facts.serves, measures: &facts.measures };
    for (port, give) in [
        (needs.port, "give the service another port"),
        (needs.metrics_port, "give its metrics another port: gateway.metrics-port"),
    ] {
        let taken = port.and_then(|port| Some((port, ports.taken(&needs.service, port)?)));
        found.extend(taken.map(|(port, what)| {
            problem(what, format!("see who has it: ss -ltnp 'sport = :{port}'; or {give}"))
        }));
    }
    for gpu in needs.gpus.iter().filter(|g| g.chars().all(|c| c.is_ascii_digit()) && !facts.gpus.contains(g))
    {
        found.push(problem(
            format!("there is no GPU {gpu} (/dev/nvidia{gpu})"),
            "load the driver (nvidia-smi shows the GPUs), or correct the service's gpus",
        ));
    }
    if let Some(cuda) = needs.cuda.as_deref().filter(|_| !needs.gpus.is_empty())
        && let Some((least, text)) = driver_for(cuda)
    {
        match facts.cuda_driver.as_deref() {
            None => found.push(problem(
                "no NVIDIA driver is loaded".into(),
                format!("the snapshot's CUDA {cuda} needs driver {text} or later"),
            )),
            Some(driver) if version(driver).is_some_and(|v| v.0 < least) => found.push(problem(
                format!("the NVIDIA driver {driver} is too old for the snapshot's CUDA {cuda}"),
                format!("install driver {text} or later"),
            )),
            Some(_) => {}
        }
    }
    if needs.memory_bytes > facts.memory_bytes && facts.memory_bytes > 0 {
        found.push(problem(
            format!(
                "{} MiB of memory are asked for, the host has {}",
                needs.memory_bytes >> 20,
                facts.memory_bytes >> 20
            ),
            "lower the service's memory or its slots on this host",
        ));
    }
    found
}

/// What is wrong with services that the host has already. It stops no deployment of another one.
pub fn broken(facts: &Facts) -> Vec<Problem> {
    let state = facts.broken.iter().map(|(name, why)| {
        problem(
            format!("the state of {name}: {why}"),
            "stillframe host repair NAME --all; what serves goes on as it is",
        )
    });
    let boot = facts.boot_failed.then(|| {
        problem(
            "not all services came back when the host was started".into(),
            "on the host: journalctl -u stillframe.service; then stillframe host repair NAME --all",
        )
    });
    state.chain(boot).collect()
}

/// Whether what is missing has room: asked when its size is known, before the first byte. A NAR becomes
/// about as many bytes of files, and what arrives of a large one is kept beside it until it is whole.
pub fn room(facts: &Facts, bytes: u64, paths: u64) -> Vec<Problem> {
    const SLACK: u64 = 256 << 20;
    let mut found = Vec::new();
    if bytes + SLACK > facts.store_free_bytes {
        found.push(problem(
            format!(
                "the store has {} MiB free, {} MiB are needed",
                facts.store_free_bytes >> 20,
                (bytes + SLACK) >> 20
            ),
            "free space on the host: stillframe retention, nix-collect-garbage",
        ));
    }
    // Python packages average more than 8 KiB a file; a snapshot's link trees less, but they are few.
    let inodes = bytes / (8 << 10) + paths;
    if let Some(free) = facts.store_free_inodes.filter(|free| *free < inodes) {
        found.push(problem(
            format!("the store has {free} inodes free, about {inodes} are needed"),
            "free inodes on the host: stillframe retention, nix-collect-garbage",
        ));
    }
    found
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
