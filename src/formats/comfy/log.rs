//! What ComfyUI's log says of the packs that it imports (`nodes.py`): a pack that fails is logged, and the server starts
//! all the same.
use std::collections::BTreeMap;

/// Of each pack by its folder's or file's name: how many milliseconds its import took, and whether it failed.
///
/// The log has a line for each: `   0.3 seconds (IMPORT FAILED): /path/custom_nodes/name`.
pub fn import_times(log: &str) -> BTreeMap<String, (u64, bool)> {
    let mut found = BTreeMap::new();
    for line in log.lines() {
        let Some((before, path)) = line.split_once(": ") else { continue };
        let Some((head, flag)) = before.split_once(" seconds") else { continue };
        let Some(Ok(seconds)) = head.split_whitespace().last().map(str::parse::<f64>) else { continue };
        let failed = flag.contains("IMPORT FAILED");
        if !(flag.trim().is_empty() || failed) {
            continue;
        }
        if let Some(name) = path.trim().rsplit('/').next().filter(|_| path.contains('/')) {
            found.insert(name.to_string(), ((seconds * 1000.0).round() as u64, failed));
        }
    }
    found
}

/// Each pack that could not be imported, and why: the error, and the module that raised it.
///
/// The log has the traceback, and then `Cannot import /path/custom_nodes/name module for custom nodes: error`. Where it
/// has the pack's failure and not its reason, the reason is empty.
pub fn failed_imports(log: &str) -> BTreeMap<String, String> {
    let failed = import_times(log).into_iter().filter(|(_, (_, failed))| *failed);
    let mut found: BTreeMap<String, String> = failed.map(|(name, _)| (name, String::new())).collect();
    let mut traceback = Traceback::default();
    for line in log.lines() {
        match cannot_import(line) {
            Some((name, said)) => {
                let why = std::mem::take(&mut traceback).told().unwrap_or(said);
                found.insert(name, why);
            }
            None => traceback.read(line),
        }
    }
    found
}

fn cannot_import(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.split_once("Cannot import ")?;
    let (path, said) = rest.split_once(" module for custom nodes:")?;
    Some((path.rsplit('/').next()?.to_string(), said.trim().to_string()))
}

/// The last traceback of a log, as far as it was read (Python's documentation, `traceback`).
#[derive(Default)]
struct Traceback {
    /// The innermost frame: file and line.
    frame: Option<(String, String)>,
    /// The exception's line comes next.
    open: bool,
    error: Option<String>,
}

impl Traceback {
    fn read(&mut self, line: &str) {
        if line.trim_end().ends_with("Traceback (most recent call last):") {
            *self = Traceback { open: true, ..Traceback::default() };
        } else if !self.open {
        } else if let Some(frame) = line.trim_start().strip_prefix("File \"") {
            if let Some((file, rest)) = frame.split_once("\", line ") {
                let number = rest.split(',').next().unwrap_or_default();
                self.frame = Some((file.into(), number.into()));
            }
        } else if !line.starts_with(char::is_whitespace) && !line.is_empty() {
            self.open = false;
            self.error = Some(line.trim_end().into());
        }
    }

    fn told(self) -> Option<String> {
        let error = self.error?;
        Some(match self.frame {
            Some((file, line)) => format!("{error} ({}, line {line})", inside(&file)),
            None => error,
        })
    }
}

/// A module's file, without the folders above those that ComfyUI and Python have their modules in.
fn inside(file: &str) -> &str {
    let behind = |folder: &str| file.rsplit_once(folder).map(|(_, rest)| rest);
    behind("/custom_nodes/").or_else(|| behind("/site-packages/")).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn import_times_are_read() {
        let log = "Import times for custom nodes:\n   0.0 seconds: /e/custom_nodes/a\n   \
                   1.5 seconds (IMPORT FAILED): /e/custom_nodes/b.py\nfetched in 3 seconds: no path\n";
        let times = import_times(log);
        assert_eq!(times.len(), 2);
        assert_eq!(times["a"], (0, false));
        assert_eq!(times["b.py"], (1500, true));
    }

    #[test]
    fn why_a_pack_failed_is_its_own_tracebacks_last_line_and_module() {
        let log = r#"Traceback (most recent call last):
  File "/e/main.py", line 3, in other
    raise ValueError
ValueError
starting
Traceback (most recent call last):
  File "/s/nodes.py", line 2133, in load_custom_node
    module_spec.loader.exec_module(module)
  File "<frozen importlib._bootstrap>", line 241, in _call_with_frames_removed
  File "/s/base/custom_nodes/painter/__init__.py", line 4, in <module>
    from . import brush
  File "/s/base/custom_nodes/painter/brush.py", line 1, in <module>
    import paint.oil
ModuleNotFoundError: No module named 'paint'

Cannot import /s/base/custom_nodes/painter module for custom nodes: No module named 'paint'
WARNING: Cannot import /s/base/custom_nodes/quiet.py module for custom nodes: it said so
Traceback (most recent call last):
  File "/v/lib/python3.11/site-packages/cv2/__init__.py", line 7, in <module>
    bootstrap()

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/v/lib/python3.11/site-packages/cv2/__init__.py", line 9, in <module>
ImportError: libGL.so.1: cannot open shared object file
Cannot import /s/base/custom_nodes/eyes module for custom nodes: libGL.so.1: cannot open shared object file

Import times for custom nodes:
   0.0 seconds: /s/base/custom_nodes/fine
   0.1 seconds (IMPORT FAILED): /s/base/custom_nodes/painter
   0.1 seconds (IMPORT FAILED): /s/base/custom_nodes/silent
"#;
        let failed = failed_imports(log);
        let failed: Vec<(&str, &str)> = failed.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(
            failed,
            [
                ("eyes", "ImportError: libGL.so.1: cannot open shared object file (cv2/__init__.py, line 9)"),
                ("painter", "ModuleNotFoundError: No module named 'paint' (painter/brush.py, line 1)"),
                ("quiet.py", "it said so"),
                ("silent", ""),
            ]
        );
    }
}
