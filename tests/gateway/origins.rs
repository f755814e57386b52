//! Pages of other sites, names of strangers, and what clients say of themselves in a proxy's place.
use crate::client::{Answer, HANDSHAKE, WebSocket, full, get_with, request, send, talk};
use crate::harness::Gateway;
use crate::standin::StandIn;
use serde_json::json;

/// "secret", as sha256sum has it, and as browsers send it by themselves.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const BASIC: (&str, &str) = ("authorization", "Basic dXNlcjpzZWNyZXQ=");
const JOB: &str = r#"{"prompt": {}}"#;

async fn post(gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
    send(gateway.address, request("POST", "/prompt", headers, full(JOB))).await
}

async fn socket(gateway: &Gateway, headers: &str) -> u16 {
    let request = format!("GET /ws?clientId=a HTTP/1.1\r\n{HANDSHAKE}{headers}\r\n");
    let mut stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let head = crate::client::read_head(&mut stream).await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_though_the_browser_adds_the_key() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({ "api_keys": [SECRET] })).await;
    let host = ("host", "127.0.0.1:8188");
    for bad in [
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![("origin", "http://127.0.0.1:3000"), ("sec-fetch-site", "same-site")],
        vec![("origin", "http://127.0.0.1")],
        vec![("sec-fetch-site", "cross-site")],
    ] {
        let headers: Vec<_> = [host, BASIC].into_iter().chain(bad.clone()).collect();
        let (status, kind, message) = post(&gateway, &headers).await.error();
        assert_eq!((status, kind.as_str()), (403, "cross-site"), "{bad:?}");
        assert!(message.contains("origins = [") || bad[0].1 == "null", "{message}");
        let text: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        assert_eq!(socket(&gateway, &text).await, 403, "{bad:?}");
        for method in ["PUT", "DELETE", "PATCH"] {
            let answer = send(gateway.address, request(method, "/api/settings", &headers, full(""))).await;
            assert_eq!(answer.status, 403, "{method} {bad:?}");
        }
    }
    assert!(instance.state.seen().is_empty() && instance.state.socket_events.lock().unwrap().is_empty());
    // A link from elsewhere may be followed, and a program sends no Origin.
    let link = [host, BASIC, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    assert_eq!(get_with(gateway.address, "/queue", &link).await.status, 200);
    assert_eq!(post(&gateway, &[host, BASIC]).await.status, 200);
    gateway.log_with("error=cross-site").await;
}

#[tokio::test]
async fn the_services_own_page_works() {
    let instance = StandIn::start(0, 7).await;
    let change = json!({
        "api_keys": [SECRET],
        "callers": { "origins": ["https://pictures.example"], "hosts": ["gpu.lan"] },
    });
    let gateway = Gateway::serving(&[&instance], change).await;
    for (host, origin, site) in [
        ("127.0.0.1:8188", "http://127.0.0.1:8188", "same-origin"),
        ("LOCALHOST:8188", "http://localhost:8188", "same-origin"),
        ("[::1]:8188", "http://[::1]:8188", "same-origin"),
        ("gpu.lan", "http://gpu.lan:80", "same-origin"),
        // A proxy that speaks TLS in front, with its own name or with ours in Host.
        ("pictures.example", "https://pictures.example", "same-origin"),
        ("127.0.0.1:8188", "https://pictures.example:443", "same-origin"),
        // A name that nobody set, as of a proxy that leaves Host as it is: with a key it needs no setting.
        ("studio.example", "https://studio.example", "same-origin"),
        ("gpu.tailnet.example:8188", "http://gpu.tailnet.example:8188", "same-origin"),
        // A page of another site that was named.
        ("127.0.0.1:8188", "HTTPS://Pictures.example", "cross-site"),
    ] {
        let headers = [("host", host), ("origin", origin), ("sec-fetch-site", site), BASIC];
        assert_eq!(post(&gateway, &headers).await.status, 200, "{host} {origin}");
        let text: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        assert_eq!(socket(&gateway, &text).await, 101, "{host} {origin}");
    }
    // ComfyUI would refuse an Origin that is not the loopback name in Host, whatever was allowed here.
    let of =
        |origin| [("host", "127.0.0.1:8188"), ("origin", origin), ("sec-fetch-site", "cross-site"), BASIC];
    let named = get_with(gateway.address, "/test/headers", &of("https://pictures.example")).await.json();
    assert_eq!(
        (&named["headers"]["origin"], &named["headers"]["sec-fetch-site"]),
        (&json!(null), &json!(null))
    );
    let other = get_with(gateway.address, "/test/headers", &of("https://evil.example")).await.json();
    assert_eq!(other["headers"]["origin"], json!(["https://evil.example"]));
    // Its machine's own name needs no setting.
    let name = rustix::system::uname().nodename().to_str().unwrap().to_string();
    let origin = format!("http://{name}:8188");
    let headers = [("host", &*format!("{name}:8188")), ("origin", &*origin), BASIC];
    assert_eq!(post(&gateway, &headers).await.status, 200);
}

