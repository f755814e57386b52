//! Exit statuses: 0 done, 1 failed, 2 wrong input, 3 some hosts, 4 not reverted, 5 not known, 130 interrupted.
use crate::deploy::records::Finished;
use crate::sys::error::Kind;
use std::process::ExitCode;

/// Of work on several hosts or items: 0 only if all went well.
pub fn code(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where a host goes on by itself and nobody knows where to.
pub const UNKNOWN: u8 = 5;

/// Of a deployment or a rollback.
pub fn finished(finished: Finished) -> ExitCode {
    match finished {
        Finished::Succeeded => ExitCode::SUCCESS,
        Finished::Failed => ExitCode::FAILURE,
        Finished::Partly => ExitCode::from(3),
        Finished::NotReverted => ExitCode::from(4),
        Finished::Unknown => ExitCode::from(UNKNOWN),
        Finished::Interrupted => of(Kind::Interrupted),
    }
}

/// Of an error.
pub fn of(kind: Kind) -> ExitCode {
    ExitCode::from(match kind {
        Kind::Input => 2,
        Kind::Interrupted => 130,
        _ => 1,
    })
}
