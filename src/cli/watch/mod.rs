//! `stillframe watch`: the service, its instances, the deployment under way and a log, on one screen that follows them.
mod model;
mod screen;

use super::fleet::{self, Member, Selection};
use super::printer::Printer;
use super::settings::Settings;
use super::watching::{LIMIT, known_as};
use crate::run::overview::HostView;
use crate::ship::ask;
use crate::ship::orders::{Attempt, Event as Step};
use crate::ship::ssh::Remote;
use crate::ship::wire;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use model::{Act, Key, Model, News, Todo};
use std::io::{BufRead, IsTerminal};
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
    let settings = Settings::resolve(None, config)?;
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
        command.arg(act.word());
        command.args(self.config.iter().flat_map(|c| [Path::new("--config"), c]));
        command.args(self.hosts.iter().flat_map(|h| ["--hosts", h]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        std::thread::spawn(move || {
            let text = match command.output() {
                Ok(output) => {
                    let all = [output.stdout, output.stderr].concat();
                    let text = String::from_utf8_lossy(&all).into_owned();
                    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("done").to_string()
                }
                Err(e) => format!("cannot run {}: {e}", act.word()),
            };
            // Nobody to tell: the screen is closed.
            let _ = tell.send(told(text));
        });
    }
}

/// Asks one host for as long as somebody watches.
fn ask_on(member: &Member, tell: &Sender<News>, ended: &AtomicBool) {
    let name = member.name().to_string();
    let mut seen: Option<u64> = None;
    let mut logs = false;
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
                if !logs {
                    logs = true;
                    let (member, tell) = (member.clone(), tell.clone());
                    std::thread::spawn(move || log(&member, &tell));
                }
                News::View(name.clone(), Box::new(view))
            }
            Err(e) => {
                remote = None;
                logs = false;
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

/// The deployment under way, from its first event.
fn follow(member: &Member, tell: &Sender<News>) {
    let name = member.name().to_string();
    let Ok(remote) = member.remote() else { return };
    let Ok((mut channel, _)) = ask::open(&remote, &["follow", member.service.name()]) else { return };
    let Ok(Some(attempt)) = wire::read_line::<Attempt>(&mut channel.input) else { return };
    let mut heard = tell.send(News::Attempt(name.clone(), Box::new(attempt))).is_ok();
    while heard && let Ok(Some(event)) = wire::read_line::<Step>(&mut channel.input) {
        heard = tell.send(News::Step(name.clone(), Box::new(event))).is_ok();
    }
}

fn log(member: &Member, tell: &Sender<News>) {
    let Ok(remote) = member.remote() else { return };
    let Ok((mut channel, _)) = ask::open(&remote, &["logs", member.service.name(), "-n", "50", "-f"]) else {
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
