//! `stillframe explain CODE`: what the codes mean that errors (`--json`: error.kind), report lines (topic) and the gateway's
//! answers (error.kind of its JSON body, the access log, the metrics) bear, and what to do.
use super::documents::{Code, Codes};
use super::printer::Printer;
use crate::capture::model::report::Topic;
use crate::gateway::refusal::Fault;
use crate::sys::error::{Error, Kind, Result};
use crate::words;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A code; without one, all of them.
    code: Option<String>,
}

/// Who says a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Error,
    Report,
    Gateway,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            By::Error => "error",
            By::Report => "report line",
            By::Gateway => "gateway",
        }
    }
}

struct Entry {
    code: &'static str,
    by: By,
    means: &'static str,
    to_do: &'static str,
}

/// One function for each enum of codes. Its `match` is exhaustive: a code that nobody explains does not compile.
macro_rules! explained {
    ($($function:ident($codes:ident, $by:ident) { $($code:ident: $means:literal $to_do:literal)+ })+) => {$(
        fn $function(code: $codes) -> Entry {
            let (means, to_do) = match code {
                $($codes::$code => ($means, $to_do),)+
            };
            Entry { code: code.name(), by: By::$by, means, to_do }
        }
    )+};
}

explained! {
    error(Kind, Error) {
        Input: "The command line or a file of the configuration says something that cannot be. Exit status 2; nothing was done."
            "Correct what the message names. `stillframe schema` prints what the files may say."
        Environment: "The ComfyUI environment, or a file in it, cannot be captured as it is, cannot be made (`import`), or ended by itself (`run`)."
            "The message names the file or the step. Mend it, or leave it out with `exclude`; `stillframe inspect` shows the whole report."
        Index: "The HTTP client for the package index cannot be set up: certificates, or the system's configuration."
            "The message says why. `--offline` captures everything without an index. (An index that does not answer ends no run: it is a line of the report.)"
        Store: "The Nix store or its daemon refused, or went away."
            "What reached the store stays there: run the command again. `stillframe doctor` looks at the store."
        Build: "Nix could not build a derivation of the snapshot."
            "The message has the end of the log; `nix-store --read-log DERIVATION` all of it."
        Io: "A file operation or a program of this machine failed."
            "The message names the file or the command, and the reason: rights, space, a program that is not installed."
        Host: "A host cannot be reached, or refused, or what runs there failed. The generation that served serves on."
            "`stillframe host check NAME` looks at it; `stillframe history` has every step of a deployment, `stillframe logs` what ComfyUI said."
        Busy: "Another run works on the same: one at a time."
            "The message says whose it is. `stillframe attach` watches a deployment, `stillframe cancel` stops it."
        Interrupted: "You, or somebody, asked for a stop. Exit status 130; nothing is left half done."
            "Run the command again: it goes on from what is there."
    }
    topic(Topic, Report) {
        Audit: "A library needs what nothing in the snapshot has, or a newer C library; majors of CUDA are mixed; or a library of the host could take part. Also what was not audited."
            "Name a missing library under [python] libraries, or paste the line that names all of them; with `[python] runtime` it must be in that. GPU driver libraries are the host's and not reported."
        Captured: "No wheel of an index vouches for a distribution. What is on disk ships. A warning: a distribution is there twice, or its metadata cannot be used; the line says what counts."
            "Nothing: the snapshot is complete. It cannot be rebuilt from the index."
        Case: "Two names that differ in upper and lower case alone: some file systems have only one of them."
            "Rename one if the snapshot is to be copied to such a system."
        Excluded: "Left out on purpose: the configuration says so, or nothing that runs needs it (a tool's cache, a lock, an unfinished download, a file that ComfyUI does not load)."
            "Nothing."
        Git: "Whether the files of a repository differ from its commit could not be told: git is not installed, or objects are missing. Or files of the commit are not there: it is a sparse checkout, or Git LFS has yet to bring their content."
            "`git lfs pull` brings the content of pointers, `git sparse-checkout disable` the files that are left out. Otherwise nothing: what is on disk ships, and the commit is recorded."
        Imports: "A distribution does not import through links (it is laid out as files then), or not from the snapshot at all, or could not be tried."
            "Name it in [python] real-files, or see what it looks for."
        Index: "The index did not answer while the environment was captured: what it could have vouched for is captured. Or an index is configured that is not asked."
            "The snapshot is complete. Take it again later to have distributions pinned: the same files give the same store path."
        Intent: "A file that says what should be installed (uv.lock, pylock.toml, requirements, a Manager snapshot) says otherwise."
            "Install what it says, or correct it."
        Name: "A file name that is not UTF-8 or holds control characters. The file ships under exactly that name; but a pack or a cache entry whose name is not UTF-8 is left out."
            "Rename what was left out; the others need nothing."
        Outside: "A path of the environment leads out of it. What can be followed was captured in its place; links into the models folder, and what only code in a .pth file adds to sys.path, were not; the line says which."
            "Bring it into the environment, or name the folder under [[service.folders]]."
        OwnPath: "A text that ships (a pack's configuration, mostly) names the environment's own folder as it is on this machine: on a host something else is there, or nothing."
            "Name the file in `own-paths`, and an instance finds its own place there; or let the pack write its configuration anew: exclude it. A document or a comment does no harm."
        Patched: "A file of a distribution is not as it was installed: changed (what is on disk ships), missing, or replaced by another distribution's (that one's ships). Of a changed entry-point script the one that an installer writes ships."
            "See whether the change is meant; reinstall the distribution if it is not."
        Probe: "The environment's own server, started by --probe, said something worth knowing. Or it was seen that the environment uses what is this machine's (shared libraries, programs, other files), and a host may lack it."
            "The line says what. One with a line for stillframe.toml mends what it names: put it there, in place of one of that name."
        Runtime: "Something about the interpreter: which one was taken, what of it is the host's, or does not ship; or about an interpreter that a pack has for itself."
            "The line says what."
        Scripts: "An entry point of which no script is made, or a script that several distributions have: the line says whose the snapshot has."
            "Report an entry point that is none to the distribution's authors. Of a script of several, see whether the right one won."
        Secret: "A token, a private key or a password file: it stays out of the snapshot. Or a credential in the URL of a git remote: it is removed wherever the URL is recorded. Or a line, in a file that ships, that may be one."
            "Give it to instances by [service.secrets]; with `at` it is a file at its place. [redact] lets a file ship with single values empty. What is no secret, or may ship, is named in `allow-secrets`."
        SpecialFile: "A FIFO, a socket or a device: no store has such things."
            "Nothing, unless a pack needs it: then it must make it itself when it starts."
        Symlink: "A symbolic link that cannot be followed, or must not be: it leads nowhere, in a circle, to the kernel's own files, or to what does not ship. It is left out; where the line is a warning, it ships and leads nowhere."
            "Remove or mend it; name a folder of Python code in a .pth file instead."
        Unowned: "A file that no distribution owns. In site-packages it ships, unless an earlier folder of sys.path hides it; elsewhere in the virtual environment it does not: the line says which."
            "See whether it is meant; let a distribution own what must ship."
        Unreadable: "Something could not be read, or must not be taken, so it is not in the snapshot. Of a models folder only its size is not known."
            "Give yourself the right to read it, or exclude it. The line says what else stood in the way."
        Weights: "A model file inside a pack. It ships, as a store path of its own, and each instance sees it at its place by a link: a change of the pack's code does not send it again."
            "Nothing. To keep it out of snapshots, move it to the models folder."
    }
    fault(Fault, Gateway) {
        NoInstance: "503: no instance was ready within `gateway.hold`."
            "`stillframe instances` shows why: starting, failed, or stopped by hand."
        TooManyWaiting: "503: as many requests wait for an instance as may (`gateway.waiting`, `waiting-per-client`, `waiting-per-key`)."
            "More instances, or a larger number."
        TooManyConnections: "503: as many connections are open as may be, in all (`gateway.connections`) or of one client (`gateway.connections-per-client`)."
            "A larger number, if the host has the memory; a proxy with many clients belongs under `gateway.trusted-proxies`."
        InstanceRefused: "502: the instance's port is closed."
            "It is ending or has ended: `stillframe instances`, `stillframe logs`."
        InstanceEnded: "502: the instance closed the connection before its answer was whole."
            "It may have been killed for its memory: `stillframe logs`, and [service.resources] memory."
        InstanceGarbled: "502: the instance's answer is no HTTP."
            "See which pack answers on that path."
        InstanceSlow: "504: the instance did not begin its answer within `gateway.response-timeout`."
            "It is stuck or overloaded: `stillframe instances` shows its queue."
        BodyTooLarge: "413: the request is larger than `gateway.body-limit`."
            "A larger limit, if such uploads are meant."
        NotAllowed: "401: no API key, or a wrong one."
            "Send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`; from a page also as a ticket or a subprotocol."
        TooManyWrongKeys: "429: this client brought more wrong API keys within a minute than it may (`gateway.wrong-keys`)."
            "Find the program that has an old key; Retry-After says when keys are looked at again."
        TooManyRequests: "429: as many requests are open with this API key, or of this client behind a trusted proxy, as may be (`gateway.requests-per-key`, `connections-per-client`)."
            "Wait for answers before more is sent, or a larger number."
        CrossSite: "403: a page of another site sent a request that may change something, or a WebSocket's."
            "If the page is yours, name it under `gateway.origins`."
        UnknownHost: "403: without an API key, the name in Host must be one of the service's."
            "If the name is yours, put it under `gateway.hosts`."
        NoSuchPage: "404: /-/ and /stillframe/ are the gateway's own, and have no such page."
            "There are /-/health, /-/ready, /-/instances and, for POST, /stillframe/ticket."
        BadRequest: "400: the request is no HTTP/1.1, or asks for what a proxy may not do."
            "Correct the client."
        GatewayFailed: "500: the gateway itself could not do something; its log says what."
            "`stillframe logs`; it is a fault of the host's system, or of stillframe."
        ClientSlow: "408: the request's head or body did not come within its time."
            "A slow line: `gateway.head-timeout`, `gateway.idle-timeout`."
        ClientGone: "The client closed the connection before its answer was whole: nobody was answered."
            "Nothing, unless it happens to many: then see what ends them on the way."
    }
}

