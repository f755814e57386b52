//! A host as it is named on the command line or in an answer, and the file that keeps it.
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHost {
    pub name: String,
    pub user: Option<String>,
    pub address: String,
    pub port: Option<u16>,
    pub ssh_config: Option<PathBuf>,
}

impl NewHost {
    /// `NAME`, `ADDRESS`, `USER@ADDRESS:PORT`, or any of those behind `NAME=`.
    pub fn parse(text: &str) -> Result<NewHost, String> {
        let wrong = || {
            format!(
                "{text:?} is no host: write NAME, or NAME=USER@ADDRESS:PORT (user and port may be left out)"
            )
        };
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (Some(name.trim()), place.trim()),
            None => (None, text.trim()),
        };
        let (user, place) = match place.split_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, place),
        };
        // An IPv6 address has colons of its own, and a port only behind brackets.
        let (address, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, rest)) => (address, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
            None if place.matches(':').count() == 1 => {
                place.split_once(':').map_or((place, None), |(address, port)| (address, Some(port)))
            }
            None => (place, None),
        };
        let port = port.map(|p| p.parse::<u16>().map_err(|_| wrong())).transpose()?;
        let sound = |word: &str| {
            !word.is_empty()
                && !word.starts_with('-')
                && !word.contains(|c: char| c.is_whitespace() || c == '/')
        };
        let name = name.map_or_else(|| address.replace(':', "-"), String::from);
        let named = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !sound(address) || !user.is_none_or(sound) || !named {
            return Err(wrong());
        }
        Ok(NewHost { name, user: user.map(String::from), address: address.into(), port, ssh_config: None })
    }

    pub fn text(&self) -> String {
        let mut text = format!("address = {}\n", quoted(&self.address));
        if let Some(user) = &self.user {
            let _ = writeln!(text, "user = {}", quoted(user));
        }
        if let Some(port) = self.port {
            let _ = writeln!(text, "port = {port}");
        }
        if let Some(file) = &self.ssh_config {
            let _ = writeln!(text, "ssh-config = {}", quoted(&file.display().to_string()));
        }
        text
    }
}

pub fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_every_form() {
        let host = |text: &str| {
            NewHost::parse(text)
                .map(|h| format!("{} {:?} {} {:?}", h.name, h.user, h.address, h.port))
                .unwrap_or_default()
        };
        assert_eq!(host("gpu-1"), "gpu-1 None gpu-1 None");
        assert_eq!(host("deploy@10.0.0.1:2222"), "10.0.0.1 Some(\"deploy\") 10.0.0.1 Some(2222)");
        assert_eq!(host("a = me@gpu.example"), "a Some(\"me\") gpu.example None");
        assert_eq!(host("six=[fd00::1]:22"), "six None fd00::1 Some(22)");
        assert_eq!(host("fd00::1"), "fd00--1 None fd00::1 None");
        for bad in ["", "a=", "-x", "a=-oProxyCommand=x", "a b", "../a", "a:port", "a=[::1]22", "@x"] {
            assert_eq!(host(bad), "", "{bad}");
        }
    }
}
