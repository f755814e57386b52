//! The command line of `stillframe-agent`. Its callers are stillframe itself and the units it writes.
use crate::gateway;
use crate::run::receive;
use crate::sys::error::{Error, Result};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Where an agent keeps what is not its to lose.
const STATE: &str = "/var/lib/stillframe";

#[derive(Debug, Parser)]
#[command(name = "stillframe-agent", version, about = "Runs stillframe services on this host")]
struct Arguments {
    /// Where state is kept.
    #[arg(long, global = true, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take store paths from standard input: the host's end of a transfer.
    Receive,
    /// Carry the traffic of one service: the public port, its instances, its WebSockets.
    Gateway {
        /// The settings file, written by the agent.
        #[arg(long, value_name = "FILE")]
        settings: PathBuf,
        /// The step of an upgrade in which this process becomes another program.
        #[arg(long, value_name = "PROGRAM", hide = true)]
        r#become: Option<String>,
    },
}

pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Receive => receive::receive(
            std::io::stdin().lock(),
            std::io::stdout().lock(),
            &receive::store_config(None),
            &arguments.state.join("incoming"),
        ),
        Command::Gateway { settings, r#become: None } => gateway::process::run(settings),
        Command::Gateway { settings, r#become: Some(program) } => {
            Err(gateway::upgrade::become_program(program, settings))
        }
    }
}

fn report(error: &Error) {
    eprintln!("error: {error}");
    let mut source = error.source.as_deref().map(|e| e as &dyn std::error::Error);
    while let Some(cause) = source {
        eprintln!("  because: {cause}");
        source = cause.source();
    }
    if let Some(hint) = &error.hint {
        eprintln!("hint: {hint}");
    }
}
