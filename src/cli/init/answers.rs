//! What was answered, as the files that keep it.
use crate::capture::model::used::Proposal;
use crate::ship::config::ClockTime;
use crate::snapshot::found::Found;
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHost {
    pub name: String,
    pub user: Option<String>,
    pub address: String,
    pub port: Option<u16>,
    pub ssh_config: Option<PathBuf>,
}

impl NewHost {
    /// `NAME`, `ADDRESS`, `USER@ADDRESS:PORT`, or any of those behind `NAME=`.
    pub fn parse(text: &str) -> Result<NewHost, String> {
        let wrong = || {
            format!(
                "{text:?} is no host: write NAME, or NAME=USER@ADDRESS:PORT (user and port may be left out)"
            )
        };
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (Some(name.trim()), place.trim()),
            None => (None, text.trim()),
        };
        let (user, place) = match place.split_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, place),
        };
        // An IPv6 address has colons of its own, and a port only behind brackets.
        let (address, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, rest)) => (address, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
            None if place.matches(':').count() == 1 => {
                place.split_once(':').map_or((place, None), |(address, port)| (address, Some(port)))
            }
            None => (place, None),
        };
        let port = port.map(|p| p.parse::<u16>().map_err(|_| wrong())).transpose()?;
        let sound = |word: &str| {
            !word.is_empty()
                && !word.starts_with('-')
                && !word.contains(|c: char| c.is_whitespace() || c == '/')
        };
        let name = name.map_or_else(|| address.replace(':', "-"), String::from);
        let named = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !sound(address) || !user.is_none_or(sound) || !named {
            return Err(wrong());
        }
        Ok(NewHost { name, user: user.map(String::from), address: address.into(), port, ssh_config: None })
    }

    pub fn text(&self) -> String {
        let mut text = format!("address = {}\n", quoted(&self.address));
        if let Some(user) = &self.user {
            let _ = writeln!(text, "user = {}", quoted(user));
        }
        if let Some(port) = self.port {
            let _ = writeln!(text, "port = {port}");
        }
        if let Some(file) = &self.ssh_config {
            let _ = writeln!(text, "ssh-config = {}", quoted(&file.display().to_string()));
        }
        text
    }
}

/// When the number of instances changes, as TOML has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaling {
    pub target_waiting: u32,
    pub step: u32,
    pub cool_down: String,
    pub idle: String,
    pub schedules: Vec<NewSchedule>,
}

/// `weekdays 08:00-20:00 Europe/Berlin 2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSchedule {
    days: Vec<String>,
    from: String,
    to: String,
    zone: String,
    minimum: u32,
}

