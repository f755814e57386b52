//! From both files' values to what a host is asked to serve: a host's over the project's, defaults, and what a
//! type cannot say.
use super::*;
use crate::protocol::spec::{
    Folder, Health, Limits, Retention, SPEC_VERSION, SecretUse, Spec, valid_service,
};
use std::net::Ipv4Addr;

macro_rules! over {
    ($host:expr, $project:expr, $($field:ident),+) => {
        Self { $($field: $host.$field.clone().or_else(|| $project.$field.clone()),)+ }
    };
}

impl ResourcesConfig {
    fn over(&self, project: &Self) -> Self {
        over!(self, project, memory, cpu)
    }
}

impl ScalingConfig {
    fn over(&self, project: &Self) -> Self {
        over!(self, project, minimum, maximum)
    }
}

impl HealthConfig {
    fn over(&self, project: &Self) -> Self {
        over!(
            self,
            project,
            path,
            interval,
            passes,
            minimum,
            deadline,
            timeout,
            classes,
            smoke,
            smoke_deadline
        )
    }
}

impl GatewayConfig {
    fn over(&self, project: &Self) -> Self {
        over!(
            self,
            project,
            api_keys,
            without_api_key,
            metrics_port,
            body_limit,
            hold,
            waiting,
            connections,
            head_timeout,
            response_timeout,
            idle_timeout
        )
    }
}

impl RetentionConfig {
    fn over(&self, project: &Self) -> Self {
        over!(self, project, generations)
    }
}

