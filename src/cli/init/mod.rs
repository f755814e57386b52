//! `stillframe init`: what a first deployment needs to be told, found or asked once, and kept in stillframe.toml and
//! hosts/. Nothing is written before everything is known and agreed to.
mod answers;
mod questions;

use super::documents::Initialised;
use super::new_host::NewHost;
use super::printer::Printer;
use super::settings::{CONFIG, Config, Settings, state_folder};
use crate::capture::model::used::{Configured, Proposal};
use crate::capture::python::find;
use crate::closure::registry::Registry;
use crate::deploy;
use crate::ship::hosts::HostConfig;
use crate::snapshot::found::Found;
use crate::snapshot::remembered;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::{files, signals};
use answers::Answers;
use questions::Asker;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Every answer can be given beforehand; what is not given is asked on a terminal, and has its default elsewhere.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// The ComfyUI directory (default: the current one, or ComfyUI in it).
    env: Option<PathBuf>,
    #[command(flatten)]
    given: questions::Given,
    /// Write without asking.
    #[arg(long)]
    yes: bool,
    /// Replace a stillframe.toml that is there; with new hosts, the files of others are put aside as FILE.old.
    #[arg(long)]
    force: bool,
}

/// What was found, a line each.
fn lines(found: &Found) -> Vec<String> {
    let gpus = match found.gpus.as_slice() {
        [] => "none seen".to_string(),
        gpus => gpus.join("; "),
    };
    let mut lines = vec![
        format!("environment  {}", found.environment.display()),
        format!("Python       {} ({})", found.python.display(), found.how),
        format!("models       {} (shared storage: it never ships)", found.models.display()),
        format!("GPUs here    {gpus} (each host's own are found when it is deployed to)"),
    ];
    if let Some(port) = found.port {
        lines.push(format!("it runs      on port {port}; it is left alone"));
    }
    lines
}

/// Files by path relative to the project, in the order in which they are written: the one that makes it a project last.
fn texts(
    answers: &Answers,
    found: &Found,
    seen: &[Proposal],
    project: &Path,
) -> Result<Vec<(PathBuf, String)>> {
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for host in &answers.hosts {
        let text = host.text();
        toml::from_str::<HostConfig>(&text).map_err(|e| {
            Error::new(Kind::Input, format!("{} cannot be described so: {}", host.name, e.message()))
        })?;
        files.push((Path::new("hosts").join(format!("{}.toml", host.name)), text));
    }
    let text = answers.text(found, seen, project);
    let config = toml::from_str::<Config>(&text)
        .map_err(|e| Error::new(Kind::Input, format!("these answers make no configuration: {e}")))?;
    // GPUs are the hosts' to tell: as many as are needed.
    let gpus: Vec<String> = (0..answers.most()).map(|n| n.to_string()).collect();
    let wrong =
        |e: crate::ship::config::Wrong| Error::new(Kind::Input, e.to_string()).hint("answer otherwise");
    config.service.spec(&gpus, vec![], None).map_err(wrong)?;
    files.push((CONFIG.into(), text));
    Ok(files)
}

/// What an earlier probe of the environment saw.
fn seen(found: &Found, answers: &Answers) -> Result<Vec<Proposal>> {
    let used = remembered::used(&Registry::new(&state_folder()?), &found.environment);
    let configured = Configured { models: Some(answers.models.clone()), ..Configured::default() };
    Ok(used.map(|used| used.proposals(&configured)).unwrap_or_default())
}

/// What is there already and would be lost.
fn refuse_existing(files: &[PathBuf], project: &Path) -> Result<()> {
    // A host in Nix and one in TOML of the same name are one host twice.
    let twins = files.iter().filter(|file| file.starts_with("hosts")).map(|file| file.with_extension("nix"));
    let there: Vec<String> = files
        .iter()
        .cloned()
        .chain(twins)
        .filter(|file| project.join(file).exists())
        .map(|file| file.display().to_string())
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Input, format!("{} is there already in {}", there.join(", "), project.display()))
        .hint("edit it, or let it be replaced with --force"))
}

/// Files of hosts that are none of the new ones: a deployment would go there too. Where no host is described anew, they
/// stay.
fn other_hosts(files: &[(PathBuf, String)], project: &Path) -> Result<Vec<PathBuf>> {
    if !files.iter().any(|(file, _)| file.starts_with("hosts")) {
        return Ok(Vec::new());
    }
    let folder = project.join("hosts");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", &folder, e)),
    };
    let mut others = Vec::new();
    for entry in entries {
        let file = Path::new("hosts").join(entry.map_err(|e| Error::io("list", &folder, e))?.file_name());
        let describes = file.extension().is_some_and(|e| e == "toml" || e == "nix");
        if describes && !files.iter().any(|(new, _)| *new == file) {
            others.push(file);
        }
    }
    others.sort();
    Ok(others)
}

