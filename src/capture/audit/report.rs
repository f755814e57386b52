//! The audit in words: what does not load, what would load something else, and what to do.
use crate::capture::audit::{AuditReport, Provided, Unmet};
use crate::capture::model::report::{Finding, Severity, Topic};

/// `advise` says how to bring a library that this machine has, and `None` of one that it lacks.
pub fn findings(
    report: &AuditReport,
    provided: &Provided,
    advise: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, path: &str, message: String| {
        findings.push(Finding { severity, topic: Topic::Audit, path: path.into(), message });
    };
    for Unmet { file, library } in &report.unmet {
        match advise(library) {
            Some(advice) => add(
                Severity::Problem,
                file,
                format!("needs {library}, which nothing in the snapshot has; {advice}"),
            ),
            // It does not load here either: optional parts of large wheels are like that.
            None => add(
                Severity::Info,
                file,
                format!("needs {library}, which neither the snapshot nor this machine has"),
            ),
        }
    }
    for hidden in &report.hidden {
        add(
            Severity::Warning,
            &hidden.file,
            format!("its RUNPATH hides the snapshot's {}; the host's would be used", hidden.library),
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

/// What is no fault here, and may be one on a host.
fn in_words(report: &AuditReport) -> Vec<(&'static str, String)> {
    fn some<'a>(all: impl ExactSizeIterator<Item = &'a str>) -> String {
        const SHOWN: usize = 3;
        let more = all.len().saturating_sub(SHOWN);
        let shown = all.take(SHOWN).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    }
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
