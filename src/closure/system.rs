//! Programs and files of the workstation's system in a snapshot: where they are in the store, and where a service finds
//! them.
use crate::capture::model::lock::Lock;
use crate::closure::nodes::Builder;
use crate::formats::nix::store_path::StorePath;
use crate::protocol::launch::SystemFile;
use crate::sys::error::Result;
use serde_json::{Value, json};

pub(super) struct System {
    pub(super) sources: Vec<StorePath>,
    /// Folders of programs.
    pub(super) path: Vec<String>,
    pub(super) files: Vec<SystemFile>,
    /// In the snapshot, for a person to follow.
    pub(super) links: Vec<Value>,
}

pub(super) fn system(lock: &Lock, b: &mut Builder) -> Result<System> {
    let mut out = System { sources: Vec::new(), path: Vec::new(), files: Vec::new(), links: Vec::new() };
    // Before what refers to them.
    for tree in &lock.program_libraries {
        b.import(tree, "libraries of programs", None)?;
    }
    for program in &lock.programs {
        let path = b.import(&program.tree, &format!("program {}", program.name), None)?;
        let folder = format!("{}/bin", path.to_absolute(b.store));
        let to = format!("{folder}/{}", program.name);
        out.links.push(json!({"at": format!("programs/{}", program.name), "to": to}));
        out.path.push(folder);
        out.sources.push(path);
    }
    for file in &lock.system_files {
        let path = b.import(&file.tree, &file.at, None)?;
        let from = path.to_absolute(b.store);
        out.links.push(json!({"at": format!("system{}", file.at), "to": from}));
        out.files.push(SystemFile { at: file.at.clone(), from });
        out.sources.push(path);
    }
    Ok(out)
}
