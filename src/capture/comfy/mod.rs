//! Reads a whole environment but its Python distributions: main program, packs, cache, and what is
//! only listed. Reads; changes nothing, runs nothing of the environment.
pub mod cache;
pub mod context;
pub mod lock;
pub mod main_program;
pub mod model_paths;
mod own_python;
pub mod packs;

use crate::capture::comfy::context::{Context, Notes, Reuse, ScanOptions};
use crate::capture::model::inventory::Scan;
use crate::capture::model::report::{Severity, Topic};
use crate::capture::python::find;
use crate::sys::error::Result;
use std::path::Path;

/// Scans the environment at `root`, which `find::check` has accepted.
pub fn scan(root: &Path, options: &ScanOptions, reuse: &Reuse<'_>) -> Result<Scan> {
    let root = find::check(root)?;
    let mut notes = Notes::default();
    let extra = model_paths::extra_paths(&root, &mut notes);
    model_paths::links(&root, &extra, &mut notes);
    let models = model_paths::model_folders(&root, &extra);
    let context = Context { root: &root, options, reuse, models };
    for path in &options.exclude {
        if root.join(path).symlink_metadata().is_ok() {
            notes.note(Severity::Info, Topic::Excluded, path, "left out, as stillframe.toml says");
        }
    }
    for path in options.left_out.redacts_nothing() {
        let message =
            "redact names it, and it is not there: if the file was renamed, it ships with all its values";
        notes.note(Severity::Problem, Topic::Secret, path, message);
    }
    let ((main, packs), (cache, (models, user))) = rayon::join(
        || {
            let kept = main_program::own_files(&context);
            rayon::join(|| main_program::scan(&context, &kept), || packs::scan(&context, &kept, &extra))
        },
        || {
            rayon::join(
                || cache::scan(&context),
                || (model_paths::models(&context, &extra), model_paths::user(&context)),
            )
        },
    );
    let (main, main_notes) = main;
    let (packs, pack_notes) = packs;
    let (cache, cache_notes) = cache;
    for part in [main_notes, pack_notes, cache_notes] {
        notes.merge(part);
    }
    Ok(Scan {
        root: root.clone(),
        main,
        packs,
        cache,
        models,
        user,
        outside: notes.outside,
        findings: notes.findings,
        git_reads: notes.git_reads,
    })
}

#[cfg(test)]
mod tests;
