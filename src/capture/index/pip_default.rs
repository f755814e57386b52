//! pip's built-in default index, read out of pip's source text in the environment: never hard-coded
//! here, and never asked of a running pip, which would run the environment's code.
use super::sources::{MAX_TEXT, SettingsInput, read_text};
use std::io::Read;
use std::path::{Path, PathBuf};
use url::Url;

/// pip's own default index, out of pip's source text.
pub(super) fn find(input: &SettingsInput) -> Option<(String, String)> {
    for site in &input.site_packages {
        let file = site.join("pip/_internal/models/index.py");
        if let Some(url) = read_text(&file).ok().flatten().and_then(|text| default_in(&text)) {
            return Some((url, format!("pip's own default in {}", file.display())));
        }
    }
    let mut folders: Vec<PathBuf> =
        input.stdlib.iter().map(|stdlib| stdlib.join("ensurepip/_bundled")).collect();
    // Debian takes the bundled wheel out of the standard library.
    folders.push(input.root.join("usr/share/python-wheels"));
    for folder in folders {
        let mut wheels: Vec<PathBuf> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.starts_with("pip-") && name.ends_with(".whl")
            })
            .collect();
        wheels.sort();
        for wheel in wheels.iter().rev() {
            if let Some(url) = default_in_wheel(wheel) {
                return Some((url, format!("pip's own default in {}", wheel.display())));
            }
        }
    }
    None
}

fn default_in_wheel(wheel: &Path) -> Option<String> {
    let file = std::fs::File::open(wheel).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut archive = zip::ZipArchive::new(file).ok()?;
    let mut text = String::new();
    let member = archive.by_name("pip/_internal/models/index.py").ok()?;
    member.take(MAX_TEXT).read_to_string(&mut text).ok()?;
    default_in(&text)
}

/// `PyPI = PackageIndex("…"`: the first string of that call, with "simple" joined as pip joins it.
fn default_in(source: &str) -> Option<String> {
    let call = source.split("\nPyPI").nth(1)?.trim_start().strip_prefix('=')?.trim_start();
    let rest = call.strip_prefix("PackageIndex")?.trim_start().strip_prefix('(')?.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let base = rest[1..].split(quote).next()?;
    Some(Url::parse(base).ok()?.join("simple").ok()?.into())
}
