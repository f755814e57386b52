//! The units of the root program that starts and stops instances (`scaler`): a socket that is always there, and a service
//! that systemd starts when something is asked. A service whose number of instances does not change has neither.
use crate::host::layout::Service;
use crate::host::units;
use crate::protocol::spec::Spec;
use crate::sys::error::Result;
use crate::sys::files;
use crate::sys::systemd;

/// Writes them, or takes them away; says whether systemd must read its units again.
pub fn write(service: &Service, spec: &Spec, agent: &str) -> Result<bool> {
    let folder = &service.layout.units;
    let (socket, program) = (service.scaler_unit("socket"), service.scaler_unit("service"));
    if spec.scaling.is_none() {
        let there = folder.join(&socket).exists() || folder.join(&program).exists();
        if there {
            remove(service)?;
        }
        return Ok(there);
    }
    let socket = files::write_if_changed(&folder.join(socket), units::scaler_socket(service).as_bytes())?;
    let text = units::scaler_service(service, agent);
    let changed = files::write_if_changed(&folder.join(&program), text.as_bytes())?;
    if changed {
        // One of another version may still wait for questions; the socket keeps those that come.
        systemd::stop(&program)?;
    }
    Ok(socket || changed)
}

/// Makes the socket be there.
pub fn run(service: &Service, spec: &Spec) -> Result<()> {
    let socket = service.scaler_unit("socket");
    if spec.scaling.is_some() && !systemd::is_active(&socket)? {
        systemd::start_and_wait(&socket)?;
    }
    Ok(())
}

pub fn remove(service: &Service) -> Result<()> {
    for kind in ["socket", "service"] {
        let unit = service.scaler_unit(kind);
        let file = service.layout.units.join(&unit);
        if file.exists() {
            systemd::stop(&unit)?;
            files::remove(&file)?;
        }
    }
    files::remove(&service.scaler_socket())
}
