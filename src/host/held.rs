//! The attempt that a conversation has in hand, and how it ends before its time.
use crate::host::cancel;
use crate::host::journal::Journal;
use crate::host::layout::Service;
use crate::host::lease::Lease;
use crate::host::reserve;
use crate::host::state::ServiceState;
use crate::protocol::messages::{Attempt, AttemptKind, Holder, Outcome, Status};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;

/// The attempt in hand.
pub struct Held {
    pub service: Service,
    pub holder: Holder,
    pub attempt: Attempt,
    pub lease: Lease,
    pub journal: Journal,
    /// Its record has an outcome, or is the activation's to end.
    pub over: bool,
}

/// Why a conversation ends before its time.
pub enum Stop {
    /// Nobody hears us any more.
    Gone(&'static str),
    /// This is said, and recorded.
    Told { status: Status, error: Error },
    /// The activation goes on, and what it writes cannot be read: nothing is said of an end that nobody here knows, so that the
    /// workstation asks again.
    Blind(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Told { status: Status::Failed, error }
    }
}

pub type Step<T> = std::result::Result<T, Stop>;

/// The end of an attempt that its conversation ended: what it brought along for its activation goes.
pub fn record_end(mut held: Held, status: Status, error: &Error) -> Result<()> {
    let (service, attempt) = (&held.service, held.attempt.attempt);
    let state = ServiceState::load(&service.state(), &service.name)?;
    let outcome = state.complete(Outcome::unchanged(status, state.serving).because(error));
    reserve::spend(&service.layout, || held.journal.end(&outcome))?;
    files::remove(&service.goal(attempt))?;
    files::remove(&service.cancel())?;
    for root in service.attempt_roots(attempt) {
        files::remove(&root)?;
    }
    files::remove_tree(&service.secrets(attempt))
}

/// Whether somebody else wants this deployment to end.
pub fn stop_asked(held: &Held) -> Step<()> {
    if held.over {
        return Ok(());
    }
    if !held.lease.is_ours() {
        let error =
            Error::new(Kind::Busy, "the lease was taken away (stillframe unlock)").hint("deploy again");
        return Err(Stop::Told { status: Status::Interrupted, error });
    }
    if held.attempt.kind == AttemptKind::TakeBack {
        // The deployment's end is what it brings about.
        return Ok(());
    }
    cancel::check(&held.service, &held.attempt.deployment)
        .map_err(|error| Stop::Told { status: Status::Cancelled, error })
}
