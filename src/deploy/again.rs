//! A conversation whose line was cut: the host goes on by itself, and its record says what came of it. The
//! workstation connects again and hears the record to its end, or says that it does not know.
use crate::deploy::events::Event;
use crate::deploy::questions;
use crate::protocol::messages::{self, Attempt, AttemptKind, Outcome};
use crate::ship::ask;
use crate::ship::conversation::{Begun, Conversation, ConversationError};
use crate::ship::ssh::{Remote, Target};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::progress::check_interrupt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// So long the way to a host may be gone before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What a host has to be asked for after its line was cut.
#[derive(Debug, Clone)]
pub struct Line {
    pub target: Target,
    pub service: String,
    pub deployment: String,
    /// `user@workstation`.
    pub by: String,
    /// All hosts of the deployment, by name.
    pub hosts: Vec<String>,
}

/// What became of an attempt behind a line that was cut.
#[derive(Debug)]
pub enum Heard {
    Outcome(Box<Outcome>),
    /// The order never arrived: the host's newest attempt is another one.
    NotBegun,
    /// The host was not reached, or does not say: it goes on by itself.
    Unknown(Error),
}

/// Whether the host may go on with what it was told, though the conversation failed.
pub fn goes_on(e: &ConversationError) -> bool {
    match e {
        ConversationError::Gone { .. } | ConversationError::Ended(_) => true,
        // It ends its conversation with who was silent, not what it does.
        ConversationError::Refused { status, .. } => *status == messages::Status::Interrupted,
        ConversationError::Unexpected { .. } => false,
    }
}

/// A stop is to be told at once; `tried`: it was, or could not be.
fn nap(pause: Duration, tried: bool, stopped: impl Fn() -> bool) {
    let began = Instant::now();
    while began.elapsed() < pause && (tried || !stopped()) {
        std::thread::sleep(LOOK);
    }
}

fn stopped() -> bool {
    check_interrupt().is_err()
}

/// How far it is heard.
struct Hearing {
    kind: AttemptKind,
    heard: usize,
    /// A try was made since the user wants it to stop.
    tried: bool,
    /// The host took the request to stop.
    cancelled: bool,
    /// Since when the line of this try holds.
    attached: Option<Instant>,
}

impl Line {
    /// A new conversation of the same deployment, with the connection that it needs.
    pub fn begin(&self, kind: AttemptKind) -> Result<(Box<Conversation>, Remote)> {
        let remote = Remote::to_the_end(&self.target)?;
        let (channel, last_words) = ask::converse(&remote)?;
        let attempt = Attempt::asked(&self.deployment, kind, &self.service, &self.by, &self.hosts);
        match Conversation::begin(channel, last_words, &attempt)? {
            Begun::Held(conversation, _) => Ok((conversation, remote)),
            Begun::Busy(holder) => {
                Err(Error::new(Kind::Busy, format!("{} began a {} meanwhile", holder.by, holder.kind.name())))
            }
        }
    }

