//! What is a secret: by its name or, where a name alone would accuse too many, by the content of a
//! small file.
use crate::capture::files::paths::{file_name, read_small};
use crate::capture::files::rules::{extension, text};
use crate::formats::credentials;
use std::path::Path;

/// Only smaller files are read for secrets.
pub const SECRET_FILE_LIMIT: u64 = 256 * 1024;

/// Whether a file is a secret, and which. `names`: all that it goes by (a link may give a secret an innocent
/// name).
pub fn judge(names: &[&[u8]], file: &Path, size: u64) -> Option<String> {
    look(names, file, size, Depth::Written).secret
}

/// How far a file's content is looked at for credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Where its name says that it may be one.
    Named,
    /// And configurations, for values of names that are credentials'.
    Configured,
    /// And where people write addresses: requirements, configurations, lock files.
    Written,
    /// And in programs.
    Programs,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Why the file must not ship.
    pub secret: Option<String>,
    /// Why somebody should look at a file that ships.
    pub suspicion: Option<String>,
    /// Its text was read, and nothing was found.
    pub clean: bool,
    /// The kind of file in which a line was found.
    pub kind: Option<Depth>,
}

pub fn look(names: &[&[u8]], file: &Path, size: u64, depth: Depth) -> Looked {
    let secret = |what: String| Looked { secret: Some(what), ..Looked::default() };
    if let Some(what) = names.iter().find_map(|name| secret_name(name)) {
        return secret(what.to_string());
    }
    let suspected = names.iter().any(|name| wants_content(name, size));
    let kind = names.iter().filter_map(|name| kind(name)).min().filter(|kind| *kind <= depth);
    if size == 0 || size > SECRET_FILE_LIMIT || (!suspected && kind.is_none()) {
        return Looked::default();
    }
    let Some(content) = read_small(file, SECRET_FILE_LIMIT) else { return Looked::default() };
    look_into(names, &content, depth)
}

/// The same of what a file would hold.
pub fn look_into(names: &[&[u8]], content: &[u8], depth: Depth) -> Looked {
    let secret = |what: String| Looked { secret: Some(what), ..Looked::default() };
    if let Some(what) = names.iter().find_map(|name| secret_name(name)) {
        return secret(what.to_string());
    }
    let kind = names.iter().filter_map(|name| kind(name)).min().filter(|kind| *kind <= depth);
    let configs = depth > Depth::Named;
    if let Some(what) = names.iter().find_map(|name| secret_content(name, content, configs)) {
        return secret(format!("holds {what}"));
    }
    let Some(kind) = kind else { return Looked::default() };
    let program = kind == Depth::Programs;
    let found = credentials::find(&String::from_utf8_lossy(content));
    let certain = |what: &credentials::What| match program {
        true => what.is_certain_in_code(),
        false => what.is_certain(),
    };
    let told = |found: &credentials::Found| format!("line {} holds {}", found.line, found.what);
    let secret = found.iter().find(|found| certain(&found.what)).map(told);
    Looked { clean: found.is_empty(), secret, suspicion: found.first().map(told), kind: Some(kind) }
}

/// What of the content a file's name lets expect.
fn kind(path: &[u8]) -> Option<Depth> {
    let name = text(file_name(path));
    let written =
        ["txt", "in", "toml", "lock", "cfg", "ini", "conf", "yaml", "yml", "json", "xml", "properties"];
    let programs = [
        "py", "pyi", "js", "mjs", "cjs", "ts", "sh", "bash", "bat", "ps1", "cmd", "md", "rst", "html",
        "ipynb",
    ];
    let named =
        [".gitmodules", ".npmrc", ".condarc", ".gitconfig", ".yarnrc", "pipfile", "dockerfile", "config"];
    let extension = extension(&name);
    if written.contains(&extension) || named.contains(&&*name) {
        return Some(Depth::Written);
    }
    programs.contains(&extension).then_some(Depth::Programs)
}

