//! `stillframe run`: serves a snapshot here, in the foreground.
use super::documents::{Running, UsedHere};
use super::printer::{Printer, plain};
use super::settings::Settings;
use crate::capture::model::used::{Configured, Used};
use crate::closure::registry::Registry;
use crate::host::foreground;
use crate::protocol::launch::Values;
use crate::snapshot::serve::{self, Serving, Wanted};
use crate::sys::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot: id, label or store path (default: the latest).
    id: Option<String>,
    /// The loopback port (default, and 0: a free one).
    #[arg(long)]
    port: Option<u16>,
    /// The models folder (default: the environment's, if it is still there).
    #[arg(long)]
    models: Option<PathBuf>,
    /// Where input, output and user data are kept (default: a folder of the snapshot's own).
    #[arg(long)]
    base: Option<PathBuf>,
    /// Keep the slot (what the instance wrote into its own program) after it ends.
    #[arg(long)]
    keep: bool,
    /// Seconds until it must answer.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let settings = Settings::without_environment(None, config)?;
    let record = Registry::new(&settings.state).find(args.id.as_deref())?;
    let secrets = settings.fleet().placed()?;
    let wanted = Wanted {
        port: args.port,
        models: args.models.as_deref(),
        base: args.base.as_deref(),
        secrets: Some(&secrets),
    };
    let serving = Serving::prepare(&record, &settings.state, wanted)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Kind::Io, "cannot start the network loop").caused_by(e))?;
    // With --json the standard output is ours alone.
    let log = if printer.json { Stdio::from(std::io::stderr()) } else { Stdio::inherit() };
    let (outcome, observed) = runtime.block_on(async {
        let signals = Signals::watch()?;
        let mut instance = serving.start(log, Stdio::inherit())?;
        let look = {
            let (snapshot, store) = (record.snapshot.clone(), settings.store());
            move || serve::look(&snapshot, &store)
        };
        let running = (&mut instance, signals);
        let outcome = serve(running, &serving.values, args, printer, &record.id, look).await;
        Ok::<_, Error>((outcome, instance.observed()))
    })?;
    let (used, configured) = (serving.used(&observed), settings.configured());
    if outcome.is_ok() {
        printer.value(&document(&used, &configured, &record.id));
    }
    tell(&used, &configured, printer);
    let written = serving.written();
    if !written.is_empty() {
        printer.note("written into the program, thrown away with this instance:");
        for path in &written {
            printer.note(&format!("  {path}"));
        }
    }
    if args.keep {
        let kept = serving.keep();
        printer.note(&format!("kept {}", kept.display()));
    }
    outcome
}

/// The second and last document of `--json`.
fn document(used: &Used, configured: &Configured, id: &str) -> UsedHere {
    UsedHere { id: id.into(), used: used.clone(), lines: used.proposals(configured) }
}

/// The snapshot was served here, which does not say that it has all that it needs.
fn tell(used: &Used, configured: &Configured, printer: &Printer) {
    let findings = used.findings(configured);
    if !findings.is_empty() {
        printer.note("what it used of this machine until it ended, and a host may lack:");
        for finding in findings {
            printer.note(&format!("  {}", finding.message));
        }
    }
}

/// Ctrl-C and SIGTERM, heard from the moment this is made.
struct Signals {
    int: Signal,
    term: Signal,
}

impl Signals {
    fn watch() -> Result<Signals> {
        let watch =
            |kind| signal(kind).map_err(|e| Error::new(Kind::Io, "cannot watch for signals").caused_by(e));
        Ok(Signals { int: watch(SignalKind::interrupt())?, term: watch(SignalKind::terminate())? })
    }
}

/// Work beside the server, which no end of that waits for.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (tell, told) = oneshot::channel();
    // Nobody may listen any more.
    std::thread::spawn(move || drop(tell.send(work())));
    told
}

async fn serve(
    (instance, mut signals): (&mut foreground::Instance, Signals),
    values: &Values,
    args: &Args,
    printer: &Printer,
    id: &str,
    look: impl FnOnce() -> Option<Error> + Send + 'static,
) -> Result<ExitCode> {
    let Signals { int, term } = &mut signals;
    let ready = tokio::select! {
        ready = instance.ready(Duration::from_secs(args.timeout)) => Some(ready),
        _ = int.recv() => None,
        _ = term.recv() => None,
    };
    match ready {
        Some(Ok(took)) => {
            let pid = instance.child.id();
            printer.value(&Running {
                id: id.into(),
                url: instance.url.clone(),
                pid,
                ready_ms: took.as_millis() as u64,
                slot: values.slot.clone(),
                base: values.base.clone(),
            });
            printer.line(format!(
                "serving {id} on {} (pid {}, ready in {:.1} s); Ctrl-C ends it",
                instance.url,
                pid.unwrap_or(0),
                took.as_secs_f64()
            ));
        }
        Some(Err(error)) => {
            instance.stop().await?;
            return Err(error);
        }
        None => {
            instance.stop().await?;
            return Ok(ExitCode::from(130));
        }
    }
    // Not before it is ready: what is told costs its start nothing.
    let look = async {
        if let Ok(Some(error)) = aside(look).await {
            printer.note(&format!("warning: {}", plain(&error.full())));
            printer.note(&format!("  hint: {}", plain(error.hint.as_deref().unwrap_or_default())));
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = look => Ok(ExitCode::SUCCESS),
        status = instance.child.wait() => {
            let status = status.map_err(|e| Error::new(Kind::Io, "cannot wait for the server").caused_by(e))?;
            Err(Error::new(Kind::Environment, format!("the server ended by itself: {status}"))
                .hint("its own messages are above"))
        }
        _ = int.recv() => { instance.stop().await?; Ok(ExitCode::SUCCESS) }
        _ = term.recv() => { instance.stop().await?; Ok(ExitCode::SUCCESS) }
    }
}
