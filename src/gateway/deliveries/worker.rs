//! The thread that sends what waits: so much at once, each place for itself. What came of a try is on disk before the next
//! one; a process that dies in between tries once more, under the same id.
use crate::gateway::access_log::Level;
use crate::gateway::deliveries::attempt::{self, Came};
use crate::gateway::deliveries::backoff::{self, Next};
use crate::gateway::deliveries::events::{UPLOAD, WEBHOOK};
use crate::gateway::deliveries::gates::Gates;
use crate::gateway::deliveries::handle::Handle;
use crate::gateway::deliveries::outbound::Outbound;
use crate::gateway::shared::Gateway;
use crate::jobs::delivery::{Delivery, State, Tried};
use crate::jobs::ledger::Ledger;
use crate::jobs::store::Write;
use crate::protocol::deliveries::Deliveries;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::{clock, random};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Between two looks while something waits, and else: a new delivery says so.
const LOOK: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(30);
/// What is under way when another process takes over.
const END: Duration = Duration::from_secs(1);
/// Names that are looked up at once.
const LOOK_UPS: usize = 4;
/// How often is looked for deliveries to places that the settings no longer allow.
const OTHERS: Duration = Duration::from_secs(60);

/// Starts the thread. It ends when it is told to stop, or with the process.
pub fn start(gateway: &Arc<Gateway>, ledger: &Ledger) -> Result<Arc<Handle>> {
    let failed = |e: std::io::Error| Error::new(Kind::Io, "cannot start the deliveries").caused_by(e);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOK_UPS)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(failed)?;
    let handle = Arc::new(Handle::default());
    let worker = Worker {
        gateway: gateway.clone(),
        ledger: ledger.clone(),
        handle: handle.clone(),
        outbound: Arc::default(),
        gates: Gates::default(),
        busy: HashSet::new(),
        tasks: JoinSet::new(),
    };
    let run = move || {
        let handle = worker.handle.clone();
        runtime.block_on(worker.run());
        // A name that is still looked up is nobody's business any more.
        runtime.shutdown_background();
        handle.ends();
    };
    std::thread::Builder::new().name("deliveries".into()).spawn(run).map_err(failed)?;
    Ok(handle)
}

/// What the settings in force say.
fn rules(gateway: &Gateway) -> Deliveries {
    let active = gateway.active();
    active.settings.jobs.as_ref().and_then(|jobs| jobs.rules.deliveries.clone()).unwrap_or_default()
}

struct Worker {
    gateway: Arc<Gateway>,
    ledger: Ledger,
    handle: Arc<Handle>,
    outbound: Arc<Outbound>,
    gates: Gates,
    /// Ids that are under way.
    busy: HashSet<String>,
    tasks: JoinSet<(Delivery, Came)>,
}

