//! Files of a slot that name the instance's own places: the snapshot has marks there (`sys/places`), which are filled when the
//! slot is put together.
use crate::protocol::launch::{Launch, Values};
use crate::sys::error::{Error, Result};
use crate::sys::files;
use crate::sys::places::Place;
use std::fs;
use std::path::Path;

fn place(place: Place, launch: &Launch, values: &Values) -> String {
    match place {
        Place::Base => format!("{}/base", values.slot),
        Place::Main => format!("{}/main", values.slot),
        Place::Models => values.models.clone(),
        Place::Input => format!("{}/input", values.base),
        Place::Output => values.output.clone(),
        Place::User => format!("{}/user", values.base),
        Place::Temp => format!("{}/temp", values.slot),
        // The program is PREFIX/bin/python.
        Place::Python => {
            let prefix = Path::new(&launch.program).parent().and_then(Path::parent);
            prefix.unwrap_or(Path::new("")).display().to_string()
        }
    }
}

/// Fills the marks of every such file.
pub fn fill(launch: &Launch, values: &Values) -> Result<()> {
    for name in &launch.own_places {
        let path = Path::new(&values.slot).join(name);
        // A link of the snapshot may lead anywhere.
        if !fs::symlink_metadata(&path).map_err(|e| Error::io("open", &path, e))?.is_file() {
            continue;
        }
        let mut text = files::read_text(&path)?;
        for one in Place::ALL {
            text = text.replace(one.mark(), &place(one, launch, values));
        }
        fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
    }
    Ok(())
}

/// Whether a file is the snapshot's but for what its marks were filled with.
pub fn is_filled(snapshots: &Path, own: &Path) -> bool {
    let (Ok(before), Ok(now)) = (files::read_text(snapshots), files::read_text(own)) else { return false };
    let mut parts = vec![before.as_str()];
    for one in Place::ALL {
        parts = parts.into_iter().flat_map(|part| part.split(one.mark())).collect();
    }
    let last = parts.pop().unwrap_or_default();
    let mut rest = now.as_str();
    for (at, part) in parts.iter().enumerate() {
        // The first begins the file; a place is as long as it is, in one line.
        let found = if at == 0 { rest.starts_with(part).then_some(0) } else { rest.find(part) };
        let Some(found) = found.filter(|found| !rest[..*found].contains('\n')) else { return false };
        rest = &rest[found + part.len()..];
    }
    let place = rest.strip_suffix(last);
    place.is_some_and(|place| !place.contains('\n') && (place.is_empty() || !parts.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::launch::LAUNCH_VERSION;

    #[test]
    fn marks_become_the_instances_places() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), text).unwrap();
        };
        let text: String = Place::ALL.iter().map(|one| format!("{}/x\n", one.mark())).collect();
        put("store/c.json", &text);
        put("slot/base/c.json", &text);
        let launch = Launch {
            version: LAUNCH_VERSION,
            service: "s".into(),
            program: "/env/bin/python".into(),
            own_places: vec!["base/c.json".into()],
            ..Launch::default()
        };
        let slot = dir.path().join("slot");
        let values = Values {
            base: "/data".into(),
            output: "/out".into(),
            models: "/models".into(),
            slot: slot.display().to_string(),
            ..Values::default()
        };
        fill(&launch, &values).unwrap();
        let (own, snapshots) = (slot.join("base/c.json"), dir.path().join("store/c.json"));
        let wanted = format!(
            "{0}/base/x\n{0}/main/x\n/models/x\n/data/input/x\n/out/x\n/data/user/x\n{0}/temp/x\n/env/x\n",
            slot.display()
        );
        assert_eq!(fs::read_to_string(&own).unwrap(), wanted);
        assert!(is_filled(&snapshots, &own));
        for changed in [wanted.replacen("/x", "/y", 1), format!("{wanted}more"), format!("more\n{wanted}")] {
            fs::write(&own, changed).unwrap();
            assert!(!is_filled(&snapshots, &own));
        }
    }
}
