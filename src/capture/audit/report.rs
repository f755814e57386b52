//! The audit in words: what does not load, what would load something else, and what to do.
use crate::capture::audit::{AuditReport, Provided, Unmet};
use crate::capture::model::report::{Finding, Severity, Topic};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How a library that this machine has, and the snapshot has not, gets into the snapshot.
pub enum Bring<'a> {
    /// A store path stands in for the captured runtime: it must have the library.
    Runtime(&'a str),
    /// `[python] libraries`, as it is configured now.
    Libraries(&'a [String]),
}

/// `here` finds a library on this machine, as the dynamic linker would.
pub fn findings(
    report: &AuditReport,
    provided: &Provided,
    bring: &Bring<'_>,
    here: impl Fn(&str) -> Option<PathBuf>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, path: &str, message: String| {
        findings.push(Finding { severity, topic: Topic::Audit, path: path.into(), message });
    };
    let mut wanted = Vec::new();
    for (library, files) in by_library(&report.unmet) {
        let needs = format!("needs {library}{}", and_more(&files, "does", "do"));
        match here(library) {
            Some(path) => {
                let path = path.display().to_string();
                let advice = match bring {
                    Bring::Runtime(given) => format!("the Python runtime {given} must bring it"),
                    Bring::Libraries(_) => format!("add {path} to [python] libraries"),
                };
                add(
                    Severity::Problem,
                    files[0],
                    format!("{needs}, which nothing in the snapshot has; {advice}"),
                );
                wanted.push(path);
            }
            // It does not load here either: optional parts of large wheels are like that.
            None => add(
                Severity::Info,
                files[0],
                format!("{needs}, which neither the snapshot nor this machine has"),
            ),
        }
    }
    if let (Bring::Libraries(configured), 2..) = (bring, wanted.len()) {
        let count = wanted.len();
        let all: Vec<String> =
            configured.iter().chain(&wanted).map(|path| serde_json::json!(path).to_string()).collect();
        // TOML's basic strings are written as JSON's.
        let line = format!("libraries = [{}]", all.join(", "));
        add(
            Severity::Info,
            "stillframe.toml",
            format!("this line under [python] ships the {count} missing libraries: {line}"),
        );
    }
    for (library, files) in by_library(&report.hidden) {
        let more = and_more(&files, "does that of", "do those of");
        add(
            Severity::Warning,
            files[0],
            format!("its RUNPATH hides the snapshot's {library}{more}; the host's would be used"),
        );
    }
    for (path, message) in in_words(report) {
        add(Severity::Info, path, message);
    }
    for conflict in &report.conflicts {
        add(Severity::Warning, conflict.subject(), conflict.to_string());
    }
    if let Some((floor, file)) = &report.glibc_floor
        && *floor > provided.glibc
    {
        add(
            Severity::Problem,
            file,
            format!(
                "needs GLIBC {}.{}, the captured C library is {}.{}",
                floor.0, floor.1, provided.glibc.0, provided.glibc.1
            ),
        );
    }
    findings
}

/// Each library once, with the files that need it: large wheels need one library in dozens of files.
fn by_library(unmet: &[Unmet]) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Unmet { file, library } in unmet {
        found.entry(library).or_default().push(file);
    }
    found
}

/// The files behind the first, which is the finding's own; what one of them does, and what several do.
fn and_more(files: &[&str], one: &str, several: &str) -> String {
    match &files[1..] {
        [] => String::new(),
        [other] => format!(" (so {one} {other})"),
        others => format!(" (so {several} {})", some(others.iter().copied())),
    }
}

fn some<'a>(all: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 3;
    let more = all.len().saturating_sub(SHOWN);
    let shown = all.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// What is no fault here, and may be one on a host.
fn in_words(report: &AuditReport) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let programs = &report.host_programs;
    if let Some(first) = programs.first() {
        let files = some(programs.iter().map(|p| p.file.as_str()));
        let message = format!("start through the host's own dynamic linker ({}): {files}", first.interp);
        out.push(("programs", message));
    }
    if !report.passed_over.is_empty() {
        let files = some(report.passed_over.iter().map(String::as_str));
        out.push(("libraries", format!("damaged, or for another machine, and not audited: {files}")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::audit::HostProgram;

    #[test]
    fn a_library_is_one_line_and_several_have_a_line_to_paste() {
        let unmet = |file: &str, library: &str| Unmet { file: file.into(), library: library.into() };
        let mut report = AuditReport {
            unmet: vec![
                unmet("cv2/a.so", "libGL.so.1"),
                unmet("cv2/b.so", "libEGL.so.1"),
                unmet("cv2/b.so", "libGL.so.1"),
                unmet("cv2/c.so", "libGL.so.1"),
                unmet("cv2/d.so", "libGL.so.1"),
                unmet("cv2/e.so", "libGL.so.1"),
                unmet("cv2/e.so", "libnowhere.so.1"),
            ],
            ..AuditReport::default()
        };
        let here =
            |library: &str| (library != "libnowhere.so.1").then(|| PathBuf::from("/lib").join(library));
        let said = |report: &AuditReport, bring: &Bring<'_>| -> Vec<(Severity, String, String)> {
            let all = findings(report, &Provided::default(), bring, here);
            all.into_iter().map(|f| (f.severity, f.path, f.message)).collect()
        };
        let configured = ["/opt/with\"quote.so".to_string()];
        let line = |severity, path: &str, message: &str| (severity, path.to_string(), message.to_string());
        let gl = "needs libGL.so.1 (so do cv2/b.so, cv2/c.so, cv2/d.so and 1 more), which nothing in the snapshot has";
        assert_eq!(
            said(&report, &Bring::Libraries(&configured)),
            [
                line(
                    Severity::Problem,
                    "cv2/b.so",
                    "needs libEGL.so.1, which nothing in the snapshot has; add /lib/libEGL.so.1 to [python] libraries"
                ),
                line(
                    Severity::Problem,
                    "cv2/a.so",
                    &format!("{gl}; add /lib/libGL.so.1 to [python] libraries")
                ),
                line(
                    Severity::Info,
                    "cv2/e.so",
                    "needs libnowhere.so.1, which neither the snapshot nor this machine has"
                ),
                line(
                    Severity::Info,
                    "stillframe.toml",
                    "this line under [python] ships the 2 missing libraries: \
                     libraries = [\"/opt/with\\\"quote.so\", \"/lib/libEGL.so.1\", \"/lib/libGL.so.1\"]"
                ),
            ]
        );
        let given = said(&report, &Bring::Runtime("/nix/store/x-python"));
        assert_eq!(given.len(), 3);
        assert_eq!(given[1].2, format!("{gl}; the Python runtime /nix/store/x-python must bring it"));
        report.unmet.truncate(1);
        assert_eq!(said(&report, &Bring::Libraries(&[])).len(), 1);
    }

    #[test]
    fn what_may_be_a_fault_on_a_host_is_said_in_two_lines() {
        assert!(in_words(&AuditReport::default()).is_empty());
        let program = |file: &str| HostProgram { file: file.into(), interp: "/lib64/ld.so".into() };
        let report = AuditReport {
            host_programs: ["a/x", "a/y", "b/z", "c/w"].map(program).to_vec(),
            passed_over: vec!["d/arm.so".into()],
            ..AuditReport::default()
        };
        let wanted = [
            (
                "programs",
                "start through the host's own dynamic linker (/lib64/ld.so): a/x, a/y, b/z and 1 more",
            ),
            ("libraries", "damaged, or for another machine, and not audited: d/arm.so"),
        ];
        assert_eq!(in_words(&report), wanted.map(|(path, text)| (path, text.to_string())));
    }
}
