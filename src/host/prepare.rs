//! `stillframe-agent install`: what a host needs besides Nix to run services: a folder for their state, a
//! link to the newest agent, and the one unit that brings the services back at boot.
use crate::host::durable;
use crate::host::layout::{BOOT_UNIT, BOOT_UNIT_FOLDER, Layout};
use crate::host::receive;
use crate::host::reserve;
use crate::host::units;
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
