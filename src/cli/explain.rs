//! `stillframe explain CODE`: what the codes mean that errors (`--json`: error.kind), report lines (topic) and the gateway's
//! answers (error.kind of its JSON body, the access log, the metrics) bear, and what to do.
use super::printer::Printer;
use crate::sys::error::{Error, Kind, Result};
use crate::words;
use serde_json::json;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A code; without one, all of them.
    code: Option<String>,
}

struct Entry {
    code: &'static str,
    /// Who says it.
    by: &'static str,
    means: &'static str,
    to_do: &'static str,
}

const ERROR: &str = "error";
const REPORT: &str = "report line";
const GATEWAY: &str = "gateway";

macro_rules! entries {
    ($($by:ident $code:literal: $means:literal $to_do:literal)+) => {
        &[$(Entry { code: $code, by: $by, means: $means, to_do: $to_do },)+]
    };
}

const ENTRIES: &[Entry] = entries! {
    ERROR "input": "The command line or a file of the configuration says something that cannot be. Exit status 2; nothing was done."
        "Correct what the message names. `stillframe schema` prints what the files may say."
    ERROR "environment": "The ComfyUI environment, or a file in it, cannot be captured as it is."
        "The message names the file. Mend it, or leave it out with `exclude`; `stillframe inspect` shows the whole report."
    ERROR "index": "The package index answered with something else than PEP 691 and 503 allow, or with other bytes than it promised."
        "Try again; ask who runs the index. `--offline` captures everything without it."
    ERROR "store": "The Nix store or its daemon refused, or went away."
        "What reached the store stays there: run the command again. `stillframe doctor` looks at the store."
    ERROR "build": "Nix could not build a derivation of the snapshot."
        "The message has the end of the log; `nix-store --read-log DERIVATION` all of it."
    ERROR "io": "A file operation of this machine failed."
        "The message names the file and the reason: rights, space, or a disk that fails."
    ERROR "host": "A host cannot be reached, or refused, or what runs there failed. The generation that served serves on."
        "`stillframe host check NAME` looks at it; `stillframe history` has every step of a deployment, `stillframe logs` what ComfyUI said."
    ERROR "busy": "Another run works on the same: one at a time."
        "The message says whose it is. `stillframe attach` watches a deployment, `stillframe cancel` stops it."
    ERROR "interrupted": "You, or somebody, asked for a stop. Exit status 130; nothing is left half done."
        "Run the command again: it goes on from what is there."
    REPORT "secret": "A token, a private key or a password file: it stays out of the snapshot."
        "Give it to instances by [service.secrets]."
    REPORT "outside": "A path of the environment leads out of it. What can be followed was captured in its place; the rest is named."
        "Bring it into the environment, or name the folder under [[service.folders]]."
    REPORT "unreadable": "A file may not be read, so it is not in the snapshot."
        "Give yourself the right to read it, or exclude it."
    REPORT "special-file": "A FIFO, a socket or a device: no store has such things."
        "Nothing, unless a pack needs it: then it must make it itself when it starts."
    REPORT "symlink": "A symbolic link that leads nowhere or in a circle."
        "Remove or mend it."
    REPORT "case": "Two names that differ in upper and lower case alone: some file systems have only one of them."
        "Rename one if the snapshot is to be copied to such a system."
    REPORT "weights": "Model files inside a pack: listed, not captured; each instance gets them by a link into the models folder."
        "Have them in the hosts' models folder."
    REPORT "patched": "A distribution is a wheel of the index with files changed after it was installed. What is on disk ships."
        "See whether the change is meant; reinstall the distribution if it is not."
    REPORT "captured": "No wheel of an index vouches for a distribution. What is on disk ships."
        "Nothing: the snapshot is complete. It cannot be rebuilt from the index."
    REPORT "unowned": "Files beside the distributions that none of them owns. They ship, under a name of their own."
        "See whether they are meant."
    REPORT "intent": "A file that says what should be installed (uv.lock, pylock.toml, requirements, a Manager snapshot) says otherwise."
        "Install what it says, or correct it."
    REPORT "audit": "A library needs what nothing in the snapshot has, a newer C library, or another major version of CUDA."
        "Name a missing library under [python] libraries. GPU driver libraries are the host's and not reported."
    REPORT "excluded": "Left out because the configuration says so."
        "Nothing."
    REPORT "name": "A name that a store path cannot have was changed into one that it can."
        "Nothing."
    REPORT "git": "A pack's repository cannot be read, or says nothing of its state."
        "Its files ship all the same; its commit is unknown."
    REPORT "index": "The index did not answer while the environment was captured: what it could have vouched for is captured."
        "The snapshot is complete. Take it again later to have distributions pinned: the same files give the same store path."
    REPORT "runtime": "Something about the interpreter: what of it is the host's, or is not captured."
        "The line says what."
    REPORT "probe": "The environment's own server, started by --probe, said something worth knowing."
        "The line says what."
    REPORT "scripts": "An entry point that names no script that could be written."
        "Report it to the distribution's authors; the script is left out."
    REPORT "pth": "Code in a .pth file changes where modules are looked for. It is not run by a capture."
        "Replace it by a plain path, or by an editable install."
    REPORT "imports": "A distribution does not import through links (it is laid out as files then), or not from the snapshot at all."
        "Name it in [python] real-files, or see what it looks for."
    GATEWAY "no-instance": "503: no instance was ready within `gateway.hold`."
        "`stillframe instances` shows why: starting, failed, or stopped by hand."
    GATEWAY "too-many-waiting": "503: as many requests wait for an instance as may (`gateway.waiting`)."
        "More instances, or a larger number."
    GATEWAY "too-many-connections": "503: as many connections are open as may be (`gateway.connections`)."
        "A larger number, if the host has the memory."
    GATEWAY "instance-refused": "502: the instance's port is closed."
        "It is ending or has ended: `stillframe instances`, `stillframe logs`."
    GATEWAY "instance-ended": "502: the instance closed the connection before its answer was whole."
        "It may have been killed for its memory: `stillframe logs`, and [service.resources] memory."
    GATEWAY "instance-garbled": "502: the instance's answer is no HTTP."
        "See which pack answers on that path."
    GATEWAY "instance-slow": "504: the instance did not begin its answer within `gateway.response-timeout`."
        "It is stuck or overloaded: `stillframe instances` shows its queue."
    GATEWAY "body-too-large": "413: the request is larger than `gateway.body-limit`."
        "A larger limit, if such uploads are meant."
    GATEWAY "not-allowed": "401: no API key, or a wrong one."
        "Send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`."
    GATEWAY "no-such-page": "404: /-/ is the gateway's own, and has no such page."
        "There are /-/health, /-/ready and /-/instances."
    GATEWAY "bad-request": "400: the request is no HTTP/1.1, or asks for what a proxy may not do."
        "Correct the client."
    GATEWAY "client-slow": "408: the request's head or body did not come within its time."
        "A slow line: `gateway.head-timeout`, `gateway.idle-timeout`."
    GATEWAY "client-gone": "The client closed the connection before its answer was whole: nobody was answered."
        "Nothing, unless it happens to many: then see what ends them on the way."
};

