//! `[service.jobs.deliveries]`, `webhooks` and `uploads`: what a service has its gateway send to others.
use super::types::JobsConfig;
use super::wrong::{Wrong, wrong};
use crate::protocol::deliveries::Deliveries;
use crate::ship::quantity::Span;

impl JobsConfig {
    pub(super) fn check_deliveries(&self) -> Result<(), Wrong> {
        let said = &self.deliveries;
        let zeros = [
            ("service.jobs.deliveries.at-once", said.at_once == Some(0), "is 0: nothing would be sent"),
            ("service.jobs.deliveries.tries", said.tries == Some(0), "is 0: nothing would be sent"),
            (
                "service.jobs.deliveries.give-up-after",
                said.give_up_after == Some(Span(0)),
                "is 0: nothing is tried again",
            ),
            (
                "service.jobs.deliveries.pause",
                said.pause == Some(Span(0)),
                "is 0: a receiver that is down would have no rest",
            ),
            (
                "service.jobs.deliveries.timeout",
                said.timeout == Some(Span(0)),
                "is 0: nobody answers that soon",
            ),
            (
                "service.jobs.webhooks.events",
                self.webhooks.events.as_ref().is_some_and(Vec::is_empty),
                "is empty: nobody would hear of anything",
            ),
        ];
        if let Some((key, _, why)) = zeros.iter().find(|(_, zero, _)| *zero) {
            return Err(wrong(key, *why));
        }
        let rules = self.rules()?;
        if rules.longest_pause_ms < rules.pause_ms {
            return Err(wrong("service.jobs.deliveries.longest-pause", "is shorter than `pause`"));
        }
        if let Some(odd) = rules.origins.iter().find(|o| !["http", "https"].contains(&o.scheme())) {
            return Err(wrong("service.jobs.deliveries.origins", format!("names {odd}: use http or https")));
        }
        let signs = rules.webhook.is_some() || !rules.origins.is_empty();
        if signs && self.webhooks.secret.is_none() {
            let why =
                "is not set, and webhooks are signed: make one with echo whsec_$(openssl rand -base64 32)";
            return Err(wrong("service.jobs.webhooks.secret", why));
        }
        Ok(())
    }

    fn rules(&self) -> Result<Deliveries, Wrong> {
        let (said, rules) = (&self.deliveries, Deliveries::default());
        let span = |value: Option<Span>, default| value.map_or(default, |span| span.0);
        Ok(Deliveries {
            at_once: said.at_once.unwrap_or(rules.at_once),
            tries: said.tries.unwrap_or(rules.tries),
            age_ms: span(said.give_up_after, rules.age_ms),
            pause_ms: span(said.pause, rules.pause_ms),
            longest_pause_ms: span(said.longest_pause, rules.longest_pause_ms.max(span(said.pause, 0))),
            timeout_ms: span(said.timeout, rules.timeout_ms),
            origins: said.origins.clone().unwrap_or_default(),
            private_hosts: said.private_hosts.clone().unwrap_or_default(),
            events: self.webhooks.events.clone().unwrap_or(rules.events),
            webhook: self.webhooks.url.clone(),
            upload: self.uploads.upload()?,
        })
    }

