//! How many descriptors a process may have open. A login gives 1,024, which a system raises only for who asks: programs
//! that use select(2) could not have more. Ours do not.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as may be; how many that is.
pub fn raise() -> u64 {
    let most = getrlimit(Resource::Nofile).maximum;
    // Where it is not taken, the old limit holds.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
