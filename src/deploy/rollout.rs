//! Taking hosts from one generation to the next, stage by stage; a failure stops the rest and takes back the
//! hosts that were switched already.
use crate::deploy::events::{Event, Observer};
use crate::deploy::fleet::on_each;
use crate::deploy::host_result::HostResult;
use crate::deploy::stages::stages;
use crate::protocol::messages::{self, Holder, Order, Outcome, Status};
use crate::protocol::spec::Rotation;
use crate::ship::config::RolloutConfig;
use crate::ship::conversation::Conversation;
use crate::ship::copy::Ready;
use crate::sys::clock;
use crate::sys::error::{Error, Kind};
use crate::sys::progress::check_interrupt;
use std::collections::VecDeque;

pub struct Host {
    pub name: String,
    pub conversation: Box<Conversation>,
    pub order: Order,
    /// The connection, which the conversation needs; and what keeps the paths from the host's garbage collector
    /// until its own roots do.
    pub _kept: Ready,
}

pub struct Rollout<'a> {
    pub config: &'a RolloutConfig,
    /// Hosts that are not there.
    pub missing: usize,
    pub rotation: Rotation,
}

/// Somebody else's deployment is under way on a host.
pub fn busy(host: &str, holder: &Holder) -> Error {
    let since = clock::rfc3339(holder.since / 1000);
    Error::new(
        Kind::Busy,
        format!("{host}: a {} is under way, begun by {} at {since}", holder.kind.name(), holder.by),
    )
    .hint("watch it: stillframe attach; stop it: stillframe cancel; if it hangs: stillframe unlock")
}

/// A host's steps, as events of the deployment.
pub(super) fn steps<'a>(host: &str, observer: &'a dyn Observer) -> impl FnMut(&messages::Event) + 'a {
    let host = host.to_string();
    move |event| observer.event(&Event::Event { host: host.clone(), event: event.clone() })
}

enum Acted {
    Switched(Box<Host>, Outcome),
    /// With why the others are stopped.
    Not(HostResult, String),
}

impl Rollout<'_> {
    pub fn run(&self, hosts: Vec<Host>, observer: &dyn Observer) -> Vec<HostResult> {
        let plan = stages(self.config, hosts.len(), self.missing, self.rotation);
        let mut waiting: VecDeque<Host> = hosts.into();
        let (mut switched, mut results) = (Vec::new(), Vec::new());
        let mut trouble: Option<String> = None;
        for stage in plan {
            if let Err(stop) = check_interrupt() {
                trouble = Some(stop.message);
                break;
            }
            let batch: Vec<Host> = waiting.drain(..stage.len().min(waiting.len())).collect();
            for acted in on_each(batch, |host| act(host, observer)) {
                match acted {
                    Acted::Switched(host, outcome) => switched.push((host, outcome)),
                    Acted::Not(result, why) => {
                        trouble.get_or_insert(why);
                        results.push(result);
                    }
                }
            }
            if trouble.is_some() {
                break;
            }
        }
        match trouble {
            None => {
                results.extend(switched.iter().map(|(host, outcome)| HostResult::of(&host.name, outcome)))
            }
            Some(why) => {
                results.extend(waiting.into_iter().map(|host| not_begun(host, &why)));
                results.extend(on_each(switched, |(host, _)| take_back(*host, &why, observer)));
            }
        }
        results
    }
}

fn act(mut host: Host, observer: &dyn Observer) -> Acted {
    let why = |text: &str| format!("{} failed: {}", host.name, text.lines().next().unwrap_or_default());
    match host.conversation.act(&host.order, steps(&host.name, observer)) {
        Ok(outcome) if outcome.status == Status::Succeeded => Acted::Switched(Box::new(host), outcome),
        Ok(outcome) => Acted::Not(
            HostResult::of(&host.name, &outcome),
            why(outcome.error.as_deref().unwrap_or_default()),
        ),
        Err(e) => {
            let error = Error::from(e);
            Acted::Not(HostResult::failed(&host.name, &error, true), why(&error.message))
        }
    }
}

fn not_begun(mut host: Host, why: &str) -> HostResult {
    let error = Error::new(Kind::Host, format!("not begun: {why}"));
    host.conversation.give_up(Status::Cancelled, &error);
    HostResult { status: Status::Cancelled, ..HostResult::failed(&host.name, &error, true) }
}

fn take_back(mut host: Host, why: &str, observer: &dyn Observer) -> HostResult {
    let order = Order::TakeBack { why: why.into() };
    match host.conversation.act(&order, steps(&host.name, observer)) {
        Ok(outcome) => {
            let result = HostResult::of(&host.name, &outcome);
            HostResult { error: Some(format!("taken back: {why}")), ..result }
        }
        Err(e) => {
            let error = Error::from(e).within("could not be taken back").within(&host.name);
            HostResult::failed(&host.name, &error, true)
        }
    }
}
