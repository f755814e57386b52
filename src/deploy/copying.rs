//! Copying to a host what it lacks, while it holds the lease: how far it is goes to the observer and, now and
//! then, to the host's record.
use crate::deploy::events::{Event, Observer};
use crate::deploy::plan::{Failed, Plan, Prepared};
use crate::protocol::messages::{Order, Status};
use crate::ship::conversation::Conversation;
use crate::sys::progress::{Amount, Progress, check_interrupt};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TELL_EVERY: Duration = Duration::from_secs(1);

impl Plan {
    pub(super) fn copy(&self, mut host: Prepared, observer: &dyn Observer) -> Result<Prepared, Failed> {
        let name = host.member.name().to_string();
        let Some(conversation) = &host.conversation else { return Ok(host) };
        if let Some(first) = host.ready.missing.wrong.first() {
            let more = host.ready.missing.wrong.len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            // Into the host's record; a connection that is gone is noticed by the transfer itself.
            let text = format!("{first}{more} had other files than they must have: they are brought again");
            let _ = conversation.lock().say(&Order::Copying { text, bytes: None });
        }
        let progress = HostProgress {
            shown: observer.copying(&name, host.ready.missing_bytes),
            conversation,
            total: host.ready.missing_bytes,
            done: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
        };
        let check = || {
            check_interrupt()?;
            Ok(conversation.lock().still_ours()?)
        };
        match host.ready.send(&self.load, &progress, &check) {
            Ok(sent) => {
                if sent.paths > 0 {
                    progress.tell(&format!("copied {} paths", sent.paths), sent.nar_bytes);
                }
                drop(progress);
                observer.event(&Event::Copied { host: name, sent });
                Ok(host)
            }
            Err(error) => {
                drop(progress);
                // A Ctrl-C ends the streams, wherever they were.
                let error = check_interrupt().err().unwrap_or(error);
                // A stop that the host asked for is recorded there already; and its name is in the error.
                let failed = host.give_up(Status::of(&error), &error);
                Err(Failed { error: Box::new(error), ..failed })
            }
        }
    }
}

/// Passes progress on to the observer, and now and then to the host's record.
struct HostProgress<'a> {
    shown: Box<dyn Progress>,
    conversation: &'a Mutex<Box<Conversation>>,
    total: u64,
    done: AtomicU64,
    told: Mutex<Instant>,
}

impl HostProgress<'_> {
    fn tell(&self, text: &str, done: u64) {
        // A connection that is gone is noticed by the transfer itself.
        let _ = self
            .conversation
            .lock()
            .say(&Order::Copying { text: text.into(), bytes: Some((done, self.total)) });
    }
}

impl Progress for HostProgress<'_> {
    fn stage(&self, name: &str, of: Amount) {
        self.shown.stage(name, of);
    }

    fn advance(&self, amount: u64) {
        self.shown.advance(amount);
        let done = self.done.fetch_add(amount, Ordering::Relaxed) + amount;
        let mut told = self.told.lock();
        if told.elapsed() > TELL_EVERY {
            *told = Instant::now();
            drop(told);
            self.tell("copying", done);
        }
    }

    fn note(&self, text: &str) {
        self.shown.note(text);
    }

    fn beside(&self, name: &str, total: u64) -> Box<dyn Progress> {
        self.shown.beside(name, total)
    }
}
