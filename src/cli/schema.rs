//! The schema of the configuration, as JSON Schema (draft 2020-12): `nix/lib` checks hosts and projects written in Nix
//! against it, and an editor can do the same for the TOML files. The Rust types are its one source. The same of the
//! stream of events.
use super::printer::Printer;
use super::settings::Config;
use crate::deploy::events::Line;
use crate::ship::hosts::HostConfig;
use crate::sys::error::Result;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which schema: that of stillframe.toml (default) or of a host's file (each has the definitions of both), or of a line of the stream that
    /// `deploy`, `rollback` and `attach` print with --json.
    #[arg(value_enum)]
    of: Option<Of>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Of {
    Project,
    Host,
    Events,
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

/// A line of the stream of `deploy`, `rollback` and `attach`.
pub fn events() -> Value {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<Line>().to_value()
}

pub fn run(args: &Args, printer: &Printer) -> Result<ExitCode> {
    let of_file = |name: &str| {
        let mut value = schema();
        value["$ref"] = json!(format!("#/$defs/{name}"));
        value
    };
    printer.document(&match args.of {
        None | Some(Of::Project) => of_file("Config"),
        Some(Of::Host) => of_file("HostConfig"),
        Some(Of::Events) => events(),
    });
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "schema_text.rs"]
mod text;

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use std::collections::BTreeSet;

    /// `cargo test` with STILLFRAME_WRITE_GOLDEN=1 writes them anew.
    fn same(file: &str, now: &str) {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("STILLFRAME_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, now).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), now, "{}", file.display());
    }

    /// Each kind of line that docs/json.md names is in the schema, and no other.
    #[test]
    fn the_documented_stream_is_in_the_schema() {
        let schema = super::events();
        let Value::Array(kinds) = &schema["$defs"]["Event"]["oneOf"] else { panic!("{schema:#}") };
        let in_schema: BTreeSet<&str> =
            kinds.iter().filter_map(|kind| kind["properties"]["type"]["const"].as_str()).collect();
        let text = include_str!("../../docs/json.md");
        let (_, stream) = text.split_once("## The stream of").unwrap();
        let rows = stream.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut documented: BTreeSet<&str> = rows.collect();
        documented.remove("type");
        // Of `attach`, in words below the table.
        documented.insert("attempt");
        assert_eq!(in_schema, documented);
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
