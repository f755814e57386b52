//! `stillframe watch`: the service, its instances, the deployment under way and a log, on one screen that follows them.
mod model;
mod screen;

use super::fleet::{self, Member, Selection};
use super::printer::Printer;
use super::settings::Settings;
use super::watching::{LIMIT, known_as};
use crate::protocol::messages::{Attempt, Event as Step};
use crate::protocol::overview::HostView;
use crate::protocol::wire;
use crate::ship::ask;
use crate::ship::ssh::Remote;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use model::{Act, Key, Model, News, Todo};
use serde_json::Value;
use std::io::{BufRead, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Between two questions to a host.
const PAUSE: Duration = Duration::from_secs(1);
/// A host that did not answer is asked again after this.
const LOST: Duration = Duration::from_secs(5);
/// So often a deployment's line is taken up again.
const TRIES: u32 = 100;
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    hosts: Selection,
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    if printer.json || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Input, "watch needs a terminal")
            .hint("elsewhere: stillframe status --json, stillframe attach --json"));
    }
    let settings = Settings::without_environment(None, config)?;
    let members = fleet::members(&settings, args.hosts.hosts.as_deref())?;
    let names: Vec<String> = members.iter().map(|m| m.name().to_string()).collect();
    let service = members.first().map_or(String::new(), |m| m.service.name().to_string());
    let (tell, hear) = channel();
    let ended = Arc::new(AtomicBool::new(false));
    for member in members {
        let (tell, ended) = (tell.clone(), ended.clone());
        std::thread::spawn(move || ask_on(&member, &tell, &ended));
    }
    let mut commands =
        Commands { config: config.map(Path::to_path_buf), hosts: args.hosts.hosts.clone(), tell };
    let terminal =
        ratatui::try_init().map_err(|e| Error::new(Kind::Io, "cannot use the terminal").caused_by(e))?;
    let result = show(terminal, Model::new(&service, &names), &hear, &settings, &mut commands);
    // Whatever happened, the terminal is its user's again. What still asks hosts ends with this process.
    ratatui::restore();
    ended.store(true, Ordering::SeqCst);
    result.map(|()| ExitCode::SUCCESS)
}

fn show(
    mut terminal: ratatui::DefaultTerminal,
    mut model: Model,
    hear: &Receiver<News>,
    settings: &Settings,
    commands: &mut Commands,
) -> Result<()> {
    let broken = |e: std::io::Error| Error::new(Kind::Io, "the terminal is gone").caused_by(e);
    loop {
        while let Ok(news) = hear.try_recv() {
            if let News::View(_, view) = &news {
                for generation in view.services.iter().flat_map(|s| &s.generations) {
                    let known = || known_as(settings, &generation.snapshot);
                    model.known.entry(generation.snapshot.clone()).or_insert_with(known);
                }
            }
            model.hear(news);
        }
        model.clock = clock::rfc3339(clock::now()).get(11..19).unwrap_or_default().to_string();
        terminal.draw(|frame| screen::draw(frame, &model)).map_err(broken)?;
        if !event::poll(TICK).map_err(broken)? {
            continue;
        }
        let Some(key) = key(&event::read().map_err(broken)?) else { continue };
        let Some(key) = key else { return Ok(()) };
        match model.press(key) {
            Todo::Quit => return Ok(()),
            Todo::Run(act) => commands.begin(act),
            Todo::Nothing => {}
        }
    }
}

/// `Some(None)`: Ctrl-C, which a terminal in raw mode gives as a key.
fn key(event: &Event) -> Option<Option<Key>> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(None),
        KeyCode::Char(letter) => Some(Some(Key::Letter(letter))),
        KeyCode::Up => Some(Some(Key::Up)),
        KeyCode::Down => Some(Some(Key::Down)),
        KeyCode::Enter => Some(Some(Key::Enter)),
        KeyCode::Esc => Some(Some(Key::Escape)),
        _ => None,
    }
}

/// Keys do what the commands of the same names do, by those commands.
struct Commands {
    config: Option<PathBuf>,
    hosts: Option<String>,
    tell: Sender<News>,
}

impl Commands {
    fn begin(&mut self, act: Act) {
        let tell = self.tell.clone();
        let told = |text: String| News::Done(text);
        let program = match std::env::current_exe() {
            Ok(program) => program,
            Err(e) => {
                let _ = tell.send(told(format!("cannot find this program: {e}")));
                return;
            }
        };
        let mut command = Command::new(program);
        command.arg(act.word()).arg("--json");
        command.args(self.config.iter().flat_map(|c| [Path::new("--config"), c]));
        command.args(self.hosts.iter().flat_map(|h| ["--hosts", h]));
        // A file, and a group of its own: it goes on to its end when this screen is closed.
        let log = match tempfile::NamedTempFile::new() {
            Ok(log) => log,
            Err(e) => {
                let _ = tell.send(told(format!("cannot run {}: {e}", act.word())));
                return;
            }
        };
        let open = || log.reopen().map(Stdio::from);
        let (Ok(out), Ok(err)) = (open(), open()) else { return };
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        std::thread::spawn(move || {
            let text = match command.status() {
                Ok(_) => outcome(act, &std::fs::read_to_string(log.path()).unwrap_or_default()),
                Err(e) => format!("cannot run {}: {e}", act.word()),
            };
            // Nobody to tell: the screen is closed.
            let _ = tell.send(told(text));
        });
    }
}

