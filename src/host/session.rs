//! `stillframe-agent order`: this host's end of a deployment's conversation (see `protocol::messages`). It holds the
//! service's lease, keeps the attempt's record while paths are copied, starts the activation in a unit of its
//! own, and then only passes on what that writes: when the connection is cut, the activation goes on.
use crate::host::activating;
use crate::host::activation_unit::{self, Life};
use crate::host::acts::{self, Asked};
use crate::host::cancel;
use crate::host::goal::{self, Goal};
use crate::host::held::{Held, Step, Stop, record_end, stop_asked};
use crate::host::journal::{self, Follower, Journal};
use crate::host::layout::Layout;
use crate::host::lease;
use crate::host::lookup::{Done, allowed, exactly, own_program, resolve, runs, serving};
use crate::host::maintenance;
use crate::host::renaming;
use crate::host::state::{Generation, ServiceState};
use crate::host::state_file::Found;
use crate::host::{receive, reserve, secrets, units};
use crate::protocol::messages::{
    Act, Answer, Attempt, AttemptKind, Back, Holder, ORDERS_VERSION, Order, Outcome, SILENCE_MS, Status,
};
use crate::protocol::spec::{Wanted, valid_service};
use crate::protocol::wire;
use crate::sys::clock;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use crate::sys::files;
use crate::sys::process;
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often a record that is being written is looked at.
const LOOK: Duration = Duration::from_millis(25);
/// How often the conversation looks whether somebody asked it to stop.
const LOOK_FOR_STOP: Duration = Duration::from_millis(200);
/// Some thousands of records are deleted sooner.
const ERASE_LIMIT: Duration = Duration::from_secs(60);
/// A binary cache may be slow, but not for ever.
const FETCH_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// What comes from the workstation.
enum Heard {
    Order(Order),
    /// Nothing any more: it said all, or the line was cut.
    End,
    /// A whole line that is no order of this version.
    Unreadable(String),
}

impl From<std::io::Result<Option<Order>>> for Heard {
    fn from(read: std::io::Result<Option<Order>>) -> Heard {
        match read {
            Ok(Some(order)) => Heard::Order(order),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Heard::Unreadable(e.to_string()),
            Ok(None) | Err(_) => Heard::End,
        }
    }
}

const GONE: Stop = Stop::Gone("the workstation ended the connection");
const SILENT: Stop = Stop::Gone("the workstation was silent for too long");
const VERSIONS: &str =
    "stillframe and the agent on the host must be of one version: deploy with the newer one";

struct Talk<'a> {
    layout: &'a Layout,
    output: &'a mut dyn Write,
    orders: Receiver<Heard>,
}

pub fn converse(layout: &Layout, input: impl Read + Send + 'static, output: &mut dyn Write) -> Result<()> {
    let (tell, orders) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut input = BufReader::new(input);
        loop {
            let heard = Heard::from(wire::read_line(&mut input));
            let last = !matches!(heard, Heard::Order(_));
            if tell.send(heard).is_err() || last {
                return;
            }
        }
    });
    let mut talk = Talk { layout, output, orders };
    let mut held = None;
    match talk.conduct(&mut held) {
        Ok(()) => Ok(()),
        Err(stop) => talk.stop(held, stop),
    }
}

