//! Hosts of a test, in place of ssh: an address that a test has put here leads to its own `Way`.
use crate::ship::ssh::Target;
use crate::ship::way::Way;
use crate::sys::error::Result;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Connects: the way, or why there is none.
pub type Connect = Arc<dyn Fn() -> Result<Box<dyn Way>> + Send + Sync>;

static HOSTS: Mutex<BTreeMap<String, Connect>> = Mutex::new(BTreeMap::new());

/// Addresses must differ between tests, which run side by side.
pub fn put(address: &str, connect: Connect) {
    HOSTS.lock().insert(address.into(), connect);
}

pub(super) fn to(target: &Target) -> Option<Result<Box<dyn Way>>> {
    let connect = HOSTS.lock().get(&target.address).cloned()?;
    Some(connect())
}
