//! What was answered, as the files that keep it.
use crate::capture::model::used::Proposal;
use crate::cli::new_host::{NewHost, quoted};
use crate::snapshot::found::Found;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    pub name: String,
    pub models: String,
    pub port: u16,
    pub memory: Option<String>,
    pub cpu: Option<String>,
    pub minimum: u32,
    pub maximum: Option<u32>,
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
        match self.maximum {
            Some(maximum) => put(format!("maximum = {maximum}"), ""),
            None => put("# maximum = 2".into(), "one a slot, which is one a GPU"),
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
            maximum: Some(2),
            rotation: "surge".into(),
            drain: "60s".into(),
            retention: 3,
            hosts: vec![],
        };
        let config: crate::cli::settings::Config =
            toml::from_str(&answers.text(&found, &[], Path::new("/home/artist"))).unwrap();
        assert_eq!(config.environment.unwrap().to_str(), Some("ComfyUI"));
        assert_eq!(config.python.interpreter.unwrap(), found.python);
        assert_eq!(config.service.scaling.maximum, Some(2));
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