impl ServiceConfig {
    /// This host's values over the project's. Arguments and environment are the host's alone: the
    /// project's are in the snapshot.
    pub fn over(&self, project: &ServiceConfig) -> ServiceConfig {
        let mut secrets = project.secrets.clone();
        secrets.extend(self.secrets.clone());
        let either = |own: &Option<String>, other: &Option<String>| own.clone().or_else(|| other.clone());
        ServiceConfig {
            name: either(&self.name, &project.name),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            listen: self.listen.or(project.listen),
            port: self.port.or(project.port),
            models: either(&self.models, &project.models),
            output: either(&self.output, &project.output),
            user: either(&self.user, &project.user),
            // Two ways to say one thing: the host's way takes the place of either of the project's.
            gpus: self.gpus.clone().or_else(|| project.gpus.clone().filter(|_| self.slots.is_none())),
            slots: self.slots.clone().or_else(|| project.slots.clone().filter(|_| self.gpus.is_none())),
            instance_ports: self.instance_ports.or(project.instance_ports),
            folders: self.folders.clone().or_else(|| project.folders.clone()),
            keep: self.keep.clone().or_else(|| project.keep.clone()),
            driver: either(&self.driver, &project.driver),
            rotation: self.rotation.or(project.rotation),
            drain: self.drain.or(project.drain),
            resources: self.resources.over(&project.resources),
            scaling: self.scaling.over(&project.scaling),
            health: self.health.over(&project.health),
            gateway: self.gateway.over(&project.gateway),
            secrets,
            retention: self.retention.over(&project.retention),
        }
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT_NAME)
    }

    pub fn port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// The slots, given the GPUs that the host has.
    fn slots(&self, found: &[String]) -> Result<Vec<Vec<String>>, Wrong> {
        let one_each = |gpus: Vec<String>| gpus.into_iter().map(|gpu| vec![gpu]).collect::<Vec<_>>();
        let slots = match (&self.slots, &self.gpus) {
            (Some(Slots::Cpu(count)), _) => vec![Vec::new(); *count as usize],
            (Some(Slots::Gpus(slots)), _) => {
                slots.iter().map(|gpus| gpus.iter().map(Gpu::text).collect()).collect()
            }
            (None, Some(Gpus::List(gpus))) => one_each(gpus.iter().map(Gpu::text).collect()),
            (None, Some(Gpus::Word(GpuWord::None))) => vec![Vec::new()],
            (None, Some(Gpus::Word(GpuWord::All))) if found.is_empty() => {
                return Err(wrong("service.gpus", "is \"all\", and the host has none"));
            }
            (None, Some(Gpus::Word(GpuWord::All))) => one_each(found.to_vec()),
            (None, None | Some(Gpus::Word(GpuWord::Auto))) if found.is_empty() => vec![Vec::new()],
            (None, None | Some(Gpus::Word(GpuWord::Auto))) => one_each(found.to_vec()),
        };
        if slots.is_empty() {
            return Err(wrong("service.slots", "leaves no slot"));
        }
        Ok(slots)
    }

    /// What the host is asked to serve. `found`: its GPUs; `keys`: hashes of the API keys; `smoke`: the
    /// workflow's own text, read.
    pub fn spec(
        &self,
        found: &[String],
        keys: Vec<String>,
        smoke: Option<serde_json::Value>,
    ) -> Result<Spec, Wrong> {
        self.check()?;
        let slots = self.slots(found)?;
        let minimum = self.scaling.minimum.unwrap_or(1);
        if minimum as usize > slots.len() {
            let text = format!("asks for {minimum} instances, and there are {} slots", slots.len());
            return Err(wrong("service.scaling.minimum", text));
        }
        let rotation = self.rotation.unwrap_or(Rotation::Surge);
        let span = |value: Option<Span>, default: u64| value.map_or(default, |s| s.0);
        let (health, limits) = (Health::default(), Limits::default());
        let hold = if rotation == Rotation::Replace { 120_000 } else { limits.hold_ms };
        let metrics = self.gateway.metrics_port.unwrap_or_else(|| self.port().wrapping_add(1));
        Ok(Spec {
            version: SPEC_VERSION,
            service: self.name().into(),
            listen: self.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: self.port(),
            api_keys: keys,
            metrics_port: Some(metrics).filter(|p| *p > 0),
            instances: minimum,
            maximum: self.scaling.maximum.unwrap_or(slots.len() as u32),
            slots,
            memory_bytes: self.resources.memory.map(|m| m.0),
            cpu_percent: self.resources.cpu.map(|c| c.0),
            user: self.user.clone(),
            models: self.models.clone().unwrap_or_default(),
            output: self.output.clone(),
            folders: self
                .folders
                .iter()
                .flatten()
                .map(|f| Folder { path: f.path.clone(), at: f.at.clone(), writable: f.writable })
                .collect(),
            keep: self.keep.clone().unwrap_or_default(),
            secrets: self
                .secrets
                .iter()
                .map(|(name, secret)| SecretUse {
                    name: name.clone(),
                    variable: (secret.form == SecretForm::Variable).then(|| name.clone()),
                })
                .collect(),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            driver: self.driver.clone(),
            ports: self.instance_ports.map_or((20_000, 20_999), |p| (p.0, p.1)),
            health: Health {
                path: self.health.path.clone().unwrap_or(health.path),
                interval_ms: span(self.health.interval, health.interval_ms),
                passes: self.health.passes.unwrap_or(health.passes),
                minimum_ms: span(self.health.minimum, health.minimum_ms),
                deadline_ms: span(self.health.deadline, health.deadline_ms),
                timeout_ms: span(self.health.timeout, health.timeout_ms),
                smoke,
                smoke_ms: span(self.health.smoke_deadline, health.smoke_ms),
            },
            rotation,
            drain_ms: span(self.drain, 60_000),
            retention: Retention {
                generations: self.retention.generations.unwrap_or(Retention::default().generations),
            },
            gateway: Limits {
                body: self.gateway.body_limit.map_or(limits.body, |s| s.0),
                head_ms: span(self.gateway.head_timeout, limits.head_ms),
                connect_ms: limits.connect_ms,
                response_ms: span(self.gateway.response_timeout, limits.response_ms),
                idle_ms: span(self.gateway.idle_timeout, limits.idle_ms),
                hold_ms: span(self.gateway.hold, hold),
                held: self.gateway.waiting.unwrap_or(limits.held),
                connections: self.gateway.connections.unwrap_or(limits.connections),
            },
        })
    }

    /// What a type cannot say, and no host need be asked for.
    pub fn check(&self) -> Result<(), Wrong> {
        if !valid_service(self.name()) {
            let text = format!(
                "is {:?}: use 1 to 27 letters a-z, digits and '-', neither first nor last",
                self.name()
            );
            return Err(wrong("service.name", text));
        }
        if self.port() == 0 {
            return Err(wrong("service.port", "is 0, which is no port"));
        }
        let Some(models) = &self.models else {
            return Err(wrong("service.models", "is not set: say where the models are on the host"));
        };
        let absolute = [
            ("service.models", Some(models)),
            ("service.output", self.output.as_ref()),
            ("service.driver", self.driver.as_ref()),
        ];
        for (key, path) in absolute {
            if let Some(path) = path {
                clean_path(key, path)?;
            }
        }
        for folder in self.folders.iter().flatten() {
            clean_path("service.folders.path", &folder.path)?;
            below("service.folders.at", &folder.at)?;
        }
        for path in self.keep.iter().flatten() {
            below("service.keep", path)?;
            if ["input", "output", "user", "models"]
                .iter()
                .any(|d| path == d || path.starts_with(&format!("{d}/")))
            {
                return Err(wrong("service.keep", format!("names {path:?}, which is kept anyway")));
            }
        }
        if let (Some(minimum), Some(maximum)) = (self.scaling.minimum, self.scaling.maximum)
            && minimum > maximum
        {
            return Err(wrong(
                "service.scaling.maximum",
                format!("is {maximum}, below the minimum of {minimum}"),
            ));
        }
        if self.scaling.minimum == Some(0) {
            return Err(wrong("service.scaling.minimum", "is 0: at least one instance runs always"));
        }
        if self.health.passes == Some(0) {
            return Err(wrong("service.health.passes", "is 0: at least one good answer is needed"));
        }
        if let Some(path) = self.health.path.as_ref().filter(|p| !p.starts_with('/')) {
            return Err(wrong("service.health.path", format!("is {path:?}: it begins with '/'")));
        }
        let variable = |name: &str| {
            !name.is_empty()
                && !name.as_bytes()[0].is_ascii_digit()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if let Some(name) = self.secrets.keys().find(|name| !variable(name)) {
            return Err(wrong("service.secrets", format!("names {name:?}: use letters, digits and '_'")));
        }
        if let Some(name) = self.environment.keys().find(|name| !variable(name)) {
            return Err(wrong("service.environment", format!("names {name:?}: use letters, digits and '_'")));
        }
        if let Some(user) = self.user.as_ref().filter(|u| !variable(&u.replace('-', "_")) || *u == "root") {
            return Err(wrong(
                "service.user",
                format!("is {user:?}: name a user of the host, other than root"),
            ));
        }
        let open = self.listen.is_some_and(|listen| !listen.is_loopback());
        let keys = self.gateway.api_keys.as_ref().is_some_and(|keys| !keys.is_empty());
        if open && !keys && self.gateway.without_api_key != Some(true) {
            return Err(wrong(
                "service.listen",
                "is not loopback, and ComfyUI runs whatever it is sent: set [service.gateway] api-keys \
                 (or without-api-key = true, where nobody else can reach it)",
            ));
        }
        Ok(())
    }
}

