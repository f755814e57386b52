//! The gateway's own secrets, as systemd gives them to its unit (systemd.exec(5), LoadCredential=). They are read once: a
//! process that goes on hears of new ones over its control socket, which only root opens.
use crate::protocol::deliveries::{SECRETS, Secrets};
use std::path::PathBuf;

/// What there is of them. What needs one that is not there says so when it needs it.
pub fn read() -> Secrets {
    let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) else {
        return Secrets::default();
    };
    let value = |name: &&str| Some((name.to_string(), std::fs::read_to_string(folder.join(name)).ok()?));
    Secrets(SECRETS.iter().filter_map(value).collect())
}
