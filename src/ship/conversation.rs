//! The workstation's end of a deployment's conversation (see `protocol::messages`): what is said at once, and what comes
//! back is read in a thread, so that a Ctrl-C never waits for a silent host.
use crate::protocol::messages::{
    ALIVE_MS, Answer, Attempt, AttemptKind, Event, Holder, ORDERS_VERSION, Order, Outcome, Serving, Status,
    Stopped,
};
use crate::protocol::wire;
use crate::ship::ask;
use crate::ship::send::Channel;
use crate::ship::ssh::LastWords;
use crate::sys::error::{Error, Kind};
use crate::sys::progress::check_interrupt;
use parking_lot::Mutex;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(50);

type Out = Arc<Mutex<Box<dyn Write + Send>>>;

pub struct Conversation {
    pub host: String,
    output: Out,
    answers: Receiver<std::io::Result<Option<Answer>>>,
    last_words: LastWords,
    /// Ends the thread that says that we are there.
    _alive: Sender<()>,
    /// A cancellation was asked for already.
    cancelled: bool,
    /// So many events of the attempt were heard.
    pub heard: usize,
    by: String,
    /// Nothing serves there, because somebody stopped it.
    pub stopped: Option<Stopped>,
}

/// How a conversation can fail.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The line ended, or the agent did; `said` is what it printed last.
    #[error("{host}: the conversation ended{}", after(said))]
    Gone { host: String, said: String, source: Option<std::io::Error> },
    /// The agent ended with an error of its own.
    #[error(transparent)]
    Ended(Error),
    /// The agent goes no further, and says why.
    #[error("{host}: {message}")]
    Refused { host: String, status: Status, message: String, hint: Option<String> },
    #[error("{host}: the agent answered something else than was asked")]
    Unexpected { host: String },
}

