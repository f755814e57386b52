//! Where an instance listens: a Unix socket, which the file system guards, or a loopback port, which an instance
//! in the foreground has, and one that an earlier agent deployed. As text, in messages and on disk, an address is
//! a path or `IP:PORT`.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "workstation", derive(schemars::JsonSchema), schemars(with = "String"))]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    /// What a request to it has as its Host header.
    pub fn host(&self) -> String {
        match self {
            // The name that curl and Docker's client send over a Unix socket too.
            Address::Unix(_) => "localhost".into(),
            Address::Tcp(address) => address.to_string(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(f),
            Address::Tcp(address) => address.fmt(f),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if text.starts_with('/') {
            return Ok(Address::Unix(text.into()));
        }
        let address = text.parse().map_err(|_| format!("{text:?} is neither a path nor IP:PORT"))?;
        Ok(Address::Tcp(address))
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Address, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in ["/run/stillframe-instances/demo/s0-g1/http.sock", "127.0.0.1:20000", "[::1]:8188"] {
            let address: Address = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(&address).unwrap(), text);
        }
        let error = serde_json::from_value::<Address>("localhost:1".into()).unwrap_err().to_string();
        assert_eq!(error, "\"localhost:1\" is neither a path nor IP:PORT");
    }
}
