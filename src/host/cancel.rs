//! The request to stop a deployment: a file with one line, the deployment's id and who asks for it.
use crate::host::layout::Service;
use crate::host::reserve;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::files;

pub fn request(service: &Service, deployment: &str, by: &str) -> Result<()> {
    let text = format!("{deployment} {by}\n");
    reserve::spend(&service.layout, || files::write_atomic(&service.cancel(), text.as_bytes()))
}

/// Fails once this deployment is to stop. A request for another one is old.
pub fn check(service: &Service, deployment: &str) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(service.cancel()) else { return Ok(()) };
    match text.trim().split_once(' ') {
        Some((asked, by)) if asked == deployment => Err(cancelled(by)),
        _ => Ok(()),
    }
}

pub fn cancelled(by: &str) -> Error {
    Error::new(Kind::Interrupted, format!("cancelled by {by}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::layout::Layout;

    #[test]
    fn only_the_deployment_that_is_meant_stops() {
        let dir = tempfile::tempdir().unwrap();
        let service = Layout::new(dir.path()).service("demo");
        std::fs::create_dir_all(&service.home).unwrap();
        check(&service, "d1").unwrap();
        request(&service, "d1", "a@b").unwrap();
        check(&service, "d2").unwrap();
        let error = check(&service, "d1").unwrap_err();
        assert_eq!((error.kind, error.to_string()), (Kind::Interrupted, "cancelled by a@b".into()));
    }
}
