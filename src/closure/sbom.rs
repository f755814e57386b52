//! A snapshot as a software bill of materials: CycloneDX 1.6 JSON (ECMA-424). What is named comes from the lock; licences from the
//! distributions' own METADATA. The same snapshot gives the same document.
use crate::capture::model::lock::{DistributionLock, GitLock, Lock, PackLock};
use crate::capture::trees::tree::TreeRef;
use crate::closure::registry::Record;
use crate::formats::hex::hex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A number for the document, from the snapshot's own name (RFC 9562, version 8).
fn serial(snapshot: &str) -> String {
    use sha2::{Digest, Sha256};
    let mut bytes: [u8; 32] = Sha256::digest(snapshot.as_bytes()).into();
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes[..16]);
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn object(pairs: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let map: Map<String, Value> =
        pairs.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect();
    Value::Object(map)
}

fn property(name: &str, value: &str) -> Value {
    json!({"name": format!("stillframe:{name}"), "value": value})
}

/// The NAR hash is of Nix's own format, not of a file that somebody could have: a property, not a hash.
fn tree(tree: &TreeRef) -> Value {
    property("nar-hash", &format!("sha256:{}", tree.nar_hash.to_hex()))
}

/// Identifiers of the SPDX licence list that Python distributions use. What is not here is a licence's name, never an
/// expression: a tool that checks would refuse it.
const SPDX: &[&str] = &[
    "0BSD",
    "AFL-3.0",
    "AGPL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSD-4-Clause",
    "BSL-1.0",
    "Bitstream-Vera",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "CNRI-Python",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.2",
    "FTL",
    "GPL-2.0",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "IJG",
    "ISC",
    "LGPL-2.1",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-1.1",
    "MPL-2.0",
    "NCSA",
    "OFL-1.1",
    "PSF-2.0",
    "PostgreSQL",
    "Python-2.0",
    "Python-2.0.1",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "W3C",
    "WTFPL",
    "Zlib",
    "ZPL-2.1",
    "blessing",
    "bzip2-1.0.6",
    "curl",
    "libtiff",
    "zlib-acknowledgement",
    // Exceptions, behind WITH.
    "Autoconf-exception-3.0",
    "Classpath-exception-2.0",
    "GCC-exception-2.0",
    "GCC-exception-3.1",
    "LLVM-exception",
    "Linux-syscall-note",
];

/// CycloneDX keeps SPDX expressions and names of licences apart.
fn licences(text: Option<&String>) -> Option<Value> {
    let text = text.filter(|t| !t.is_empty())?;
    let mut identifier = true;
    let words = text.split(|c: char| c.is_whitespace() || "()".contains(c)).filter(|w| !w.is_empty());
    let expression = words.into_iter().all(|word| {
        let fine = match identifier {
            true => SPDX.contains(&word.trim_end_matches('+')) || word.starts_with("LicenseRef-"),
            false => matches!(word, "AND" | "OR" | "WITH"),
        };
        identifier = !identifier;
        fine
    });
    // It ends with an identifier.
    Some(match expression && !identifier {
        true => json!([{"expression": text}]),
        false => json!([{"license": {"name": text}}]),
    })
}

/// Percent-encoded as package-url asks: what is not unreserved.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn distribution(d: &DistributionLock, licence: Option<&String>) -> Value {
    let wheel = d.wheel.as_ref();
    // Of an index only what a wheel of one vouches for: a local build of the same name is something else.
    let purl = wheel.map(|_| format!("pkg:pypi/{}@{}", encoded(&d.name), encoded(&d.version)));
    let reference = purl.clone().unwrap_or_else(|| format!("distribution:{}@{}", d.name, d.version));
    object([
        ("type", Some(json!("library"))),
        ("bom-ref", Some(json!(reference))),
        ("name", Some(json!(d.name))),
        ("version", Some(json!(d.version))),
        ("purl", purl.map(Value::from)),
        ("licenses", licences(licence)),
        (
            "externalReferences",
            wheel.map(|w| {
                json!([{"type": "distribution", "url": w.url,
                    "hashes": [{"alg": "SHA-256", "content": w.sha256.to_hex()}]}])
            }),
        ),
        ("properties", Some(json!([property("provenance", d.provenance.name()), tree(&d.tree)]))),
    ])
}

/// A repository's address may hold somebody's token.
fn without_user(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))) {
        Some((scheme, (user, rest))) if !user.contains('/') => format!("{scheme}://{rest}"),
        _ => url.to_string(),
    }
}

fn repository(git: Option<&GitLock>) -> Option<Value> {
    let remote = git?.remote.as_ref()?;
    Some(json!([{"type": "vcs", "url": without_user(remote)}]))
}

