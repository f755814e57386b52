//! The command line of `stillframe`.

use super::fleet::HostsArgs;
use super::{
    attach, cancel, deploy, doctor, drift, exit, explain, export, history, host, import, init, inspect,
    instances, jobs, lock, logs, man, printer, remove, rename, restart, retention, rollback, run, scale,
    schema, snapshot, snapshots, start, status, stop, unlock, watch,
};
use crate::deploy::detach;
use crate::sys::error::{Error, Kind, Result};
use clap::{CommandFactory, Parser, Subcommand};
use printer::Printer;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "stillframe",
    version,
    about = "Publishes a ComfyUI environment as an immutable Nix store closure"
)]
pub struct Cli {
    /// Read this file instead of the nearest stillframe.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document (errors too) instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// No progress.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write stillframe.toml and hosts/ for a first deployment: finds what it can, asks for the rest.
    Init(init::Args),
    /// What another tool's file says of an environment, and that environment.
    Import(import::Args),
    /// Show what an environment contains, and what would not survive a deploy.
    Inspect(inspect::Args),
    /// Pin everything; write pylock.toml and stillframe.lock (commit both).
    Lock(lock::Args),
    /// Lock, write the derivations, realise them and register the snapshot.
    Snapshot(snapshot::Args),
    /// List, show, compare, verify and remove snapshots.
    #[command(subcommand)]
    Snapshots(snapshots::Command),
    /// A snapshot as others' files: pylock.toml, a ComfyUI-Manager snapshot, a bill of materials.
    Export(export::Args),
    /// Serve a snapshot here, in the foreground, on a loopback port.
    Run(run::Args),
    /// Bring a snapshot to its hosts and, once it is healthy, the traffic to it.
    Deploy(deploy::Args),
    /// Go back to the generation that served before, or to another that the hosts still have.
    Rollback(rollback::Args),
    /// Start instances anew, one after the other: each finishes what it has first, and must be healthy.
    Restart(restart::Args),
    /// Serve nothing until `start`: also after a start of the host.
    Stop(stop::Args),
    /// Serve again what served when the service was stopped.
    Start(start::Args),
    /// Give the service another name, on its hosts and in stillframe.toml.
    Rename(rename::Args),
    /// Take the service from its hosts, and leave nothing of it there.
    Remove(remove::Args),
    /// Which host does not run what it should, and why.
    Drift(HostsArgs),
    /// Watch the deployment under way (or the last one), from its first event.
    Attach(HostsArgs),
    /// Stop the deployment under way; what served before it serves on.
    Cancel(HostsArgs),
    /// Take the lock from a deployment that hangs before its activation.
    Unlock(HostsArgs),
    /// What each host serves, and how many instances of those wanted are ready.
    Status(HostsArgs),
    /// How many instances run and why; other bounds than the configuration's, without a deployment.
    Scale(scale::Args),
    /// The service, its instances, the deployment under way and a log on one screen; keys to cancel and roll back.
    Watch(watch::Args),
    /// Every instance: generation, slot, GPU, state, age, restarts, queue, memory.
    Instances(HostsArgs),
    /// Every deployment with its steps and what came of it, newest first.
    History(history::Args),
    /// Jobs that a gateway owns: list, follow, show, cancel, requeue, export, back up.
    Jobs(jobs::Args),
    /// The log of a service or of one of its instances.
    Logs(logs::Args),
    /// What hosts keep and why; frees the rest.
    Retention(retention::Args),
    /// See what hosts have and lack; prepare them; bring them a snapshot's paths.
    #[command(subcommand)]
    Host(host::Command),
    /// Look whether this workstation can take snapshots and deploy them.
    Doctor(doctor::Args),
    /// Say what a code of an error, a report line or the gateway means, and what to do.
    Explain(explain::Args),
    /// Print the JSON Schema of stillframe.toml and of hosts' files, for editors and for Nix; or of a stream's events.
    Schema(schema::Args),
    /// Write manual pages.
    Man(man::Args),
    /// Print shell completions.
    Completions { shell: clap_complete::Shell },
}

impl Command {
    /// Whether `--json` makes it print one document a line, as things happen.
    fn prints_stream(&self) -> bool {
        match self {
            Command::Deploy(_)
            | Command::Rollback(_)
            | Command::Restart(_)
            | Command::Stop(_)
            | Command::Start(_)
            | Command::Remove(_)
            | Command::Attach(_)
            | Command::Logs(_) => true,
            Command::Jobs(args) => args.prints_stream(),
            _ => false,
        }
    }
}

/// Runs the program; every failure ends in a non-zero exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return not_a_command(&e),
    };
    detach::settle();
    if let Ok(level) = std::env::var("STILLFRAME_LOG") {
        // Ours alone: an HTTP client's log may hold an index's credentials.
        let filter = tracing_subscriber::EnvFilter::new(format!("stillframe={level}"));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
    }
    let printer = Printer::new(cli.json, cli.quiet);
    let printer = if cli.command.prints_stream() { printer.of_stream() } else { printer };
    let code = dispatch(cli, &printer).unwrap_or_else(|error| {
        printer.error(&error);
        exit::of(error.kind)
    });
    if let Some(error) = printer.output().error() {
        printer.error(&error);
    }
    printer.output().verdict(code)
}

