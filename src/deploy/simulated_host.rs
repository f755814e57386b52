//! A host of a simulated fleet: what `stillframe-agent` says to a workstation, kept in memory. It takes what is sent,
//! activates only what arrived whole and was settled, and keeps a record of each attempt. Some have trouble.
use crate::protocol::messages::{
    Answer, Attempt, AttemptKind, Event, ORDERS_VERSION, Order, Outcome, RECORD_VERSION, Record, Serving,
    Status,
};
use crate::protocol::spec::Wanted;
use crate::protocol::wire::{self, FromHost, TRANSFER_VERSION, ToHost};
use crate::ship::way::{Client, Way};
use crate::sys::process::{Failure, Output};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// What goes wrong on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Nothing,
    /// Nobody answers there.
    Down,
    /// The transfer is cut after so many bytes.
    CutWhileCopying(u64),
    /// The conversation is cut while it activates; the host goes on.
    CutWhileActivating,
    /// The new generation never gets healthy.
    Fails,
    /// The conversation is cut once it has succeeded.
    CutAfterwards,
    /// It does not go back.
    StaysBehind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Activates,
    Ended,
    TakenBack,
}

/// How many of something there are, and were at most.
#[derive(Debug, Default)]
pub struct Gauge(Mutex<(usize, usize)>);

impl Gauge {
    fn more(&self) {
        let mut counts = self.0.lock();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
    }

    fn less(&self) {
        self.0.lock().0 -= 1;
    }

    pub fn most(&self) -> usize {
        self.0.lock().1
    }
}

/// What the whole fleet saw.
#[derive(Debug, Default)]
pub struct Ledger {
    /// In their order.
    pub moments: Mutex<Vec<(usize, Moment)>>,
    pub connections: Mutex<usize>,
    pub conversations: Gauge,
    pub activating: Gauge,
    /// Hosts that are between the first path and the last.
    pub copying: Gauge,
    /// Streams with a path on its way.
    pub streams: Gauge,
    pub wire_bytes: Mutex<u64>,
}

#[derive(Debug, Default)]
struct State {
    serving: Option<Serving>,
    previous: Option<Serving>,
    arrived: BTreeSet<String>,
    settled: BTreeSet<String>,
    records: Vec<Record>,
    generations: u64,
    /// Of the streams with a path on its way.
    receiving: usize,
}

pub struct Host {
    pub number: usize,
    pub trouble: Trouble,
    /// Base names of what the snapshot needs.
    pub closure: BTreeSet<String>,
    pub ledger: Arc<Ledger>,
    state: Mutex<State>,
    changed: Condvar,
}

type Lines = (BufReader<PipeReader>, PipeWriter);

impl Host {
    /// `has`: what of the closure is there already.
    pub fn new(
        number: usize,
        trouble: Trouble,
        closure: BTreeSet<String>,
        has: BTreeSet<String>,
        ledger: &Arc<Ledger>,
    ) -> Arc<Host> {
        // Something serves there already.
        let first = Serving { generation: 1, snapshot: "/nix/store/earlier".into(), port: 8188 };
        let state = State { serving: Some(first), generations: 1, settled: has, ..State::default() };
        let (state, ledger) = (Mutex::new(state), ledger.clone());
        Arc::new(Host { number, trouble, closure, ledger, state, changed: Condvar::new() })
    }

    pub fn serving(&self) -> u64 {
        self.state.lock().serving.as_ref().map_or(0, |serving| serving.generation)
    }

    /// Its attempts and what came of each.
    pub fn history(&self) -> Vec<(AttemptKind, Status, String)> {
        let state = self.state.lock();
        let one = |record: &Record| {
            let error = record.outcome().and_then(|outcome| outcome.error.clone());
            (record.attempt.kind, record.status(), error.unwrap_or_default())
        };
        state.records.iter().map(one).collect()
    }

    /// Hosts differ, and one host differs from step to step: the order of what happens is another each time.
    fn pause(&self, step: usize) {
        std::thread::sleep(Duration::from_millis(((self.number * 7 + step * 13) % 9) as u64));
    }

    fn moment(&self, moment: Moment) {
        self.ledger.moments.lock().push((self.number, moment));
    }

    fn greet(&self, asked: &[String], (input, mut output): Lines) -> io::Result<()> {
        self.pause(1);
        let mut facts = String::from(
            "begin\nmachine x86_64\ninit systemd\nsystemd 257\nnix 2.26.3\ndaemon /bin/nix-daemon\ncpus 2\n\
             memory_kib 8000000\nstore_free_kib 90000000\nstate_free_kib 90000000\nprepared yes\nagent yes\nserves demo 8188\n",
        );
        asked.iter().for_each(|folder| facts.push_str(&format!("folder {folder}\n")));
        output.write_all(facts.as_bytes())?;
        output.write_all(b"end\n")?;
        self.receive((input, output))
    }

