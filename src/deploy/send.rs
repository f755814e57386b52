//! Bringing hosts what they lack of a closure, ahead of its deployment.
use crate::deploy::fleet::{Member, on_each};
use crate::ship::copy::{self, Load};
use crate::ship::preflight::Needs;
use crate::ship::send::{Closure, Sent};
use crate::ship::ssh::Remote;
use crate::store::StoreConfig;
use crate::sys::error::Result;
use crate::sys::progress::{Progress, check_interrupt};
use std::sync::OnceLock;

/// What a host lacked, and what it got of that.
#[derive(Debug, Default)]
pub struct Done {
    pub missing: u64,
    pub missing_bytes: u64,
    pub sent: Sent,
}

/// Told when copying to a host begins: its name, how many paths and bytes it lacks.
pub type OnCopy<'a> = &'a (dyn Fn(&str, u64, u64) -> Box<dyn Progress> + Sync);

/// The closure of `path`, and what came of each host.
pub fn send(
    members: &[Member],
    source: &StoreConfig,
    path: &str,
    dry_run: bool,
    on_copy: OnCopy,
) -> Result<(Closure, Vec<Result<Done>>)> {
    // What goes is looked up while hosts are called: both take their time.
    let load = OnceLock::new();
    let loaded = || load.get_or_init(|| Load::of(source, path));
    let one = |member: &Member| {
        let remote = Remote::connect(&member.host.target)?;
        // Said once, below.
        let Ok(load) = loaded() else { return Ok(Done::default()) };
        to_host(member, remote, load, dry_run, on_copy)
    };
    let results = std::thread::scope(|scope| {
        scope.spawn(|| loaded().is_ok());
        on_each(members.iter().collect(), one)
    });
    let Load { closure, .. } = load.into_inner().unwrap_or_else(|| Load::of(source, path))?;
    Ok((closure, results))
}

fn to_host(member: &Member, remote: Remote, load: &Load, dry_run: bool, on_copy: OnCopy) -> Result<Done> {
    let needs = Needs { system: format!("{}-linux", std::env::consts::ARCH), ..Needs::default() };
    let arrived = copy::greet(remote, &needs, load)?;
    arrived.can_have_agent(&needs.system)?;
    let mut ready = arrived.plan(load)?;
    ready.has_room()?;
    let (missing, missing_bytes) = (ready.missing.paths.len() as u64, ready.missing_bytes);
    if dry_run {
        return Ok(Done { missing, missing_bytes, sent: Sent::default() });
    }
    let progress = on_copy(member.name(), missing, missing_bytes);
    let sent = ready.send(load, progress.as_ref(), &check_interrupt)?;
    Ok(Done { missing, missing_bytes, sent })
}
