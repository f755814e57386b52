//! The name of an instance: `s0-g7` is slot 0 of generation 7. It is part of unit names, of file names and of
//! what the gateway calls its targets.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct InstanceId {
    pub slot: u32,
    pub generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no instance: s0-g7 would be slot 0 of generation 7")]
pub struct InvalidInstanceId(String);

impl InstanceId {
    /// Its systemd unit.
    pub fn unit(self, service: &str) -> String {
        format!("stillframe-{service}-{self}.service")
    }

    /// Below /run, for `RuntimeDirectory=`: the folder of its socket.
    pub fn socket_folder(self, service: &str) -> String {
        format!("stillframe-instances/{service}/{self}")
    }

    /// What it listens on.
    pub fn socket(self, service: &str) -> PathBuf {
        Path::new("/run").join(self.socket_folder(service)).join("http.sock")
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}-g{}", self.slot, self.generation)
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidInstanceId;

    fn try_from(text: String) -> Result<Self, InvalidInstanceId> {
        text.parse()
    }
}

impl FromStr for InstanceId {
    type Err = InvalidInstanceId;

    fn from_str(text: &str) -> Result<Self, InvalidInstanceId> {
        let parts = || {
            let (slot, generation) = text.strip_prefix('s')?.split_once("-g")?;
            Some(InstanceId { slot: slot.parse().ok()?, generation: generation.parse().ok()? })
        };
        // Only the one spelling: `s+1-g01` would name the same instance twice.
        parts().filter(|id| id.to_string() == text).ok_or_else(|| InvalidInstanceId(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_way() {
        let id = InstanceId { slot: 3, generation: 12 };
        assert_eq!(id.to_string(), "s3-g12");
        assert_eq!("s3-g12".parse(), Ok(id));
        assert_eq!(id.unit("demo"), "stillframe-demo-s3-g12.service");
        for wrong in ["", "s3", "s3-g", "s-g1", "s+3-g12", "s03-g12", "s3-g12 ", "x3-g12", "two-s0-g1"] {
            assert_eq!(wrong.parse::<InstanceId>(), Err(InvalidInstanceId(wrong.into())));
        }
    }
}
