//! `hosts/NAME.nix`: evaluated by the installed Nix, with the module system of `nix/lib` that this program carries.
use crate::sys::error::{Error, Kind, Result};
use crate::sys::{files, process};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `nix/lib`, as the flake exports it.
const LIBRARY: &[(&str, &str)] = &[
    ("default.nix", include_str!("../../../nix/lib/default.nix")),
    ("check.nix", include_str!("../../../nix/lib/check.nix")),
    ("hosts.nix", include_str!("../../../nix/lib/hosts.nix")),
    ("modules.nix", include_str!("../../../nix/lib/modules.nix")),
    ("words.nix", include_str!("../../../nix/lib/words.nix")),
    ("schema.json", include_str!("../../../nix/lib/schema.json")),
];

/// What the library's folder is called, before what is in it.
const LIBRARY_NAME: &str = "nix-lib-";

/// Hosts may be computed; a computation that does not end is no host.
const LIMIT: Duration = Duration::from_secs(60);

/// What is wrong comes as a value, not as an error of Nix with a trace around it.
const EXPRESSION: &str = "{ library, folder }: \
    let tried = (import (/. + library)).tryHosts { hosts = /. + folder; suffixes = [ \".nix\" ]; }; in \
    if tried.errors == [ ] then tried else { inherit (tried) errors; hosts = { }; }";

#[derive(Deserialize)]
struct Tried {
    hosts: BTreeMap<String, Value>,
    errors: Vec<String>,
}

/// Puts the library where Nix can read it; the name says what is in it, so that another version's stays whole.
fn library(cache: &Path) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for (name, text) in LIBRARY {
        hash.update(name);
        hash.update([0]);
        hash.update(text);
        hash.update([0]);
    }
    let folder = cache.join(format!(
        "{LIBRARY_NAME}{}",
        &crate::formats::nix::hash::Sha256(hash.finalize().into()).to_hex()[..16]
    ));
    for (name, text) in LIBRARY {
        files::write_if_changed(&folder.join(name), text.as_bytes())?;
    }
    Ok(folder)
}

/// Each host of the folder by name, as its file gives it.
pub fn evaluate(folder: &Path, cache: &Path) -> Result<BTreeMap<String, Value>> {
    let library = library(cache)?;
    let (Some(library), Some(text)) = (library.to_str(), folder.to_str()) else {
        return Err(Error::new(Kind::Input, format!("{} is not UTF-8, which Nix needs", folder.display())));
    };
    let mut words = vec!["nix-instantiate", "--eval", "--strict", "--json"];
    words.extend(["--option", "allow-import-from-derivation", "false"]);
    words.extend(["--argstr", "library", library, "--argstr", "folder", text, "--expr", EXPRESSION]);
    let output = nix(&words, folder)?;
    if output.code != Some(0) {
        // The whole trace is long, and older ones put the error before it: it is asked for by itself.
        let traced =
            || nix(&[&words[..], &["--show-trace"]].concat(), folder).map(|o| o.stderr).unwrap_or_default();
        return Err(refused(folder, &output.stderr, traced));
    }
    let tried: Tried = serde_json::from_slice(&output.stdout).map_err(|e| {
        Error::new(Kind::Input, format!("{}: Nix answered with no hosts", folder.display())).caused_by(e)
    })?;
    if tried.errors.is_empty() {
        return Ok(tried.hosts);
    }
    Err(Error::new(Kind::Input, tried.errors.join("\n"))
        .hint("correct the files: docs/config.md has every option"))
}

fn nix(words: &[&str], folder: &Path) -> Result<process::Output> {
    // The whole command is long and says nothing: the program's name stands for it.
    process::run_until_interrupt(process::command(words), words[0], LIMIT).map_err(|e| match e.kind {
        Kind::Interrupted => e,
        _ => e
            .within(format!("cannot evaluate the hosts in {}", folder.display()))
            .hint("hosts written in Nix need it; in TOML (hosts/NAME.toml) they do not"),
    })
}

/// What Nix says: older ones begin with the error and newer ones end with it; the place of the error, if it has one,
/// is behind it in both. Of a `throw` some name no place, but the trace has our own word for which host it was.
fn refused(folder: &Path, said: &str, traced: impl FnOnce() -> String) -> Error {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let error =
        lines.iter().rposition(|l| l.strip_prefix("error: ").is_some_and(|text| !text.trim().is_empty()));
    let text =
        error.map(|at| &lines[at]["error: ".len()..]).or(lines.last().copied()).unwrap_or("no reason given");
    let behind = lines.get(error.unwrap_or(0)..).unwrap_or_default();
    let place =
        behind.iter().find(|l| l.starts_with("at ") && l.contains(".nix") && !l.contains(LIBRARY_NAME));
    let context = || {
        let trace = traced();
        trace.lines().rev().find_map(|l| Some(l[l.find("while evaluating hosts/")?..].to_string()))
    };
    let place = place.map(|place| place.to_string()).or_else(context);
    let place = place.map(|p| format!(" ({})", p.trim_end_matches(':'))).unwrap_or_default();
    let shown = folder.display();
    Error::new(Kind::Input, format!("Nix cannot evaluate the hosts in {shown}: {text}{place}")).hint(format!(
        "the whole trace: nix-instantiate --eval --strict --show-trace -E 'import {shown}/NAME.nix'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_older_and_newer_nix() {
        let said = |text: &str| refused(Path::new("/p/hosts"), text, || text.to_string()).message;
        let older = "error: undefined variable 'x'\n\n       at /p/hosts/a.nix:1:13:\n\n            1| { address = x; }\n";
        let newer = "error:\n       … while evaluating hosts/a.nix\n         at /c/nix-lib-0/modules.nix:200:7:\n           199|\n\n       \
            error: undefined variable 'x'\n       at /p/hosts/a.nix:1:13:\n            1| { address = x; }\n";
        let told =
            "Nix cannot evaluate the hosts in /p/hosts: undefined variable 'x' (at /p/hosts/a.nix:1:13)";
        assert_eq!([said(older), said(newer)], [told, told]);
        let thrown = "error:\n       … while evaluating hosts/a.nix\n         at /c/nix-lib-0/modules.nix:1:1:\n       error: not today\n";
        let told = "Nix cannot evaluate the hosts in /p/hosts: not today (while evaluating hosts/a.nix)";
        assert_eq!(said(thrown), told);
        assert_eq!(said(""), "Nix cannot evaluate the hosts in /p/hosts: no reason given");
    }
}