/// A key whose value cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub key: &'static str,
    pub why: String,
}

fn wrong(key: &'static str, why: impl Into<String>) -> Wrong {
    Wrong { key, why: why.into() }
}

/// Paths become lines of unit files.
fn clean_path(key: &'static str, path: &str) -> Result<(), Wrong> {
    let strange = |c: char| c.is_whitespace() || c.is_control() || "\"'\\%$:;".contains(c);
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.contains(strange) {
        let text = format!(
            "is {path:?}: write an absolute path, without \"..\", blanks, quotes, '\\', '%', '$', ':' and ';'"
        );
        return Err(wrong(key, text));
    }
    Ok(())
}

fn below(key: &'static str, path: &str) -> Result<(), Wrong> {
    let fine = !path.is_empty()
        && !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if fine {
        Ok(())
    } else {
        Err(wrong(key, format!("is {path:?}: write a path below ComfyUI's base directory")))
    }
}

/// The line of a key in a TOML text, from 1; none where the text does not set it in so many words.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut section = String::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_start_matches('[').split(']').next().unwrap_or_default().trim().to_string();
            continue;
        }
        let Some((name, _)) = line.split_once('=') else { continue };
        let name = name.trim();
        let full = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
        if full == key || key.strip_prefix(&full).is_some_and(|rest| rest.starts_with('.')) {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
