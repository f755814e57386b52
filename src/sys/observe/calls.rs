//! Which system calls are observed, where each has its path, and the filter (seccomp(2), in classic BPF) that asks us about
//! them and about no other.
use libc::{c_long, seccomp_notif, sock_filter};

/// What a call does to the file that it names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Does {
    /// Opens it; this argument has the flags.
    Open(usize),
    /// Opens it; this argument leads to a `struct open_how`, which begins with the flags.
    OpenHow(usize),
    Create,
    Execute,
    /// Asks whether it may be executed; this argument has the mode.
    Ask(usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    number: c_long,
    /// The argument that has the folder which a relative path begins at; none: the working directory.
    pub folder: Option<usize>,
    pub path: usize,
    pub does: Does,
}

const fn call(number: c_long, folder: Option<usize>, path: usize, does: Does) -> Call {
    Call { number, folder, path, does }
}

const CALLS: &[Call] = &[
    call(libc::SYS_openat, Some(0), 1, Does::Open(2)),
    call(libc::SYS_openat2, Some(0), 1, Does::OpenHow(2)),
    call(libc::SYS_execve, None, 0, Does::Execute),
    call(libc::SYS_execveat, Some(0), 1, Does::Execute),
    call(libc::SYS_faccessat, Some(0), 1, Does::Ask(2)),
    call(libc::SYS_faccessat2, Some(0), 1, Does::Ask(2)),
    // Newer architectures never had the following.
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_open, None, 0, Does::Open(1)),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_creat, None, 0, Does::Create),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_access, None, 0, Does::Ask(1)),
];

/// As audit.h names this machine (`EM_…` and the bits for 64 and for little-endian).
const MACHINE: u32 = if cfg!(target_arch = "aarch64") { 0xC000_00B7 } else { 0xC000_003E };

/// In `struct seccomp_data`; of an argument the low half, on a little-endian machine.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: usize) -> u32 {
    16 + 8 * index as u32
}

/// access(2)
pub(super) const X_OK: u64 = 1;

pub(super) fn of(notice: &seccomp_notif) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.number == c_long::from(notice.data.nr))
}

/// Programs of another architecture (32 bit) are not observed.
pub(super) fn filter() -> Vec<sock_filter> {
    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let end = |with| statement(libc::BPF_RET | libc::BPF_K, with);
    let (ask, allow) = (end(libc::SECCOMP_RET_USER_NOTIF), end(libc::SECCOMP_RET_ALLOW));
    let mut program = vec![load(ARCHITECTURE), jump(libc::BPF_JEQ, MACHINE, 1, 0), allow, load(NUMBER)];
    for call in CALLS {
        let number = call.number as u32;
        match call.does {
            Does::Ask(mode) => program.extend([
                jump(libc::BPF_JEQ, number, 0, 4),
                load(argument(mode)),
                jump(libc::BPF_JSET, X_OK as u32, 0, 1),
                ask,
                allow,
            ]),
            _ => program.extend([jump(libc::BPF_JEQ, number, 0, 1), ask]),
        }
    }
    program.push(allow);
    program
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Skips so many statements where the test holds, and where it does not.
fn jump(test: u32, k: u32, holds: u8, not: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt: holds, jf: not, k }
}
