use super::*;

fn names() -> Names {
    let callers = Callers {
        hosts: vec!["gpu.lan".to_string().try_into().unwrap()],
        origins: vec!["https://pictures.example".to_string().try_into().unwrap()],
        trusted_proxies: vec![],
    };
    Names::new(&callers, "Gpu-Host.corp.example")
}

fn fault(keyless: bool, method: &str, upgrade: bool, headers: &[(&'static str, &str)]) -> Option<Fault> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let method = method.parse().unwrap();
    let asked = Asked { method: &method, headers: &map, upgrade, keyless };
    names().check(&asked).err().map(|refusal| refusal.fault)
}

#[test]
fn what_changes_something_comes_from_a_page_of_the_service() {
    for (host, origin, fine) in [
        ("localhost:8188", "http://localhost:8188", true),
        ("LocalHost:8188", "HTTP://LOCALHOST:8188", true),
        ("comfy.localhost:8188", "http://comfy.localhost:8188", true),
        ("10.0.0.5:8188", "http://10.0.0.5:8188", true),
        ("[fd00::5]:8188", "http://[fd00::5]:8188", true),
        ("gpu-host:8188", "http://gpu-host:8188", true),
        ("gpu-host.local", "http://gpu-host.local", true),
        ("gpu-host.corp.example", "https://gpu-host.corp.example:443", true),
        ("gpu.lan:80", "http://gpu.lan", true),
        // A proxy passes its own name on, or the name of what it asks.
        ("pictures.example", "https://pictures.example", true),
        ("127.0.0.1:8188", "https://pictures.example", true),
        ("127.0.0.1:8188", "https://Pictures.example:443", true),
        ("127.0.0.1:8188", "http://pictures.example", false),
        ("127.0.0.1:8188", "https://pictures.example:8443", false),
        ("localhost:8188", "http://localhost:3000", false),
        ("localhost:8188", "https://evil.example", false),
        ("localhost:8188", "null", false),
        ("localhost:8188", "", false),
        ("localhost:8188", "http://localhost:8188, http://evil.example", false),
        // With a key any name will do: the browser has none for a stranger's.
        ("gpu.tailnet.example:8188", "http://gpu.tailnet.example:8188", true),
        ("studio.example", "https://studio.example", true),
        ("gpu.tailnet.example:8188", "http://evil.example:8188", false),
    ] {
        for (method, upgrade) in [("POST", false), ("DELETE", false), ("PATCH", false), ("GET", true)] {
            let expected = (!fine).then_some(Fault::CrossSite);
            let headers = [("host", host), ("origin", origin)];
            assert_eq!(fault(false, method, upgrade, &headers), expected, "{method} {host} {origin}");
        }
        assert_eq!(fault(false, "GET", false, &[("host", host), ("origin", origin)]), None);
    }
    let twice =
        [("host", "a"), ("origin", "https://pictures.example"), ("origin", "https://pictures.example")];
    assert_eq!(fault(false, "POST", false, &twice), Some(Fault::CrossSite));
}

#[test]
fn a_browser_says_itself_that_another_site_sent_it() {
    let host = ("host", "localhost:8188");
    for (site, found) in [
        ("cross-site", Some(Fault::CrossSite)),
        ("Cross-Site", Some(Fault::CrossSite)),
        ("same-origin", None),
        ("none", None),
    ] {
        assert_eq!(fault(true, "POST", false, &[host, ("sec-fetch-site", site)]), found, "{site}");
        assert_eq!(fault(true, "GET", true, &[host, ("sec-fetch-site", site)]), found, "{site}");
        // A link from elsewhere may be followed.
        assert_eq!(fault(true, "GET", false, &[host, ("sec-fetch-site", site)]), None);
    }
    // Whom the instance would take for a stranger.
    let page = |host: &str, origin: &str| {
        let mut map = HeaderMap::new();
        map.insert(HOST, host.parse().unwrap());
        map.insert(ORIGIN, origin.parse().unwrap());
        let asked = Asked { method: &Method::GET, headers: &map, upgrade: false, keyless: true };
        names().check(&asked).unwrap()
    };
    assert_eq!(page("127.0.0.1:8188", "https://pictures.example"), Page::Named);
    assert_eq!(page("pictures.example", "https://pictures.example"), Page::Own);
    assert_eq!(page("127.0.0.1:8188", "http://127.0.0.1:8188"), Page::Own);
    let allowed = [host, ("sec-fetch-site", "cross-site"), ("origin", "https://pictures.example")];
    assert_eq!(fault(true, "POST", false, &allowed), None);
}

#[test]
fn without_a_key_the_name_must_be_known() {
    for (host, fine) in [
        ("evil.example:8188", false),
        ("localhost.evil.example", false),
        ("", false),
        ("a b", false),
        ("localhost", true),
        ("127.0.0.1:8188", true),
        ("[::1]:8188", true),
        ("gpu-host:8188", true),
        ("gpu.lan", true),
        ("pictures.example", true),
    ] {
        for method in ["GET", "POST"] {
            let found = fault(true, method, false, &[("host", host)]);
            assert_eq!(found, (!fine).then_some(Fault::UnknownHost), "{method} {host}");
            // With a key: the browser has none for a stranger's name, and a program names what it likes.
            assert_eq!(fault(false, method, false, &[("host", host)]), None);
        }
    }
    // HTTP/1.0 has no Host; no browser speaks it.
    assert_eq!(fault(true, "GET", false, &[]), None);
    assert_eq!(fault(true, "POST", false, &[("origin", "http://a")]), Some(Fault::CrossSite));
    // The page that a stranger's name leads here.
    for host in ["evil.example:8188", "gpu-host.evil.example"] {
        let headers = [("host", host), ("origin", &*format!("http://{host}"))];
        assert_eq!(fault(true, "POST", false, &headers), Some(Fault::UnknownHost), "{host}");
        assert_eq!(fault(true, "GET", true, &headers), Some(Fault::UnknownHost), "{host}");
    }
}

#[test]
fn a_refusal_says_which_key_to_set() {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, "Studio.example:8188".parse().unwrap());
    let asked = Asked { method: &Method::GET, headers: &headers, upgrade: false, keyless: true };
    let message = names().check(&asked).unwrap_err().message;
    assert!(message.starts_with("\"Studio.example:8188\" is no name of this service."), "{message}");
    assert!(message.contains("localhost, gpu-host and") && message.ends_with("hosts = [\"studio.example\"]"));
    headers.insert(ORIGIN, "http://Pages.example:8188".parse().unwrap());
    let asked = Asked { method: &Method::POST, headers: &headers, upgrade: false, keyless: false };
    let message = names().check(&asked).unwrap_err().message;
    assert!(
        message.ends_with("set [service.gateway] origins = [\"http://pages.example:8188\"]"),
        "{message}"
    );
}
