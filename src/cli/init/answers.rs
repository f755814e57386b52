//! What was answered, as the files that keep it.
use crate::capture::model::used::Proposal;
use crate::cli::new_host::{NewHost, quoted};
use crate::ship::config::ClockTime;
use crate::snapshot::found::Found;
use std::path::Path;

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