impl Worker {
    async fn run(mut self) {
        let mut others = tokio::time::Instant::now();
        while !self.handle.is_stopped() {
            self.count().await;
            if self.handle.take_again() {
                self.gates.forget();
            }
            let rules = rules(&self.gateway);
            if others.elapsed() >= OTHERS {
                others = tokio::time::Instant::now();
                self.no_longer_allowed(&rules).await;
            }
            let waits = self.handle.waiting.load(Ordering::Relaxed) > 0;
            if waits {
                self.begin(&rules).await;
            }
            let look = if waits { LOOK } else { IDLE };
            let ended = tokio::select! {
                () = self.handle.wake.notified() => None,
                Some(ended) = self.tasks.join_next() => Some(ended),
                () = sleep(look) => None,
            };
            if let Some(Ok((delivery, came))) = ended {
                self.ended(&rules, delivery, came).await;
            }
        }
        let rules = rules(&self.gateway);
        let rest = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((delivery, came)) = ended {
                    self.ended(&rules, delivery, came).await;
                }
            }
        };
        // What is cut here is tried again by whoever has the jobs then.
        let _ = timeout(END, rest).await;
    }

    async fn count(&self) {
        // A database that cannot be read says so elsewhere.
        if let Ok((waiting, failed)) = self.ledger.counts().await {
            self.handle.waiting.store(waiting, Ordering::Relaxed);
            self.handle.failed.store(failed, Ordering::Relaxed);
        }
    }

    /// Begins what may begin now.
    async fn begin(&mut self, rules: &Deliveries) {
        let at_once = rules.at_once.max(1) as usize;
        for place in places(rules) {
            let now = clock::now_ms();
            let room = self.gates.room(&place, at_once, now);
            if room == 0 {
                continue;
            }
            // What is under way waits in the database until it has ended.
            let most = (room + self.busy.len()) as u64;
            let Ok(due) = self.ledger.due(place.clone(), now, most).await else { continue };
            let free = due.into_iter().filter(|delivery| !self.busy.contains(&delivery.id));
            for delivery in free.take(room).collect::<Vec<_>>() {
                self.busy.insert(delivery.id.clone());
                self.gates.began(&place);
                let (gateway, ledger, outbound) =
                    (self.gateway.clone(), self.ledger.clone(), self.outbound.clone());
                let rules = rules.clone();
                self.tasks.spawn(async move {
                    let came = attempt::of(&gateway, &ledger, &outbound, &rules, &delivery).await;
                    (delivery, came)
                });
            }
        }
    }

    async fn ended(&mut self, rules: &Deliveries, delivery: Delivery, came: Came) {
        let now = clock::now_ms();
        let place = delivery.place.clone();
        let failed = delivery.tries + 1;
        let mut tried = Tried {
            id: delivery.id.clone(),
            state: State::Delivered,
            at: now,
            due: delivery.due,
            why: None,
            bytes: None,
        };
        match came {
            Came::Delivered { bytes } => {
                tried.bytes = bytes;
                self.handle.delivered.fetch_add(1, Ordering::Relaxed);
                self.back(&place);
            }
            Came::Gone => {
                (tried.state, tried.why) =
                    (State::Gone, Some("the receiver answered 410: it wants no more of this job".into()));
                self.back(&place);
            }
            Came::Failed { why, of_place, retry_after } => {
                self.handle.failed_tries.fetch_add(1, Ordering::Relaxed);
                let chance = random::number();
                if of_place {
                    self.rests(rules, &place, retry_after, chance, &why);
                } else {
                    self.back(&place);
                }
                let next = backoff::next(rules, failed, delivery.made, now, retry_after, chance);
                match next {
                    Next::Again(at) => (tried.state, tried.due) = (State::Waiting, at),
                    Next::GiveUp => {
                        tried.state = State::Failed;
                        self.note(
                            Level::Error,
                            &format!(
                                "{} of job {} is given up after {failed} tries: {why}",
                                delivery.id, delivery.job
                            ),
                        );
                    }
                }
                tried.why = Some(why);
            }
        }
        self.busy.remove(&delivery.id);
        // Closed: another process tries again.
        if let Err(e) = self.ledger.insist(vec![Write::Tried(tried)]).await
            && !self.handle.is_stopped()
        {
            self.note(Level::Error, &format!("not written: {}", e.full()));
        }
    }

    fn back(&mut self, place: &str) {
        if self.gates.answered(place) {
            self.note(Level::Info, &format!("{place} answers again"));
        }
    }

    fn rests(&mut self, rules: &Deliveries, place: &str, asked: Option<u64>, chance: u64, why: &str) {
        let now = clock::now_ms();
        let Some(failures) = self.gates.failed(place, now) else { return };
        let pause =
            backoff::pause(rules, failures, chance).max(asked.unwrap_or(0).min(rules.longest_pause_ms));
        self.gates.rest(place, now.saturating_add(pause));
        if failures == 1 {
            self.note(Level::Warning, &format!("{place} does not take what is sent: {why}"));
        }
    }

    /// Of origins that are no longer among those that jobs may name.
    async fn no_longer_allowed(&self, rules: &Deliveries) {
        let Ok(others) = self.ledger.other_places(places(rules)).await else { return };
        for place in others {
            let Ok(due) = self.ledger.due(place.clone(), u64::MAX >> 1, 1000).await else { continue };
            let why = format!("{place} is no longer among the origins of [service.jobs.deliveries]");
            self.note(Level::Warning, &format!("{} are given up: {why}", due.len()));
            let now = clock::now_ms();
            let tried = due.into_iter().map(|delivery| {
                let (state, why) = (State::Failed, Some(why.clone()));
                Write::Tried(Tried { id: delivery.id, state, at: now, due: delivery.due, why, bytes: None })
            });
            // Once more in a minute, if it could not be written.
            let _ = self.ledger.write_all(tried.collect()).await;
        }
    }

    fn note(&self, level: Level, text: &str) {
        self.gateway.log.note(level, &format!("deliveries: {text}"));
    }
}

fn places(rules: &Deliveries) -> Vec<String> {
    let own = [UPLOAD, WEBHOOK].map(String::from);
    own.into_iter().chain(rules.origins.iter().map(ToString::to_string)).collect()
}
