//! The two ends of seccomp_unotify(2): the child installs the filter and hands its listener over (unix(7), SCM_RIGHTS); we
//! hear of each call, look, and let the kernel go on with it.
use libc::{seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Installs the filter in the calling thread and sends its listener, or the reason why there is none. The thread then goes
/// on either way.
///
/// Only system calls are made: this runs between fork and exec.
pub(super) fn install(filter: &[sock_filter], to: BorrowedFd<'_>) -> std::io::Result<()> {
    // Without root's rights a filter asks for it. A host's instance has no new privileges either.
    let _ = rustix::thread::set_no_new_privs(true);
    let (listener, errno) = match listen(filter) {
        Ok(listener) => (Some(listener), 0),
        Err(errno) => (None, errno.raw_os_error()),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = listener.as_ref().map(|listener| [listener.as_fd()]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(to, &[IoSlice::new(&errno.to_ne_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn listen(filter: &[sock_filter]) -> Result<OwnedFd, Errno> {
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // A kernel without TSYNC_ESRCH (5.7), which changes nothing for one thread, may be one that cannot go on with a call
    // (5.5): each would fail. With WAIT_KILLABLE_RECV (5.19) a signal does not interrupt a call while we look at it.
    let sure = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    let install = |flags: libc::c_ulong| -> Result<OwnedFd, Errno> {
        // SAFETY: `program` and the filter that it points to live during the call, which only reads them.
        let made = unsafe {
            let operation = libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER);
            libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program)
        };
        if made < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel has just made this descriptor, for us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
    };
    match install(sure | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => install(sure),
        other => other,
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The child's listener; an error where it has none, nothing where it never came so far.
pub(super) fn receive(from: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut bytes = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut received = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    match received.next().and_then(|mut descriptors| descriptors.next()) {
        Some(listener) => Ok(Some(listener)),
        None => Err(match i32::from_ne_bytes(bytes) {
            0 => Errno::MFILE,
            errno => Errno::from_raw_os_error(errno),
        }),
    }
}

/// Waits until a call is there; false when nobody is left who could make one.
pub(super) fn wait(listener: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(listener, PollFlags::IN)];
    match poll(&mut polled, None) {
        Ok(_) => polled[0].revents().contains(PollFlags::IN) || !polled[0].revents().contains(PollFlags::HUP),
        // An interrupted wait is none.
        Err(_) => true,
    }
}

/// The next call; none where it is gone again, as its process was killed.
pub(super) fn next(listener: &OwnedFd) -> Result<seccomp_notif, Errno> {
    // SAFETY: a structure of numbers, for which zero is a value; the kernel demands that it is zero.
    let mut notice: seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a `seccomp_notif` to the place, which has that type.
    let got = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) };
    if got < 0 { Err(last_errno()) } else { Ok(notice) }
}

/// The kernel carries the call out.
pub(super) fn go_on(listener: &OwnedFd, notice: &seccomp_notif) -> Result<(), Errno> {
    let answer = seccomp_notif_resp {
        id: notice.id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    // SAFETY: the kernel reads a `seccomp_notif_resp` from the place, which has that type.
    let sent =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    if sent < 0 { Err(last_errno()) } else { Ok(()) }
}
