//! What changes on a host against the snapshot that serves there, in a few lines, as far as this workstation
//! took both.
use crate::closure::diff::{self, Change, Diff};
use crate::closure::registry::{Record, Registry};
use crate::protocol::launch::Launch;
use crate::protocol::messages::Serving;

/// More lines than this tell nobody anything.
const LINES: usize = 8;

pub fn changes(registry: &Registry, new: &Record, serving: Option<&Serving>) -> Vec<String> {
    let Some(serving) = serving else { return Vec::new() };
    if serving.snapshot == new.snapshot {
        return vec!["the same snapshot".into()];
    }
    let Ok(old) = registry.find(Some(&serving.snapshot)) else {
        return vec![format!("instead of {}, which was not taken here", serving.snapshot)];
    };
    let (Ok(a), Ok(b)) = (registry.lock(&old), registry.lock(new)) else { return Vec::new() };
    // Both are in this workstation's store, unless that has another place: then nothing is said of it.
    let launch = |record: &Record| Launch::read(&record.launch_file()).ok();
    let starts = launch(&old).zip(launch(new));
    let starts = starts.as_ref().map(|(old, new)| (old, new));
    let diff = diff::diff(&a, &b, starts, (old.probe.as_ref(), new.probe.as_ref()));
    let mut lines = all(&diff);
    if lines.len() > LINES {
        let more = lines.len() - (LINES - 1);
        lines.truncate(LINES - 1);
        lines.push(format!("and {more} more changes: stillframe snapshots diff {} {}", old.id, new.id));
    }
    lines
}

fn all(diff: &Diff) -> Vec<String> {
    let groups = [
        ("main program ", diff.main.iter().collect::<Vec<_>>()),
        ("Python ", diff.runtime.iter().collect()),
        ("pack ", diff.packs.iter().collect()),
        ("distribution ", diff.distributions.iter().collect()),
        ("cache ", diff.cache.iter().collect()),
        ("folder outside ", diff.sources.iter().collect()),
        ("", diff.unowned.iter().collect()),
        ("system's ", diff.system.iter().collect()),
        ("service's ", diff.service.iter().collect()),
    ];
    groups.iter().flat_map(|(what, changes)| changes.iter().map(move |c| line(what, c))).collect()
}

fn line(what: &str, change: &Change) -> String {
    let mut sides: Vec<&str> = [&change.old, &change.new].into_iter().flatten().map(String::as_str).collect();
    sides.dedup();
    format!("{} {what}{} ({})", change.what, change.name, sides.join(" -> "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::diff::What;

    #[test]
    fn a_change_is_one_line() {
        let change = |what, old: Option<&str>, new: Option<&str>| Change {
            name: "numpy".into(),
            what,
            old: old.map(String::from),
            new: new.map(String::from),
            files: Vec::new(),
        };
        let diff = Diff {
            distributions: vec![
                change(What::Changed, Some("1 (pinned)"), Some("2 (pinned)")),
                change(What::Changed, Some("1"), Some("1")),
                change(What::Added, None, Some("1")),
            ],
            ..Diff::default()
        };
        assert_eq!(
            all(&diff),
            [
                "changed distribution numpy (1 (pinned) -> 2 (pinned))",
                "changed distribution numpy (1)",
                "added distribution numpy (1)"
            ]
        );
    }
}