    fn receive(&self, (mut input, mut output): Lines) -> io::Result<()> {
        while let Some(message) = wire::read_line::<ToHost>(&mut input)? {
            let answer = match message {
                ToHost::Plan { paths, .. } => {
                    let named: BTreeSet<String> = paths.into_iter().map(|named| named.path).collect();
                    let missing = named.difference(&self.state.lock().settled).cloned().collect();
                    let (partial, wrong) = (BTreeMap::new(), Vec::new());
                    FromHost::Missing { version: TRANSFER_VERSION, missing, partial, wrong }
                }
                ToHost::Path(header) => {
                    self.receives(true);
                    let taken = self.take(&mut input, header.nar_size);
                    self.receives(false);
                    taken?;
                    self.state.lock().arrived.insert(header.path.clone());
                    FromHost::Done { path: header.path }
                }
                ToHost::Settle { paths } => {
                    let mut state = self.state.lock();
                    let lacking: Vec<_> =
                        paths.iter().filter(|path| !state.arrived.contains(*path)).collect();
                    assert!(lacking.is_empty(), "host {} is to settle what never came", self.number);
                    state.settled.extend(paths);
                    FromHost::Settled
                }
            };
            wire::write_line(&mut output, &answer)?;
        }
        Ok(())
    }

    fn receives(&self, begins: bool) {
        let mut state = self.state.lock();
        if begins {
            self.ledger.streams.more();
            state.receiving += 1;
            if state.receiving == 1 {
                self.ledger.copying.more();
            }
        } else {
            self.ledger.streams.less();
            state.receiving -= 1;
            if state.receiving == 0 {
                self.ledger.copying.less();
            }
        }
    }

