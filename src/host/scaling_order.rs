//! What an operator has said of the number of instances, as it lies on disk.
use crate::host::layout::Service;
use crate::protocol::control::ScalingSettings;
use crate::protocol::scaling::Order;
use crate::protocol::spec::Spec;
use crate::sys::error::{Error, Kind, Result};
use serde_json::Value;

/// What holds now; none where the configuration does. One that cannot be read is an error: an operator meant something by it.
pub fn order(service: &Service) -> Result<Option<Order>> {
    let path = service.scaling();
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let bad = |why: String| {
        let hint = format!("say it again: stillframe scale --reset; or remove {}", path.display());
        Error::new(Kind::Host, format!("{}: {why}", path.display())).hint(hint)
    };
    let document: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    Order::check_document(&document).map_err(|other| bad(other.to_string()))?;
    serde_json::from_value(document).map(Some).map_err(|e| bad(e.to_string()))
}

/// What the gateway is given. An order that cannot be read is left out: the service serves all the same.
pub fn settings(service: &Service, spec: &Spec) -> Option<ScalingSettings> {
    Some(ScalingSettings {
        policy: spec.scaling.clone()?,
        slots: spec.slots.len() as u32,
        order: order(service).ok().flatten(),
        start_ms: spec.health.deadline_ms,
        socket: service.scaler_socket(),
    })
}
