//! uv's index settings: variables, the user's uv.toml, the system's.
use super::sources::{Found, SettingsInput, read_text};
use crate::sys::error::{Error, Kind, Result};

/// uv's configuration: the user's file before the system's, variables before both.
pub(super) fn read(input: &SettingsInput, found: &mut Found) -> Result<()> {
    let mut main = false;
    for name in ["UV_DEFAULT_INDEX", "UV_INDEX_URL"] {
        if let Some(value) = input.var(name)
            && !main
        {
            main = true;
            named(input, found, true, value, name);
        }
    }
    for name in ["UV_INDEX", "UV_EXTRA_INDEX_URL"] {
        let value = input.var(name).cloned().unwrap_or_default();
        for word in value.split_whitespace() {
            named(input, found, false, word, name);
        }
    }
    let project = |name: &str| input.project.as_ref().map(|folder| folder.join(name));
    let user = input.config_home().map(|config| config.join("uv/uv.toml"));
    let system = Some(input.root.join("etc/uv/uv.toml"));
    // uv ignores pyproject.toml where a uv.toml stands beside it.
    let own = project("uv.toml").filter(|file| file.exists());
    let own = own.or_else(|| project("pyproject.toml"));
    for file in [own, user, system].into_iter().flatten() {
        let Some(text) = read_text(&file)? else {
            continue;
        };
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            Error::new(Kind::Input, format!("{} is no uv configuration", file.display()))
                .hint("correct the file")
                .caused_by(e)
        })?;
        if file.ends_with("pyproject.toml") {
            let tool = table.get("tool").and_then(|tool| tool.get("uv"));
            let Some(own) = tool.and_then(toml::Value::as_table).cloned() else {
                continue;
            };
            table = own;
        }
        let from = file.display().to_string();
        for table in [Some(&table), table.get("pip").and_then(toml::Value::as_table)] {
            let Some(table) = table else { continue };
            uv_table(input, found, table, &from, &mut main);
        }
    }
    Ok(())
}

fn uv_table(input: &SettingsInput, found: &mut Found, table: &toml::Table, from: &str, main: &mut bool) {
    let string =
        |table: &toml::Table, key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    if let Some(url) = string(table, "index-url")
        && !std::mem::replace(main, true)
    {
        found.add(true, &url, from);
    }
    let list = |key: &str| table.get(key).and_then(toml::Value::as_array).into_iter().flatten();
    for url in list("extra-index-url").filter_map(toml::Value::as_str) {
        found.add(false, url, from);
    }
    list("find-links").filter_map(toml::Value::as_str).for_each(|link| found.find_links(link));
    for index in list("index").filter_map(toml::Value::as_table) {
        let Some(url) = string(index, "url") else {
            continue;
        };
        let default = index.get("default").and_then(toml::Value::as_bool) == Some(true);
        if default && std::mem::replace(main, true) {
            continue;
        }
        let text = match string(index, "name") {
            Some(name) => format!("{name}={url}"),
            None => url,
        };
        named(input, found, default, &text, from);
    }
}

/// `name=url` as uv writes it; the name finds `UV_INDEX_<NAME>_USERNAME` and `_PASSWORD`.
fn named(input: &SettingsInput, found: &mut Found, primary: bool, text: &str, from: &str) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let (name, url) = match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && name.chars().all(is_name) => (Some(name), url),
        _ => (None, text),
    };
    let Some(slot) = found.add(primary, url, from) else {
        return;
    };
    if let Some(name) = name {
        let key: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        let user = input.var(&format!("UV_INDEX_{key}_USERNAME"));
        let password = input.var(&format!("UV_INDEX_{key}_PASSWORD"));
        *slot = slot.clone().with_credentials(user, password);
    }
}
