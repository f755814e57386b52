//! The schema of the configuration, as JSON Schema (draft 2020-12): `nix/lib` checks hosts and projects written in Nix
//! against it, and an editor can do the same for the TOML files. The Rust types are its one source. The same of what
//! commands print with `--json`.
use super::documents;
use super::printer::Printer;
use super::settings::Config;
use crate::ship::hosts::HostConfig;
use crate::sys::error::{Error, Kind, Result};
use clap::builder::PossibleValuesParser;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which schema: that of stillframe.toml (`project`, the default), of a host's file (`host`; each has the definitions of both), of a
    /// command's document of --json, of an `error`, or of a line of a stream (`events`: deploy, rollback, attach; `logs`,
    /// `jobs-watch`, `jobs-export`).
    #[arg(value_parser = names())]
    of: Option<String>,
}

fn names() -> PossibleValuesParser {
    let all = ["project", "host"].iter().chain(documents::NAMES).chain(documents::OTHERS);
    PossibleValuesParser::new(all.copied())
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
    let of_file = |name: &str| {
        let mut value = schema();
        value["$ref"] = json!(format!("#/$defs/{name}"));
        value
    };
    printer.document(&match args.of.as_deref() {
        None | Some("project") => of_file("Config"),
        Some("host") => of_file("HostConfig"),
        Some(name) => documents::schema(name)
            .ok_or_else(|| Error::new(Kind::Input, format!("there is no schema of {name:?}")))?,
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
        let schema = super::documents::schema("events").unwrap();
        let Value::Array(kinds) = &schema["$defs"]["Event"]["oneOf"] else { panic!("{schema:#}") };
        let in_schema: BTreeSet<&str> =
            kinds.iter().filter_map(|kind| kind["properties"]["type"]["const"].as_str()).collect();
        let text = include_str!("../../docs/json.md");
        let (_, stream) = text.split_once("## The stream of").unwrap();
        let (stream, _) = stream.split_once("## Documents").unwrap();
        let rows = stream.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut documented: BTreeSet<&str> = rows.collect();
        documented.remove("type");
        // Of `attach`, in words below the table.
        documented.insert("attempt");
        assert_eq!(in_schema, documented);
    }

    /// The part of docs/json.md below its head is written from the types.
    #[test]
    fn every_document_is_described_from_its_type() {
        let text = include_str!("../../docs/json.md");
        let (head, _) = text.split_once("## Documents").unwrap();
        let schemas =
            super::documents::NAMES.iter().chain(&["snapshot", "error", "logs", "jobs-export", "jobs-watch"]);
        let schemas: Vec<(&str, Value)> =
            schemas.map(|name| (*name, super::documents::schema(name).unwrap())).collect();
        same("docs/json.md", &format!("{head}{}", super::text::documents(&schemas)));
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