fn pack(p: &PackLock) -> Value {
    let commit = p.git.as_ref().and_then(|g| g.commit.clone());
    let dirty = p.git.as_ref().and_then(|g| g.dirty);
    let mut properties = vec![tree(&p.tree)];
    properties.extend(dirty.map(|dirty| property("dirty", if dirty { "true" } else { "false" })));
    object([
        ("type", Some(json!("library"))),
        ("bom-ref", Some(json!(format!("pack:{}", p.name)))),
        ("group", Some(json!("custom_nodes"))),
        ("name", Some(json!(p.name))),
        ("version", commit.map(Value::from)),
        ("externalReferences", repository(p.git.as_ref())),
        ("properties", Some(Value::Array(properties))),
    ])
}

/// A program of the workstation, or a file or folder of its system.
fn of_the_system(kind: &str, group: &str, name: &str, files: &TreeRef) -> Value {
    json!({"type": kind, "bom-ref": format!("{group}:{name}"), "group": group, "name": name, "properties": [tree(files)]})
}

/// `licences`: of distributions, by name.
pub fn cyclonedx(record: &Record, lock: &Lock, licences: &BTreeMap<String, String>) -> Value {
    let main = "comfyui";
    let version = lock.main.version.clone().or_else(|| lock.main.git.as_ref()?.commit.clone());
    let program = object([
        ("type", Some(json!("application"))),
        ("bom-ref", Some(json!(main))),
        ("name", Some(json!("ComfyUI"))),
        ("version", version.map(Value::from)),
        ("externalReferences", repository(lock.main.git.as_ref())),
        ("properties", Some(json!([tree(&lock.main.tree)]))),
    ]);
    let mut python = vec![property("system", &lock.system)];
    python.extend(lock.runtime.tree.as_ref().map(tree));
    python.extend(lock.runtime.store_path.as_ref().map(|path| property("store-path", path)));
    let runtime = json!({"type": "platform", "bom-ref": "python", "name": "CPython", "version": lock.runtime.version,
        "cpe": format!("cpe:2.3:a:python:python:{}:*:*:*:*:*:*:*", lock.runtime.version), "properties": python});
    let mut components = vec![program, runtime];
    components.extend(lock.packs.iter().map(pack));
    components
        .extend(lock.programs.iter().map(|p| of_the_system("application", "program", &p.name, &p.tree)));
    let numbered = lock.program_libraries.iter().zip(1..);
    components.extend(
        numbered.map(|(tree, n)| of_the_system("library", "program-libraries", &n.to_string(), tree)),
    );
    components.extend(lock.system_files.iter().map(|f| of_the_system("file", "system", &f.at, &f.tree)));
    components.extend(lock.distributions.iter().map(|d| distribution(d, licences.get(&d.name))));
    let inner: Vec<Value> = components.iter().map(|c| c["bom-ref"].clone()).collect();
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial(&record.snapshot),
        "version": 1,
        "metadata": {
            "timestamp": record.created,
            "tools": {"components": [{"type": "application", "name": "stillframe", "version": record.stillframe}]},
            "component": {"type": "application", "bom-ref": "snapshot", "name": record.service, "version": record.id,
                "properties": [property("store-path", &record.snapshot)]},
        },
        "components": components,
        "dependencies": [{"ref": "snapshot", "dependsOn": inner}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_expressions_or_names() {
        let of = |text: &str| licences(Some(&text.to_string())).unwrap_or_default();
        assert_eq!(of("MIT"), json!([{"expression": "MIT"}]));
        assert_eq!(
            of("BSD-3-Clause AND (MIT OR 0BSD)"),
            json!([{"expression": "BSD-3-Clause AND (MIT OR 0BSD)"}])
        );
        assert_eq!(of("BSD License"), json!([{"license": {"name": "BSD License"}}]));
        assert_eq!(
            of("Copyright (c) 2020, somebody"),
            json!([{"license": {"name": "Copyright (c) 2020, somebody"}}])
        );
        for name in ["UNKNOWN", "BSD", "MIT License", "MIT AND", "AND MIT", "MIT BSD"] {
            assert_eq!(of(name), json!([{"license": {"name": name}}]));
        }
        assert_eq!(
            of("GPL-2.0+ WITH GCC-exception-2.0"),
            json!([{"expression": "GPL-2.0+ WITH GCC-exception-2.0"}])
        );
        assert_eq!(of(""), Value::Null);
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(encoded("torch-2.1.0+cu121"), "torch-2.1.0%2Bcu121");
        let number = serial("/nix/store/x");
        assert_eq!((number.len(), &number[..9], &number[23..24]), (45, "urn:uuid:", "8"));
        assert_eq!(number, serial("/nix/store/x"));
        assert_eq!(without_user("https://token@git.example/a@b.git"), "https://git.example/a@b.git");
        assert_eq!(without_user("git@git.example:a/b.git"), "git@git.example:a/b.git");
    }
}