fn entries() -> Vec<Entry> {
    let errors = Kind::ALL.iter().map(|kind| error(*kind));
    let topics = Topic::ALL.iter().map(|one| topic(*one));
    errors.chain(topics).chain(Fault::ALL.iter().map(|one| fault(*one))).collect()
}

/// One code may be said by two.
fn find(code: &str) -> Result<Vec<Entry>> {
    let found: Vec<Entry> = entries().into_iter().filter(|e| e.code == code).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let error = Error::new(Kind::Input, format!("there is no code {code:?}"));
    Err(match words::nearest(code, entries().iter().map(|e| e.code)) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint("stillframe explain lists them"),
    })
}

pub fn run(args: &Args, printer: &Printer) -> Result<ExitCode> {
    let value = |e: &Entry| Code { code: e.code, by: e.by.name(), means: e.means, to_do: e.to_do };
    if let Some(code) = &args.code {
        let found = find(code)?;
        printer.value(&Codes { codes: found.iter().map(value).collect() });
        for entry in found {
            printer.line(format!("{} ({})", printer.bold(entry.code), entry.by.name()));
            printer.line(format!("  {}", entry.means));
            printer.line(format!("  What to do: {}", entry.to_do));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let all = entries();
    printer.value(&Codes { codes: all.iter().map(value).collect() });
    for by in [By::Error, By::Report, By::Gateway] {
        printer.line(printer.bold(by.name()));
        for entry in all.iter().filter(|e| e.by == by) {
            printer.line(format!("  {:20} {}", entry.code, entry.means));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_code_is_explained_once() {
        let all = entries();
        let each: BTreeSet<_> = all.iter().map(|e| (e.by, e.code)).collect();
        assert_eq!(each.len(), all.len());
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
