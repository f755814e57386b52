//! Taking hosts from one generation to the next, stage by stage; a failure stops the rest and takes back the
//! hosts that were switched already.
use crate::deploy::again::{self, Heard, Line};
use crate::deploy::events::{Event, Observer};
use crate::deploy::fleet::on_each;
use crate::deploy::host_result::HostResult;
use crate::deploy::stages::stages;
use crate::protocol::messages::{self, AttemptKind, Holder, Order, Outcome, Status};
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
    /// How to reach it once more, should the line be cut.
    pub line: Line,
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
    let obeyed = obeyed(&mut host.conversation, &host.order, &host.line, observer);
    match obeyed {
        Obeyed::Outcome(outcome) if outcome.status == Status::Succeeded => {
            Acted::Switched(Box::new(host), *outcome)
        }
        obeyed => {
            let (result, _) = obeyed.result(&host.name, true);
            let said = result.error.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
            let why = match result.status {
                Status::Unknown => format!("what came of {} is not known", host.name),
                _ => format!("{} failed: {said}", host.name),
            };
            Acted::Not(result, why)
        }
    }
}

/// What a host made of an order.
pub(super) enum Obeyed {
    Outcome(Box<Outcome>),
    /// It is as it was.
    Not(Error),
    Unknown(Error),
}

impl Obeyed {
    /// What that is of a host, and the snapshot that it names; `begun`: the host has a record of it.
    pub(super) fn result(self, host: &str, begun: bool) -> (HostResult, Option<String>) {
        match self {
            Obeyed::Outcome(outcome) => (HostResult::of(host, &outcome), outcome.snapshot),
            Obeyed::Not(error) => (HostResult::failed(host, &error, begun), None),
            Obeyed::Unknown(error) => (HostResult::unknown(host, &error), None),
        }
    }
}

/// Gives an order and hears what came of it, also where the line is cut meanwhile.
pub(super) fn obeyed(
    conversation: &mut Conversation,
    order: &Order,
    line: &Line,
    observer: &dyn Observer,
) -> Obeyed {
    let kind = match order {
        Order::TakeBack { .. } => AttemptKind::TakeBack,
        Order::Return { .. } => AttemptKind::Rollback,
        Order::Act { act } => act.kind(),
        _ => AttemptKind::Deploy,
    };
    let host = conversation.host.clone();
    let e = match conversation.act(order, steps(&host, observer)) {
        Ok(outcome) => return Obeyed::Outcome(Box::new(outcome)),
        Err(e) => e,
    };
    let goes_on = again::goes_on(&e);
    let error = Error::from(e);
    if !goes_on {
        return Obeyed::Not(error);
    }
    observer.event(&Event::Lost { host: host.clone(), error: error.report() });
    match line.hear(kind, conversation.heard, &error, steps(&host, observer)) {
        Heard::Outcome(outcome) => Obeyed::Outcome(outcome),
        Heard::NotBegun => Obeyed::Not(error),
        Heard::Unknown(error) => Obeyed::Unknown(error),
    }
}

fn not_begun(mut host: Host, why: &str) -> HostResult {
    let error = Error::new(Kind::Host, format!("not begun: {why}"));
    host.conversation.give_up(Status::Cancelled, &error);
    HostResult { status: Status::Cancelled, ..HostResult::failed(&host.name, &error, true) }
}

fn take_back(mut host: Host, why: &str, observer: &dyn Observer) -> HostResult {
    let order = Order::TakeBack { why: why.into() };
    let mut obeyed_as = obeyed(&mut host.conversation, &order, &host.line, observer);
    if let Obeyed::Not(_) = obeyed_as {
        // The line was cut before: a new conversation can say it still.
        obeyed_as = match host.line.begin(AttemptKind::TakeBack) {
            Ok((mut conversation, _remote)) => obeyed(&mut conversation, &order, &host.line, observer),
            Err(error) => Obeyed::Not(error),
        };
    }
    let error = match obeyed_as {
        Obeyed::Outcome(outcome) if outcome.status == Status::Reverted => {
            let result = HostResult::of(&host.name, &outcome);
            return HostResult { error: Some(format!("taken back: {why}")), ..result };
        }
        Obeyed::Outcome(outcome) => Error::new(Kind::Host, outcome.error.unwrap_or_default()),
        Obeyed::Not(error) => error,
        Obeyed::Unknown(error) => return HostResult::unknown(&host.name, &error),
    };
    let hint = format!(
        "what serves there: stillframe status; to go back: stillframe rollback --hosts {}",
        host.name
    );
    let error = error.within("could not be taken back").within(&host.name).hint(hint);
    HostResult { changed: Some(true), ..HostResult::failed(&host.name, &error, true) }
}
