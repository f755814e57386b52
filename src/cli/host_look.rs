//! What hosts have and lack, each shown as it is looked at.
use super::documents::{Answer, CheckedHost};
use super::fleet;
use super::printer::{Printer, bytes, plain};
use crate::deploy::fleet::Member;
use crate::deploy::look::{self, Look};
use crate::ship::hosts::Host;
use crate::ship::preflight;
use crate::sys::say::counted;

/// Whether hosts are ready for all that `prepare` does not do.
pub fn can_be_prepared(members: &[Member], printer: &Printer) -> bool {
    look(members, false, false, printer).1 == 0
}

/// Shows each, and counts those with a problem.
pub fn look(
    members: &[Member],
    prepared: bool,
    deep: bool,
    printer: &Printer,
) -> (Vec<Answer<CheckedHost>>, usize) {
    let mut unwell = 0;
    let ask = |member: &Member| {
        let mut found = look::look(member, deep)?;
        found.problems.retain(|problem| prepared || !problem.mended_by_prepare);
        if prepared {
            found.problems.extend(preflight::broken(&found.facts));
        }
        Ok(found)
    };
    let (values, failed) = fleet::each_says(members, printer, ask, |member, found| {
        let host = &member.host;
        unwell += usize::from(!found.problems.is_empty());
        show(host, found, printer);
        CheckedHost {
            address: host.target.address.clone(),
            tags: host.tags.to_vec(),
            facts: found.facts.clone(),
            problems: found.problems.clone(),
            notes: found.notes.clone(),
            integrity: found.integrity.clone(),
        }
    });
    (values, failed + unwell)
}

fn show(host: &Host, found: &Look, printer: &Printer) {
    let Look { facts, problems, notes, integrity } = found;
    let name = printer.bold(&host.name);
    let gpus = match (facts.gpus.len(), facts.cuda_driver.as_deref()) {
        (0, _) => "no NVIDIA GPU".to_string(),
        (n, driver) => {
            let gpus = counted(n, "NVIDIA GPU", "NVIDIA GPUs");
            format!("{gpus}, driver {}", driver.unwrap_or("none"))
        }
    };
    printer.line(format!("{name}  {}  {}", plain(&facts.os), host.target.address));
    printer.line(format!(
        "  {} cores, {} memory, {gpus}; systemd {}, Nix {}; {} free for the store",
        facts.cpus,
        bytes(facts.memory_bytes),
        facts.systemd.map_or("-".into(), |v| v.to_string()),
        plain(facts.nix.as_deref().unwrap_or("-")),
        bytes(facts.store_free_bytes),
    ));
    if let Some(integrity) = integrity {
        printer.line(format!(
            "  {} paths that it serves from, {}, read in {:.1} s: {} wrong",
            integrity.paths,
            bytes(integrity.bytes),
            integrity.milliseconds as f64 / 1000.0,
            integrity.wrong.len(),
        ));
    }
    for problem in problems {
        printer.line(format!("  problem: {}\n    hint: {}", plain(&problem.what), problem.hint));
    }
    for note in notes {
        printer.line(format!("  note: {}\n    hint: {}", plain(&note.what), note.hint));
    }
    if problems.is_empty() {
        printer.line("  ready for a deployment");
    }
}
