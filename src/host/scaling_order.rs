//! What an operator has said of the number of instances, as a file; and what the gateway is given of that.
use crate::host::layout::Service;
use crate::protocol::control::ScalingSettings;
use crate::protocol::scaling::Order;
use crate::protocol::spec::Spec;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;
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

/// On disk for good, or gone where it says nothing.
pub fn keep(service: &Service, order: &Order) -> Result<()> {
    if order.minimum.is_none() && order.maximum.is_none() && !order.paused {
        files::remove(&service.scaling())?;
        return files::sync_dir(&service.home);
    }
    let bytes = serde_json::to_vec_pretty(order)
        .map_err(|e| Error::new(Kind::Io, "cannot write the order").caused_by(e))?;
    files::write_atomic(&service.scaling(), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::layout::Layout;
    use crate::protocol::scaling::ORDER_VERSION;
    use std::path::Path;

    #[test]
    fn an_order_is_kept_and_one_that_says_nothing_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        std::fs::create_dir_all(&service.home).unwrap();
        assert_eq!(order(&service).unwrap(), None);
        let paused = Order { version: ORDER_VERSION, paused: true, by: "a@b".into(), ..Order::default() };
        keep(&service, &paused).unwrap();
        assert_eq!(order(&service).unwrap(), Some(paused.clone()));
        keep(&service, &Order { paused: false, ..paused }).unwrap();
        assert_eq!(order(&service).unwrap(), None);
        for (text, why) in [("{", "EOF while parsing"), ("{\"version\":9}", "version 9")] {
            std::fs::write(service.scaling(), text).unwrap();
            let error = order(&service).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(error.to_string().contains(Path::new("demo/scaling.json").to_str().unwrap()));
        }
    }
}