/// Help and versions, which were asked for, or what is wrong with a command line: with `--json` a document too.
fn not_a_command(e: &clap::Error) -> ExitCode {
    if !e.use_stderr() {
        return match e.print() {
            Err(failed) if failed.kind() != std::io::ErrorKind::BrokenPipe => {
                Printer::new(false, true)
                    .error(&Error::new(Kind::Io, "cannot write to standard output").caused_by(failed));
                exit::of(Kind::Io)
            }
            _ => ExitCode::SUCCESS,
        };
    }
    let asked = std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json");
    if asked {
        Printer::new(true, true).of_stream().error(&wrong_words(&e.render().to_string()));
    } else {
        // Nobody is left to be told where that fails.
        let _ = e.print();
    }
    exit::of(Kind::Input)
}

/// clap's words for people as an error of ours: the message first, then what may be meant and how it is used.
fn wrong_words(text: &str) -> Error {
    let mut parts = text.trim().split("\n\n").map(|part| part.trim());
    let message = parts.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let hints: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    Error::new(Kind::Input, message).hint(hints.join("; "))
}

fn dispatch(cli: Cli, printer: &Printer) -> Result<ExitCode> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Init(args) => init::run(&args, config, printer),
        Command::Import(args) => import::run(&args, printer),
        Command::Inspect(args) => inspect::run(&args, config, printer),
        Command::Lock(args) => lock::run(&args, config, printer),
        Command::Snapshot(args) => snapshot::run(&args, config, printer),
        Command::Snapshots(command) => snapshots::run(command, config, printer),
        Command::Export(args) => export::run(&args, config, printer),
        Command::Run(args) => run::run(&args, config, printer),
        Command::Deploy(args) => deploy::run(&args, config, printer),
        Command::Rollback(args) => rollback::run(&args, config, printer),
        Command::Restart(args) => restart::run(&args, config, printer),
        Command::Stop(args) => stop::run(&args, config, printer),
        Command::Rename(args) => rename::run(&args, config, printer),
        Command::Remove(args) => remove::run(&args, config, printer),
        Command::Start(args) => start::run(&args, config, printer),
        Command::Drift(args) => drift::run(&args, config, printer),
        Command::Attach(args) => attach::run(&args, config, printer),
        Command::Cancel(args) => cancel::run(&args, config, printer),
        Command::Scale(args) => scale::run(&args, config, printer),
        Command::Unlock(args) => unlock::run(&args, config, printer),
        Command::Status(args) => status::run(&args, config, printer),
        Command::Watch(args) => watch::run(&args, config, printer),
        Command::Instances(args) => instances::run(&args, config, printer),
        Command::History(args) => history::run(&args, config, printer),
        Command::Jobs(args) => jobs::run(&args, config, printer),
        Command::Logs(args) => logs::run(&args, config, printer),
        Command::Retention(args) => retention::run(&args, config, printer),
        Command::Host(command) => host::run(command, config, printer),
        Command::Doctor(args) => doctor::run(&args, config, printer),
        Command::Explain(args) => explain::run(&args, printer),
        Command::Man(args) => man::run(&args, Cli::command(), printer),
        Command::Schema(args) => schema::run(&args, printer),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "stillframe", &mut script);
            printer.raw(&String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_one_that_clap_takes() {
        Cli::command().debug_assert();
    }

    #[test]
    fn jobs_are_listed_or_one_of_its_commands_is_given() {
        let stream = |words: &str| {
            let words = ["stillframe", "jobs"].into_iter().chain(words.split_whitespace());
            Cli::try_parse_from(words)
                .map(|cli| (cli.json, cli.command.prints_stream()))
                .map_err(|e| e.kind())
        };
        assert_eq!(stream(""), Ok((false, false)));
        assert_eq!(stream("--state queued,running --watch"), Ok((false, true)));
        assert_eq!(stream("--json show x"), Ok((true, false)));
        assert_eq!(stream("export --since 7d"), Ok((false, true)));
        assert_eq!(stream("cancel --waiting --hosts a"), Ok((false, false)));
        use clap::error::ErrorKind::{
            ArgumentConflict, InvalidValue, MissingRequiredArgument, ValueValidation,
        };
        for (words, kind) in [
            ("--state quued", InvalidValue),
            ("export --since 7", ValueValidation),
            ("cancel", MissingRequiredArgument),
            ("cancel x --waiting", ArgumentConflict),
            ("requeue", MissingRequiredArgument),
            ("backup", MissingRequiredArgument),
        ] {
            assert_eq!(stream(words), Err(kind), "{words}");
        }
        let checked = |words: &str| {
            let words = ["stillframe", "jobs"].into_iter().chain(words.split_whitespace());
            let Command::Jobs(args) = Cli::try_parse_from(words).unwrap().command else { panic!("other") };
            args.check().map_err(|e| e.kind)
        };
        assert_eq!(checked("--limit 3 show x"), Err(Kind::Input));
        assert_eq!(checked("--hosts a show x"), Err(Kind::Input));
        assert_eq!((checked("--limit 3"), checked("show --hosts a x")), (Ok(()), Ok(())));
    }

    #[test]
    fn a_wrong_command_line_is_an_error_with_a_hint() {
        let wrong = |words: &[&str]| {
            let e = Cli::try_parse_from(["stillframe"].iter().chain(words)).unwrap_err();
            let error = wrong_words(&e.render().to_string());
            (error.message, error.hint.unwrap_or_default())
        };
        let (message, hint) = wrong(&["status", "--nope"]);
        assert_eq!(message, "unexpected argument '--nope' found");
        assert!(hint.contains("Usage: stillframe status") && hint.contains("--help"), "{hint}");
        let (message, hint) = wrong(&["statsu"]);
        assert!(message.contains("'statsu'") && hint.contains("'status'"), "{message} {hint}");
    }
}