impl Talk<'_> {
    fn say(&mut self, answer: &Answer) -> Step<()> {
        wire::write_line(self.output, answer).map_err(|_| Stop::Gone("the workstation is gone"))
    }

    /// The next order that says something, within the silence that is allowed.
    fn next(&mut self, held: Option<&Held>) -> Step<Order> {
        let mut heard = Instant::now();
        loop {
            match self.orders.recv_timeout(LOOK_FOR_STOP) {
                Ok(Heard::Order(Order::Alive)) => heard = Instant::now(),
                Ok(Heard::Order(order)) => return Ok(order),
                Ok(Heard::Unreadable(why)) => {
                    let text =
                        format!("the workstation asks for something that this agent does not know: {why}");
                    return Err(Error::new(Kind::Input, text).hint(VERSIONS).into());
                }
                Ok(Heard::End) | Err(RecvTimeoutError::Disconnected) => return Err(GONE),
                Err(RecvTimeoutError::Timeout) if heard.elapsed().as_millis() as u64 > SILENCE_MS => {
                    return Err(SILENT);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(held) = held {
                stop_asked(held)?;
            }
        }
    }

    fn conduct(&mut self, slot: &mut Option<Held>) -> Step<()> {
        let Order::Begin { version, attempt } = self.next(None)? else {
            return Err(Error::new(Kind::Input, "a conversation begins with `begin`").into());
        };
        if version != ORDERS_VERSION {
            let text = format!("the workstation speaks version {version}, this agent {ORDERS_VERSION}");
            return Err(Error::new(Kind::Input, text).hint(VERSIONS).into());
        }
        let Some(held) = self.begin(*attempt)? else { return Ok(()) };
        let held = slot.insert(held);
        let state = ServiceState::load(&held.service.state(), &held.service.name)?;
        allowed(&held.service, &state, &held.attempt)?;
        let (serving, stopped) = (serving(&state), state.stopped.clone());
        self.say(&Answer::Held { attempt: held.attempt.attempt, serving, stopped })?;
        let mut done = None;
        loop {
            match self.next(Some(held))? {
                Order::Copying { text, bytes } => {
                    held.journal.event(Status::Copying, &text, bytes)?;
                }
                Order::Fetch { url, public_keys, path } => {
                    self.fetch(held, &url, &public_keys, &path)?;
                    self.say(&Answer::Fetched)?;
                }
                Order::Activate { wanted, secrets, again } => {
                    done = Some(self.activate(held, *wanted, &secrets, again)?);
                }
                Order::Return { to } => done = Some(self.return_to(held, &to)?),
                Order::Act { act } => done = Some(self.act(held, &act)?),
                Order::TakeBack { why } => {
                    let earlier = || Done::earlier(&held.service, &held.attempt.deployment);
                    let done = done.take().map_or_else(earlier, Ok)?;
                    self.take_back(held, &done, why)?;
                }
                Order::GiveUp { status, message, hint } => {
                    let error = Error::new(Kind::Host, message);
                    return Err(Stop::Told { status, error: error.maybe_hint(hint) });
                }
                Order::Cancel { by } => {
                    return Err(Stop::Told { status: Status::Cancelled, error: cancel::cancelled(&by) });
                }
                Order::End => return Ok(()),
                Order::Begin { .. } | Order::Alive => {}
            }
        }
    }

    fn begin(&mut self, attempt: Attempt) -> Step<Option<Held>> {
        if !valid_service(&attempt.service) {
            let text = format!("{:?} is no name for a service", attempt.service);
            return Err(Error::new(Kind::Input, text)
                .hint("1 to 27 letters a-z, digits and '-', neither first nor last")
                .into());
        }
        maintenance::refuse(self.layout, attempt.kind)?;
        renaming::settle(self.layout)?;
        let service = self.layout.service(&attempt.service);
        let folder = &service.home;
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create directory", folder, e))?;
        let mut holder = Holder {
            deployment: attempt.deployment.clone(),
            kind: attempt.kind,
            by: attempt.by.clone(),
            since: clock::now_ms(),
            attempt: 0,
        };
        let mut lease = match lease::take(&service, &holder)? {
            Ok(lease) => lease,
            Err(holder) => {
                self.say(&Answer::Busy { holder })?;
                return Ok(None);
            }
        };
        // What somebody else's end left unfinished comes first.
        let Found { mut state, warning } = ServiceState::read(&service.state(), &service.name)?;
        activating::end_pending(&service, &mut state)?;
        if !service.home.exists() {
            // That was a removal, and the lease went with the service.
            drop(lease);
            return self.begin(attempt);
        }
        reserve::keep(self.layout)?;
        let (mut journal, attempt) = Journal::begin(&service, attempt)?;
        holder.attempt = attempt.attempt;
        lease.rename(&holder)?;
        activating::end_abandoned(&service)?;
        journal.event(Status::Queued, &format!("begun by {}", attempt.by), None)?;
        if let Some(warning) = warning {
            journal.event(Status::Queued, &format!("warning: {warning}"), None)?;
        }
        Ok(Some(Held { service, holder, attempt, lease, journal, over: false }))
    }

    /// Copies from a binary cache with this host's own Nix.
    fn fetch(&mut self, held: &mut Held, url: &str, keys: &[String], path: &str) -> Step<()> {
        held.journal.event(Status::Copying, &format!("copying from {url}"), None)?;
        let mut words = vec!["nix", "--extra-experimental-features", "nix-command", "copy", "--from", url];
        let joined = keys.join(" ");
        if keys.is_empty() {
            // Nobody's signature is asked for: the workstation then compares every path with its own hash, and nothing of
            // what came is used before.
            words.push("--no-check-sigs");
        } else {
            words.extend(["--option", "trusted-public-keys", joined.as_str()]);
        }
        words.push(path);
        let mut gone = None;
        let orders = &self.orders;
        let output = process::run_until(&words, FETCH_LIMIT, &mut || {
            match orders.try_recv() {
                Ok(Heard::Order(_)) | Err(std::sync::mpsc::TryRecvError::Empty) => {}
                Ok(_) | Err(std::sync::mpsc::TryRecvError::Disconnected) => gone = Some(GONE),
            }
            if let Err(stop) = stop_asked(held) {
                gone = Some(stop);
            }
            gone.is_some()
        });
        if let Some(stop) = gone {
            return Err(stop);
        }
        let output = output?;
        if output.code == Some(0) {
            return Ok(());
        }
        Err(Error::new(Kind::Store, format!("cannot copy {path} from {url}: {}", output.stderr))
            .hint("fill the cache first: nix copy --to URL PATH; or leave [ship] cache out")
            .into())
    }

    fn activate(
        &mut self,
        held: &mut Held,
        wanted: Wanted,
        given: &BTreeMap<String, String>,
        again: bool,
    ) -> Step<Done> {
        let state = ServiceState::load(&held.service.state(), &held.service.name)?;
        wanted
            .spec
            .check_version()
            .map_err(|e| Error::new(Kind::Input, format!("what is to be served is of {e}")).hint(VERSIONS))?;
        secrets::complete(&wanted.spec.secrets, &secrets::of_gateway(&wanted.spec), given)?;
        if !again
            && let Some((number, generation)) = exactly(&state, &wanted)
            && secrets::same(&held.service.secrets(generation.attempt), given)
            && runs(&state, number)
        {
            let text = format!("generation {number} serves exactly this already");
            let outcome = Outcome::succeeded(number, Some(number)).warning(vec![text]);
            let outcome = state.complete(outcome);
            held.journal.end(&outcome)?;
            held.over = true;
            self.say(&Answer::Outcome { outcome })?;
            // A deployment that goes on may have brought it before its workstation died.
            return Ok(Done::earlier(&held.service, &held.attempt.deployment)?);
        }
        for path in [&wanted.snapshot, &wanted.agent] {
            if !Path::new(path).exists() {
                return Err(Error::new(Kind::Store, format!("{path} is not on this host"))
                    .hint("deploy again")
                    .into());
            }
        }
        secrets::write(&held.service.secrets(held.attempt.attempt), given)?;
        // The transfer's own roots end with its connection, which may end now.
        for (root, path) in
            held.service.attempt_roots(held.attempt.attempt).iter().zip([&wanted.snapshot, &wanted.agent])
        {
            fault::around(fault::HOST, "copy/root", || files::replace_link(root, Path::new(path)))?;
        }
        let agent = units::program(&wanted.agent);
        let follower = self.start(held, &Goal::New(Box::new(wanted)), &agent)?;
        self.follow(held, follower, state.serving)
    }

    fn return_to(&mut self, held: &mut Held, to: &Back) -> Step<Done> {
        let state = ServiceState::load(&held.service.state(), &held.service.name)?;
        let number = resolve(&state, to)?;
        let generation = &state.generations[&number];
        whole(number, generation)?;
        let snapshot = generation.wanted.snapshot.clone();
        held.journal.event(Status::Queued, &format!("to generation {number}: {snapshot}"), None)?;
        let agent = own_program(self.layout)?;
        let follower = self.start(held, &Goal::Kept(number), &agent)?;
        self.follow(held, follower, state.serving)
    }

    /// What becomes of the service as a whole.
    fn act(&mut self, held: &mut Held, act: &Act) -> Step<Done> {
        let state = ServiceState::load(&held.service.state(), &held.service.name)?;
        let (goal, text) = match acts::asked(&state, act, &held.attempt.by, clock::now_ms())? {
            Asked::Do(goal, text) => (goal, text),
            Asked::Already(why) => {
                let outcome = Outcome::unchanged(Status::Succeeded, state.serving).warning(vec![why]);
                let outcome = state.complete(outcome);
                held.journal.end(&outcome)?;
                held.over = true;
                self.say(&Answer::Outcome { outcome })?;
                return Ok(Done { previous: state.serving, changed: false });
            }
        };
        if let Goal::Start(number) = goal
            && let Some(generation) = state.generations.get(&number)
        {
            whole(number, generation)?;
        }
        held.journal.event(Status::Queued, &text, None)?;
        let agent = own_program(self.layout)?;
        let follower = self.start(held, &goal, &agent)?;
        self.follow(held, follower, state.serving)
    }

    fn take_back(&mut self, held: &mut Held, done: &Done, why: String) -> Step<()> {
        if !done.changed {
            let state = ServiceState::load(&held.service.state(), &held.service.name)?;
            let outcome = Outcome::unchanged(Status::Reverted, done.previous)
                .saying(why)
                .warning(vec!["nothing had changed".into()]);
            let outcome = state.complete(outcome);
            if !held.over {
                held.journal.end(&outcome)?;
                held.over = true;
            }
            return self.say(&Answer::Outcome { outcome });
        }
        if held.over {
            let attempt = Attempt { kind: AttemptKind::TakeBack, ..held.attempt.clone() };
            let (journal, attempt) = Journal::begin(&held.service, attempt)?;
            held.holder.kind = AttemptKind::TakeBack;
            held.holder.attempt = attempt.attempt;
            held.lease.rename(&held.holder)?;
            (held.journal, held.attempt, held.over) = (journal, attempt, false);
        }
        held.journal.event(Status::Queued, &why, None)?;
        // Whoever asked for the deployment's end has it with this.
        files::remove(&held.service.cancel())?;
        let goal = match done.previous {
            Some(to) => Goal::Restored { to, why },
            None => Goal::Withdraw { why },
        };
        let agent = own_program(self.layout)?;
        let follower = self.start(held, &goal, &agent)?;
        self.follow(held, follower, None).map(drop)
    }

    /// Starts the activation in a unit of its own.
    fn start(&mut self, held: &mut Held, goal: &Goal, agent: &str) -> Step<Follower> {
        let attempt = held.attempt.attempt;
        goal::write(&held.service, attempt, goal)?;
        // Before it begins: a removal takes the record away in the end.
        let follower = Follower::new(&held.service, attempt, false);
        activation_unit::start(&held.service, attempt, agent)?;
        Ok(follower)
    }

    /// Passes on what the activation writes, to its end; then the lease is ours again.
    fn follow(&mut self, held: &mut Held, mut follower: Follower, previous: Option<u64>) -> Step<Done> {
        // Its record, its goal and its roots are the activation's now: it goes on without us, whatever ends this.
        held.over = true;
        let unit = held.service.activation_unit(held.attempt.attempt);
        let (mut heard, mut looked) = (Instant::now(), Instant::now());
        loop {
            for event in follower.more().map_err(Stop::Blind)? {
                let outcome = event.outcome.clone();
                self.say(&Answer::Event { event })?;
                let Some(outcome) = outcome else { continue };
                if held.attempt.kind == AttemptKind::Remove && outcome.status == Status::Succeeded {
                    // Its lease goes with it, and so does its record, a moment after its last line.
                    let until = Instant::now() + ERASE_LIMIT;
                    while held.service.home.exists() && Instant::now() < until {
                        std::thread::sleep(LOOK);
                    }
                    self.say(&Answer::Outcome { outcome })?;
                    return Ok(Done { previous, changed: true });
                }
                if let Err(other) = held.lease.take_back(&held.holder)? {
                    self.say(&Answer::Outcome { outcome })?;
                    let text = format!("{} began a deployment meanwhile", other.by);
                    return Err(Error::new(Kind::Busy, text).into());
                }
                let changed = outcome.status == Status::Succeeded;
                self.say(&Answer::Outcome { outcome })?;
                return Ok(Done { previous, changed });
            }
            match self.orders.recv_timeout(LOOK) {
                Ok(Heard::Order(Order::Cancel { by })) => {
                    cancel::request(&held.service, &held.attempt.deployment, &by)?;
                }
                Ok(Heard::Order(_)) => heard = Instant::now(),
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(GONE),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if heard.elapsed().as_millis() as u64 > SILENCE_MS {
                return Err(SILENT);
            }
            // A unit that could not even begin writes nothing.
            if looked.elapsed() > Duration::from_secs(5) {
                looked = Instant::now();
                match activation_unit::look(&unit).map_err(Stop::Blind)? {
                    Life::GoesOn => {}
                    Life::Stuck => return Err(activation_unit::stuck(self.layout, &unit).into()),
                    Life::Gone => {
                        let record = journal::read(&held.service, held.attempt.attempt);
                        if record.map_err(Stop::Blind)?.outcome().is_none() {
                            held.over = false;
                            return Err(activation_unit::gone(&unit).into());
                        }
                    }
                }
            }
        }
    }

    /// Records why it ends, and says so if somebody still hears.
    fn stop(&mut self, held: Option<Held>, stop: Stop) -> Result<()> {
        let (status, error) = match stop {
            Stop::Gone(why) => (Status::Interrupted, Error::new(Kind::Interrupted, why)),
            Stop::Told { status, error } => (status, reserve::named(error)),
            Stop::Blind(error) => return Err(error),
        };
        // It is said whatever becomes of the record.
        let recorded = held.filter(|held| !held.over).map_or(Ok(()), |held| record_end(held, status, &error));
        let answer = Answer::Failed { status, message: error.full(), hint: error.hint };
        // Nobody may be there to hear it.
        let _ = wire::write_line(self.output, &answer);
        recorded
    }
}

/// Whether everything that a generation needs is still in the store.
fn whole(number: u64, generation: &Generation) -> Result<()> {
    let config = receive::store_config(None);
    for root in [&generation.wanted.snapshot, &generation.wanted.agent] {
        // Of a path that is not there at all the store knows nothing.
        let deleted = match Path::new(root).exists() {
            true => receive::deleted(&config, root)?,
            false => vec![root.clone()],
        };
        if let Some(path) = deleted.first() {
            let text = format!("{path}, which generation {number} needs, is gone from this host");
            return Err(Error::new(Kind::Store, text)
                .hint("bring it back by deploying its snapshot: stillframe deploy --snapshot ID"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
