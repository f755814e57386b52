//! Small questions to an HTTP server of this host: an instance's own answers. Not for bodies of unknown size.
use crate::sys::address::Address;
use crate::sys::error::{Error, Kind, Result};
use crate::sys::stream::{self, Stream};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// `/object_info` of an environment with hundreds of packs has tens of megabytes.
const LARGEST: usize = 256 << 20;

#[derive(Debug)]
pub struct Client {
    runtime: tokio::runtime::Runtime,
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Client {
    pub fn new() -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(Kind::Io, "cannot start the network loop").caused_by(e))?;
        Ok(Client { runtime })
    }

    pub fn get(&self, at: &Address, path: &str, limit: Duration) -> std::result::Result<Reply, String> {
        self.ask(Method::GET, at, path, Bytes::new(), limit)
    }

    pub fn post(
        &self,
        at: &Address,
        path: &str,
        json: Bytes,
        limit: Duration,
    ) -> std::result::Result<Reply, String> {
        self.ask(Method::POST, at, path, json, limit)
    }

    fn ask(
        &self,
        method: Method,
        at: &Address,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> std::result::Result<Reply, String> {
        self.runtime.block_on(ask(method, at, path, body, limit))
    }
}

/// One GET, for a caller with a network loop of its own.
pub async fn get(address: &Address, path: &str, limit: Duration) -> std::result::Result<Reply, String> {
    ask(Method::GET, address, path, Bytes::new(), limit).await
}

/// The error says what is wrong with the answer, for a person.
async fn ask(
    method: Method,
    address: &Address,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> std::result::Result<Reply, String> {
    let work = async {
        let stream = Stream::connect(address).await.map_err(|e| match stream::is_refused(&e) {
            true => "refuses connections".to_string(),
            false => format!("cannot be reached: {e}"),
        })?;
        let broken = |e: hyper::Error| format!("broke off its answer: {e}");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", address.host())
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| format!("cannot be asked for {path}: {e}"))?;
        let reply = sender.send_request(request).await.map_err(broken)?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), LARGEST)
            .collect()
            .await
            .map_err(|e| format!("broke off its answer: {e}"))?;
        Ok(Reply { status, body: body.to_bytes() })
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(format!("gave no answer within {} ms", limit.as_millis())))
}
