//! The questions: each with its default and the reason for it; asked only on a terminal, and only what was not given.
use super::answers::{Answers, NewSchedule, Scaling};
use crate::cli::new_host::NewHost;
use crate::ship::quantity::{Size, Span};
use crate::snapshot::found::Found;
use crate::sys::error::{Error, Kind, Result};
use crate::words;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// The same answers from the command line.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct Given {
    /// What the service is called.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The folder of models on the hosts.
    #[arg(long, value_name = "PATH")]
    models: Option<String>,
    /// The public port.
    #[arg(long)]
    port: Option<u16>,
    /// At most so much memory for each instance, as in 24GiB, or "none".
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// At most so many cores for each instance, or "none".
    #[arg(long, value_name = "CORES")]
    cpu: Option<String>,
    /// Instances that run always.
    #[arg(long, value_name = "NUMBER")]
    minimum: Option<u32>,
    /// At most so many instances (default: as many as run always).
    #[arg(long, value_name = "NUMBER")]
    maximum: Option<u32>,
    /// So many jobs may wait for each instance before another one starts.
    #[arg(long, value_name = "NUMBER")]
    target_waiting: Option<u32>,
    /// So many instances start or end at once.
    #[arg(long, value_name = "NUMBER")]
    step: Option<u32>,
    /// Between two changes of the number of instances, as in 30s.
    #[arg(long, value_name = "TIME")]
    cool_down: Option<String>,
    /// The load is low for so long before an instance ends, as in 5min.
    #[arg(long, value_name = "TIME")]
    idle: Option<String>,
    /// More that run always at some hours, as in "weekdays 08:00-20:00 Europe/Berlin 2"; once for each.
    #[arg(long = "schedule", value_name = "SCHEDULE")]
    schedules: Vec<String>,
    /// surge: new beside old; replace: old first.
    #[arg(long, value_parser = ["surge", "replace"])]
    rotation: Option<String>,
    /// How long old instances may finish what they have, as in 60s.
    #[arg(long, value_name = "TIME")]
    drain: Option<String>,
    /// Generations kept besides the serving one.
    #[arg(long, value_name = "NUMBER")]
    retention: Option<u32>,
    /// A host: NAME, or NAME=USER@ADDRESS:PORT; once for each.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// An ssh_config for these hosts, in place of ~/.ssh/config.
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
}

/// Who answers.
pub struct Asker {
    terminal: bool,
    silent: bool,
}

impl Asker {
    pub fn new(json: bool) -> Asker {
        let terminal = !json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        Asker { terminal, silent: json }
    }

    pub fn on_terminal(&self) -> bool {
        self.terminal
    }

    pub fn say(&self, text: &str) {
        if !self.silent {
            // A terminal that is gone reads no more; the next question finds out.
            let _ = writeln!(std::io::stderr(), "{}", self.fitted(text));
        }
    }

    /// A terminal breaks lines wherever they end, inside a word too.
    fn fitted(&self, text: &str) -> String {
        match crossterm::terminal::size() {
            Ok((width, _)) if self.terminal && width > 0 => words::wrapped(text, width.into()),
            _ => text.into(),
        }
    }

    fn line(&self, prompt: &str) -> Result<String> {
        let mut err = std::io::stderr();
        let _ = write!(err, "{}", self.fitted(prompt));
        let _ = err.flush();
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer).map_err(|e| Error::io("read", "the answer", e))?;
        if read == 0 {
            return Err(Error::new(Kind::Interrupted, "no more answers: nothing was written"));
        }
        Ok(answer.trim().to_string())
    }

    /// Nobody to ask has agreed to nothing.
    pub fn agrees(&mut self, question: &str, default: bool) -> Result<bool> {
        if !self.terminal {
            return Err(Error::new(Kind::Input, "nothing was written: nobody can be asked here")
                .hint("say yes beforehand: stillframe init --yes"));
        }
        loop {
            let answer = self.line(&format!("{question} [{}] ", if default { "Y/n" } else { "y/N" }))?;
            match answer.to_lowercase().as_str() {
                "" => return Ok(default),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => self.say("answer y or n"),
            }
        }
    }

    /// The given answer, or one that is asked for, or the default; a wrong one is asked for again.
    fn answer<T>(
        &self,
        question: &str,
        reason: &str,
        given: Option<&str>,
        default: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T> {
        let refused = |why: String| Error::new(Kind::Input, format!("{question}: {why}"));
        if let Some(given) = given {
            return read(given).map_err(refused);
        }
        if !self.terminal {
            return read(default).map_err(refused);
        }
        self.say("");
        self.say(&format!("{question}: {reason}"));
        loop {
            let answer = self.line(&format!("  [{default}] "))?;
            match read(if answer.is_empty() { default } else { &answer }) {
                Ok(value) => return Ok(value),
                Err(why) => self.say(&format!("  {why}")),
            }
        }
    }
}