    /// None where nothing is sent to anybody. What is wrong was said by `check_deliveries`.
    pub(super) fn deliveries_resolved(&self) -> Option<Deliveries> {
        let rules = self.rules().ok()?;
        let any = rules.webhook.is_some() || rules.upload.is_some() || !rules.origins.is_empty();
        any.then_some(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deliveries::{UPLOAD_SECRET, Upload, WEBHOOK_SECRET};

    fn config(text: &str) -> JobsConfig {
        toml::from_str(text).unwrap()
    }

    const SIGNED: &str = "webhooks.secret = { env = \"S\" }\n";

    #[test]
    fn what_is_sent_where() {
        let rules = |text: &str| {
            let config = config(text);
            config.check_deliveries().map_err(|w| format!("{} {}", w.key, w.why)).unwrap();
            config.deliveries_resolved()
        };
        assert_eq!(rules(""), None);
        assert_eq!(rules("deliveries.tries = 3\n"), None);
        let hook =
            rules(&format!("{SIGNED}webhooks.url = \"https://h.example/x\"\ndeliveries.pause = \"1s\""))
                .unwrap();
        assert_eq!((hook.pause_ms, hook.events.len(), hook.secrets()), (1_000, 4, vec![WEBHOOK_SECRET]));
        let s3 = "uploads = { to = \"s3://pictures/{service}/{job}/{filename}\", region = \"eu-central-1\", \
                  access-key = \"A\", secret = { env = \"K\" }, endpoint = \"http://minio:9000\" }";
        let rules = rules(s3).unwrap();
        assert_eq!(rules.secrets(), [UPLOAD_SECRET]);
        let Some(Upload::S3 { bucket, key, path_style, .. }) = rules.upload else { panic!() };
        assert_eq!(
            (bucket.as_str(), key.as_str(), path_style),
            ("pictures", "{service}/{job}/{filename}", true)
        );
    }

    #[test]
    fn what_cannot_be_is_named() {
        let wrong = |text: &str| {
            let wrong = config(text).check_deliveries().unwrap_err();
            format!("{} {}", wrong.key.trim_start_matches("service.jobs."), wrong.why)
        };
        let lacks = "webhooks.secret is not set, and webhooks are signed: make one with echo whsec_$(openssl rand -base64 32)";
        assert_eq!(wrong("webhooks.url = \"http://h/\""), lacks);
        assert_eq!(wrong("deliveries.origins = [\"http://h\"]"), lacks);
        assert_eq!(
            wrong(&format!("{SIGNED}deliveries.origins = [\"ftp://h\"]")),
            "deliveries.origins names ftp://h: use http or https"
        );
        assert_eq!(wrong("deliveries.tries = 0"), "deliveries.tries is 0: nothing would be sent");
        assert_eq!(
            wrong("deliveries = { pause = \"1h\", longest-pause = \"1min\" }"),
            "deliveries.longest-pause is shorter than `pause`"
        );
        assert_eq!(wrong("uploads.region = \"x\""), "uploads.region is set, and `to` beside it is not");
        for (to, why) in [
            ("https://h/{filename}", "uploads.to lacks {job}: files would take each other's place"),
            ("https://h/{job}/{name}", "uploads.to has {name}: there are {service}, {job} and {filename}"),
            (
                "https://me:x@h/{job}/{filename}",
                "uploads.to names a user: what is secret is no part of an address, nor of s3://",
            ),
            (
                "s3://B/{job}/{filename}",
                "uploads.to names the bucket \"B\": use 3 to 63 of a-z, 0-9, '-' and '.'",
            ),
            (
                "s3://pictures/a b/{job}/{filename}",
                "uploads.to has ' ' in its key: use letters, digits, '-', '.', '_', '~' and '/'",
            ),
            (
                "s3://pictures/{job}/{filename}",
                "uploads.secret is not set, and `to` is S3: it is the secret access key",
            ),
        ] {
            assert_eq!(wrong(&format!("uploads.to = \"{to}\"")), why);
        }
        let http = "uploads.to = \"https://h/{job}/{filename}\"\n";
        assert_eq!(
            wrong(&format!("{http}uploads.header = \"authorization\"")),
            "uploads.header and `secret` go together: one is the name, one the value"
        );
        assert_eq!(
            wrong(&format!("{http}uploads.region = \"x\"")),
            "uploads.region is of S3, and `to` is an address"
        );
    }

    #[test]
    fn a_host_says_one_of_them() {
        let project =
            config(&format!("{SIGNED}webhooks.url = \"https://h.example/x\"\ndeliveries.at-once = 2"));
        let host = config("webhooks.url = \"https://other.example/x\"");
        let merged = host.webhooks.over(&project.webhooks);
        assert_eq!(merged.url.unwrap().to_string(), "https://other.example/x");
        assert!(merged.secret.is_some());
        assert_eq!(host.deliveries.over(&project.deliveries).at_once, Some(2));
    }
}
