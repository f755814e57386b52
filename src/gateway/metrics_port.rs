//! The port of the metrics page: loopback, one path, for Prometheus.
use crate::gateway::access_log::Level;
use crate::gateway::metrics_page;
use crate::gateway::shared::Gateway;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Between two attempts to bind the port, which the process before this one may still hold.
const AGAIN: Duration = Duration::from_secs(1);

pub async fn serve(gateway: Arc<Gateway>, address: SocketAddr) {
    let mut complained = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(e) => {
                if !complained {
                    complained = true;
                    gateway.log.note(Level::Error, &format!("no metrics: cannot listen on {address}: {e}"));
                }
                sleep(AGAIN).await;
            }
        }
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(AGAIN).await;
            continue;
        };
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&gateway, request));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
            // A client that leaves early does not matter here.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(gateway: &Gateway, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    if *request.method() != Method::GET || request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    *response.body_mut() = Full::new(Bytes::from(metrics_page::text(gateway)));
    Ok(response)
}
