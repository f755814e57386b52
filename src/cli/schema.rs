//! The schema of the configuration, as JSON Schema (draft 2020-12): `nix/lib` checks hosts and projects written in Nix
//! against it, and an editor can do the same for the TOML files. The Rust types are its one source.
use super::printer::Printer;
use super::settings::Config;
use crate::ship::hosts::HostConfig;
use crate::sys::error::Result;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of which file: stillframe.toml, or a host's; by default both, as definitions.
    #[arg(value_enum)]
    of: Option<Of>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Of {
    Project,
    Host,
}

/// Both files' schemas, as `#/$defs/Config` and `#/$defs/HostConfig`.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<Config>();
    generator.subschema_for::<HostConfig>();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": generator.take_definitions(true),
    })
}

pub fn run(args: &Args, printer: &Printer) -> Result<ExitCode> {
    let mut value = schema();
    if let Some(of) = args.of {
        let name = if of == Of::Project { "Config" } else { "HostConfig" };
        value["$ref"] = json!(format!("#/$defs/{name}"));
    }
    printer.document(&value);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "schema_text.rs"]
mod text;

#[cfg(test)]
mod tests {
    /// `cargo test` with STILLFRAME_WRITE_GOLDEN=1 writes them anew.
    fn same(file: &str, now: &str) {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("STILLFRAME_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, now).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), now, "{}", file.display());
    }

    #[test]
    fn the_library_in_nix_has_this_schema() {
        same("nix/lib/schema.json", &format!("{:#}\n", super::schema()));
    }

    #[test]
    fn the_reference_for_people_has_it_too() {
        same("docs/config.md", &super::text::markdown(&super::schema()));
    }
}
