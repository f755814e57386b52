//! The record of one request. When the request is over it becomes a line of the access log and counts in the
//! metrics.
use crate::gateway::access_log::Line;
use crate::gateway::instance::Instance;
use crate::gateway::key::Key;
use crate::gateway::metrics::class;
use crate::gateway::refusal::Fault;
use crate::gateway::share::{Share, Source};
use crate::gateway::shared::Gateway;
use hyper::{Method, Uri};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A request's shares of what there is only so much of.
#[derive(Default)]
pub struct Taken {
    pub client: Option<Share<Source>>,
    pub key: Option<Share<Key>>,
}

pub struct Access {
    pub gateway: Arc<Gateway>,
    client: IpAddr,
    method: Method,
    uri: Uri,
    started: Instant,
    pub instance: Option<Arc<Instance>>,
    pub status: u16,
    /// Sent to the client; `received` came from it.
    pub bytes: u64,
    pub received: u64,
    pub upgrade: bool,
    pub fault: Option<Fault>,
    /// It has no line of its own in the log.
    pub silent: bool,
    /// What it counts in while it lasts.
    pub shares: Taken,
}

impl Access {
    pub fn new(gateway: &Arc<Gateway>, client: IpAddr, method: &Method, uri: &Uri) -> Access {
        gateway.metrics.open.fetch_add(1, Ordering::Relaxed);
        Access {
            gateway: gateway.clone(),
            client,
            method: method.clone(),
            uri: uri.clone(),
            started: Instant::now(),
            instance: None,
            status: 0,
            bytes: 0,
            received: 0,
            upgrade: false,
            fault: None,
            silent: false,
            shares: Taken::default(),
        }
    }

    /// Another process had it, with this status, and hands it over.
    pub fn of_websocket(gateway: &Arc<Gateway>, (client, uri): (IpAddr, Uri), status: u16) -> Access {
        let mut access = Access::new(gateway, client, &Method::GET, &uri);
        (access.status, access.upgrade) = (status, true);
        access
    }

    /// Whose it is, and what was asked for.
    pub fn asked(&self) -> (IpAddr, &Uri) {
        (self.client, &self.uri)
    }

    /// The instance answered.
    pub fn answered(&mut self, instance: &Arc<Instance>, status: u16) {
        instance.served.fetch_add(1, Ordering::Relaxed);
        instance.classes[class(status)].fetch_add(1, Ordering::Relaxed);
        self.instance = Some(instance.clone());
        self.status = status;
    }

    /// The request failed.
    pub fn failed(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.gateway.metrics.error(fault);
        if let Some(instance) = &self.instance
            && fault.is_instances()
        {
            instance.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let metrics = &self.gateway.metrics;
        let took = self.started.elapsed();
        metrics.open.fetch_sub(1, Ordering::Relaxed);
        metrics.received.fetch_add(self.received, Ordering::Relaxed);
        metrics.sent.fetch_add(self.bytes, Ordering::Relaxed);
        if !self.upgrade {
            metrics.latency(took);
        }
        if self.silent {
            return;
        }
        self.gateway.log.request(&Line {
            client: self.client,
            method: &self.method,
            uri: &self.uri,
            // The client left before there was an answer: nginx's number for it.
            status: if self.status == 0 { 499 } else { self.status },
            bytes: self.bytes,
            took,
            instance: self.instance.as_ref(),
            upgrade: self.upgrade,
            fault: self.fault,
        });
    }
}