    /// Hears an attempt of this deployment to its end; of its events `heard` are known already. `why` the line was cut.
    pub fn hear(
        &self,
        kind: AttemptKind,
        heard: usize,
        why: &Error,
        mut on_event: impl FnMut(&messages::Event),
    ) -> Heard {
        let (mut since, mut pause) = (Instant::now(), FIRST_PAUSE);
        let mut hearing = Hearing { kind, heard, tried: false, cancelled: false, attached: None };
        loop {
            let last = match self.follow(&mut hearing, &mut on_event) {
                Ok(Some(heard)) => return heard,
                Ok(None) => why.clone(),
                Err(e) => e,
            };
            // A line that held for a while is a new one; one that is cut at once is not.
            if hearing.attached.take().is_some_and(|at| at.elapsed() > LONGEST_PAUSE) {
                (since, pause) = (Instant::now(), FIRST_PAUSE);
            }
            if since.elapsed() + pause > PATIENCE {
                return Heard::Unknown(self.unknown(&last));
            }
            nap(pause, hearing.tried, stopped);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn unknown(&self, last: &Error) -> Error {
        let host = &self.target.name;
        let said = last.message.strip_prefix(&format!("{host}: ")).unwrap_or(&last.message);
        let text = format!(
            "{host}: the connection was lost, and it is not known what came of it; asked for {} s: {said}",
            PATIENCE.as_secs()
        );
        Error::new(Kind::Host, text).hint(format!(
            "the host goes on by itself: stillframe attach --hosts {host} shows what came of it, stillframe status what serves"
        ))
    }

    /// Tells the host, until it took that once, that the user wants it to stop. A take-back is what a stop asks for.
    fn cancel(&self, remote: &Remote, hearing: &mut Hearing) {
        if !hearing.cancelled && hearing.kind != AttemptKind::TakeBack {
            let words = ["cancel", self.service.as_str(), "--by", self.by.as_str()];
            // Where nothing is under way any more there is nothing to stop.
            hearing.cancelled = ask::ask::<messages::Holder>(remote, &words, questions::LIMIT).is_ok();
        }
    }

    /// One try; none where the line was cut once more.
    fn follow(
        &self,
        hearing: &mut Hearing,
        on_event: &mut impl FnMut(&messages::Event),
    ) -> Result<Option<Heard>> {
        let interrupted = stopped();
        hearing.tried = interrupted;
        // The user's stop was perhaps not heard: it is to be told, whatever else gives up at once.
        let remote =
            if interrupted { Remote::to_the_end(&self.target) } else { Remote::connect(&self.target) }?;
        let (mut seen, mut other) = (0, None);
        let followed = questions::follow_on(&remote, &self.service, |event| {
            match event {
                Event::Attempt { attempt, .. } => {
                    hearing.attached = Some(Instant::now());
                    if attempt.deployment != self.deployment {
                        let text = format!("{} began a {} meanwhile", attempt.by, attempt.kind.name());
                        other = Some(Heard::Unknown(self.unknown(&Error::new(Kind::Busy, text))));
                    } else if attempt.kind != hearing.kind {
                        other = Some(Heard::NotBegun);
                    }
                    if other.is_some() {
                        return ControlFlow::Break(());
                    }
                    if interrupted {
                        self.cancel(&remote, hearing);
                    }
                }
                Event::Event { event, .. } => {
                    seen += 1;
                    if seen > hearing.heard {
                        hearing.heard = seen;
                        on_event(&event);
                    }
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let followed = match followed {
            // Nothing of it is there any more, its record neither.
            Err(e) if hearing.kind == AttemptKind::Remove && e.kind == Kind::Input => {
                let outcome = Outcome::unchanged(messages::Status::Succeeded, None);
                return Ok(Some(Heard::Outcome(Box::new(outcome))));
            }
            followed => followed?,
        };
        Ok(other.or_else(|| Some(Heard::Outcome(Box::new(followed.outcome()?.clone())))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::Status;

    #[test]
    fn what_a_host_ended_itself_does_not_go_on() {
        let refused =
            |status| ConversationError::Refused { host: "a".into(), status, message: "m".into(), hint: None };
        assert!(goes_on(&ConversationError::Gone { host: "a".into(), said: String::new(), source: None }));
        assert!(goes_on(&refused(Status::Interrupted)));
        assert!(!goes_on(&refused(Status::Failed)) && !goes_on(&refused(Status::Cancelled)));
    }

    #[test]
    fn a_stop_is_told_at_once_and_then_at_the_pace_of_the_tries() {
        let began = Instant::now();
        nap(Duration::from_secs(60), false, || true);
        assert!(began.elapsed() < Duration::from_secs(10));
        let began = Instant::now();
        nap(Duration::from_millis(200), true, || true);
        nap(Duration::from_millis(200), false, || false);
        assert!(began.elapsed() >= Duration::from_millis(400));
    }

    #[test]
    fn who_does_not_know_says_what_to_run() {
        let target = Target { name: "alpha".into(), ..Target::default() };
        let (service, deployment, by) = ("demo".into(), "d".into(), "a@b".into());
        let line = Line { target, service, deployment, by, hosts: Vec::new() };
        let error = line.unknown(&Error::new(Kind::Host, "alpha: no route to host"));
        assert_eq!(
            error.message,
            "alpha: the connection was lost, and it is not known what came of it; asked for 60 s: no route to host"
        );
        assert!(error.hint.unwrap().contains("stillframe attach --hosts alpha"));
    }
}
