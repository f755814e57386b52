//! Whose a port of a host is: our own services' are known by their units and settings, also where one is stopped just now.
use std::collections::{BTreeMap, BTreeSet};

/// The ports of a host.
#[derive(Debug, Clone, Copy)]
pub struct Ports<'a> {
    /// Those that something listens on.
    pub listening: &'a BTreeSet<u16>,
    /// Our services by the port that they are served on, and by that of their metrics.
    pub serves: &'a BTreeMap<String, u16>,
    pub measures: &'a BTreeMap<String, u16>,
}

impl Ports<'_> {
    /// Why a service cannot have a port; none where nobody has it, or the service itself.
    pub fn taken(&self, service: &str, port: u16) -> Option<String> {
        let has = |of: &BTreeMap<String, u16>, ours: bool| {
            let mut names = of.iter().filter(|(_, at)| **at == port).map(|(name, _)| name.clone());
            names.find(|name| (name == service) == ours)
        };
        let by = match (has(self.serves, false), has(self.measures, false)) {
            (Some(name), _) => format!(": the service {name} is served on it"),
            (None, Some(name)) => format!(": the service {name} has its metrics on it"),
            (None, None) => {
                let own = has(self.serves, true).or_else(|| has(self.measures, true)).is_some();
                return (self.listening.contains(&port) && !own).then(|| format!("port {port} is taken"));
            }
        };
        Some(format!("port {port} is taken{by}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_another_service_is_named() {
        let of = |pairs: &[(&str, u16)]| pairs.iter().map(|(name, port)| (name.to_string(), *port)).collect();
        let serves: BTreeMap<String, u16> = of(&[("other", 8188), ("stopped", 9000)]);
        let measures: BTreeMap<String, u16> = of(&[("other", 8190)]);
        let listening = BTreeSet::from([22, 8188, 8190]);
        let ports = Ports { listening: &listening, serves: &serves, measures: &measures };
        let taken = |service: &str, port| ports.taken(service, port).unwrap_or_default();
        assert_eq!(taken("demo", 8188), "port 8188 is taken: the service other is served on it");
        assert_eq!(taken("demo", 8190), "port 8190 is taken: the service other has its metrics on it");
        assert_eq!(taken("demo", 9000), "port 9000 is taken: the service stopped is served on it");
        assert_eq!(taken("demo", 22), "port 22 is taken");
        assert_eq!([taken("demo", 23), taken("other", 8188), taken("other", 8190)], ["", "", ""]);
    }
}
