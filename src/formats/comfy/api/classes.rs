//! `/object_info`: the node classes that were loaded. A pack that failed to import is only logged, so this is
//! what tells it.
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, BTreeSet};

/// The names alone: the values are the bulk, tens of megabytes with hundreds of packs.
pub fn names(answer: &[u8]) -> Result<BTreeSet<String>, serde_json::Error> {
    let all: BTreeMap<String, IgnoredAny> = serde_json::from_slice(answer)?;
    Ok(all.into_keys().collect())
}

/// Each with the module that it comes from; an empty one where the answer names none.
pub fn modules(answer: &[u8]) -> Result<BTreeMap<String, String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Class {
        #[serde(default)]
        python_module: String,
    }
    let all: BTreeMap<String, Class> = serde_json::from_slice(answer)?;
    Ok(all.into_iter().map(|(name, class)| (name, class.python_module)).collect())
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
        let modules = modules(golden).unwrap();
        assert!(modules.keys().eq(names.iter()));
        assert!(
            modules.values().all(|module| module == "nodes" || module.starts_with("comfy")),
            "{modules:?}"
        );
    }
}
