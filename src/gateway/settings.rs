//! The settings file, checked; and what of it may change while the gateway runs.
use crate::gateway::auth::Keys;
use crate::gateway::origin::Names;
use crate::protocol::control::{GATEWAY_VERSION, GatewaySettings};
use crate::protocol::version::{self, OtherVersion};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
use crate::sys::who;
use hyper::http::uri::PathAndQuery;
use std::path::Path;

/// Settings in force.
pub struct Active {
    pub settings: GatewaySettings,
    pub keys: Keys,
    pub names: Names,
}

pub fn read(file: &Path) -> Result<Active> {
    let bytes = files::read(file)?;
    let bad = |what: String| Error::new(Kind::Input, format!("{}: {what}", file.display()));
    let wrong = |e: serde_json::Error| bad("these are not the settings of a gateway".into()).caused_by(e);
    let document: serde_json::Value = serde_json::from_slice(&bytes).map_err(wrong)?;
    version::check_document(&document, GATEWAY_VERSION).map_err(|e| bad(unknown(e)))?;
    let settings: GatewaySettings = serde_json::from_value(document).map_err(wrong)?;
    check(settings).map_err(bad)
}

fn unknown(other: OtherVersion) -> String {
    format!("version {}, and this gateway knows {}", other.found, other.reads)
}

fn check(settings: GatewaySettings) -> Result<Active, String> {
    version::check(settings.version, GATEWAY_VERSION).map_err(unknown)?;
    if settings.service.is_empty() || settings.service.contains(|c: char| !c.is_ascii_graphic() || c == '"') {
        return Err(format!("{:?} is not a name of a service", settings.service));
    }
    let path = settings.check.path.parse::<PathAndQuery>();
    if !settings.check.path.starts_with('/') || path.is_err() {
        return Err(format!("check.path {:?} is not a path", settings.check.path));
    }
    if let Some(metrics) = settings.metrics.filter(|address| !address.ip().is_loopback()) {
        return Err(format!("metrics {metrics} is not a loopback address"));
    }
    let limits = &settings.limits;
    for (name, value) in [
        ("limits.head_ms", limits.head_ms),
        ("limits.connect_ms", limits.connect_ms),
        ("limits.response_ms", limits.response_ms),
        ("limits.idle_ms", limits.idle_ms),
        ("limits.connections", limits.connections as u64),
        ("check.timeout_ms", settings.check.timeout_ms),
    ] {
        if value == 0 {
            return Err(format!("{name} must not be 0"));
        }
    }
    if let Some(jobs) = settings.jobs.as_ref().filter(|jobs| !jobs.file.is_absolute()) {
        return Err(format!("jobs.file {:?} is not an absolute path", jobs.file));
    }
    let keys = Keys::parse(&settings.api_keys)?;
    let names = Names::new(&settings.callers, &who::host());
    Ok(Active { settings, keys, names })
}

/// New settings over old ones: keys, callers, limits and check change; the names of what would need a restart are
/// returned.
pub fn renew(old: &GatewaySettings, mut new: Active) -> (Active, Vec<&'static str>) {
    let mut kept = Vec::new();
    let it = &mut new.settings;
    let mut keep = |name, differs: bool| {
        if differs {
            kept.push(name);
        }
    };
    keep("service", it.service != old.service);
    keep("listen", it.listen != old.listen);
    keep("metrics", it.metrics != old.metrics);
    keep("control", it.control != old.control);
    keep("table", it.table != old.table);
    let file = |of: &GatewaySettings| of.jobs.as_ref().map(|jobs| jobs.file.clone());
    let other_jobs = file(it) != file(old);
    keep("jobs", other_jobs);
    if other_jobs {
        it.jobs.clone_from(&old.jobs);
    }
    it.service.clone_from(&old.service);
    (it.listen, it.metrics) = (old.listen, old.metrics);
    it.control.clone_from(&old.control);
    it.table.clone_from(&old.table);
    (new, kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::control::{Check, JobsSettings, Limits};
    use crate::protocol::jobs::Jobs;

    fn settings() -> GatewaySettings {
        GatewaySettings {
            version: GATEWAY_VERSION,
            service: "demo".into(),
            listen: "0.0.0.0:8188".parse().unwrap(),
            metrics: Some("127.0.0.1:9188".parse().unwrap()),
            control: "/run/x/control".into(),
            table: "/var/x/table.json".into(),
            api_keys: vec![],
            callers: Default::default(),
            limits: Limits::default(),
            check: Check::default(),
            jobs: None,
            scaling: None,
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(check(settings()).is_ok());
        let wrong = |change: fn(&mut GatewaySettings)| {
            let mut it = settings();
            change(&mut it);
            check(it).err().unwrap()
        };
        assert_eq!(wrong(|s| s.version = 2), "version 2, and this gateway knows 1");
        assert_eq!(wrong(|s| s.service = "a\"b".into()), "\"a\\\"b\" is not a name of a service");
        assert_eq!(wrong(|s| s.check.path = "x y".into()), "check.path \"x y\" is not a path");
        assert_eq!(wrong(|s| s.limits.idle_ms = 0), "limits.idle_ms must not be 0");
        assert_eq!(
            wrong(|s| s.metrics = Some("0.0.0.0:1".parse().unwrap())),
            "metrics 0.0.0.0:1 is not a loopback address"
        );
        assert_eq!(
            wrong(|s| s.api_keys = vec!["plain".into()]),
            "an API key is not the SHA-256 of one, in hex"
        );
    }

    #[test]
    fn a_reload_keeps_who_owns_the_jobs() {
        let owned = |waiting| {
            let rules = Jobs { waiting, ..Jobs::default() };
            let jobs = Some(JobsSettings { file: "/var/x/jobs.sqlite".into(), rules });
            GatewaySettings { jobs, ..settings() }
        };
        let waiting = |of: &Active| of.settings.jobs.as_ref().map(|jobs| jobs.rules.waiting);
        for (old, new, kept, now) in [
            (settings(), owned(1), vec!["jobs"], None),
            (owned(1), settings(), vec!["jobs"], Some(1)),
            (owned(1), owned(2), vec![], Some(2)),
        ] {
            let (active, told) = renew(&old, check(new).unwrap());
            assert_eq!((told, waiting(&active)), (kept, now));
        }
        let relative = JobsSettings { file: "jobs".into(), rules: Jobs::default() };
        let wrong = check(GatewaySettings { jobs: Some(relative), ..settings() }).err().unwrap();
        assert_eq!(wrong, "jobs.file \"jobs\" is not an absolute path");
    }

    #[test]
    fn a_reload_keeps_what_needs_a_restart() {
        let mut new = settings();
        new.listen = "0.0.0.0:1".parse().unwrap();
        new.limits.body = 7;
        let (active, kept) = renew(&settings(), check(new).unwrap());
        assert_eq!(kept, ["listen"]);
        assert_eq!(active.settings.listen, settings().listen);
        assert_eq!(active.settings.limits.body, 7);
    }
}