/// Why a file is a secret by its name alone.
pub fn secret_name(path: &[u8]) -> Option<&'static str> {
    let path = text(path);
    let name = path.rsplit('/').next().unwrap_or(&path);
    let parent = path.rsplit('/').nth(1).unwrap_or("");
    if name == ".env" {
        return Some("an environment file");
    }
    if let Some(rest) = name.strip_prefix(".env.") {
        let template = ["example", "sample", "template", "dist", "default", "defaults"];
        return (!template.iter().any(|t| rest.split('.').any(|part| part == *t)))
            .then_some("an environment file");
    }
    match name {
        ".netrc" | "_netrc" | ".git-credentials" | ".pypirc" | ".pgpass" => Some("a file of passwords"),
        "id_rsa" | "id_dsa" | "id_ecdsa" | "id_ed25519" | "id_ecdsa_sk" | "id_ed25519_sk" => {
            Some("an SSH private key")
        }
        "token" | "stored_tokens" if parent == "huggingface" || parent == ".huggingface" => {
            Some("a Hugging Face token")
        }
        "credentials" if parent == ".aws" => Some("a file of passwords"),
        _ => None,
    }
}

/// Whether a file may be one: by its name, by what it may hold, or in a folder of another name.
pub fn suspect(path: &[u8], size: u64) -> bool {
    let named = matches!(file_name(path), b"token" | b"stored_tokens" | b"credentials");
    named || secret_name(path).is_some() || wants_content(path, size)
}

/// Whether a file's content decides (see `secret_content`).
pub fn wants_content(path: &[u8], size: u64) -> bool {
    if size == 0 || size > SECRET_FILE_LIMIT {
        return false;
    }
    let path = text(file_name(path));
    is_key(&path) || is_account(&path) || is_config(&path) || is_token(&path)
}

/// By its extension, or as people name keys: `deploy_key`, `id_rsa_work`.
fn is_key(name: &str) -> bool {
    let known = matches!(extension(name), "pem" | "key" | "ppk" | "p8");
    let plain = extension(name).is_empty()
        && (name.contains("key") || ["rsa", "dsa", "ed25519"].iter().any(|kind| name.contains(kind)));
    known || plain
}

/// Hugging Face's, in whatever folder HF_HOME or HF_TOKEN_PATH says.
fn is_token(name: &str) -> bool {
    matches!(name, "token" | "stored_tokens")
}

fn is_account(name: &str) -> bool {
    extension(name) == "json"
        && ["credential", "service_account", "service-account", "client_secret", "key", "secret"]
            .iter()
            .any(|word| name.contains(word))
}

fn is_config(name: &str) -> bool {
    let extension = extension(name);
    let known = ["ini", "toml", "json", "yaml", "yml", "cfg", "conf", ""].contains(&extension);
    let named = ["config.", "settings."].iter().any(|p| name.starts_with(p))
        || ["credentials", "secrets"].iter().any(|p| name.starts_with(p));
    extension == "ini" || (known && named)
}

/// Why a small file is a secret by its content. `configs`: also look for keys like `token = …` in
/// configuration files (not in caches, whose `config.json` are models').
pub fn secret_content(path: &[u8], content: &[u8], configs: bool) -> Option<String> {
    let name = text(file_name(path));
    let content = String::from_utf8_lossy(content);
    if (is_key(&name) || is_account(&name)) && has_private_key(&content) {
        return Some("a private key".to_string());
    }
    if is_token(&name) && content.contains("hf_") {
        return Some("a Hugging Face token".to_string());
    }
    if configs && (is_config(&name) || is_account(&name)) {
        return config_key(&name, &content).map(|key| value_for(&key));
    }
    None
}

fn value_for(key: &str) -> String {
    format!("a value for `{key}`")
}

/// The name whose value makes a configuration a secret, where that is what does.
pub fn key_of(path: &[u8], content: &[u8]) -> Option<String> {
    let name = text(file_name(path));
    let content = String::from_utf8_lossy(content);
    if is_config(&name) || is_account(&name) { config_key(&name, &content) } else { None }
}

fn has_private_key(content: &str) -> bool {
    content.contains("-----BEGIN") && content.contains("PRIVATE KEY-----")
        || content.starts_with("PuTTY-User-Key-File")
}

fn config_key(name: &str, content: &str) -> Option<String> {
    if extension(name) == "json"
        && let Ok(value) = serde_json::from_str::<serde_json::Value>(content)
    {
        return json_key(&value);
    }
    content.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("- ");
        if line.starts_with(['#', ';', '[']) || line.starts_with("//") {
            return None;
        }
        let (key, value) = line.split_once(['=', ':'])?;
        let value = value.split(" #").next().unwrap_or(value).trim().trim_end_matches(',');
        let key = bare(key);
        (accused(key) && real(bare(value))).then(|| key.to_string())
    })
}

