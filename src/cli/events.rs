//! Events of a deployment, a rollback or an `attach`: lines for people, or the stream of `--json`.
use super::printer::{Printer, bytes, lines, plain};
use crate::deploy::events::{Ended, Event, Goal, Observer, Planned};
use crate::deploy::host_result::HostResult;
use crate::protocol::messages::{self, Act, Back, Status};
use crate::protocol::removal::Removal;
use crate::protocol::spec::Rotation;
use crate::ship::send::Sent;
use crate::sys::error::Kind;
use crate::sys::progress::Amount;
use crate::sys::progress::Progress;
use crate::sys::say::counted;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Shows each event as it comes.
pub struct Shown<'a> {
    pub printer: &'a Printer,
    /// Of how many hosts: each of several is named where it would be clear of one alone.
    pub hosts: usize,
    /// How much of its copy was last said of each host, in tenths.
    copied: Mutex<BTreeMap<String, u64>>,
}

impl<'a> Shown<'a> {
    pub fn new(printer: &'a Printer, hosts: usize) -> Shown<'a> {
        Shown { printer, hosts, copied: Mutex::default() }
    }
}

impl Observer for Shown<'_> {
    fn event(&self, event: &Event) {
        self.printer.event(event);
        if !self.printer.json {
            self.text(event);
        }
    }

    fn copying(&self, host: &str, amount: u64) -> Box<dyn Progress> {
        let progress = self.printer.progress();
        if self.hosts > 1 && amount > 0 {
            progress.note(&format!("{host}: copying {}", bytes(amount)));
        }
        progress.beside(&format!("copying to {host}"), amount)
    }
}

impl Shown<'_> {
    fn text(&self, event: &Event) {
        let printer = self.printer;
        match event {
            Event::Begin { goal, hosts, .. } => self.begin(goal, hosts),
            // What the user stopped is said by the result.
            Event::Unavailable { error, .. } if error.kind == Kind::Interrupted => {}
            Event::Unavailable { error, .. } => printer.failure(error),
            Event::Lost { host, error } => {
                let text = lines(&error.message);
                printer.progress().note(&format!("{host}  {:9}  {text}; asking again", Status::Unknown));
            }
            // In one piece: other hosts speak too.
            Event::Plan(plan) => printer.line(plan_text(plan)),
            Event::Copied { host, sent } if sent.paths > 0 => {
                printer.progress().note(&copied_text(host, sent))
            }
            Event::Removal { host, removal } => printer.line(removal_text(host, removal)),
            Event::Freed { host, bytes: freed } => {
                printer.progress().note(&format!(
                    "{host}  {:9}  the store let go of {}",
                    "freed",
                    bytes(*freed)
                ));
            }
            // The last one is said by the result.
            Event::Event { host, event } if event.outcome.is_none() && self.is_news(host, event) => {
                printer.progress().note(&format!("{host}  {:9}  {}", event.status, event_text(event)))
            }
            Event::Result(Ended::Deployment { deployment, failed, seconds, hosts }) => {
                hosts.iter().for_each(|host| self.host(host));
                let (all, good) = (hosts.len(), hosts.len() - failed);
                printer.line(format!("{good} of {all} hosts succeeded in {seconds:.1} s ({deployment})"));
            }
            _ => {}
        }
    }

    /// A copy says how far it is every second; a line for each tenth of it is enough.
    fn is_news(&self, host: &str, event: &messages::Event) -> bool {
        let Some((done, of)) = event.bytes else { return true };
        let tenth = if of == 0 { 10 } else { u128::from(done) * 10 / u128::from(of) } as u64;
        self.copied.lock().insert(host.into(), tenth) != Some(tenth)
    }

    fn begin(&self, goal: &Goal, hosts: &[String]) {
        let printer = self.printer;
        let names = hosts.join(", ");
        match goal {
            Goal::Snapshot { id, label, .. } => {
                let label = label.as_ref().map(|l| format!(" ({})", plain(l))).unwrap_or_default();
                printer.line(printer.bold(&format!("deploying {id}{label} to {names}")));
                let stage = match hosts {
                    [one] => format!("getting {one} ready"),
                    all => format!("getting {} hosts ready", all.len()),
                };
                printer.progress().stage(&stage, Amount::Unknown);
            }
            Goal::Rollback { rollback } => {
                let goal = match rollback {
                    Back::Previous => "what served before".to_string(),
                    Back::Generation(number) => format!("generation {number}"),
                    Back::Snapshot(path) => path.clone(),
                };
                printer.line(printer.bold(&format!("rolling back to {goal}: {names}")));
            }
            Goal::Act { act } => printer.line(printer.bold(&format!("{}: {names}", act_text(act)))),
        }
    }

    /// What came of one host.
    fn host(&self, host: &HostResult) {
        let printer = self.printer;
        let serves = match host.generation {
            _ if !host.on_host => String::new(),
            Some(number) => format!("; generation {number} serves"),
            None if host.status == Status::Succeeded => "; nothing serves".into(),
            None => String::new(),
        };
        let said = host.error.as_deref().map(|e| format!(": {}", lines(e))).unwrap_or_default();
        printer.line(format!("{}  {}{serves}{said}", host.host, printer.bold(host.status.name())));
        if let Some(hint) = &host.hint {
            printer.line(format!("  hint: {}", lines(hint)));
        }
    }
}

