//! A snapshot as ComfyUI-Manager could restore it.
use crate::capture::model::lock::{GitLock, Lock};
use crate::formats::comfy::manager_snapshot::{FileNode, GitNode, ManagerSnapshot};

/// And what has no place in it: packs that no repository has, changes to files.
pub fn manager_snapshot(lock: &Lock) -> (ManagerSnapshot, Vec<String>) {
    let mut unable = Vec::new();
    let commit = |git: &Option<GitLock>| git.as_ref().and_then(|g| g.commit.clone());
    let mut out = ManagerSnapshot { comfyui: commit(&lock.main.git), ..ManagerSnapshot::default() };
    if out.comfyui.is_none() {
        unable.push("the main program: it is not in git".into());
    }
    for pack in &lock.packs {
        let dirty = pack.git.as_ref().and_then(|g| g.dirty) == Some(true);
        match pack.git.as_ref().and_then(|g| Some((g.remote.clone()?, g.commit.clone()?))) {
            Some((remote, hash)) => {
                if dirty {
                    unable.push(format!("the changes to pack {}: it is not as its commit", pack.name));
                }
                let node = GitNode { hash: Some(hash), disabled: false };
                if out.git_custom_nodes.insert(remote.clone(), node).is_some() {
                    unable.push(format!(
                        "two packs of {remote}: pack {} takes the place of the other",
                        pack.name
                    ));
                }
            }
            None if pack.name.ends_with(".py") => {
                out.file_custom_nodes.push(FileNode { filename: pack.name.clone(), disabled: false });
            }
            None => unable.push(format!("pack {}: no repository has it", pack.name)),
        }
    }
    for d in &lock.distributions {
        if d.wheel.is_none() {
            unable.push(format!("{} {} as it is: no wheel of an index vouches for it", d.name, d.version));
        }
        out.pips.insert(format!("{}=={}", d.name, d.version), String::new());
    }
    (out, unable)
}