    fn take(&self, input: &mut impl BufRead, size: u64) -> io::Result<()> {
        let mut left = size;
        loop {
            let (wire, raw) = wire::chunk_head(input)?;
            io::copy(&mut input.take(wire.into()), &mut io::sink())?;
            *self.ledger.wire_bytes.lock() += u64::from(wire);
            left -= u64::from(raw);
            if let Trouble::CutWhileCopying(after) = self.trouble
                && size - left >= after
            {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if (wire, raw) == (0, 0) {
                assert_eq!(left, 0, "host {} got a part for the whole", self.number);
                return Ok(());
            }
        }
    }

    fn record(&self, attempt: Attempt) {
        let mut state = self.state.lock();
        let number = state.records.len() as u64 + 1;
        let attempt = Attempt { version: RECORD_VERSION, attempt: number, ..attempt };
        state.records.push(Record { attempt, events: Vec::new() });
    }

    fn event(&self, status: Status, outcome: Option<Outcome>) -> Event {
        let event = Event { at: 0, status, text: status.name().into(), bytes: None, outcome };
        let mut state = self.state.lock();
        state.records.last_mut().expect("an attempt was begun").events.push(event.clone());
        self.changed.notify_all();
        event
    }

    fn ended(&self, status: Status, why: &str) {
        let serving = self.state.lock().serving.as_ref().map(|serving| serving.generation);
        let outcome = Outcome::unchanged(status, serving).saying(why);
        self.event(status, Some(outcome));
    }

    fn order(&self, (mut input, mut output): Lines) -> io::Result<()> {
        let Some(Order::Begin { version: ORDERS_VERSION, attempt }) = wire::read_line(&mut input)? else {
            panic!("a conversation begins with `begin`");
        };
        self.record(*attempt);
        let serving = self.state.lock().serving.clone();
        wire::write_line(&mut output, &Answer::Held { attempt: 1, serving, stopped: None })?;
        while let Some(order) = wire::read_line::<Order>(&mut input)? {
            match order {
                Order::Activate { wanted, .. } => self.activate(&wanted, &mut output)?,
                Order::TakeBack { why } => {
                    let outcome = self.take_back(why);
                    wire::write_line(&mut output, &Answer::Outcome { outcome })?;
                }
                Order::GiveUp { status, message, hint } => {
                    self.ended(status, &message);
                    return wire::write_line(&mut output, &Answer::Failed { status, message, hint });
                }
                Order::End => return Ok(()),
                Order::Alive | Order::Copying { .. } => {}
                other => panic!("host {} is told {other:?}", self.number),
            }
        }
        Ok(())
    }

    fn activate(&self, wanted: &Wanted, output: &mut PipeWriter) -> io::Result<()> {
        let lacking = self.closure.difference(&self.state.lock().settled).count();
        assert_eq!(lacking, 0, "host {} activates what it has not", self.number);
        self.ledger.activating.more();
        self.moment(Moment::Activates);
        let mut heard = true;
        for (step, status) in [Status::Starting, Status::Checking, Status::Rotating].into_iter().enumerate() {
            self.pause(step + 2);
            let event = self.event(status, None);
            if heard {
                wire::write_line(output, &Answer::Event { event })?;
            }
            heard &= self.trouble != Trouble::CutWhileActivating;
        }
        let outcome = self.commit(wanted);
        self.moment(Moment::Ended);
        self.ledger.activating.less();
        let event = self.event(outcome.status, Some(outcome.clone()));
        if !heard {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        wire::write_line(output, &Answer::Event { event })?;
        wire::write_line(output, &Answer::Outcome { outcome })?;
        if self.trouble == Trouble::CutAfterwards {
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(())
        }
    }

    fn commit(&self, wanted: &Wanted) -> Outcome {
        let mut state = self.state.lock();
        let before = state.serving.as_ref().map(|serving| serving.generation);
        if self.trouble == Trouble::Fails {
            return Outcome::unchanged(Status::Failed, before).saying("it did not get healthy");
        }
        state.generations += 1;
        let now = Serving {
            generation: state.generations,
            snapshot: wanted.snapshot.clone(),
            port: wanted.spec.port,
        };
        state.previous = state.serving.replace(now);
        Outcome::succeeded(state.generations, before)
    }

    fn take_back(&self, why: String) -> Outcome {
        let attempt = {
            let mut state = self.state.lock();
            let before = state.serving.as_ref().map(|serving| serving.generation);
            if self.trouble == Trouble::StaysBehind {
                return Outcome::unchanged(Status::Failed, before)
                    .saying("the old generation does not start");
            }
            state.serving = state.previous.take();
            state.records.last().expect("it was deployed to").attempt.clone()
        };
        self.moment(Moment::TakenBack);
        // In a new conversation the attempt is one already.
        if attempt.kind != AttemptKind::TakeBack {
            self.record(Attempt { kind: AttemptKind::TakeBack, ..attempt });
        }
        self.ended(Status::Reverted, &why);
        Outcome::unchanged(Status::Reverted, Some(self.serving())).saying(why)
    }

    /// What `follow` prints: the newest record, to its end.
    fn follow(&self, (_, mut output): Lines) -> io::Result<()> {
        let mut state = self.state.lock();
        let place = state.records.len() - 1;
        wire::write_line(&mut output, &state.records[place].attempt)?;
        let mut told = 0;
        loop {
            for event in &state.records[place].events[told..] {
                wire::write_line(&mut output, event)?;
                told += 1;
            }
            if state.records[place].outcome().is_some() {
                return Ok(());
            }
            self.changed.wait(&mut state);
        }
    }
}

/// The way to a host of the fleet.
pub struct Line(pub Arc<Host>);

impl Way for Line {
    fn attempt(
        &self,
        _: &[&str],
        shown: &str,
        _: &[u8],
        _: Duration,
        _: &mut dyn FnMut() -> bool,
    ) -> Result<Output, Failure> {
        let command = shown.into();
        Err(Failure::Status { command, code: Some(1), stderr: "a simulated host runs no commands".into() })
    }

    fn start(&self, words: &[&str]) -> io::Result<Client> {
        *self.0.ledger.connections.lock() += 1;
        let (theirs, input) = io::pipe()?;
        let (output, ours) = io::pipe()?;
        let lines = (BufReader::new(theirs), ours);
        let host = self.0.clone();
        let words: Vec<String> = words.iter().map(|word| (*word).to_string()).collect();
        // A line that breaks ends its command, as ssh does; what the workstation makes of that is what is tried.
        std::thread::spawn(move || {
            let last = words.iter().rev().map(String::as_str).collect::<Vec<_>>();
            let _ = match last.as_slice() {
                ["receive", ..] => host.receive(lines),
                ["order", ..] => {
                    host.ledger.conversations.more();
                    let ended = host.order(lines);
                    host.ledger.conversations.less();
                    ended
                }
                [_, "follow", ..] => host.follow(lines),
                // `sh -c GREETING sh QUESTIONS AGENT FOLDERS…`
                _ => host.greet(&words[6..], lines),
            };
        });
        Ok(Client {
            input: OwnedFd::from(input).into(),
            output: OwnedFd::from(output).into(),
            errors: Box::new(io::empty()),
            child: None,
        })
    }
}
