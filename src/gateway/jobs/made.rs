//! Which instance made which picture. Instances count the names of their pictures for themselves, so two of them may
//! make one of the same name; whoever asks for it has just heard of the newest.
use crate::formats::comfy::api::query;
use crate::gateway::key::{Key, key};
use crate::gateway::newest::Newest;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;

/// So many names are remembered, the newest; any other picture is looked for at all instances.
const MOST: usize = 100_000;

pub struct Made {
    memory: Mutex<Newest<Arc<str>>>,
}

impl Default for Made {
    fn default() -> Made {
        Made { memory: Mutex::new(Newest::new(MOST)) }
    }
}

fn name(kind: &str, subfolder: &str, filename: &str) -> Key {
    key(&format!("{kind}/{subfolder}/{filename}"))
}

impl Made {
    /// What a node put out, as `executed` and the history tell it.
    pub fn learn(&self, output: &Value, instance: &str) {
        self.put(output, instance, true);
    }

    /// The same of an older job: what was learned since is newer.
    pub fn recall(&self, output: &Value, instance: &str) {
        self.put(output, instance, false);
    }

    fn put(&self, output: &Value, instance: &str, newer: bool) {
        let mut memory = self.memory.lock();
        let instance: Arc<str> = instance.into();
        for File { kind, subfolder, filename } in files(output) {
            let key = name(kind, subfolder, filename);
            if newer || !memory.map.contains_key(&key) {
                memory.put(key, instance.clone());
            }
        }
    }

    /// The maker of what `/view` is asked for.
    pub fn maker(&self, asked: &str) -> Option<Arc<str>> {
        let filename = query::get(asked, "filename")?;
        let subfolder = query::get(asked, "subfolder").unwrap_or_default();
        let kind = query::get(asked, "type").unwrap_or_else(|| "output".into());
        self.memory.lock().map.get(&name(&kind, &subfolder, &filename)).cloned()
    }
}

/// A file that a node put out, as its message names it.
pub struct File<'a> {
    /// `output`, `temp` or `input`.
    pub kind: &'a str,
    pub subfolder: &'a str,
    pub filename: &'a str,
}

/// Every file that is named below, whatever the list is called: `images`, `gifs`, `audio`, …
pub fn files(value: &Value) -> Vec<File<'_>> {
    let mut found = Vec::new();
    collect(value, &mut found);
    found
}

fn collect<'a>(value: &'a Value, found: &mut Vec<File<'a>>) {
    match value {
        Value::Object(members) => {
            if let Some(filename) = members.get("filename").and_then(Value::as_str) {
                let text = |member: &str| members.get(member).and_then(Value::as_str);
                let (kind, subfolder) =
                    (text("type").unwrap_or("output"), text("subfolder").unwrap_or_default());
                found.push(File { kind, subfolder, filename });
            }
            members.values().for_each(|value| collect(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_of_a_name() {
        let made = Made::default();
        let output =
            |list: &str| json!({ list: [{"filename": "a b.png", "subfolder": "x", "type": "temp"}] });
        made.learn(&output("images"), "s0-g1");
        assert_eq!(made.maker("filename=a%20b.png&subfolder=x&type=temp").as_deref(), Some("s0-g1"));
        assert_eq!(made.maker("filename=a%20b.png&subfolder=x"), None);
        made.learn(&output("gifs"), "s1-g1");
        assert_eq!(made.maker("filename=a+b.png&subfolder=x&type=temp").as_deref(), Some("s1-g1"));
        made.learn(&json!({"images": [{"filename": "c.png"}]}), "s0-g2");
        made.recall(&json!({"images": [{"filename": "c.png"}]}), "s0-g1");
        assert_eq!(made.maker("filename=c.png&type=output").as_deref(), Some("s0-g2"));
        assert_eq!(made.maker(""), None);
    }

    #[test]
    fn a_bounded_memory() {
        let made = Made::default();
        for number in 0..=MOST {
            made.learn(&json!({ "filename": number.to_string() }), "s0-g1");
        }
        assert_eq!(made.maker("filename=0"), None);
        assert!(made.maker("filename=1").is_some());
    }
}
