//! The Unix socket that an instance listens on in place of a port. Its folder is the instance's own (systemd's
//! RuntimeDirectory=), so nobody else can bind it. Only the gateway may enter the folder, so nobody else can connect.
//!
//! ComfyUI knows hosts and ports alone. `scripts/sitecustomize.py`, which its interpreter loads before anything of the
//! environment runs, turns the server's request for its port into this socket (decision 0022).
use crate::host::layout::Service;
use crate::protocol::instance_id::InstanceId;
use crate::protocol::launch::{Launch, Values};
use crate::sys::error::{Error, Kind, Result};
use crate::sys::systemd;
use rustix::fs::OFlags;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const HOOK: &str = include_str!("scripts/sitecustomize.py");
/// The hook's variable: process, port and path, with colons between them.
const VARIABLE: &str = "STILLFRAME_SOCKET";
/// Of a server without a socket: port and path.
const ROUTES_VARIABLE: &str = "STILLFRAME_ROUTES";
/// What the files that an instance saves are named by, beside their own prefix.
pub const MARK: &str = "STILLFRAME_MARK";
const ROUTES: &str = "routes.json";
/// Some thousands of routes.
const LARGEST_ROUTES: u64 = 4 << 20;
const PYTHON_PATH: &str = "PYTHONPATH";
/// A gateway that just died is started again within a tenth of a second.
const APPEAR_LIMIT: Duration = Duration::from_secs(5);
/// What systemd has for an id that is not known (UID_INVALID).
const NO_ID: u32 = u32::MAX;

/// The folder of the hook, which is made.
fn hook(slot: &Path) -> Result<PathBuf> {
    let folder = slot.join("hook");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create directory", &folder, e))?;
    let file = folder.join("sitecustomize.py");
    std::fs::write(&file, HOOK).map_err(|e| Error::io("write", &file, e))?;
    Ok(folder)
}

/// Has `command`, which this process is about to become, listen on `socket` where it asks for `port`.
pub fn listen(command: &mut Command, socket: &Path, port: u16, slot: &Path) -> Result<()> {
    let folder = hook(slot)?;
    let given = command.get_envs().find(|(name, _)| *name == OsStr::new(PYTHON_PATH));
    let mut path = folder.into_os_string();
    if let Some((_, Some(given))) = given {
        path.push(":");
        path.push(given);
    }
    command.env(PYTHON_PATH, path);
    command.env(VARIABLE, format!("{}:{port}:{}", std::process::id(), socket.display()));
    Ok(())
}

/// Has the server that `launch` starts write its routes into a file, whose path is the answer.
pub fn note_routes(launch: &mut Launch, values: &Values) -> Result<PathBuf> {
    let slot = Path::new(&values.slot);
    let (folder, routes) = (hook(slot)?, slot.join(ROUTES));
    let given = launch.environment.get(PYTHON_PATH).map(|path| format!(":{path}")).unwrap_or_default();
    launch.environment.insert(PYTHON_PATH.into(), format!("{}{given}", folder.display()));
    launch.environment.insert(ROUTES_VARIABLE.into(), format!("{}:{}", values.port, routes.display()));
    Ok(routes)
}

/// The routes of an instance: the hook has them in a file beside the socket. Whatever else lies there is the instance's
/// own doing, and tells nothing.
pub fn routes(socket: &Path) -> Option<BTreeSet<String>> {
    read_routes(&socket.with_file_name(ROUTES))
}

pub fn read_routes(file: &Path) -> Option<BTreeSet<String>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(file).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LARGEST_ROUTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Lets the gateway, and nobody else, into an instance's folder. The unit runs this as root once the instance has been
/// executed, because systemd sets the folder's mode anew before it executes anything.
pub fn admit_to_instance(service: &Service, id: InstanceId) -> Result<()> {
    let folder = Path::new("/run").join(service.socket_folder(id));
    // The folder above is root's: what is here cannot have been replaced.
    lchown(&folder, None, Some(gateway_group(service)?))
        .map_err(|e| Error::io("set the group of", &folder, e))?;
    set_mode(&folder, 0o710)
}

/// Lets the gateway read its settings, which name keys by their hashes.
pub fn admit_to_settings(service: &Service) -> Result<()> {
    let settings = service.gateway_settings();
    chown(&settings, None, Some(gateway_group(service)?))
        .map_err(|e| Error::io("set the group of", &settings, e))?;
    set_mode(&settings, 0o640)
}

/// A dynamic user has an id while its unit runs, and systemd alone tells it: the folders that it makes for the unit
/// belong to `nobody` as others see them (idmapped mounts, from systemd 254 on).
fn gateway_group(service: &Service) -> Result<u32> {
    let unit = service.gateway_unit("service");
    let until = Instant::now() + APPEAR_LIMIT;
    loop {
        let shown = systemd::show(&unit, &["GID"])?;
        if let Some(group) = shown.get("GID").and_then(|text| text.parse().ok()).filter(|id| *id != NO_ID) {
            return Ok(group);
        }
        if Instant::now() > until {
            let text = format!("{unit} has no group: it does not run");
            return Err(Error::new(Kind::Host, text).hint(format!("see why: systemctl status {unit}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(|e| Error::io("set the mode of", path, e))
}