fn or_none(text: &str, read: impl Fn(&str) -> Result<String, String>) -> Result<Option<String>, String> {
    if text.eq_ignore_ascii_case("none") { Ok(None) } else { read(text).map(Some) }
}

/// More instances on one host than this are a slip of the finger.
const MOST: u32 = 1000;

fn number(least: u32) -> impl Fn(&str) -> Result<u32, String> {
    move |text| {
        let fits = text.parse().ok().filter(|n| (least..=MOST).contains(n));
        fits.ok_or_else(|| format!("{text:?} is no number from {least} to {MOST}"))
    }
}

fn absolute(text: &str) -> Result<String, String> {
    let clean = text.trim_end_matches('/');
    if clean.starts_with('/') && !clean.is_empty() {
        Ok(clean.into())
    } else {
        Err(format!("{text:?} is no absolute path"))
    }
}

fn service(text: &str) -> Result<String, String> {
    crate::protocol::spec::valid_service(text).then(|| text.to_string()).ok_or_else(|| {
        format!("{text:?} is no name: use 1 to 27 letters a-z, digits and '-', neither first nor last")
    })
}

/// As TOML writes it.
fn cores(text: &str) -> Result<String, String> {
    let read = text.parse::<f64>().ok().filter(|n| (0.01..=4096.0).contains(n));
    read.map(|n| n.to_string()).ok_or_else(|| format!("{text:?} is no number of cores: write 4 or 1.5"))
}

fn size(text: &str) -> Result<String, String> {
    Size::parse(text).map(|_| text.to_string())
}

pub fn ask(given: &Given, found: &Found, asker: &mut Asker) -> Result<Answers> {
    let text = |number: Option<u32>| number.map(|n| n.to_string());
    let port = given.port.or(found.port).unwrap_or(8188);
    let name = asker.answer(
        "Name of the service",
        "units, folders and the profile on the hosts bear it",
        given.name.as_deref(),
        "comfyui",
        service,
    )?;
    let models = asker.answer(
        "Models on the hosts",
        "the shared folder that instances read; what is in models/ here never ships",
        given.models.as_deref(),
        "/srv/models",
        absolute,
    )?;
    let port = asker.answer(
        "Public port",
        "the gateway's, on loopback until you set `listen` and an API key",
        given.port.map(|p| p.to_string()).as_deref(),
        &port.to_string(),
        |text| text.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| format!("{text:?} is no port")),
    )?;
    let memory = asker.answer(
        "Memory of each instance",
        &format!(
            "one that takes more is ended and started again; this machine has {} GiB",
            found.memory_kib >> 20
        ),
        given.memory.as_deref(),
        "none",
        |text| or_none(text, size),
    )?;
    let cpu = asker.answer(
        "Cores of each instance",
        "so that one cannot starve the others of its host",
        given.cpu.as_deref(),
        "none",
        |text| or_none(text, cores),
    )?;
    let minimum = asker.answer(
        "Instances that run always",
        "on each host; each has a GPU of its own and its memory, paid for also while nobody asks. 0: none runs \
         then, and whoever comes first waits until one has started, a quarter of a minute and its models' time",
        text(given.minimum).as_deref(),
        "1",
        number(0),
    )?;
    let maximum = asker.answer(
        "Instances at most",
        "as many as run always: their number never changes. More: the gateway keeps the queue, and starts and ends \
         instances as it grows and shrinks; a host needs a GPU, or a slot, for each",
        text(given.maximum).as_deref(),
        &minimum.max(1).to_string(),
        |text| match number(1)(text)? {
            maximum if maximum < minimum => Err(format!("{maximum} is below the {minimum} that run always")),
            maximum => Ok(maximum),
        },
    )?;
    let scaling = if minimum < maximum { Some(scaling(given, asker)?) } else { None };
    if let (None, Some(option)) = (&scaling, given.of_scaling()) {
        let text = format!("{option} is given, and the number of instances never changes");
        return Err(Error::new(Kind::Input, text).hint("give --maximum, more than --minimum"));
    }
    let rotation = asker.answer(
        "Rotation",
        "surge: the new instance starts beside the old one; replace: the old one stops first, for a GPU that cannot hold both",
        given.rotation.as_deref(),
        "surge",
        |text| match text {
            "surge" | "replace" => Ok(text.to_string()),
            _ => Err(format!("{text:?} is neither surge nor replace")),
        },
    )?;
    let drain = asker.answer(
        "Drain",
        "how long old instances may finish what they have before they are stopped",
        given.drain.as_deref(),
        "60s",
        |text| Span::parse(text).map(|_| text.to_string()),
    )?;
    let retention = asker.answer(
        "Generations kept",
        "besides the serving one: a rollback to them copies nothing",
        text(given.retention).as_deref(),
        "3",
        number(0),
    )?;
    Ok(Answers {
        name,
        models,
        port,
        memory,
        cpu,
        minimum,
        maximum,
        scaling,
        rotation,
        drain,
        retention,
        hosts: hosts(given, asker)?,
    })
}

