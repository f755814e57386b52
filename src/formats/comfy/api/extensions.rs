//! `/extensions`: the scripts that pages in the browser load, the main program's and those of packs (`WEB_DIRECTORY`).
use std::collections::BTreeSet;

/// Their paths, as in `/extensions/PACK/js/nodes.js`.
pub fn paths(answer: &[u8]) -> Result<BTreeSet<String>, serde_json::Error> {
    serde_json::from_slice(answer)
}

#[cfg(test)]
mod tests {
    #[test]
    fn of_an_answer() {
        let paths = super::paths(br#"["/extensions/core/a.js", "/extensions/painter/b.js"]"#).unwrap();
        assert_eq!(paths.len(), 2);
        assert!(super::paths(b"{}").is_err());
    }
}
