//! `stillframe watch`: the service, its instances, the deployment under way and a log, on one screen that follows them.
mod asking;
mod commands;
mod model;
mod screen;

use super::fleet::{self, Selection, known_as};
use super::printer::Printer;
use super::settings::Settings;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use asking::ask_on;
use commands::Commands;
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use model::{Key, Model, News, Todo};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

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
    let (settings, members) = fleet::chosen(&args.hosts, config, printer)?;
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
    let began = Instant::now();
    loop {
        model.now = began.elapsed();
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
