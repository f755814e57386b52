//! `stillframe-agent install` and `uninstall`: what a host needs besides Nix to run services: a folder for their state, a
//! link to the newest agent, and the one unit that brings the services back at boot.
use crate::host::durable;
use crate::host::layout::{BOOT_UNIT, BOOT_UNIT_FOLDER, Layout, remove_empty};
use crate::host::lease;
use crate::host::receive;
use crate::host::reserve;
use crate::host::units;
use crate::protocol::spec::valid_service;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::fault;
use crate::sys::files;
use crate::sys::process;
use crate::sys::systemd;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn unit_file() -> PathBuf {
    Path::new(BOOT_UNIT_FOLDER).join(BOOT_UNIT)
}

/// Takes away what `install` put here, once no service is left.
pub fn uninstall(layout: &Layout) -> Result<()> {
    let known = layout.known();
    if !known.is_empty() {
        return Err(Error::new(Kind::Input, format!("services are still here: {}", known.join(", ")))
            .hint("remove each of them first: stillframe remove, in its project"));
    }
    let entries = std::fs::read_dir(layout.services()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| valid_service(name)) {
        if let Some((holder, _)) = lease::holder(&layout.service(&name)) {
            let text = format!("a {} of {name} is under way, begun by {}", holder.kind.name(), holder.by);
            return Err(Error::new(Kind::Busy, text).hint("try again when that has ended"));
        }
    }
    let file = unit_file();
    if std::fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_symlink()) {
        let text = format!("{} is part of this system's own configuration", file.display());
        return Err(Error::new(Kind::Host, text).hint("take stillframe's module out of it (NixOS)"));
    }
    if file.exists() {
        process::must(&["systemctl", "disable", "--quiet", BOOT_UNIT], Duration::from_secs(60))?;
        systemd::stop(BOOT_UNIT)?;
        files::remove(&file)?;
        systemd::reload()?;
    }
    // The link to the agent goes last: with it this can be asked for again.
    for folder in [layout.services(), layout.incoming()] {
        files::remove_tree(&folder)?;
    }
    for file in [layout.verified(), layout.reserve(), layout.maintenance()] {
        files::remove(&file)?;
    }
    files::remove(&layout.agent_roots().join("agent"))?;
    remove_empty(&layout.agent_roots())?;
    files::remove(&layout.agent())?;
    remove_empty(&layout.state)
}

/// Where a system is described elsewhere (NixOS), the unit comes from there.
fn provided() -> bool {
    systemd::show(BOOT_UNIT, &["LoadState", "UnitFileState"]).is_ok_and(|unit| {
        unit.get("LoadState").is_some_and(|s| s == "loaded")
            && unit.get("UnitFileState").is_some_and(|s| s.starts_with("enabled") || s == "linked")
    })
}

/// `agent`: the store path of this program.
pub fn install(layout: &Layout, agent: &Path) -> Result<()> {
    if !agent.starts_with("/nix/store") {
        return Err(Error::new(Kind::Input, format!("{} is not in the Nix store", agent.display()))
            .hint("stillframe host prepare brings the agent there"));
    }
    for folder in [layout.services(), layout.incoming()] {
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create directory", &folder, e))?;
    }
    fault::around(fault::HOST, "prepare/reserve", || reserve::keep(layout))?;
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(&layout.state, open)
        .map_err(|e| Error::io("set the mode of", &layout.state, e))?;
    // What is inside is root's alone: secrets, and who deployed what.
    let closed = std::fs::Permissions::from_mode(0o700);
    let services = layout.services();
    std::fs::set_permissions(&services, closed).map_err(|e| Error::io("set the mode of", &services, e))?;
    // Before anything refers to it: an agent that a power cut empties cannot mend itself.
    fault::around(fault::HOST, "prepare/sync", || {
        durable::sync_store(&receive::store_config(None), &layout.nix, &mut || Ok(()))
    })?;
    let root = layout.agent_roots().join("agent");
    fault::around(fault::HOST, "prepare/root", || files::replace_link(&root, agent))?;
    fault::around(fault::HOST, "prepare/agent", || files::replace_link(&layout.agent(), agent))?;
    let text = units::boot(&layout.agent());
    let file = unit_file();
    if std::fs::read_to_string(&file).is_ok_and(|now| now == text) && provided() {
        return Ok(());
    }
    let written =
        fault::around(fault::HOST, "prepare/unit", || files::write_if_changed(&file, text.as_bytes()));
    match written {
        Ok(_) => {}
        Err(_) if provided() => return Ok(()),
        Err(e) => {
            return Err(e.hint(
                "is this NixOS? import stillframe's module there; elsewhere make the folder writable",
            ));
        }
    }
    systemd::reload()?;
    fault::around(fault::HOST, "prepare/enable", || {
        process::must(&["systemctl", "enable", "--quiet", BOOT_UNIT], Duration::from_secs(60))?;
        // systemctl syncs none of the links that it makes, and without them nothing comes back after a power cut.
        durable::sync_folder(Path::new(BOOT_UNIT_FOLDER))
    })
}
