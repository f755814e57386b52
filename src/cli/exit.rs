//! Exit statuses: 0 done, 1 failed, 2 wrong input, 130 interrupted.
use crate::deploy::records::Finished;
use crate::sys::error::Kind;
use std::process::ExitCode;

/// Of work on several hosts or items: 0 only if all went well.
pub fn code(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Of a deployment or a rollback.
pub fn finished(finished: Finished) -> ExitCode {
    if finished.failed > 0 && finished.interrupted { of(Kind::Interrupted) } else { code(finished.failed) }
}

/// Of an error.
pub fn of(kind: Kind) -> ExitCode {
    ExitCode::from(match kind {
        Kind::Input => 2,
        Kind::Interrupted => 130,
        _ => 1,
    })
}
