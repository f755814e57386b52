//! What is read of an observed process while it waits: a path in its memory, the folders that its relative paths begin at,
//! and whose child it is.
use rustix::fs::{AtFlags, CWD, statat};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// With the byte that ends it (path_resolution(7)).
const PATH_MAX: usize = 4096;
const PAGE: usize = 4096;

/// So many bytes at an address of a process, as far as they are mapped.
fn memory(thread: u32, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0u8; length];
    let address = usize::try_from(address).ok()?;
    // What is not mapped ends the reading at a whole piece (process_vm_readv(2)), so a page is one.
    let first = length.min(PAGE - address % PAGE);
    let piece = |at: usize, length: usize| libc::iovec {
        iov_base: std::ptr::without_provenance_mut(at),
        iov_len: length,
    };
    let remote = [piece(address, first), piece(address.checked_add(first)?, length - first)];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    // SAFETY: `local` is the whole of `bytes`, which outlives the call. The addresses of `remote` are another process's.
    let read =
        unsafe { libc::process_vm_readv(thread as libc::pid_t, &raw const local, 1, remote.as_ptr(), 2, 0) };
    bytes.truncate(usize::try_from(read).ok()?);
    Some(bytes)
}

/// The text at an address; none where the kernel would not take it for a path either.
pub(super) fn text(thread: u32, address: u64) -> Option<PathBuf> {
    let mut bytes = memory(thread, address, PATH_MAX)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.truncate(end);
    Some(OsString::from_vec(bytes).into())
}

pub(super) fn number(thread: u32, address: u64) -> Option<u64> {
    memory(thread, address, 8)?.try_into().ok().map(u64::from_ne_bytes)
}

fn own(thread: u32, what: &str) -> PathBuf {
    format!("/proc/{thread}/{what}").into()
}

/// Where `path` leads for a thread, by its spelling alone. `folder`: a descriptor, or none for the working directory.
pub(super) fn absolute(thread: u32, folder: Option<i32>, path: &Path) -> Option<PathBuf> {
    if path.is_absolute() {
        return Some(plain(path));
    }
    let base = match folder.filter(|fd| *fd != libc::AT_FDCWD) {
        Some(fd) => own(thread, &format!("fd/{fd}")),
        None => own(thread, "cwd"),
    };
    let base = std::fs::read_link(base).ok().filter(|base| base.is_absolute())?;
    Some(plain(&base.join(path)))
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

/// Whether a file is there, as the thread sees it; once it has ended, as we do.
pub(super) fn exists(thread: u32, path: &Path) -> bool {
    let inside = own(thread, "root").join(path.strip_prefix("/").unwrap_or(path));
    let there = |path: &Path| statat(CWD, path, AtFlags::empty()).is_ok();
    there(&inside) || there(path)
}

/// The program that it runs.
pub(super) fn program(thread: u32) -> Option<PathBuf> {
    std::fs::read_link(own(thread, "exe")).ok()
}

/// Where a thread comes from: its process's first thread, or for that one the parent's.
pub(super) fn origin(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(own(thread, "status")).ok()?;
    let field = |name: &str| -> Option<u32> {
        status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    field("Tgid:").filter(|leader| *leader != thread).or_else(|| field("PPid:"))
}
