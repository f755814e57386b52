//! `/object_info`: the node classes that were loaded. A pack that failed to import is only logged, so this is
//! what tells it.
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, BTreeSet};

/// The names alone: the values are the bulk, tens of megabytes with hundreds of packs.
pub fn names(answer: &[u8]) -> Result<BTreeSet<String>, serde_json::Error> {
    let all: BTreeMap<String, IgnoredAny> = serde_json::from_slice(answer)?;
    Ok(all.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_recorded_answer() {
        let golden = include_bytes!("../../../../tests/golden/comfyui-wire/object_info.subset.json");
        let names = names(golden).unwrap();
        assert_eq!(names.len(), 8);
        let core = include_bytes!("../../../../tests/golden/comfyui-wire/object_info.core_classes.json");
        let core: BTreeSet<String> = serde_json::from_slice(core).unwrap();
        assert!(names.is_subset(&core));
        assert!(super::names(b"[]").is_err());
    }
}
