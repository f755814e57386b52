//! What a type cannot say of `[service]`: values that cannot be, each named by its key. No host is asked.
use super::arguments;
use super::system;
use super::types::ServiceConfig;
use super::wrong::{Wrong, clean_path, wrong};
use crate::protocol::spec::valid_service;
use crate::ship::quantity::{Size, Span};

impl ServiceConfig {
    /// All that is wrong whatever the host has. Where slots follow its GPUs, they are judged when it has been
    /// looked at (`spec`).
    pub fn check(&self) -> Result<(), Wrong> {
        if self.models.is_none() {
            return Err(wrong("service.models", "is not set: say where the models are on the host"));
        }
        self.check_values()
    }

    /// What is wrong with the values that are there: of a service that is not fully described yet, too.
    pub fn check_values(&self) -> Result<(), Wrong> {
        self.check_name()?;
        self.check_paths()?;
        self.check_counts()?;
        self.check_scaling()?;
        self.check_jobs()?;
        self.check_words()?;
        arguments::check(&self.arguments)?;
        system::check(self)?;
        self.check_exposure()?;
        match self.own_slots() {
            Some(slots) => self.check_slots(&slots),
            None => Ok(()),
        }
    }

    fn check_name(&self) -> Result<(), Wrong> {
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
        Ok(())
    }

    fn check_paths(&self) -> Result<(), Wrong> {
        let absolute = [
            ("service.models", self.models.as_ref()),
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
        self.check_placed()?;
        for path in self.keep.iter().flatten() {
            below("service.keep", path)?;
            if ["input", "output", "user", "models"]
                .iter()
                .any(|d| path == d || path.starts_with(&format!("{d}/")))
            {
                return Err(wrong("service.keep", format!("names {path:?}, which is kept anyway")));
            }
        }
        Ok(())
    }

    /// Secrets that are files of an instance's own tree: never of a folder that others have, too, or that outlives it.
    fn check_placed(&self) -> Result<(), Wrong> {
        let shared =
            ["input", "output", "user", "models", "temp"].map(|name| ("shared by all instances", name));
        let kept = self.keep.iter().flatten().map(|path| ("in service.keep", path.as_str()));
        let folders = self.folders.iter().flatten().map(|f| ("in service.folders", f.at.as_str()));
        let cache = [("the cache, whose files are not the program's", ".cache")];
        let apart: Vec<(&str, &str)> = shared.into_iter().chain(cache).chain(kept).chain(folders).collect();
        for (name, at) in self.secrets.iter().filter_map(|(name, secret)| Some((name, secret.at.as_ref()?))) {
            below("service.secrets.at", at)?;
            let inside = |folder: &str| {
                at.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if let Some((why, folder)) = apart.iter().find(|(_, folder)| inside(folder)) {
                let text = format!(
                    "of {name} is {at:?}, and {folder} is {why}: name a file of a pack or of the main program"
                );
                return Err(wrong("service.secrets.at", text));
            }
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), Wrong> {
        if self.health.passes == Some(0) {
            return Err(wrong("service.health.passes", "is 0: at least one good answer is needed"));
        }
        Ok(())
    }

    /// A zero would be no limit elsewhere: here it lets nothing through.
    fn check_jobs(&self) -> Result<(), Wrong> {
        let jobs = &self.jobs;
        let no_result = "is 0: no client could fetch a result";
        let zeros = [
            ("service.jobs.waiting", jobs.waiting == Some(0), "is 0: no job could wait"),
            (
                "service.jobs.waiting-per-client",
                jobs.waiting_per_client == Some(0),
                "is 0: no job could wait",
            ),
            ("service.jobs.tries", jobs.tries == Some(0), "is 0: a job is tried at least once"),
            ("service.jobs.stuck-after", jobs.stuck_after == Some(Span(0)), "is 0: every job would be stuck"),
            (
                "service.jobs.expire-waiting",
                jobs.expire_waiting == Some(Span(0)),
                "is 0: every job would expire; leave it out where none is to",
            ),
            ("service.jobs.keep.age", jobs.keep.age == Some(Span(0)), no_result),
            ("service.jobs.keep.count", jobs.keep.count == Some(0), no_result),
            ("service.jobs.keep.bytes", jobs.keep.bytes == Some(Size(0)), no_result),
        ];
        match zeros.iter().find(|(_, zero, _)| *zero) {
            Some((key, _, why)) => Err(wrong(key, *why)),
            None => jobs.check_deliveries(),
        }
    }

    fn check_words(&self) -> Result<(), Wrong> {
        if let Some(path) = self.health.path.as_ref().filter(|p| !p.starts_with('/')) {
            return Err(wrong("service.health.path", format!("is {path:?}: it begins with '/'")));
        }
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
        Ok(())
    }

    fn check_exposure(&self) -> Result<(), Wrong> {
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

    /// Whether the instances that always run find a place.
    pub(super) fn check_slots(&self, slots: &[Vec<String>]) -> Result<(), Wrong> {
        if slots.is_empty() {
            return Err(wrong("service.slots", "leaves no slot"));
        }
        self.check_places(slots.len())
    }
}

/// Names of variables, as a shell takes them.
fn variable(name: &str) -> bool {
    !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
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
