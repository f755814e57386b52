//! `hosts/NAME.toml` and `hosts/NAME.nix`: where a host is, what it is called, and what differs there. And selectors: names, globs, `@tags` and
//! exclusions, as in `gpu-*,@eu,!gpu-7`.
use crate::ship::config::ServiceConfig;
use crate::ship::ssh::Target;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::words;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod nix;

/// One host. The same in TOML and in Nix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostConfig {
    /// A host name, an address, or an alias of ssh_config.
    address: String,
    /// Who to log in as (default: ssh_config's, else who runs stillframe).
    user: Option<String>,
    /// Of SSH (default: ssh_config's, else 22).
    port: Option<u16>,
    /// The private key, relative to the host's file (default: ssh_config's, and the agent's).
    #[schemars(extend("x-private" = true))]
    identity_file: Option<PathBuf>,
    /// A host to go through, as ssh's -J (default: none).
    jump: Option<String>,
    /// In place of `~/.ssh/config`, relative to the host's file.
    ssh_config: Option<PathBuf>,
    /// What it is chosen by: `--hosts @tag`.
    #[serde(default)]
    tags: Vec<String>,
    /// What differs here from `[service]` of stillframe.toml.
    #[serde(default)]
    service: ServiceConfig,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub file: PathBuf,
    pub target: Target,
    pub tags: Vec<String>,
    pub service: ServiceConfig,
    /// As it was written.
    pub config: HostConfig,
    /// The file's text, to name lines of it; of a Nix file none, whose lines say little.
    pub text: String,
}

const CORRECT: &str = "correct the file: README.md shows one";

/// Every host of a folder, by name. All that is wrong with any of them is said at once. `cache` is a folder for
/// what Nix is given to read, where there are hosts in Nix.
pub fn load(folder: &Path, cache: &Path) -> Result<Vec<Host>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Error::io("list", folder, e)),
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()).map_err(|e| Error::io("list", folder, e)))
        .collect::<Result<_>>()?;
    let of = |path: &PathBuf, kind: &str| path.extension().is_some_and(|e| e == kind) && !path.is_dir();
    files.sort();
    let (mut hosts, mut wrong) = (Vec::new(), Vec::new());
    let mut put = |host: Result<Host>| match host {
        Ok(host) => hosts.push(host),
        Err(e) => wrong.push(e),
    };
    for file in files.iter().filter(|path| of(path, "toml")) {
        let twin = file.with_extension("nix");
        if twin.is_file() {
            let text = format!("{} and {} are one host twice", file.display(), twin.display());
            put(Err(Error::new(Kind::Input, text).hint("remove one of them")));
        }
        put(read(file));
    }
    if files.iter().any(|path| of(path, "nix")) {
        match nix::evaluate(folder, cache) {
            Ok(found) => named(found, folder).into_iter().for_each(put),
            Err(e) if e.kind == Kind::Interrupted => return Err(e),
            Err(e) => put(Err(e)),
        }
    }
    if wrong.len() == 1
        && let Some(only) = wrong.pop()
    {
        return Err(only);
    }
    if !wrong.is_empty() {
        let all: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        return Err(Error::new(Kind::Input, all.join("\n")).hint("correct the files"));
    }
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(hosts)
}

/// Hosts as Nix gave them; `folder` is where their files are.
pub fn named(hosts: BTreeMap<String, Value>, folder: &Path) -> Vec<Result<Host>> {
    let one = |(name, value): (String, Value)| {
        let file = folder.join(format!("{name}.nix"));
        let config = serde_json::from_value::<HostConfig>(value).map_err(|e| {
            Error::new(Kind::Input, format!("{} is not valid: {e}", file.display())).hint(CORRECT)
        })?;
        host(&file, config, String::new())
    };
    hosts.into_iter().map(one).collect()
}

fn valid_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn invalid(file: &Path, why: &str) -> Error {
    Error::new(Kind::Input, format!("{} is not valid: {why}", file.display())).hint(CORRECT)
}

