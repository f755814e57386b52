//! Verifying a snapshot (`closure::verify`), and, where a path that was copied from the environment is not what it was,
//! the file that differs: the environment may still have it.
use crate::closure::compare;
use crate::closure::recipe;
use crate::closure::registry::{Record, Registry};
use crate::closure::scratch::Scratch;
use crate::closure::verify::{self, Mismatch, Report};
use crate::formats::nix::store_path::StorePath;
use crate::snapshot::events::Observer;
use crate::snapshot::reading::trees_of;
use crate::snapshot::subject::Subject;
use crate::store::{Store, StoreConfig};
use crate::sys::error::{Kind, Result};
use crate::sys::progress::check_interrupt;
use std::path::Path;

/// `subject` is asked only where something differs.
pub fn verify(
    registry: &Registry,
    record: &Record,
    config: &StoreConfig,
    cache: &Path,
    subject: impl FnOnce() -> Result<Subject>,
    observer: &dyn Observer,
) -> Result<Report> {
    let lock = registry.lock(record)?;
    let mut store = Store::connect(config)?;
    let recipe = recipe::read(record, &lock, &mut store)?;
    let scratch = Scratch::new(cache, "verify")?;
    let mut report = verify::verify(&recipe, &mut store, scratch.path(), observer.progress().as_ref())?;
    drop(scratch);
    let differ = report.mismatches.iter().map(|m| StorePath::from_absolute(&config.store_dir, &m.path));
    config.doubt(&differ.flatten().collect::<Vec<_>>());
    if report.mismatches.iter().any(|m| m.copied.is_some()) {
        explain(&mut report.mismatches, record, config, subject, observer)?;
    }
    Ok(report)
}

/// Names the first differing file of what was copied from the environment, if that still has it.
fn explain(
    mismatches: &mut [Mismatch],
    record: &Record,
    config: &StoreConfig,
    subject: impl FnOnce() -> Result<Subject>,
    observer: &dyn Observer,
) -> Result<()> {
    let environment = record.environment.display();
    let trees = subject().and_then(|subject| trees_of(&subject, &config.store_dir, observer));
    let mut store = Store::connect(config)?;
    for mismatch in mismatches {
        let Some(path) = &mismatch.copied else { continue };
        match &trees {
            Err(e) if e.kind == Kind::Interrupted => return check_interrupt(),
            Err(e) => {
                mismatch.unexplained = Some(format!("{environment} cannot be read again: {}", e.full()))
            }
            Ok(trees) => match trees.take(path) {
                Some(tree) => mismatch.first_difference = compare::difference_from(&mut store, path, &tree)?,
                None => {
                    let why = format!("{environment} no longer has it as it was recorded");
                    mismatch.unexplained = Some(why);
                }
            },
        }
    }
    Ok(())
}
