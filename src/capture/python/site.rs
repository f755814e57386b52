//! One site directory, read: its distributions, and what is left over of others.
use crate::capture::files::paths::read_at_most;
use crate::capture::model::report::{Finding, Severity, Topic};
use crate::capture::python::installed::{Installed, LONGEST, Scheme, finding, own_by_record, read_scripts};
use crate::capture::python::leftover::{self, Leftover};
use crate::capture::python::legacy;
use crate::formats::python::direct_url::DirectUrl;
use crate::formats::python::metadata::Metadata;
use crate::formats::python::record::Record;
use crate::formats::python::wheel::Wheel;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Reads every distribution of one site-packages directory, in name order, and what is left over of others.
pub fn read_site(scheme: &Scheme, findings: &mut Vec<Finding>) -> (Vec<Installed>, Vec<Leftover>) {
    let mut names: Vec<OsString> = match fs::read_dir(&scheme.site) {
        Ok(entries) => entries.flatten().map(|e| e.file_name()).collect(),
        Err(e) => {
            findings.push(finding(
                Severity::Problem,
                Topic::Unreadable,
                &scheme.site,
                format!("cannot be listed: {e}"),
            ));
            return (Vec::new(), Vec::new());
        }
    };
    names.sort();
    let (mut found, mut left) = (Vec::new(), Vec::new());
    for name in &names {
        if leftover::set_aside(name.as_bytes()) {
            let why = "what pip had set aside during an installation that it did not end";
            left.push(Leftover::new(scheme.site.join(name), why));
            continue;
        }
        let Some(info) = name.to_str().filter(|n| n.ends_with(".dist-info") || n.ends_with(".egg-info"))
        else {
            continue;
        };
        match read_one(scheme, info, findings) {
            Ok(one) => found.push(one),
            Err(why) => left.push(Leftover::new(scheme.site.join(info), why)),
        }
    }
    let (mut found, more) = leftover::choose(found);
    left.extend(more);
    let names: Vec<&str> = names.iter().filter_map(|name| name.to_str()).collect();
    found.extend(legacy::eggs(scheme, &names, &found, findings));
    // Somebody may have a file of such a name.
    left.retain(|left| {
        !found.iter().any(|one| one.files.values().any(|file| file.disk.starts_with(&left.path)))
    });
    (found, left)
}

/// One distribution, or why its metadata counts for nothing.
fn read_one(scheme: &Scheme, info: &str, findings: &mut Vec<Finding>) -> Result<Installed, String> {
    if !leftover::valid(leftover::named(info)) {
        return Err("no name of a distribution: pip ignores it, too".into());
    }
    let dir = scheme.site.join(info);
    let legacy = info.ends_with(".egg-info");
    let metadata_path = match (legacy, dir.is_file()) {
        (true, true) => dir.clone(),
        (true, false) => dir.join("PKG-INFO"),
        _ => dir.join("METADATA"),
    };
    // Never `fs::read`: a FIFO in place of any of these would hang the capture.
    let read = |path: &Path| read_at_most(path, LONGEST);
    let metadata = read(&metadata_path)
        .map_err(|e| e.to_string())
        .and_then(|bytes| Metadata::parse(&bytes).map_err(|e| e.to_string()))
        .map_err(|e| format!("no usable metadata ({e}), and its files count as owned by no distribution"))?;
    let mut installed = Installed::new(metadata, scheme, info);
    if let Ok(bytes) = read(&dir.join("WHEEL"))
        && let Ok(wheel) = Wheel::parse(&bytes)
    {
        installed.wheel_file = bytes;
        installed.wheel_tags = wheel.tags;
        installed.build = wheel.build;
    } else {
        installed.reason = Some("it has no WHEEL file, so it was not installed from a wheel".into());
    }
    if let Ok(bytes) = read(&dir.join("direct_url.json")) {
        match DirectUrl::parse(&bytes) {
            Ok(url) => installed.direct_url = Some(url),
            Err(e) => installed.reason = Some(format!("its direct_url.json is unreadable: {e}")),
        }
    }
    if let Ok(bytes) = read(&dir.join("entry_points.txt")) {
        read_scripts(&mut installed, &bytes, findings);
    }
    match read(&dir.join("RECORD"))
        .map_err(|e| e.to_string())
        .and_then(|bytes| Record::parse_installed(&bytes).map_err(|e| e.to_string()))
    {
        Ok(record) => own_by_record(&mut installed, &record, findings),
        Err(e) => {
            installed.reason = Some(format!("its RECORD cannot be used: {e}"));
            legacy::own(&mut installed, &dir, findings);
        }
    }
    Ok(installed)
}
