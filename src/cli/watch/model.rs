//! What `watch` shows, and how news and keys change it. No terminal, no network: see the modules beside.
use crate::protocol::messages::{Attempt, Event, Status};
use crate::protocol::overview::HostView;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Lines of the log that are kept.
const LOG: usize = 1000;

/// A deployment on one host.
#[derive(Debug, Clone)]
pub struct Steps {
    pub attempt: Attempt,
    /// Each status that there was, once, in order.
    pub passed: Vec<Status>,
    pub last: Option<Event>,
}

#[derive(Debug, Clone, Default)]
pub struct Host {
    pub view: Option<HostView>,
    /// Why there is no newer view.
    pub error: Option<String>,
    /// When the view came, by the model's own time.
    pub heard: Duration,
    pub steps: Option<Steps>,
    pub log: VecDeque<String>,
}

/// What a key asked for, and waits for a yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Cancel,
    RollBack,
}

impl Act {
    pub fn question(self) -> &'static str {
        match self {
            Act::Cancel => "Cancel the deployment under way? What served before it serves on.",
            Act::RollBack => "Roll every host back to the generation that served before?",
        }
    }

    /// The command that does it.
    pub fn word(self) -> &'static str {
        match self {
            Act::Cancel => "cancel",
            Act::RollBack => "rollback",
        }
    }
}

#[derive(Debug)]
pub enum News {
    View(String, Box<HostView>),
    Lost(String, String),
    Attempt(String, Box<Attempt>),
    Step(String, Box<Event>),
    Log(String, String),
    /// A command of ours has ended: its last line.
    Done(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    Enter,
    Escape,
    Letter(char),
}

/// What the loop is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Todo {
    Nothing,
    Quit,
    Run(Act),
}

#[derive(Debug, Default)]
pub struct Model {
    pub service: String,
    /// By name, in the order of names.
    pub hosts: BTreeMap<String, Host>,
    /// Snapshots as this workstation calls them, by store path.
    pub known: BTreeMap<String, String>,
    /// Whose log is shown.
    pub chosen: usize,
    /// The log takes the whole screen.
    pub only_log: bool,
    pub asking: Option<Act>,
    pub told: Option<String>,
    /// `HH:MM:SS`, UTC.
    pub clock: String,
    /// Since somebody looks.
    pub now: Duration,
}

/// A host says every second how it is: what it said before this is no news any more.
const STALE: Duration = Duration::from_secs(5);

impl Host {
    /// For how long nothing was heard of it, once that is long; a question to a dead host takes half a minute to fail.
    pub fn silent(&self, now: Duration) -> Option<Duration> {
        let silent = now.saturating_sub(self.heard);
        (self.view.is_some() && silent > STALE).then_some(silent)
    }
}

impl Model {
    pub fn new(service: &str, hosts: &[String]) -> Model {
        let hosts = hosts.iter().map(|name| (name.clone(), Host::default())).collect();
        Model { service: service.into(), hosts, ..Model::default() }
    }

    pub fn chosen(&self) -> Option<(&String, &Host)> {
        self.hosts.iter().nth(self.chosen)
    }

    pub fn hear(&mut self, news: News) {
        match news {
            News::View(host, view) => {
                let now = self.now;
                let host = self.hosts.entry(host).or_default();
                host.heard = now;
                host.view = Some(*view);
                host.error = None;
            }
            News::Lost(host, why) => self.hosts.entry(host).or_default().error = Some(why),
            News::Attempt(host, attempt) => {
                let steps = Steps { attempt: *attempt, passed: Vec::new(), last: None };
                self.hosts.entry(host).or_default().steps = Some(steps);
            }
            News::Step(host, event) => {
                if let Some(steps) = &mut self.hosts.entry(host).or_default().steps {
                    if steps.passed.last() != Some(&event.status) {
                        steps.passed.push(event.status);
                    }
                    steps.last = Some(*event);
                }
            }
            News::Log(host, line) => {
                let log = &mut self.hosts.entry(host).or_default().log;
                if log.len() == LOG {
                    log.pop_front();
                }
                log.push_back(line);
            }
            News::Done(line) => self.told = Some(line),
        }
    }