#[tokio::test]
async fn without_a_key_a_strangers_name_leads_nowhere() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let port = gateway.address.port();
    // A page of evil.example, whose name now leads to 127.0.0.1: to the browser it is one site.
    let host = format!("evil.example:{port}");
    let headers =
        [("host", &*host), ("origin", &*format!("http://{host}")), ("sec-fetch-site", "same-origin")];
    let (status, kind, message) = get_with(gateway.address, "/history", &headers[..1]).await.error();
    assert_eq!((status, kind.as_str()), (403, "unknown-host"));
    assert!(message.ends_with("set hosts = [\"evil.example\"]"), "{message}");
    assert_eq!(post(&gateway, &headers).await.error().1, "unknown-host");
    assert_eq!(get_with(gateway.address, "/-/instances", &headers[..1]).await.status, 403);
    let text: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    assert_eq!(socket(&gateway, &text).await, 403);
    // A target in absolute form takes Host's place.
    let absolute = "GET http://evil.example/queue HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(talk(gateway.address, absolute.as_bytes()).await.starts_with("HTTP/1.1 403 "));
    assert!(instance.state.seen().is_empty());
    for host in ["localhost", "127.0.0.1:8188", "[::1]:8188", "LOCALHOST.", "x"] {
        assert_eq!(get_with(gateway.address, "/queue", &[("host", host)]).await.status, 200, "{host}");
    }
    // What only says that it lives may be asked by any name.
    assert_eq!(get_with(gateway.address, "/-/health", &headers[..1]).await.status, 200);
    // The name is set while it runs.
    gateway.change_settings(&json!({ "callers": { "hosts": ["evil.example", "x"] } }));
    gateway.ask(&stillframe::protocol::control::Request::Reload).await;
    assert_eq!(post(&gateway, &headers).await.status, 200);
    assert!(WebSocket::open(gateway.address, "/ws?clientId=b").await.is_ok());
}

#[tokio::test]
async fn a_client_is_not_believed_what_a_proxy_would_say() {
    let instance = StandIn::start(0, 7).await;
    let gateway = Gateway::serving(&[&instance], json!({})).await;
    let said = [
        ("host", "localhost"),
        ("x-forwarded-for", "9.9.9.9, 8.8.8.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-user", "admin"),
        ("x-real-ip", "9.9.9.9"),
        ("forwarded", "for=9.9.9.9"),
    ];
    let seen = get_with(gateway.address, "/test/headers", &said).await.json()["headers"].clone();
    let ours = json!({
        "host": ["localhost"], "x-forwarded-for": ["127.0.0.1"], "x-forwarded-proto": ["http"],
        "x-forwarded-host": ["localhost"],
    });
    assert_eq!(seen, ours);
    let log = gateway.log_with("path=/test/headers").await;
    assert!(log.contains("client=127.0.0.1 ") && !log.contains("client=8.8.8.8"), "{log}");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let instance = StandIn::start(0, 7).await;
    let change = json!({ "callers": { "trusted_proxies": ["127.0.0.0/8", "10.1.0.0/16"] } });
    let gateway = Gateway::serving(&[&instance], change).await;
    let said = [
        ("host", "localhost"),
        ("x-forwarded-for", "9.9.9.9, 8.8.8.8, 10.1.2.3"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=8.8.8.8"),
    ];
    let seen = get_with(gateway.address, "/test/headers", &said).await.json()["headers"].clone();
    assert_eq!(seen["x-forwarded-for"], json!(["9.9.9.9, 8.8.8.8, 10.1.2.3, 127.0.0.1"]));
    assert_eq!(
        (&seen["x-forwarded-proto"], &seen["forwarded"]),
        (&json!(["https"]), &json!(["for=8.8.8.8"]))
    );
    // From the right: what is left of the first address that is no proxy's, its client may have made up.
    gateway.log_with("client=8.8.8.8 ").await;
}