fn read(file: &Path) -> Result<Host> {
    let bytes = files::read(file)?;
    check(file, &String::from_utf8(bytes).map_err(|_| invalid(file, "it is not UTF-8"))?)
}

/// What a file with this text describes; whether it may be written.
pub fn check(file: &Path, text: &str) -> Result<Host> {
    let parsed: HostConfig = toml::from_str(text).map_err(|e| {
        let error = invalid(file, &words::for_writers(e.to_string().trim()));
        match words::nearest_field(e.message()) {
            Some(key) => error.hint(format!("did you mean `{key}`?")),
            None => error,
        }
    })?;
    host(file, parsed, text.into())
}

/// What a type cannot say of a host, and where its relative paths lead.
fn host(file: &Path, parsed: HostConfig, text: String) -> Result<Host> {
    let name = file.file_stem().and_then(|n| n.to_str()).unwrap_or_default().to_string();
    if !valid_name(&name) {
        let why = format!("{name:?} is no name for a host: use letters, digits, '-', '_' and '.'");
        return Err(invalid(file, &why));
    }
    for (key, value) in
        [("address", Some(&parsed.address)), ("user", parsed.user.as_ref()), ("jump", parsed.jump.as_ref())]
    {
        // ssh would take it for an option of its own.
        if let Some(value) =
            value.filter(|v| v.is_empty() || v.starts_with('-') || v.contains(char::is_whitespace))
        {
            return Err(invalid(file, &format!("{key} = {value:?} is no {key}")));
        }
    }
    for tag in &parsed.tags {
        if !valid_name(tag) {
            let why = format!("{tag:?} is no tag: use letters, digits, '-', '_' and '.'");
            return Err(invalid(file, &why));
        }
    }
    for (key, set) in [
        ("programs", parsed.service.programs.is_some()),
        ("system-files", parsed.service.system_files.is_some()),
    ] {
        if set {
            let why =
                format!("service.{key} is of a snapshot, which all hosts share: write it in stillframe.toml");
            return Err(invalid(file, &why));
        }
    }
    let beside = |path: PathBuf| file.parent().unwrap_or(Path::new(".")).join(path);
    let config = parsed.clone();
    Ok(Host {
        target: Target {
            name: name.clone(),
            address: parsed.address,
            user: parsed.user,
            port: parsed.port,
            identity: parsed.identity_file.map(beside),
            jump: parsed.jump,
            config: parsed.ssh_config.map(beside),
        },
        name,
        file: file.to_path_buf(),
        tags: parsed.tags,
        service: parsed.service,
        config,
        text,
    })
}

/// The hosts that a selector takes, in the order of their names. A part that takes none is an error:
/// a host that is forgotten is found late.
pub fn select<'a>(hosts: &'a [Host], selector: &str) -> Result<Vec<&'a Host>> {
    let parts: Vec<&str> = selector.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
    if parts.is_empty() {
        return Err(Error::new(Kind::Input, "the selector is empty")
            .hint("for instance alpha, gpu-*, @tag, or !beta"));
    }
    let mut chosen = vec![parts.iter().all(|p| p.starts_with('!')); hosts.len()];
    for part in &parts {
        let (exclude, pattern) = part.strip_prefix('!').map_or((false, *part), |rest| (true, rest));
        let mut any = false;
        for (host, chosen) in hosts.iter().zip(&mut chosen) {
            let takes = match pattern.strip_prefix('@') {
                Some(tag) => host.tags.iter().any(|t| words::glob(tag, t)),
                None => words::glob(pattern, &host.name),
            };
            if takes {
                any = true;
                *chosen = !exclude;
            }
        }
        if !any {
            return Err(nobody(hosts, pattern));
        }
    }
    let found: Vec<&Host> = hosts.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(h, _)| h).collect();
    if found.is_empty() {
        return Err(Error::new(Kind::Input, format!("{selector:?} leaves no host"))
            .hint("an exclusion takes what was chosen before it"));
    }
    Ok(found)
}

