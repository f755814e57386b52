//! The schema as a document for people: docs/config.md.
use serde_json::Value;
use std::fmt::Write;

const HEAD: &str = "# Configuration

Written from the program's own schema (`stillframe schema`): every key of `stillframe.toml` and of `hosts/NAME.toml` or `hosts/NAME.nix`.
Every key may be left out but a host's `address`; what nobody says has the default in brackets. A host's `[service]` comes before the
project's. Sizes are IEC 80000-13 (`KiB`, `MiB`, `GiB`, `TiB`) or SI (`kB`, `MB`, `GB`, `TB`); times are `ms`, `s`, `min`, `h`, `d`.
Unknown keys are errors. The same keys go into Nix: `service.port = 8188;`.
";

/// Follows references, and \"this or null\" to this; the description beside them is kept.
fn resolve(root: &Value, schema: &Value) -> Value {
    let mut beside = schema.as_object().cloned().unwrap_or_default();
    let reference = beside.remove("$ref").and_then(|r| r.as_str().map(String::from));
    let some: Vec<Value> = match schema["anyOf"].as_array() {
        Some(all) => all.iter().filter(|s| s["type"] != "null").cloned().collect(),
        None => Vec::new(),
    };
    let inner = match (reference, some.as_slice()) {
        (Some(reference), _) => resolve(root, &root["$defs"][reference.trim_start_matches("#/$defs/")]),
        (None, [only]) => {
            beside.remove("anyOf");
            resolve(root, only)
        }
        _ => return schema.clone(),
    };
    let mut merged = inner.as_object().cloned().unwrap_or_default();
    merged.extend(beside);
    Value::Object(merged)
}

fn expects(root: &Value, schema: &Value) -> String {
    if let Some(text) = schema["x-expects"].as_str() {
        return text.to_string();
    }
    if let Some(all) = schema["enum"].as_array() {
        return all.iter().filter(|v| !v.is_null()).map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
    }
    if !schema["const"].is_null() {
        return format!("`{}`", schema["const"]);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(all) = schema[key].as_array() {
            let parts = all.iter().filter(|s| s["type"] != "null").map(|s| expects(root, &resolve(root, s)));
            return parts.collect::<Vec<_>>().join(" or ");
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).filter(|t| *t != "null").collect(),
        _ => Vec::new(),
    };
    let word = |t: &&str| match *t {
        "string" => "text".to_string(),
        "integer" => "a whole number".into(),
        "number" => "a number".into(),
        "boolean" => "`true` or `false`".into(),
        "array" => match &schema["items"] {
            Value::Null => "a list".into(),
            items => format!("a list of {}", expects(root, &resolve(root, items)).trim_start_matches("a ")),
        },
        "object" => "a table".into(),
        other => other.into(),
    };
    types.iter().map(word).collect::<Vec<_>>().join(" or ")
}

fn rows(root: &Value, schema: &Value, prefix: &str, out: &mut Vec<(String, String, String)>) {
    let schema = resolve(root, schema);
    let join = |name: &str| if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
    for (name, given) in schema["properties"].as_object().into_iter().flatten() {
        let child = resolve(root, given);
        let items = resolve(root, &child["items"]);
        let more = &child["additionalProperties"];
        let named = resolve(root, more);
        let description = child["description"].as_str().unwrap_or_default().replace('\n', " ");
        if child["properties"].is_object() {
            rows(root, &child, &join(name), out);
        } else if named["properties"].is_object() {
            rows(root, &named, &format!("{}.NAME", join(name)), out);
        } else if more.is_object() {
            out.push((format!("{}.NAME", join(name)), expects(root, &named), description));
        } else {
            out.push((join(name), expects(root, &child), description));
            if items["properties"].is_object() {
                rows(root, &items, &format!("{}[]", join(name)), out);
            }
        }
    }
}

pub fn markdown(root: &Value) -> String {
    let mut text = HEAD.to_string();
    for (title, name) in [("stillframe.toml", "Config"), ("hosts/NAME.toml, hosts/NAME.nix", "HostConfig")] {
        let mut all = Vec::new();
        rows(root, &root["$defs"][name], "", &mut all);
        if name == "HostConfig" {
            // The same as the project's, which has it above.
            all.retain(|(key, _, _)| !key.starts_with("service."));
            let same = "What differs here from `[service]` of stillframe.toml: the same keys.";
            all.push(("service".into(), "a table".into(), same.into()));
        }
        let _ = write!(text, "\n## {title}\n\n| key | value | meaning |\n|---|---|---|\n");
        for (key, value, meaning) in all {
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(text, "| `{key}` | {} | {} |", cell(&value), cell(&meaning));
        }
    }
    text
}

const DOCUMENTS: &str = "## Documents

Written from the program's own types (`stillframe schema NAME`): every field of every document. `[]` is an item of a list, NAME a name that the
document itself brings; a field of one form of several is there only in that form.
";

/// The documents of `--json`, a table each. What several have is described once, at the first.
pub fn documents(schemas: &[(&str, Value)]) -> String {
    let mut text = DOCUMENTS.to_string();
    for (name, root) in schemas {
        let _ = write!(
            text,
            "\n### {}\n\n| field | value | meaning |\n|---|---|---|\n",
            name.replacen('-', " ", 1)
        );
        let mut all = Vec::new();
        fields(root, root, "", &mut all);
        let mut seen = std::collections::BTreeSet::new();
        for (key, value, meaning) in all.into_iter().filter(|(key, ..)| seen.insert(key.clone())) {
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(text, "| `{key}` | {} | {} |", cell(&value), cell(&meaning));
        }
    }
    text
}

/// Every field of an object, of all its forms.
fn fields(root: &Value, schema: &Value, prefix: &str, out: &mut Vec<(String, String, String)>) {
    let schema = resolve(root, schema);
    for form in ["allOf", "anyOf", "oneOf"] {
        schema[form].as_array().into_iter().flatten().for_each(|form| fields(root, form, prefix, out));
    }
    for (name, given) in schema["properties"].as_object().into_iter().flatten() {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let child = resolve(root, given);
        let description = child["description"].as_str().unwrap_or_default().replace('\n', " ");
        out.push((key.clone(), expects(root, &child), description));
        fields(root, &child, &key, out);
        if child["items"].is_object() {
            fields(root, &child["items"], &format!("{key}[]"), out);
        }
        if child["additionalProperties"].is_object() {
            fields(root, &child["additionalProperties"], &format!("{key}.NAME"), out);
        }
    }
}
