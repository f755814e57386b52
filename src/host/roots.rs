//! GC roots of generations that the state does not know: a power loss brought their links back, since a collector's
//! folder is not on the file system of the state. They would keep store paths for good.
use crate::host::layout::Service;
use crate::host::state::ServiceState;
use crate::sys::error::Result;
use crate::sys::files;
use std::path::{Path, PathBuf};

pub fn prune(service: &Service, state: &ServiceState) -> Result<()> {
    let profiles = service.profile();
    let profiles = profiles.parent().unwrap_or(Path::new("/"));
    let (link, root) = (format!("stillframe-{}-", service.name), format!("{}-", service.name));
    let of_profile = |name: &str| name.strip_prefix(&link)?.strip_suffix("-link")?.parse().ok();
    let of_root = |name: &str| {
        let rest = name.strip_prefix(&root)?;
        rest.strip_suffix("-snapshot").unwrap_or(rest).parse().ok()
    };
    remove(profiles, state, of_profile)?;
    remove(&service.layout.agent_roots(), state, of_root)
}

/// `number`: whose generation's a name is; none where it is something else's.
fn remove(folder: &Path, state: &ServiceState, number: impl Fn(&str) -> Option<u64>) -> Result<()> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let forgotten = |path: &PathBuf| {
        let number = path.file_name().and_then(|name| number(name.to_str()?));
        number.is_some_and(|number| !state.generations.contains_key(&number))
    };
    for path in entries.map(|entry| entry.path()).filter(forgotten) {
        files::remove(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::layout::Layout;

    #[test]
    fn links_of_forgotten_generations_go_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::new(dir.path());
        layout.nix = dir.path().join("nix");
        let service = layout.service("demo");
        let names = [
            "profiles/stillframe-demo-3-link",
            "profiles/stillframe-demo",
            "profiles/stillframe-demo-2-7-link",
            "gcroots/stillframe/demo-3",
            "gcroots/stillframe/demo-3-snapshot",
            "gcroots/stillframe/demo-attempt-3",
            "gcroots/stillframe/demo-2-7-snapshot",
            "gcroots/stillframe/agent",
        ];
        for name in names {
            let path = layout.nix.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        prune(&service, &ServiceState::new("demo")).unwrap();
        let left: Vec<&str> = names.into_iter().filter(|name| layout.nix.join(name).exists()).collect();
        assert_eq!(left, [names[1], names[2], names[5], names[6], names[7]]);
    }
}