/// What a command came to, from its JSON: one document, or a stream whose last line is the result.
fn outcome(act: Act, text: &str) -> String {
    let last = || {
        text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object))
    };
    let Some(value) = serde_json::from_str::<Value>(text).ok().or_else(last) else {
        return format!("{} ended without a word", act.word());
    };
    let hosts = value["hosts"].as_array().cloned().unwrap_or_default();
    let of_host = |host: &Value| {
        let error = host["error"].as_str().or(host["error"]["message"].as_str())?;
        Some(format!("{}: {error}", host["host"].as_str().unwrap_or_default()))
    };
    let error =
        value["error"]["message"].as_str().map(String::from).or_else(|| hosts.iter().find_map(of_host));
    match error {
        Some(error) => format!("{}: {error}", act.word()),
        None => format!("{} is done", act.word()),
    }
}

/// Asks one host for as long as somebody watches.
fn ask_on(member: &Member, tell: &Sender<News>, ended: &AtomicBool) {
    let name = member.name().to_string();
    let mut seen: Option<u64> = None;
    let logging = Arc::new(AtomicBool::new(false));
    let mut begun = false;
    let mut remote: Option<Remote> = None;
    while !ended.load(Ordering::SeqCst) {
        let began = Instant::now();
        let news = match view(member, &mut remote) {
            Ok(view) => {
                let newest = newest(&view);
                // One that was over before anybody watched is history; one that begins and ends between two
                // looks is not missed.
                let known = *seen.get_or_insert(newest.1);
                if newest.0.max(newest.1) > known {
                    seen = Some(newest.0.max(newest.1));
                    let (member, tell) = (member.clone(), tell.clone());
                    std::thread::spawn(move || follow(&member, &tell));
                }
                if !logging.swap(true, Ordering::SeqCst) {
                    let (member, tell, logging) = (member.clone(), tell.clone(), logging.clone());
                    // What was shown before the line was cut is not shown again.
                    let lines = if begun { "0" } else { "50" };
                    std::thread::spawn(move || {
                        log(&member, &tell, lines);
                        logging.store(false, Ordering::SeqCst);
                    });
                    begun = true;
                }
                News::View(name.clone(), Box::new(view))
            }
            Err(e) => {
                remote = None;
                News::Lost(
                    name.clone(),
                    e.source.as_ref().map_or(e.message.clone(), |s| format!("{}: {s}", e.message)),
                )
            }
        };
        let pause = if matches!(news, News::Lost(..)) { LOST } else { PAUSE };
        if tell.send(news).is_err() {
            return;
        }
        std::thread::sleep(pause.saturating_sub(began.elapsed()));
    }
}

/// The attempt under way, and the newest that made a generation; 0 for none.
fn newest(view: &HostView) -> (u64, u64) {
    let services = || view.services.iter();
    let under_way = services().filter_map(|s| s.deployment.as_ref().map(|h| h.attempt)).max();
    let made = services().flat_map(|s| &s.generations).map(|g| g.attempt).max();
    (under_way.unwrap_or(0), made.unwrap_or(0))
}

fn view(member: &Member, remote: &mut Option<Remote>) -> Result<HostView> {
    let remote = match remote {
        Some(remote) => remote,
        none => none.insert(member.remote()?),
    };
    ask::ask(remote, &["status", member.service.name()], LIMIT)
}

/// The deployment under way, from its first event to its last; a line that is cut is taken up again.
fn follow(member: &Member, tell: &Sender<News>) {
    for _ in 0..TRIES {
        match steps(member, tell) {
            Some(true) => return,
            Some(false) => std::thread::sleep(LOST),
            // Nobody watches any more.
            None => return,
        }
    }
}

/// Whether the last one came.
fn steps(member: &Member, tell: &Sender<News>) -> Option<bool> {
    let name = member.name().to_string();
    let Ok(remote) = member.remote() else { return Some(false) };
    let Ok((mut channel, _)) = ask::open(&remote, &["follow", member.service.name()]) else {
        return Some(false);
    };
    let Ok(Some(attempt)) = wire::read_line::<Attempt>(&mut channel.input) else { return Some(false) };
    tell.send(News::Attempt(name.clone(), Box::new(attempt))).ok()?;
    while let Ok(Some(event)) = wire::read_line::<Step>(&mut channel.input) {
        let last = event.outcome.is_some();
        tell.send(News::Step(name.clone(), Box::new(event))).ok()?;
        if last {
            return Some(true);
        }
    }
    Some(false)
}

fn log(member: &Member, tell: &Sender<News>, lines: &str) {
    let Ok(remote) = member.remote() else { return };
    let Ok((mut channel, _)) = ask::open(&remote, &["logs", member.service.name(), "-n", lines, "-f"]) else {
        return;
    };
    let mut line = Vec::new();
    while channel.input.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_string();
        if tell.send(News::Log(member.name().to_string(), text)).is_err() {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_came_to() {
        let of = |text: &str| outcome(Act::RollBack, text);
        assert_eq!(
            of(
                "{\"type\":\"begin\"}\n{\"type\":\"result\",\"failed\":0,\"hosts\":[{\"host\":\"a\",\"error\":null}]}\n"
            ),
            "rollback is done"
        );
        assert_eq!(
            of("{\"type\":\"result\",\"hosts\":[{\"host\":\"a\",\"error\":\"it is not there\"}]}\n"),
            "rollback: a: it is not there"
        );
        assert_eq!(of("{\n \"error\": {\"message\": \"no\"}\n}\n"), "rollback: no");
        assert_eq!(
            of("waiting\n{\"hosts\": [{\"host\": \"a\", \"error\": {\"message\": \"m\"}}]}"),
            "rollback: a: m"
        );
        assert_eq!(of(""), "rollback ended without a word");
    }
}