/// A name beside it that no other file has.
fn aside(project: &Path, file: &Path) -> PathBuf {
    let named = |ending: String| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let mut place = named(".old".into());
    for number in 2.. {
        if !project.join(&place).exists() {
            break;
        }
        place = named(format!(".old{number}"));
    }
    place
}

fn place(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return find::check(given);
    }
    let here = find::check(Path::new("."));
    match find::check(Path::new("ComfyUI")) {
        Ok(inner) if here.is_err() => Ok(inner),
        _ => here,
    }
}

pub fn run(args: &Args, config: Option<&Path>, printer: &Printer) -> Result<ExitCode> {
    let project = std::env::current_dir().map_err(|e| Error::io("find", ".", e))?;
    if let Some(config) = config {
        return Err(Error::new(Kind::Input, format!("init writes {CONFIG} here, not {}", config.display()))
            .hint("leave --config out"));
    }
    if !args.force {
        refuse_existing(&[CONFIG.into()], &project)?;
    }
    let found = Found::look(&place(args.env.as_deref())?)?;
    let mut asker = Asker::new(printer.json);
    lines(&found).iter().for_each(|line| asker.say(line));
    let answers = questions::ask(&args.given, &found, &mut asker)?;
    let files = texts(&answers, &found, &seen(&found, &answers)?, &project)?;
    if !args.force {
        refuse_existing(&files.iter().map(|(file, _)| file.clone()).collect::<Vec<_>>(), &project)?;
    }
    for (file, text) in &files {
        asker.say("");
        asker.say(&printer.bold(&file.display().to_string()));
        text.lines().for_each(|line| asker.say(&format!("  {line}")));
    }
    let others = if args.force { other_hosts(&files, &project)? } else { Vec::new() };
    for file in &others {
        asker.say("");
        asker.say(&format!("{} is put aside as {}", file.display(), aside(&project, file).display()));
    }
    asker.say("");
    if !args.yes && !asker.agrees(&format!("Write these to {}?", project.display()), true)? {
        return Err(Error::new(Kind::Interrupted, "nothing was written"));
    }
    // From here on a Ctrl-C waits until all of it is there.
    signals::heed()?;
    for file in &others {
        let (from, to) = (project.join(file), project.join(aside(&project, file)));
        std::fs::rename(&from, &to).map_err(|e| Error::io("rename", &from, e))?;
    }
    for (file, text) in &files {
        let path = project.join(file);
        files::write_if_changed(&path, text.as_bytes())?;
    }
    // By which hosts tell this project from another that gives its service the same name.
    deploy::project::of(&project, false)?;
    crate::sys::progress::check_interrupt()?;
    let names: Vec<&PathBuf> = files.iter().map(|(file, _)| file).collect();
    printer.value(&Initialised {
        project: project.clone(),
        environment: found.environment.clone(),
        written: names.iter().map(|name| name.to_path_buf()).collect(),
        put_aside: others.clone(),
    });
    printer.line(format!(
        "wrote {}",
        names.iter().map(|n| n.display().to_string()).collect::<Vec<_>>().join(", ")
    ));
    let next = "stillframe host prepare && stillframe deploy --probe";
    if answers.hosts.is_empty() {
        printer.line("next: describe a host in hosts/NAME.toml, then stillframe host prepare && stillframe deploy --probe");
        return Ok(ExitCode::SUCCESS);
    }
    if !asker.on_terminal() {
        printer.line(format!("next: {next}"));
        return Ok(ExitCode::SUCCESS);
    }
    first_deployment(&project.join(CONFIG), &answers.hosts, &mut asker, next, printer)
}

/// Looks at the hosts, and offers to go all the way.
fn first_deployment(
    config: &Path,
    hosts: &[NewHost],
    asker: &mut Asker,
    next: &str,
    printer: &Printer,
) -> Result<ExitCode> {
    let settings = Settings::resolve(None, Some(config))?;
    let members = super::fleet::members(&settings, None, printer)?;
    asker.say("");
    asker.say("Looking at the hosts:");
    if !super::host_look::can_be_prepared(&members, printer) {
        printer.line(format!("next: make the hosts ready, then {next}"));
        return Ok(ExitCode::FAILURE);
    }
    let count = if hosts.len() == 1 { hosts[0].name.clone() } else { format!("{} hosts", hosts.len()) };
    let question = format!(
        "Prepare {count} and deploy now? The environment's server is started here once, to see its node classes."
    );
    if !asker.agrees(&question, true)? {
        printer.line(format!("next: {next}"));
        return Ok(ExitCode::SUCCESS);
    }
    let prepared = super::prepare::run(&settings, &members, false, printer)?;
    if prepared != ExitCode::SUCCESS {
        return Ok(prepared);
    }
    super::deploy::first(Some(config), printer)
}