fn json_key(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Object(map) => map.iter().find_map(|(key, value)| match value {
            serde_json::Value::String(text) => (accused(key) && real(text)).then(|| key.clone()),
            other => json_key(other),
        }),
        serde_json::Value::Array(items) => items.iter().find_map(json_key),
        _ => None,
    }
}

fn bare(text: &str) -> &str {
    text.trim().trim_matches(['"', '\'']).trim()
}

fn accused(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace(['-', ' '], "_");
    if matches!(key.as_str(), "token" | "secret" | "password" | "passwd" | "apikey" | "api_key") {
        return true;
    }
    // Not `_token` as such: `bos_token`, `pad_token` and their kind are everywhere.
    [
        "_api_key",
        "_apikey",
        "_secret",
        "_password",
        "access_token",
        "auth_token",
        "hf_token",
        "api_token",
        "civitai_token",
        "github_token",
        "bearer_token",
        "refresh_token",
        "huggingface_token",
        "secret_key",
        "secret_access_key",
        "private_key",
    ]
    .iter()
    .any(|suffix| key.ends_with(suffix))
}

fn real(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let words = ["your", "xxx", "changeme", "change_me", "placeholder", "example", "insert", "paste"];
    let plain = ["none", "null", "true", "false", "todo", "default", "undefined", "string"];
    value.len() >= 4
        && !value.contains(char::is_whitespace)
        && !value.starts_with(['<', '$', '{', '[', '%', '(', '|', '>'])
        && !lower.starts_with("env:")
        && !words.iter().any(|word| lower.contains(word))
        && !plain.contains(&lower.as_str())
        && value.chars().any(|c| c.is_ascii_alphanumeric())
        && value.bytes().any(|b| b != value.as_bytes()[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_by_name() {
        for path in [".env", "a/.env.local", ".netrc", "id_ed25519", "huggingface/token", ".git-credentials"]
        {
            assert!(secret_name(path.as_bytes()).is_some(), "{path}");
        }
        for path in [".env.example", ".env.local.sample", "token", "id_rsa.pub", "env", "token.py"] {
            assert!(secret_name(path.as_bytes()).is_none(), "{path}");
        }
    }

    /// A RECORD's word is not taken for them: `trees::promise`.
    #[test]
    fn what_may_be_a_secret() {
        for path in ["config.ini", "key.pem", "token", ".netrc"] {
            assert!(suspect(path.as_bytes(), 15), "{path}");
        }
        assert!(!suspect(b"module.py", 15));
    }

    fn content(path: &str, body: &str) -> bool {
        wants_content(path.as_bytes(), body.len() as u64)
            && secret_content(path.as_bytes(), body.as_bytes(), true).is_some()
    }

    #[test]
    fn secrets_by_content() {
        assert!(content("k.pem", "-----BEGIN RSA PRIVATE KEY-----\nx"));
        assert!(!content("ca.pem", "-----BEGIN CERTIFICATE-----\nx"));
        assert!(content("config.ini", "[a]\ntoken = hf_abcdefgh\n"));
        assert!(!content("config.ini", "[a]\ntoken =\n; token = hf_abc\n"));
        assert!(!content("config.ini", "token = <your token here>\n"));
        assert!(content("config.json", r#"{"a": {"api_key": "sk-123456789"}}"#));
        assert!(!content("config.json", r#"{"bos_token": "begin", "max_tokens": "1000"}"#));
        assert!(content("settings.yaml", "server:\n  password: \"hunter2\"\n"));
        assert!(!content("settings.yaml", "password: ${PASSWORD}\n"));
        assert!(content(
            "my-service-account.json",
            r#"{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\nMII"}"#
        ));
        assert!(!content("config.py", "token = 'hf_abcdefgh'"));
        // As people name keys; Hugging Face's in a folder of another name.
        for name in ["deploy_key", "id_rsa_work", "x/my-ed25519"] {
            assert!(content(name, "-----BEGIN OPENSSH PRIVATE KEY-----\nx"), "{name}");
            assert!(!content(name, "ssh-rsa AAAA"), "{name}");
        }
        assert!(
            content("hf/token", "hf_abcdefgh") && content("hf/stored_tokens", "[me]\nhf_token = hf_abc\n")
        );
        assert!(
            !content("tokenizer/token", "a word") && !content("keyboard.py", "-----BEGIN PRIVATE KEY-----")
        );
        assert!(!content("workflow.json", r#"{"token": "hf_abcdefgh"}"#));
    }
}