impl NewSchedule {
    pub fn parse(text: &str) -> Result<NewSchedule, String> {
        let wrong = || format!("{text:?} is no schedule: write \"weekdays 08:00-20:00 Europe/Berlin 2\"");
        let words: Vec<&str> = text.split_whitespace().collect();
        let [days, times, zone, minimum] = words.as_slice() else { return Err(wrong()) };
        let (from, to) = times.split_once('-').ok_or_else(wrong)?;
        for time in [from, to] {
            ClockTime::try_from(time.to_string())?;
        }
        let minimum = minimum.parse().map_err(|_| wrong())?;
        let days = days.split(',').filter(|day| *day != "daily").map(String::from).collect();
        Ok(NewSchedule { days, from: from.into(), to: to.into(), zone: zone.to_string(), minimum })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![String::new(), "[[service.scaling.schedules]]".into()];
        if !self.days.is_empty() {
            let days: Vec<String> = self.days.iter().map(|day| quoted(day)).collect();
            lines.push(format!("days = [{}]", days.join(", ")));
        }
        lines.push(format!("from = {}", quoted(&self.from)));
        lines.push(format!("to = {}", quoted(&self.to)));
        lines.push(format!("zone = {}", quoted(&self.zone)));
        lines.push(format!("minimum = {}", self.minimum));
        lines
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    pub name: String,
    pub models: String,
    pub port: u16,
    pub memory: Option<String>,
    pub cpu: Option<String>,
    pub minimum: u32,
    pub maximum: u32,
    /// Where the two differ.
    pub scaling: Option<Scaling>,
    pub rotation: String,
    pub drain: String,
    pub retention: u32,
    pub hosts: Vec<NewHost>,
}

/// The lines for one table, as comments.
fn proposed(seen: &[Proposal], table: Option<&str>) -> Vec<String> {
    let of = |proposal: &Proposal| {
        // It names files, whose names may hold anything: nothing of them may end the comment.
        let why = proposal.why.replace(char::is_control, "?");
        [format!("# A probe saw that the environment {why}:"), format!("# {}", proposal.line)]
    };
    seen.iter().filter(|proposal| proposal.table == table).flat_map(of).collect()
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

impl Answers {
    /// The most instances that anything here asks for.
    pub fn most(&self) -> u32 {
        let schedules = self.scaling.iter().flat_map(|scaling| &scaling.schedules);
        schedules.map(|schedule| schedule.minimum).chain([self.maximum, 1]).max().unwrap_or(1)
    }

    /// stillframe.toml, with what each line means. What a probe has `seen` is proposed: it is for the user to decide.
    pub fn text(&self, found: &Found, seen: &[Proposal], project: &Path) -> String {
        let environment = match found.environment.strip_prefix(project) {
            Ok(inner) if inner.as_os_str().is_empty() => ".".into(),
            Ok(inner) => inner.display().to_string(),
            Err(_) => found.environment.display().to_string(),
        };
        let mut lines: Vec<(String, &str)> = vec![(format!("environment = {}", quoted(&environment)), "")];
        let mut put = |text: String, why: &'static str| lines.push((text, why));
        let proposed = |table: Option<&str>| -> Vec<String> { proposed(seen, table) };
        proposed(None).into_iter().for_each(|line| put(line, ""));
        let libraries = proposed(Some("python"));
        if found.name_python || !libraries.is_empty() {
            put(String::new(), "");
            put("[python]".into(), "");
        }
        if found.name_python {
            let python = quoted(&found.python.display().to_string());
            put(format!("interpreter = {python}"), "it is not beside the program");
        }
        libraries.into_iter().for_each(|line| put(line, ""));
        put(String::new(), "");
        put("[service]".into(), "hosts/NAME.toml may say otherwise for one host");
        put(format!("name = {}", quoted(&self.name)), "");
        put(format!("models = {}", quoted(&self.models)), "on the hosts");
        put(format!("port = {}", self.port), "public; on loopback unless `listen` says otherwise");
        put(
            format!("rotation = {}", quoted(&self.rotation)),
            "\"surge\": new beside old; \"replace\": old first",
        );
        put(format!("drain = {}", quoted(&self.drain)), "so long may old instances finish what they have");
        proposed(Some("service")).into_iter().for_each(|line| put(line, ""));
        let environment = proposed(Some("service.environment"));
        if !environment.is_empty() {
            put(String::new(), "");
            put("[service.environment]".into(), "");
            environment.into_iter().for_each(|line| put(line, ""));
        }
        put(String::new(), "");
        put("[service.resources]".into(), "of each instance");
        match &self.memory {
            Some(memory) => put(format!("memory = {}", quoted(memory)), ""),
            None => put("# memory = \"24GiB\"".into(), "no limit"),
        }
        match &self.cpu {
            Some(cpu) => put(format!("cpu = {cpu}"), "cores"),
            None => put("# cpu = 4".into(), "no limit"),
        }
        put(String::new(), "");
        put("[service.scaling]".into(), "");
        put(format!("minimum = {}", self.minimum), "instances that run always");
        put(format!("maximum = {}", self.maximum), "at most, one a slot, which is one a GPU");
        if let Some(scaling) = &self.scaling {
            put(
                format!("target-waiting = {}", scaling.target_waiting),
                "jobs that may wait for each instance",
            );
            put(format!("step = {}", scaling.step), "so many start or end at once");
            put(format!("cool-down = {}", quoted(&scaling.cool_down)), "between two changes");
            put(format!("idle = {}", quoted(&scaling.idle)), "the load is low for so long before one ends");
            scaling.schedules.iter().flat_map(NewSchedule::lines).for_each(|line| put(line, ""));
            put(String::new(), "");
            put("[service.jobs]".into(), "");
            put("queue = \"gateway\"".into(), "the number of instances follows it");
        }
        put(String::new(), "");
        put("[service.retention]".into(), "");
        put(format!("generations = {}", self.retention), "kept besides the serving one");
        let width =
            lines.iter().filter(|(_, why)| !why.is_empty()).map(|(text, _)| text.len()).max().unwrap_or(0);
        lines
            .iter()
            .map(
                |(text, why)| {
                    if why.is_empty() { format!("{text}\n") } else { format!("{text:width$}  # {why}\n") }
                },
            )
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_every_form() {
        let host = |text: &str| {
            NewHost::parse(text)
                .map(|h| format!("{} {:?} {} {:?}", h.name, h.user, h.address, h.port))
                .unwrap_or_default()
        };
        assert_eq!(host("gpu-1"), "gpu-1 None gpu-1 None");
        assert_eq!(host("deploy@10.0.0.1:2222"), "10.0.0.1 Some(\"deploy\") 10.0.0.1 Some(2222)");
        assert_eq!(host("a = me@gpu.example"), "a Some(\"me\") gpu.example None");
        assert_eq!(host("six=[fd00::1]:22"), "six None fd00::1 Some(22)");
        assert_eq!(host("fd00::1"), "fd00--1 None fd00::1 None");
        for bad in ["", "a=", "-x", "a=-oProxyCommand=x", "a b", "../a", "a:port", "a=[::1]22", "@x"] {
            assert_eq!(host(bad), "", "{bad}");
        }
    }

    #[test]
    fn the_files_say_what_was_answered() {
        let found = Found {
            environment: "/home/artist/ComfyUI".into(),
            python: "/opt/py/bin/python3".into(),
            name_python: true,
            how: crate::capture::python::find::FoundBy::Variable("CONDA_PREFIX"),
            gpus: vec![],
            models: "/home/artist/ComfyUI/models".into(),
            port: None,
            memory_kib: 1,
        };
        let answers = Answers {
            name: "demo".into(),
            models: "/srv/models".into(),
            port: 8188,
            memory: Some("24GiB".into()),
            cpu: None,
            minimum: 1,
            maximum: 2,
            scaling: Some(Scaling {
                target_waiting: 3,
                step: 1,
                cool_down: "30s".into(),
                idle: "5min".into(),
                schedules: vec![NewSchedule::parse("mon,weekend 08:00-20:00 Europe/Berlin 2").unwrap()],
            }),
            rotation: "surge".into(),
            drain: "60s".into(),
            retention: 3,
            hosts: vec![],
        };
        let config: crate::cli::settings::Config =
            toml::from_str(&answers.text(&found, &[], Path::new("/home/artist"))).unwrap();
        assert_eq!(config.environment.unwrap().to_str(), Some("ComfyUI"));
        assert_eq!(config.python.interpreter.unwrap(), found.python);
        let spec = config.service.spec(&["0".into(), "1".into()], vec![], None).unwrap();
        let policy = spec.scaling.unwrap();
        assert_eq!((policy.minimum, policy.maximum, policy.schedules.len()), (1, 2, 1));
        assert_eq!(config.service.resources.memory.unwrap().0, 24 << 30);
        assert_eq!(config.service.resources.cpu, None);
        assert!(
            answers
                .text(&found, &[], Path::new("/other"))
                .starts_with("environment = \"/home/artist/ComfyUI\"\n")
        );
        let proposal =
            |table, line: &str| Proposal { table, line: line.into(), why: "uses a\nname = 1".into() };
        let seen = [
            proposal(Some("python"), "libraries = [\"libx.so.1\"]"),
            proposal(Some("service.environment"), "A = \"b\""),
            proposal(None, "exclude = []"),
        ];
        let text = answers.text(&found, &seen, Path::new("/other"));
        let proposed: Vec<&str> =
            text.lines().filter(|line| line.starts_with("# ") && line.contains(" = [\"")).collect();
        assert_eq!(proposed, ["# libraries = [\"libx.so.1\"]"]);
        assert!(text.contains("# A probe saw that the environment uses a?name = 1:\n"), "{text}");
        toml::from_str::<crate::cli::settings::Config>(&text).unwrap();
    }
}
