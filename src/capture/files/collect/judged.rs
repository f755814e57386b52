//! Files that are secrets or hold some: which of them ship, and what the report says of each.
use super::{Collector, Judged, Looking, bytes};
use crate::capture::files::paths::{SECRET_ADVICE, SECRET_NOTE, file_name, read_at_most, unreadable};
use crate::capture::files::rules::text;
use crate::capture::files::secrets::{self, Depth, Looked, SECRET_FILE_LIMIT};
use crate::capture::files::walk::WalkEntry;
use crate::capture::model::report::{Severity, Topic};
use crate::formats::redact;
use crate::words::show;
use serde_json::json;
use std::path::Path;

impl Collector<'_> {
    /// Whether a file is no secret, or one that the configuration lets ship; says what it is.
    pub(super) fn may_ship(&mut self, file: &Looking<'_>, path: &[u8]) -> Judged {
        let Looking { real, name, entry, known, .. } = *file;
        // A file that may be a secret by its name is looked at in any case.
        let depth = match (self.policy.config_secrets, known) {
            (false, _) => Depth::Named,
            (true, true) => Depth::Configured,
            (true, false) => Depth::Programs,
        };
        let looked = secrets::look(&[name, bytes(real)], real, entry.size, depth);
        let nothing = looked.secret.is_none() && looked.suspicion.is_none();
        let secret = looked.secret.is_some();
        let ships = self.judge(looked, (real, name, path), None);
        if secret {
            self.out.judged.push(format!("{} {ships}", show(path)));
        }
        Judged { ships, nothing }
    }

    /// `emptied`: the text that is left where values of it do not ship, and their keys.
    fn judge(
        &mut self,
        looked: Looked,
        (real, name, path): (&Path, &[u8], &[u8]),
        emptied: Option<(&str, &[String])>,
    ) -> bool {
        let allowed = self.policy.left_out.allows(real);
        let allow = format!("allow-secrets = [{}]", json!(show(name)));
        let (severity, message, ships) = match (looked.secret, looked.suspicion) {
            (None, None) => return true,
            (Some(what), _) if allowed => {
                (Severity::Info, format!("{what}: it ships, as allow-secrets says"), true)
            }
            (None, Some(_)) if allowed => return true,
            (Some(what), _) => {
                let lines = self.lines(real, name, emptied);
                let (severity, left_out) = match looked.kind {
                    None => (Severity::Warning, format!("{SECRET_NOTE}{lines}")),
                    Some(Depth::Programs) => {
                        let note = "left out, and what needs the file fails";
                        (Severity::Problem, format!("{note}; {SECRET_ADVICE}; {allow} ships it as it is"))
                    }
                    Some(_) => {
                        (Severity::Warning, format!("{SECRET_NOTE}{lines}; {allow} ships it as it is"))
                    }
                };
                (severity, format!("{what}: {left_out}"), false)
            }
            (None, Some(what)) => {
                let message =
                    format!("{what}: it ships; if it is one, {SECRET_ADVICE}; {allow} says that it may");
                (Severity::Warning, message, true)
            }
        };
        self.report(severity, Topic::Secret, path, message);
        ships
    }

    /// What to write into stillframe.toml for a file that instances need: all of it given to them, or its secret value alone left
    /// out. Nothing can be put where an editable install or the cache is.
    fn lines(&self, real: &Path, name: &[u8], emptied: Option<(&str, &[String])>) -> String {
        let ours = self.policy.label.is_empty() || self.policy.label.starts_with("custom_nodes/");
        let Some(at) = std::str::from_utf8(name).ok().filter(|_| ours) else { return String::new() };
        let file = json!(real.to_string_lossy());
        let whole =
            format!(", under [service.secrets]: {} = {{ file = {file}, at = {} }}", variable(at), json!(at));
        let (content, mut keys) = match emptied {
            Some((text, keys)) => (text.as_bytes().to_vec(), keys.to_vec()),
            None => (read_at_most(real, SECRET_FILE_LIMIT).unwrap_or_default(), Vec::new()),
        };
        match secrets::key_of(name, &content) {
            Some(key) => {
                keys.push(key);
                let (at, keys) = (json!(at), json!(keys));
                format!("{whole}; or ship it without that value, under [redact]: {at} = {keys}")
            }
            None => whole,
        }
    }

    /// Ships a file with single values empty, if nothing else in it is a secret.
    pub(super) fn redacted(
        &mut self,
        real: &Path,
        name: &[u8],
        path: Vec<u8>,
        entry: &WalkEntry,
        keys: &[String],
    ) {
        self.out.judged.push(format!("{} {keys:?}", show(&path)));
        let content = match read_at_most(real, SECRET_FILE_LIMIT) {
            Ok(content) => content,
            Err(e) => {
                let what = "redact names it, and it cannot be read; left out";
                return self.out.findings.push(unreadable(&show(name), what, &e));
            }
        };
        let emptied = String::from_utf8(content)
            .map_err(|_| "the file is no UTF-8".to_string())
            .and_then(|text| redact::empty(&text_name(name), &text, keys).map_err(|e| e.to_string()));
        let redacted = match emptied {
            Ok(redacted) => redacted,
            Err(why) => {
                let message = format!("redact cannot empty values of it: {why}; left out");
                return self.report(Severity::Problem, Topic::Secret, &path, message);
            }
        };
        if !redacted.missing.is_empty() {
            // It holds a secret, and nobody knows where.
            let missing = listed(&redacted.missing);
            let message = format!("redact names {missing}, which it does not have: left out");
            return self.report(Severity::Problem, Topic::Secret, &path, message);
        }
        let looked = secrets::look_into(&[name, bytes(real)], redacted.text.as_bytes(), Depth::Programs);
        if !self.judge(looked, (real, name, &path), Some((&redacted.text, keys))) {
            return;
        }
        let done: Vec<String> = keys.iter().filter(|key| !redacted.missing.contains(key)).cloned().collect();
        if !done.is_empty() {
            let message = format!("ships with {} empty, as redact says", listed(&done));
            self.report(Severity::Info, Topic::Secret, &path, message);
        }
        let own = &self.policy.left_out.own;
        let rewrites = own.rewrites(name) && self.policy.config_secrets;
        let marked = if rewrites { own.marked_text(&redacted.text) } else { None };
        if let (Some(_), Ok(path)) = (&marked, std::str::from_utf8(&path)) {
            self.out.own_paths.push(path.to_string());
        }
        let text = marked.unwrap_or(redacted.text);
        self.out.size += text.len() as u64;
        self.out.tree.bytes(path, text.into_bytes(), entry.executable());
    }
}

fn text_name(path: &[u8]) -> String {
    text(file_name(path)).to_string()
}

fn listed(keys: &[String]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

/// A name for a service secret: the pack's and the file's.
fn variable(at: &str) -> String {
    let parts: Vec<&str> = at.split('/').collect();
    let file = parts.last().copied().unwrap_or_default();
    let stem = file.trim_start_matches('.').split('.').next().unwrap_or_default();
    let pack = if parts.len() > 2 && parts[0] == "custom_nodes" { parts[1] } else { "" };
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = format!("{pack}_{stem}").chars().map(letter).collect();
    let name = name.trim_matches(|c: char| c == '_' || c.is_ascii_digit());
    if name.is_empty() { "SECRET".into() } else { name.into() }
}
