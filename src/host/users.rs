//! Which user an instance runs as. Each has a dynamic user of its own, so that no other instance can write its slot,
//! send it a signal or look into it: a rollback gets rid of a hostile generation.
//!
//! All instances of a service share its data (input, user, kept folders). systemd makes that possible with idmapped
//! mounts: on disk the folder belongs to `nobody`, and each unit sees it as its own user's (systemd 254 or newer, and a
//! file system that has such mounts). Elsewhere systemd changes the owner of the whole folder at each start, which would
//! take it from the instance beside it: there all instances of a service have one user.
use crate::host::layout::Service;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::spec::Spec;
use crate::sys::error::Result;
use crate::sys::process;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Who owns what is idmapped (systemd's UID_NOBODY).
const NOBODY: u32 = 65_534;
/// systemd's longest user name (USER_NAMES).
const LONGEST: usize = 31;
const PROBE_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// One for all instances of a service.
    Shared,
    /// One for each.
    Own,
}

impl Users {
    /// What this host can do for a service; asks systemd to make the service's folder if there is none yet.
    pub fn of(service: &Service, spec: &Spec) -> Result<Users> {
        // Folders of the host are not mapped: what one instance wrote there the next one could not change.
        let outside = spec.output.is_some() || spec.folders.iter().any(|folder| folder.writable);
        if spec.user.is_some() || outside {
            return Ok(Users::Shared);
        }
        let folder = service.data();
        if !folder.exists() {
            let (user, state) = (
                format!("User={}", shared(&service.name)),
                format!("StateDirectory={}", service.data_folder()),
            );
            let probe = ["systemd-run", "--quiet", "--wait", "--collect", "-p", "DynamicUser=yes", "-p"];
            let words = [&probe[..], &[&user, "-p", &state, "true"]].concat();
            process::must(&words, PROBE_LIMIT)?;
        }
        let owner = std::fs::metadata(&folder).map(|meta| meta.uid());
        Ok(if owner.is_ok_and(|uid| uid == NOBODY) { Users::Own } else { Users::Shared })
    }

    /// The lines of a unit that works on what all instances of a service left: the folders that it names are its user's.
    pub fn for_all(spec: &Spec) -> String {
        match &spec.user {
            Some(user) => format!("User={user}\n"),
            None => format!("DynamicUser=yes\nUser={}\n", shared(&spec.service)),
        }
    }

    /// The lines of a unit that runs as an instance's user.
    pub fn lines(self, spec: &Spec, id: InstanceId) -> String {
        match self {
            Users::Shared => Users::for_all(spec),
            Users::Own => format!("DynamicUser=yes\nUser={}\n", own(&spec.service, id)),
        }
    }
}

fn shared(service: &str) -> String {
    format!("sf-{service}")
}

/// A name that no other instance of this host has. A long one is cut, and its hash tells it from others cut alike.
fn own(service: &str, id: InstanceId) -> String {
    let whole = format!("sf-{service}-{id}");
    if whole.len() <= LONGEST {
        return whole;
    }
    let digest = Sha256::digest(&whole);
    let hash = digest.iter().take(5).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    format!("sf-{}-{hash}", service.get(..12).unwrap_or(service).trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_tell_instances_apart() {
        let id = |slot, generation| InstanceId { slot, generation };
        assert_eq!(own("demo", id(0, 7)), "sf-demo-s0-g7");
        let long = "a-service-with-a-long-name1";
        let names = [own(long, id(0, 7)), own(long, id(0, 8)), own("a-service-with-a-long-name2", id(0, 7))];
        assert!(names.iter().all(|name| name.len() <= LONGEST), "{names:?}");
        assert!(names[0] != names[1] && names[0] != names[2], "{names:?}");
    }
}