    pub fn press(&mut self, key: Key) -> Todo {
        if let Some(act) = self.asking {
            self.asking = None;
            return match key {
                Key::Letter('y') => {
                    self.told = Some(format!("{} is under way …", act.word()));
                    Todo::Run(act)
                }
                _ => Todo::Nothing,
            };
        }
        match key {
            Key::Letter('q') => return Todo::Quit,
            Key::Escape if self.only_log => self.only_log = false,
            Key::Escape => return Todo::Quit,
            Key::Letter('l') | Key::Enter => self.only_log = !self.only_log,
            Key::Letter('c') => self.asking = Some(Act::Cancel),
            Key::Letter('r') => self.asking = Some(Act::RollBack),
            Key::Down | Key::Letter('j') => {
                self.chosen = (self.chosen + 1).min(self.hosts.len().saturating_sub(1))
            }
            Key::Up | Key::Letter('k') => self.chosen = self.chosen.saturating_sub(1),
            Key::Letter(_) => {}
        }
        Todo::Nothing
    }

    /// Instances that have requests, and those wanted, of all hosts.
    pub fn ready(&self) -> (u32, u32) {
        let services = self.hosts.values().filter_map(|h| h.view.as_ref()).flat_map(|v| &v.services);
        services.fold((0, 0), |(ready, wanted), s| (ready + s.ready, wanted + s.wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_is_asked_for_twice() {
        let mut model = Model::new("demo", &["alpha".into(), "beta".into()]);
        assert_eq!(model.press(Key::Letter('r')), Todo::Nothing);
        assert_eq!(model.press(Key::Letter('n')), Todo::Nothing);
        assert_eq!(model.press(Key::Letter('y')), Todo::Nothing);
        assert_eq!(model.press(Key::Letter('c')), Todo::Nothing);
        assert_eq!(model.press(Key::Letter('y')), Todo::Run(Act::Cancel));
        assert_eq!(model.told.as_deref(), Some("cancel is under way …"));
        assert_eq!(model.press(Key::Letter('q')), Todo::Quit);
    }

    #[test]
    fn keys_stay_within_the_hosts_and_escape_leaves_the_log_first() {
        let mut model = Model::new("demo", &["alpha".into(), "beta".into()]);
        for _ in 0..5 {
            model.press(Key::Down);
        }
        assert_eq!(model.chosen().unwrap().0, "beta");
        for _ in 0..5 {
            model.press(Key::Letter('k'));
        }
        assert_eq!(model.chosen().unwrap().0, "alpha");
        model.press(Key::Enter);
        assert!(model.only_log);
        assert_eq!(model.press(Key::Escape), Todo::Nothing);
        assert_eq!(model.press(Key::Escape), Todo::Quit);
    }

    #[test]
    fn the_log_is_bounded_and_statuses_are_counted_once() {
        let mut model = Model::new("demo", &["alpha".into()]);
        for n in 0..2 * LOG {
            model.hear(News::Log("alpha".into(), n.to_string()));
        }
        let log = &model.hosts["alpha"].log;
        assert_eq!((log.len(), log.back().unwrap().as_str()), (LOG, "1999"));
        let attempt = serde_json::json!({"version": 1, "attempt": 3, "service": "demo", "deployment": "d", "kind": "deploy",
            "by": "me@here", "hosts": ["alpha"], "began": 0});
        model.hear(News::Attempt("alpha".into(), Box::new(serde_json::from_value(attempt).unwrap())));
        for status in [Status::Starting, Status::Checking, Status::Checking, Status::Rotating] {
            let event = Event { at: 0, status, text: "x".into(), bytes: None, outcome: None };
            model.hear(News::Step("alpha".into(), Box::new(event)));
        }
        let steps = model.hosts["alpha"].steps.as_ref().unwrap();
        assert_eq!(steps.passed, [Status::Starting, Status::Checking, Status::Rotating]);
    }
}