fn after(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

impl From<ConversationError> for Error {
    fn from(e: ConversationError) -> Error {
        let message = e.to_string();
        match e {
            ConversationError::Gone { source, .. } => {
                let error = Error::new(Kind::Host, message)
                    .hint("what was begun on the host goes on by itself: stillframe attach shows it");
                match source {
                    Some(source) => error.caused_by(source),
                    None => error,
                }
            }
            ConversationError::Refused { status, hint, .. } => {
                let kind = if status == Status::Cancelled { Kind::Interrupted } else { Kind::Host };
                Error::new(kind, message).maybe_hint(hint)
            }
            ConversationError::Ended(error) => error,
            ConversationError::Unexpected { .. } => Error::new(Kind::Host, message),
        }
    }
}

type Result<T> = std::result::Result<T, ConversationError>;

/// What `begin` found.
pub enum Begun {
    Held(Box<Conversation>, Option<Serving>),
    Busy(Holder),
}

fn write(output: &Out, order: &Order) -> std::io::Result<()> {
    let mut output = output.lock();
    wire::write_line(output.as_mut(), order)
}

impl Conversation {
    pub fn begin(channel: Channel, last_words: LastWords, attempt: &Attempt) -> Result<Begun> {
        let Channel { mut input, output, host } = channel;
        let (tell, answers) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            loop {
                let answer = wire::read_line::<Answer>(&mut input);
                let last = !matches!(answer, Ok(Some(_)));
                if tell.send(answer).is_err() || last {
                    return;
                }
            }
        });
        let output: Out = Arc::new(Mutex::new(output));
        let (alive, ended) = std::sync::mpsc::channel::<()>();
        let beat = output.clone();
        std::thread::spawn(move || {
            while ended.recv_timeout(Duration::from_millis(ALIVE_MS)) == Err(RecvTimeoutError::Timeout) {
                // A connection that is gone is noticed where something is waited for.
                let _ = write(&beat, &Order::Alive);
            }
        });
        let mut talk = Conversation {
            host,
            output,
            answers,
            last_words,
            _alive: alive,
            // A Ctrl-C asks for what was there before: it must not stop the way back.
            cancelled: attempt.kind == AttemptKind::TakeBack,
            heard: 0,
            by: attempt.by.clone(),
            stopped: None,
        };
        talk.say(&Order::Begin { version: ORDERS_VERSION, attempt: Box::new(attempt.clone()) })?;
        match talk.next()? {
            Answer::Held { serving, stopped, .. } => {
                talk.stopped = stopped;
                Ok(Begun::Held(Box::new(talk), serving))
            }
            Answer::Busy { holder } => Ok(Begun::Busy(holder)),
            other => Err(talk.unexpected(other)),
        }
    }

    pub fn say(&self, order: &Order) -> Result<()> {
        write(&self.output, order).map_err(|e| self.gone(Some(e)))
    }

    fn gone(&self, source: Option<std::io::Error>) -> ConversationError {
        let (host, said) = (self.host.clone(), self.last_words.text());
        match ask::reported(&host, &said) {
            Some(error) => ConversationError::Ended(error),
            None => ConversationError::Gone { host, said, source },
        }
    }

    fn unexpected(&self, answer: Answer) -> ConversationError {
        let host = self.host.clone();
        match answer {
            Answer::Failed { status, message, hint } => {
                ConversationError::Refused { host, status, message, hint }
            }
            _ => ConversationError::Unexpected { host },
        }
    }

    fn received(&self, answer: std::io::Result<Option<Answer>>) -> Result<Answer> {
        match answer {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.gone(None)),
            Err(e) => Err(self.gone(Some(e))),
        }
    }

    fn next(&mut self) -> Result<Answer> {
        loop {
            match self.answers.recv_timeout(LOOK) {
                Ok(answer) => return self.received(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone(None)),
                Err(RecvTimeoutError::Timeout) => {
                    if check_interrupt().is_err() && !self.cancelled {
                        self.cancelled = true;
                        self.say(&Order::Cancel { by: self.by.clone() })?;
                    }
                }
            }
        }
    }

    /// Whether the host has ended it meanwhile: somebody cancelled, or took the lease away.
    pub fn still_ours(&mut self) -> Result<()> {
        match self.answers.try_recv() {
            Ok(answer) => {
                let answer = self.received(answer)?;
                Err(self.unexpected(answer))
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => Ok(()),
            Err(std::sync::mpsc::TryRecvError::Disconnected) => Err(self.gone(None)),
        }
    }

    /// Says what is to be done and hears how it goes, to its end.
    pub fn act(&mut self, order: &Order, mut on_event: impl FnMut(&Event)) -> Result<Outcome> {
        self.cancelled |= matches!(order, Order::TakeBack { .. });
        self.heard = 0;
        self.say(order)?;
        loop {
            match self.next()? {
                Answer::Event { event } => {
                    self.heard += 1;
                    on_event(&event);
                }
                Answer::Outcome { outcome } => return Ok(outcome),
                other => return Err(self.unexpected(other)),
            }
        }
    }

    pub fn fetch(&mut self, url: &str, public_keys: &[String], path: &str) -> Result<()> {
        self.say(&Order::Fetch { url: url.into(), public_keys: public_keys.to_vec(), path: path.into() })?;
        match self.next()? {
            Answer::Fetched => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Ends the attempt before its activation; the host records why.
    pub fn give_up(&mut self, status: Status, error: &Error) {
        let order = Order::GiveUp { status, message: error.full(), hint: error.hint.clone() };
        // Where it does not arrive, the host records that we are gone.
        if self.say(&order).is_ok() {
            let _ = self.answers.recv_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = write(&self.output, &Order::End);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_failed_is_told_apart() {
        let gone = |said: &str| ConversationError::Gone { host: "a".into(), said: said.into(), source: None };
        assert_eq!(gone("").to_string(), "a: the conversation ended");
        assert_eq!(gone("no space left").to_string(), "a: the conversation ended: no space left");
        let refused = |status| {
            Error::from(ConversationError::Refused {
                host: "a".into(),
                status,
                message: "it is full".into(),
                hint: Some("make room".into()),
            })
        };
        let error = refused(Status::Failed);
        assert_eq!(
            (error.kind, error.message.as_str(), error.hint.as_deref()),
            (Kind::Host, "a: it is full", Some("make room"))
        );
        assert_eq!(refused(Status::Cancelled).kind, Kind::Interrupted);
    }
}