/// When instances start and end.
fn scaling(given: &Given, asker: &Asker) -> Result<Scaling> {
    let text = |number: Option<u32>| number.map(|n| n.to_string());
    let span = |text: &str| match Span::parse(text)? {
        Span(0) => Err("0 is no time".to_string()),
        _ => Ok(text.to_string()),
    };
    let target_waiting = asker.answer(
        "Jobs that may wait for each instance",
        "another instance starts when there are more; 0: a job waits behind no other, at the price of more GPUs",
        text(given.target_waiting).as_deref(),
        "1",
        number(0),
    )?;
    let step = asker.answer(
        "Instances at once",
        "so many start or end in one step; more follow a burst sooner, and load models side by side",
        text(given.step).as_deref(),
        "1",
        number(1),
    )?;
    let cool_down = asker.answer(
        "Cool-down",
        "between two steps, so that what has just started is counted in; less than a start takes asks for too many",
        given.cool_down.as_deref(),
        "30s",
        |text| Span::parse(text).map(|_| text.to_string()),
    )?;
    let idle = asker.answer(
        "Idle time",
        "the load is low for so long before an instance ends; the longer, the fewer starts and the more idle GPUs",
        given.idle.as_deref(),
        "5min",
        span,
    )?;
    let schedule = |text: &str| NewSchedule::parse(text);
    let schedules: Vec<NewSchedule> = if given.schedules.is_empty() {
        let asked = asker.answer(
            "Schedule",
            "more instances that run always at some hours, as in \"weekdays 08:00-20:00 Europe/Berlin 2\": GPU machines are \
             paid by the hour",
            None,
            "none",
            |text| if text.eq_ignore_ascii_case("none") { Ok(None) } else { schedule(text).map(Some) },
        )?;
        asked.into_iter().collect()
    } else {
        let refused = |why: String| Error::new(Kind::Input, format!("Schedule: {why}"));
        given.schedules.iter().map(|text| schedule(text).map_err(refused)).collect::<Result<_>>()?
    };
    Ok(Scaling { target_waiting, step, cool_down, idle, schedules })
}

impl Given {
    /// An option that says something only of a number that changes.
    fn of_scaling(&self) -> Option<&'static str> {
        let all = [
            ("--target-waiting", self.target_waiting.is_some()),
            ("--step", self.step.is_some()),
            ("--cool-down", self.cool_down.is_some()),
            ("--idle", self.idle.is_some()),
            ("--schedule", !self.schedules.is_empty()),
        ];
        all.iter().find(|(_, given)| *given).map(|(option, _)| *option)
    }
}

fn hosts(given: &Given, asker: &Asker) -> Result<Vec<NewHost>> {
    let mut hosts: Vec<NewHost> = Vec::new();
    let absolute = |path: &PathBuf| path.canonicalize().map_err(|e| Error::io("open", path, e));
    let ssh_config = given.ssh_config.as_ref().map(absolute).transpose()?;
    let put = |hosts: &mut Vec<NewHost>, text: &str| {
        let host = NewHost { ssh_config: ssh_config.clone(), ..NewHost::parse(text)? };
        if hosts.iter().any(|h| h.name == host.name) {
            return Err(format!("there is a host {} already: write NAME=ADDRESS", host.name));
        }
        hosts.push(host);
        Ok(())
    };
    for text in &given.hosts {
        put(&mut hosts, text).map_err(|why| Error::new(Kind::Input, why))?;
    }
    if !given.hosts.is_empty() || !asker.terminal {
        return Ok(hosts);
    }
    asker.say("");
    asker.say("Hosts: NAME as ssh knows it, or NAME=USER@ADDRESS:PORT; an empty line ends the list");
    loop {
        let text = asker.line("  host: ")?;
        if text.is_empty() {
            return Ok(hosts);
        }
        if let Err(why) = put(&mut hosts, &text) {
            asker.say(&format!("  {why}"));
        }
    }
}
