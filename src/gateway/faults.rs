//! The places of `sys::fault` in the gateway, whose one thread must go on while a test holds it at one of them.
use crate::gateway::shared::Gateway;
use crate::sys::fault;

/// One place; without the feature `fault-points` nothing at all.
pub async fn point(gateway: &Gateway, name: &'static str) -> Result<(), String> {
    if !cfg!(feature = "fault-points") {
        return Ok(());
    }
    let service = gateway.active().settings.service.clone();
    let passed = tokio::task::spawn_blocking(move || fault::point(&service, name)).await;
    passed.map_err(|e| e.to_string())?.map_err(|e| e.full())
}
