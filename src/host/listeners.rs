//! Which TCP addresses are listened on, and by the processes of which unit: what says why an instance does not answer
//! on its socket, and whether the gateway's own is the one that is wanted.
use crate::sys::systemd;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Nothing where it cannot be told: this only explains a failure.
pub fn of_unit(unit: &str) -> Vec<String> {
    let shown = systemd::show(unit, &["ControlGroup"]).unwrap_or_default();
    let Some(group) = shown.get("ControlGroup").filter(|group| group.len() > 1) else { return Vec::new() };
    let processes = Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/')).join("cgroup.procs");
    let processes = std::fs::read_to_string(processes).unwrap_or_default();
    let own: BTreeSet<u64> = processes.lines().flat_map(sockets).collect();
    let of_unit = all().into_iter().filter(|(_, inode)| own.contains(inode));
    of_unit.map(|(address, _)| address.to_string()).collect()
}

/// Whether anything listens at exactly this address.
pub fn any_at(address: SocketAddr) -> bool {
    all().iter().any(|(listened, _)| *listened == address)
}

/// Every address that is listened on, with the inode of its socket.
fn all() -> Vec<(SocketAddr, u64)> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1).filter_map(listener)).collect()
}

/// The sockets that a process has open, by inode.
fn sockets(process: &str) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return Vec::new() };
    let target = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    let inode = |target: std::path::PathBuf| {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.filter_map(target).filter_map(inode).collect()
}

/// A line of proc_net_tcp(5), if it is of a socket that listens (state 0A): its address and inode.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    if *state != "0A" {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    // Words of 32 bits, each as this machine has it in memory.
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let bytes: Vec<u8> = (0..address.len() / 8).filter_map(word).flat_map(u32::to_ne_bytes).collect();
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    Some((SocketAddr::new(ip, port), inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_this_process_listens_on_is_found() {
        let own = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap()];
        let mine = sockets("self");
        for (listening, table) in own.iter().zip(["/proc/net/tcp", "/proc/net/tcp6"]) {
            let wanted = listening.local_addr().unwrap();
            let text = std::fs::read_to_string(table).unwrap();
            let (_, inode) = text.lines().filter_map(listener).find(|(a, _)| *a == wanted).unwrap();
            assert!(mine.contains(&inode) && any_at(wanted), "{wanted}");
            assert!(!any_at(SocketAddr::new(wanted.ip(), 1)), "{wanted}");
        }
    }
}
