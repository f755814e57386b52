//! The gateway's own check of each instance, which decides whether the instance has new requests.
use crate::gateway::access_log::Level;
use crate::gateway::body::RequestBody;
use crate::gateway::instance::Instance;
use crate::gateway::link::{ConnectError, Link, SendError};
use crate::gateway::shared::Gateway;
use crate::protocol::control::{Check, Limits};
use hyper::Request;
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Between two checks of an unhealthy instance.
const SOON: Duration = Duration::from_millis(200);

/// Why a check failed.
enum Bad {
    Refused,
    Other(String),
}

/// Checks these from now on, until nothing can go to them any more.
pub fn watch(gateway: &Arc<Gateway>, instances: Vec<Arc<Instance>>) {
    for instance in instances {
        tokio::spawn(run(gateway.clone(), instance));
    }
}

async fn run(gateway: Arc<Gateway>, instance: Arc<Instance>) {
    // One that nobody vouched for is checked at once.
    let mut first = !instance.is_healthy();
    loop {
        let urgent = !instance.is_healthy() && gateway.router.is_named(&instance);
        let pause = match urgent {
            _ if first => Duration::ZERO,
            true => SOON,
            false => Duration::from_millis(gateway.active().settings.check.interval_ms.max(10)),
        };
        first = false;
        tokio::select! {
            () = sleep(pause) => {}
            () = instance.check_now.notified() => {}
        }
        if !gateway.router.knows(&instance) {
            return;
        }
        if instance.is_closed() {
            continue;
        }
        let active = gateway.active();
        let seen = check(&instance, &active.settings.check, &active.settings.limits).await;
        if !gateway.router.is_named(&instance) {
            // It drains: it gets nothing new, but may be asked for its results while it lives.
            if matches!(seen, Err(Bad::Refused)) {
                instance.close();
            }
            continue;
        }
        match seen {
            Ok(()) => {
                if instance.well() {
                    gateway.log.note(Level::Info, &format!("{} is well", instance.id()));
                    gateway.router.changed.notify_waiters();
                }
            }
            Err(Bad::Refused) => {
                if instance.refused(REFUSED) {
                    unwell(&gateway, &instance, REFUSED);
                }
            }
            Err(Bad::Other(why)) => {
                if instance.failed_check(&why, active.settings.check.failures) {
                    unwell(&gateway, &instance, &why);
                }
            }
        }
    }
}

pub const REFUSED: &str = "connection refused";

pub fn unwell(gateway: &Gateway, instance: &Instance, why: &str) {
    let text = format!("{} has no new requests until it is well again: {why}", instance.id());
    gateway.log.note(Level::Warning, &text);
}

async fn check(instance: &Instance, check: &Check, limits: &Limits) -> Result<(), Bad> {
    let answer = timeout(Duration::from_millis(check.timeout_ms), ask(instance, check, limits)).await;
    answer.unwrap_or_else(|_| Err(Bad::Other(format!("no answer within {} ms", check.timeout_ms))))
}

async fn ask(instance: &Instance, check: &Check, limits: &Limits) -> Result<(), Bad> {
    // A new connection: a kept one does not show whether the instance still accepts any.
    let connect = Duration::from_millis(limits.connect_ms);
    let mut link = match Link::connect(&instance.target.address, connect).await {
        Ok(link) => link,
        Err(ConnectError::Refused) => return Err(Bad::Refused),
        Err(ConnectError::Slow) => {
            return Err(Bad::Other(format!("no connection within {} ms", limits.connect_ms)));
        }
        Err(ConnectError::Other(e)) => return Err(Bad::Other(format!("cannot connect: {e}"))),
    };
    let mut request = Request::new(RequestBody::empty());
    *request.uri_mut() =
        check.path.parse().map_err(|_| Bad::Other(format!("{:?} is not a path", check.path)))?;
    request.headers_mut().insert(HOST, instance.host.clone());
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("stillframe-gateway"));
    let response = match link.send(request, || None::<()>).await {
        Ok(response) => response,
        Err(SendError::Ended(why) | SendError::Garbled(why)) => return Err(Bad::Other(why)),
        Err(SendError::NotSent(_) | SendError::Stopped(())) => {
            return Err(Bad::Other("the connection ended at once".into()));
        }
    };
    let status = response.status();
    // Read to its end, so that the instance does not log a broken connection. What it says does not matter.
    let _ = link.collect(response.into_body(), 1 << 20).await;
    if status.is_success() { Ok(()) } else { Err(Bad::Other(format!("status {}", status.as_u16()))) }
}