fn nobody(hosts: &[Host], pattern: &str) -> Error {
    let (what, known): (String, Vec<&str>) = match pattern.strip_prefix('@') {
        Some(tag) => (
            format!("no host has the tag {tag:?}"),
            hosts
                .iter()
                .flat_map(|h| &h.tags)
                .map(String::as_str)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        ),
        None => (format!("no host is called {pattern:?}"), hosts.iter().map(|h| h.name.as_str()).collect()),
    };
    let error = Error::new(Kind::Input, what);
    match words::nearest(pattern.trim_start_matches('@'), known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None if known.is_empty() => {
            error.hint("there is none: hosts are described in hosts/NAME.toml or hosts/NAME.nix")
        }
        None => error.hint(format!("there are: {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn fleet() -> Vec<Host> {
        let dir = folder(&[
            ("gpu-1.toml", "address = \"10.0.0.1\"\ntags = [\"eu\", \"big\"]\n"),
            ("gpu-2.toml", "address = \"10.0.0.2\"\ntags = [\"us\"]\n"),
            (
                "cpu.toml",
                "address = \"cpu.example\"\nuser = \"deploy\"\nport = 2222\nidentity-file = \"key\"\ntags = [\"eu\"]\n",
            ),
            ("README.md", "no host"),
        ]);
        load(dir.path(), dir.path()).unwrap()
    }

    fn names(selector: &str) -> Vec<String> {
        select(&fleet(), selector).unwrap().iter().map(|h| h.name.clone()).collect()
    }

    fn refused(selector: &str) -> String {
        let error = select(&fleet(), selector).unwrap_err();
        format!("{error} ({})", error.hint.as_deref().unwrap())
    }

    #[test]
    fn selectors_choose_by_name_pattern_and_tag() {
        assert_eq!(names("gpu-2"), ["gpu-2"]);
        assert_eq!(names("gpu-*"), ["gpu-1", "gpu-2"]);
        assert_eq!(names("@eu"), ["cpu", "gpu-1"]);
        assert_eq!(names("@eu,!gpu-*"), ["cpu"]);
        assert_eq!(names("!@us"), ["cpu", "gpu-1"]);
        assert_eq!(names("*, !cpu, cpu"), ["cpu", "gpu-1", "gpu-2"]);
        assert_eq!(refused("gpu-3"), "no host is called \"gpu-3\" (did you mean gpu-1?)");
        assert_eq!(refused("elephant"), "no host is called \"elephant\" (there are: cpu, gpu-1, gpu-2)");
        assert_eq!(refused("@asia"), "no host has the tag \"asia\" (there are: big, eu, us)");
        assert_eq!(
            refused("cpu,!cpu"),
            "\"cpu,!cpu\" leaves no host (an exclusion takes what was chosen before it)"
        );
        assert_eq!(refused(" , "), "the selector is empty (for instance alpha, gpu-*, @tag, or !beta)");
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line() {
        let wrong = |text: &str| {
            let dir = folder(&[("a.toml", text)]);
            let error = load(dir.path(), dir.path()).unwrap_err();
            let text = format!("{error} ({})", error.hint.as_deref().unwrap());
            text.replace(&dir.path().display().to_string(), "hosts")
        };
        let unknown = wrong("address = \"a\"\nusr = \"b\"\n");
        assert!(
            unknown.starts_with("hosts/a.toml is not valid: TOML parse error at line 2, column 1"),
            "{unknown}"
        );
        assert!(unknown.ends_with("(did you mean `user`?)"), "{unknown}");
        assert!(wrong("user = \"b\"\n").contains("missing field `address`"));
        assert_eq!(
            wrong("address = \"-oProxyCommand=x\"\n"),
            "hosts/a.toml is not valid: address = \"-oProxyCommand=x\" is no address (correct the file: README.md shows one)"
        );
        let own = wrong("address = \"a\"\n[service]\nprograms = [\"jq\"]\n");
        assert!(own.contains("service.programs is of a snapshot"), "{own}");
        let dir = folder(&[("a.toml", "x"), ("b.toml", "y")]);
        assert!(load(dir.path(), dir.path()).unwrap_err().to_string().contains("b.toml"));
        assert_eq!(load(&dir.path().join("absent"), dir.path()).unwrap(), []);
    }
}
