//! The gateway's own pages, its metrics and its log.
use crate::client::{WebSocket, full, get, request, send, talk};
use crate::harness::{Gateway, with};
use crate::standin::StandIn;
use serde_json::json;

#[tokio::test]
async fn pages() {
    let (a, b) = (StandIn::start(0, 1).await, StandIn::start(1, 2).await);
    let gateway = Gateway::start(with(json!({}))).await;
    let health = get(gateway.address, "/-/health").await;
    assert_eq!((health.status, health.json()), (200, json!({ "service": "demo", "status": "alive" })));
    let ready = get(gateway.address, "/-/ready").await;
    assert_eq!(ready.error(), (503, "no-instance".into(), "no instance is in the table".into()));
    gateway.set(&[&a]).await;
    let ready = get(gateway.address, "/-/ready").await;
    assert_eq!(ready.json(), json!({ "service": "demo", "status": "ready", "instances": 1 }));
    let mut socket = WebSocket::open(gateway.address, "/ws?clientId=x").await.unwrap();
    socket.instance().await;
    gateway.set(&[&b]).await;
    get(gateway.address, "/queue").await;
    let instances = get(gateway.address, "/-/instances").await.json();
    assert_eq!(
        instances,
        json!({ "service": "demo", "held": 0, "instances": [
            { "id": "s1-g2", "generation": 2, "slot": 1, "healthy": true, "reason": null, "draining": false,
              "requests": 0, "websockets": 0, "served": 1, "failed": 0 },
            { "id": "s0-g1", "generation": 1, "slot": 0, "healthy": false,
              "reason": "not in the table any more", "draining": true,
              "requests": 0, "websockets": 1, "served": 1, "failed": 0 },
        ] })
    );
    let unknown = get(gateway.address, "/-/x").await;
    assert_eq!(unknown.error(), (404, "no-such-page".into(), "the gateway has no page /-/x".into()));
    let posted = send(gateway.address, request("POST", "/-/health", &[], full("x"))).await;
    assert_eq!(posted.error(), (400, "bad-request".into(), "/-/health can only be read".into()));
    let head = send(gateway.address, request("HEAD", "/-/health", &[], full(""))).await;
    assert_eq!((head.status, head.text()), (200, ""));
    // None of it reached an instance.
    assert_eq!(b.state.seen(), ["GET /queue"]);
}

async fn metrics(gateway: &Gateway) -> Vec<String> {
    let page = get(gateway.metrics, "/metrics").await;
    assert_eq!(page.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    page.text().lines().map(String::from).collect()
}

#[tokio::test]
async fn metrics_of_what_happened() {
    let a = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&a], json!({})).await;
    for path in ["/queue", "/queue", "/test/status/404", "/-/x"] {
        get(gateway.address, path).await;
    }
    send(gateway.address, request("POST", "/test/echo", &[], full(vec![b'x'; 1000]))).await;
    let mut socket = WebSocket::open(gateway.address, "/ws?clientId=x").await.unwrap();
    socket.instance().await;
    let lines = metrics(&gateway).await;
    let value = |name: &str| -> f64 {
        let line = lines.iter().find(|l| l.split_once(' ').is_some_and(|(n, _)| n == name));
        line.unwrap_or_else(|| panic!("{name} in {lines:#?}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    for (name, expected) in [
        ("stillframe_gateway_requests_total{instance=\"s0-g1\",class=\"1xx\"}", 1.0),
        ("stillframe_gateway_requests_total{instance=\"s0-g1\",class=\"2xx\"}", 3.0),
        ("stillframe_gateway_requests_total{instance=\"s0-g1\",class=\"4xx\"}", 1.0),
        ("stillframe_gateway_requests_total{instance=\"\",class=\"4xx\"}", 1.0),
        ("stillframe_gateway_open_requests", 1.0),
        ("stillframe_gateway_held_requests", 0.0),
        ("stillframe_gateway_websockets{instance=\"s0-g1\"}", 1.0),
        ("stillframe_gateway_instance_healthy{instance=\"s0-g1\"}", 1.0),
        ("stillframe_gateway_errors_total{kind=\"no-such-page\"}", 1.0),
        ("stillframe_gateway_errors_total{kind=\"instance-slow\"}", 0.0),
        ("stillframe_gateway_received_bytes_total", 1000.0),
        ("stillframe_gateway_request_seconds_count", 5.0),
        ("stillframe_gateway_request_seconds_bucket{le=\"+Inf\"}", 5.0),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    assert!(value("stillframe_gateway_sent_bytes_total") >= 1000.0);
    assert!(value("process_start_time_seconds") > 1.7e9);
    // Every series has its type, and every line is one of the text format.
    for line in lines.iter().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
        let typed = |name: &str| lines.iter().any(|l| l.starts_with(&format!("# TYPE {name} ")));
        assert!(typed(family) || typed(name), "{line}");
        assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(get(gateway.metrics, "/other").await.status, 404);
}

#[tokio::test]
async fn a_metrics_port_that_is_taken_is_not_fatal() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let gateway = Gateway::start(with(json!({ "metrics": address }))).await;
    assert_eq!(get(gateway.address, "/-/health").await.status, 200);
    gateway.log_with("<3>no metrics: cannot listen on ").await;
    drop(taken);
    // Had as soon as it is free.
    crate::harness::wait("the metrics", || async {
        crate::client::try_send(address, request("GET", "/metrics", &[], full(""))).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn one_line_a_request_and_none_forged() {
    let a = StandIn::start(0, 1).await;
    let gateway = Gateway::serving(&[&a], json!({})).await;
    get(gateway.address, "/view?filename=private.png").await;
    let hostile = "GET /a\"b\u{e9}{}%0astatus=200 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    talk(gateway.address, hostile.as_bytes()).await;
    let log = gateway.log_with("path=/a").await;
    assert!(!log.contains("private.png"));
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("client=")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    let fields: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!(&fields[..5], ["<6>client=127.0.0.1", "method=GET", "path=/view", "status=404", "bytes=0"]);
    assert!(fields[5].starts_with("ms=") && fields[5][3..].parse::<f64>().is_ok());
    assert_eq!(&fields[6..], ["instance=s0-g1", "upgrade=no"]);
    assert_eq!(lines[1].split(' ').count(), 8, "{}", lines[1]);
    assert!(lines[1].contains(r"path=/a\x22b\xc3\xa9{}%0astatus=200 status="), "{}", lines[1]);
    for line in log.lines() {
        assert!(line.starts_with("<6>") || line.starts_with("<4>") || line.starts_with("<3>"), "{line}");
    }
}