fn act_text(act: &Act) -> String {
    match act {
        Act::Restart { instances } if instances.is_empty() => "restarting the instances one by one".into(),
        Act::Restart { instances } => format!("restarting {}", plain(&instances.join(", "))),
        Act::Stop => "stopping what serves".into(),
        Act::Start => "starting what served when it was stopped".into(),
        Act::Remove { data: false } => "removing the service; its data stays".into(),
        Act::Remove { data: true } => "removing the service with its data".into(),
    }
}

/// What goes from a host, and what stays.
fn removal_text(host: &str, removal: &Removal) -> String {
    let name = &removal.service;
    let mut text = match (removal.serving, removal.going.as_slice()) {
        (_, []) => format!("{host}  nothing of {name} is there"),
        (Some(number), _) => format!("{host}  {name} goes; generation {number} finishes what it has first"),
        (None, _) => format!("{host}  {name} goes"),
    };
    for (verb, parts) in [("goes", &removal.going), ("stays", &removal.staying)] {
        for part in parts {
            let places: Vec<String> = part.places.iter().take(4).map(|place| plain(place)).collect();
            let more = part.places.len() - places.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            text.push_str(&format!("\n  {verb:5}  {}: {}{more}", part.what, places.join(", ")));
        }
    }
    text
}

/// What a step says, and how far a copy is.
pub fn event_text(event: &messages::Event) -> String {
    let text = lines(&event.text);
    match event.bytes {
        Some((done, of)) if done < of => format!("{text}: {} of {}", bytes(done), bytes(of)),
        _ => text,
    }
}

fn plan_text(plan: &Planned) -> String {
    let spec = &plan.spec;
    let from = match (&plan.serving, &plan.stopped) {
        (Some(serving), _) => format!("from generation {}", serving.generation),
        (None, Some(stopped)) => {
            format!("starts it, which {} stopped at generation {}", plain(&stopped.by), stopped.generation)
        }
        (None, None) => "first deployment".into(),
    };
    let count = match (spec.instances, spec.maximum) {
        (least, most) if spec.scaling.is_some() => format!("{least} to {most} instances"),
        (count, _) => counted(count as usize, "instance", "instances"),
    };
    let slots: Vec<String> =
        spec.slots.iter().take(spec.maximum as usize).map(|gpus| gpus.join("+")).collect();
    let place =
        if slots.iter().all(String::is_empty) { "CPU".into() } else { format!("GPU {}", slots.join(", ")) };
    let rotation = match spec.rotation {
        Rotation::Surge => "new beside old",
        Rotation::Replace => "old stops first",
    };
    let mut text = format!(
        "  {}  {from}; {} of {} paths to copy, {}; {} on {place}, {}:{}, {rotation}",
        plan.host,
        plan.missing_paths,
        plan.paths,
        bytes(plan.missing_bytes),
        count,
        spec.listen,
        spec.port,
    );
    if plan.wrong_paths > 0 {
        text.push_str(&format!(
            "\n    {} of them are there with other files than they must have",
            plan.wrong_paths
        ));
    }
    for change in &plan.changes {
        text.push_str(&format!("\n    {}", plain(change)));
    }
    text
}

fn copied_text(host: &str, sent: &Sent) -> String {
    format!(
        "{host}: copied {} paths, {} ({} over the network) in {:.1} s",
        sent.paths,
        bytes(sent.nar_bytes),
        bytes(sent.wire_bytes),
        sent.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_a_line_for_each_tenth() {
        let printer = Printer::new(false, true);
        let shown = Shown::new(&printer, 2);
        let event = |bytes| messages::Event {
            at: 0,
            status: Status::Copying,
            text: "copying".into(),
            bytes,
            outcome: None,
        };
        let said =
            |host: &str| (0..=200).filter(|done| shown.is_news(host, &event(Some((*done, 200))))).count();
        assert_eq!((said("a"), said("b")), (11, 11));
        assert!(shown.is_news("a", &event(None)) && shown.is_news("c", &event(Some((0, 0)))));
        assert_eq!(event_text(&event(Some((1024, 2048)))), "copying: 1.00 KiB of 2.00 KiB");
        assert_eq!(event_text(&event(None)), "copying");
    }
}