/// One code may be said by two.
fn find(code: &str) -> Result<Vec<&'static Entry>> {
    let found: Vec<&Entry> = ENTRIES.iter().filter(|e| e.code == code).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let error = Error::new(Kind::Input, format!("there is no code {code:?}"));
    Err(match words::nearest(code, ENTRIES.iter().map(|e| e.code)) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint("stillframe explain lists them"),
    })
}

pub fn run(args: &Args, printer: &Printer) -> Result<ExitCode> {
    let value = |e: &Entry| json!({"code": e.code, "by": e.by, "means": e.means, "to_do": e.to_do});
    if let Some(code) = &args.code {
        let found = find(code)?;
        printer.value(&json!({"version": 1, "codes": found.iter().map(|e| value(e)).collect::<Vec<_>>()}));
        for entry in found {
            printer.line(format!("{} ({})", printer.bold(entry.code), entry.by));
            printer.line(format!("  {}", entry.means));
            printer.line(format!("  What to do: {}", entry.to_do));
        }
        return Ok(ExitCode::SUCCESS);
    }
    printer.value(&json!({"version": 1, "codes": ENTRIES.iter().map(value).collect::<Vec<_>>()}));
    for by in [ERROR, REPORT, GATEWAY] {
        printer.line(printer.bold(by));
        for entry in ENTRIES.iter().filter(|e| e.by == by) {
            printer.line(format!("  {:20} {}", entry.code, entry.means));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::refusal::Fault;
    use std::collections::BTreeSet;

    fn codes(by: &str) -> BTreeSet<&'static str> {
        ENTRIES.iter().filter(|e| e.by == by).map(|e| e.code).collect()
    }

    #[test]
    fn every_code_that_is_said_is_explained() {
        assert_eq!(codes(ERROR), Kind::ALL.iter().map(|k| k.name()).collect());
        assert_eq!(codes(GATEWAY), Fault::ALL.iter().map(|f| f.name()).collect());
        // The stable words of the report are listed where it is defined.
        let source = include_str!("../capture/model/inventory.rs");
        let list = source.split("`topic` is a stable word").nth(1).unwrap().split("#[derive").next().unwrap();
        let topics: BTreeSet<&str> = list.split('`').skip(1).step_by(2).collect();
        assert_eq!(codes(REPORT), topics);
        let each: BTreeSet<_> = ENTRIES.iter().map(|e| (e.by, e.code)).collect();
        assert_eq!(each.len(), ENTRIES.len(), "one twice");
    }

    #[test]
    fn an_unknown_one_brings_the_nearest_to_mind() {
        assert_eq!(
            find("secrets").map(|found| found.len()).unwrap_err().hint.unwrap(),
            "did you mean secret?"
        );
        assert_eq!(
            find("zebra").map(|found| found.len()).unwrap_err().hint.unwrap(),
            "stillframe explain lists them"
        );
    }
}
