//! What belongs to one ComfyUI process goes to that one.
use crate::client::{WebSocket, full, get, get_with, post, request, send};
use crate::harness::Gateway;
use crate::standin::StandIn;
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn two(generation: u64) -> (StandIn, StandIn) {
    (StandIn::start(0, generation).await, StandIn::start(1, generation).await)
}

#[tokio::test]
async fn equals_take_turns() {
    let (a, b) = two(1).await;
    let gateway = Gateway::serving(&[&a, &b], json!({})).await;
    for _ in 0..10 {
        get(gateway.address, "/queue").await;
    }
    assert_eq!((a.state.seen().len(), b.state.seen().len()), (5, 5));
}

#[tokio::test]
async fn a_job_is_asked_for_where_it_was_queued_even_after_a_deploy() {
    let (a, b) = two(1).await;
    let gateway = Gateway::serving(&[&a, &b], json!({})).await;
    let mut jobs = Vec::new();
    for n in 0..6 {
        let path = if n % 2 == 0 { "/prompt" } else { "/api/prompt" };
        let body = full(json!({ "prompt": {} }).to_string());
        let answer = send(gateway.address, request("POST", path, &[("accept-encoding", "gzip")], body)).await;
        jobs.push((answer.json()["prompt_id"].as_str().unwrap().to_string(), answer.instance().to_string()));
    }
    assert_eq!(jobs.iter().map(|job| &job.1).collect::<BTreeSet<_>>().len(), 2);
    let (mut c, d) = two(2).await;
    gateway.set(&[&c, &d]).await;
    let check = async |jobs: &[(String, String)]| {
        for (id, instance) in jobs {
            for path in [format!("/history/{id}"), format!("/api/history/{id}"), format!("/api/jobs/{id}")] {
                let answer = get(gateway.address, &path).await;
                assert_eq!(answer.instance(), instance);
                assert_ne!(answer.json(), json!({}));
            }
            let delete =
                send(gateway.address, request("DELETE", &format!("/api/jobs/{id}"), &[], full(""))).await;
            assert_eq!(delete.instance(), instance);
        }
    };
    check(&jobs).await;
    // The answer was read, so it must not be compressed.
    assert_eq!(a.state.jobs.lock().unwrap().values().next().unwrap()["encoding"], false);
    // An instance that was stopped holds nothing: the table's answer it.
    drop(a);
    let on_a = jobs.iter().find(|job| job.1 == "s0-g1").unwrap();
    let answer = get(gateway.address, &format!("/history/{}", on_a.0)).await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    assert!(answer.instance().ends_with("-g2"));
    // One of the table that restarted has lost them too, but the request has an answer.
    let answer = post(gateway.address, "/prompt", &json!({ "prompt": {}, "prompt_id": "mine" })).await;
    let holder = answer.instance().to_string();
    if holder == "s0-g2" {
        c.stop().await;
    } else {
        drop(d);
    }
    let answer = get(gateway.address, "/history/mine").await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    assert_ne!(answer.instance(), holder);
}

#[tokio::test]
async fn requests_that_name_jobs_in_their_body() {
    let (a, b) = two(1).await;
    let gateway = Gateway::serving(&[&a, &b], json!({})).await;
    for path in ["/interrupt", "/api/interrupt", "/queue", "/api/queue", "/history"] {
        for _ in 0..2 {
            let answer = post(gateway.address, "/prompt", &json!({ "prompt": {} })).await;
            let (id, instance) = (answer.json()["prompt_id"].clone(), answer.instance().to_string());
            let body = if path.ends_with("interrupt") {
                json!({ "prompt_id": id })
            } else {
                json!({ "delete": ["unknown", id] })
            };
            let answer = post(gateway.address, path, &body).await;
            assert_eq!(answer.instance(), instance, "{path}");
            let state = if instance == "s0-g1" { &a.state } else { &b.state };
            assert_eq!(state.bodies.lock().unwrap().last().unwrap(), &body.to_string());
        }
    }
    // Too large to be read ahead, or not JSON: it goes somewhere, whole.
    for body in [format!("{{\"x\": \"{}\"}}", "y".repeat(100_000)), "not json".into()] {
        let answer = send(gateway.address, request("POST", "/queue", &[], full(body.clone()))).await;
        let state = if answer.instance() == "s0-g1" { &a.state } else { &b.state };
        assert_eq!(state.bodies.lock().unwrap().last().unwrap(), &body);
    }
}

#[tokio::test]
async fn a_browser_keeps_its_slot_across_generations() {
    let (a, b) = two(1).await;
    let gateway = Gateway::serving(&[&a, &b], json!({})).await;
    let answer = get(gateway.address, "/").await;
    let slot = &answer.instance()[1..2];
    assert_eq!(
        answer.header("set-cookie"),
        format!("stillframe-slot={slot}; HttpOnly; SameSite=Lax; Path=/")
    );
    let other = if slot == "0" { "1" } else { "0" };
    for wanted in [slot, other] {
        let cookie = format!("x=y; stillframe-slot={wanted}");
        for _ in 0..3 {
            let answer = get_with(gateway.address, "/", &[("cookie", &cookie)]).await;
            assert_eq!(answer.instance(), format!("s{wanted}-g1"));
            assert_eq!(answer.header("set-cookie"), "");
        }
    }
    let (c, d) = two(2).await;
    gateway.set(&[&c, &d]).await;
    let cookie = format!("stillframe-slot={slot}");
    assert_eq!(
        get_with(gateway.address, "/", &[("cookie", &cookie)]).await.instance(),
        format!("s{slot}-g2")
    );
    // A slot that is no more: another, and the browser is told.
    let answer = get_with(gateway.address, "/", &[("cookie", "stillframe-slot=9")]).await;
    assert!(answer.header("set-cookie").starts_with("stillframe-slot="));
    // With one instance there is nothing to keep.
    gateway.set(&[&c]).await;
    assert_eq!(get(gateway.address, "/").await.header("set-cookie"), "");
}

#[tokio::test]
async fn a_job_goes_where_its_clients_websocket_is() {
    let (a, b) = two(1).await;
    let gateway = Gateway::serving(&[&a, &b], json!({})).await;
    let mut sockets = Vec::new();
    for n in 0..4 {
        let mut socket =
            WebSocket::open(gateway.address, &format!("/ws?clientId=client%2B{n}")).await.unwrap();
        sockets.push((socket.instance().await, socket));
    }
    assert_eq!(sockets.iter().map(|s| &s.0).collect::<BTreeSet<_>>().len(), 2);
    let job = |n: usize, padding: usize| -> Value {
        json!({ "prompt": { "1": "x".repeat(padding) }, "client_id": format!("client+{n}") })
    };
    for _ in 0..3 {
        for (n, (instance, _)) in sockets.iter().enumerate() {
            let answer = post(gateway.address, "/prompt", &job(n, 900_000)).await;
            assert_eq!((answer.status, answer.instance()), (200, instance.as_str()));
        }
    }
    // A larger one passes as it is.
    assert_eq!(post(gateway.address, "/prompt", &job(0, 2_000_000)).await.status, 200);
    // A browser's slot is worth more than that.
    let slot = if sockets[0].0 == "s0-g1" { "stillframe-slot=1" } else { "stillframe-slot=0" };
    let body = full(job(0, 1).to_string());
    let answer = send(gateway.address, request("POST", "/prompt", &[("cookie", slot)], body)).await;
    assert_ne!(answer.instance(), sockets[0].0);
    // A client that comes again goes where its jobs are.
    let (instance, socket) = sockets.remove(0);
    drop(socket);
    let mut again = WebSocket::open(gateway.address, "/ws?clientId=client%2B0").await.unwrap();
    assert_eq!(again.instance().await, instance);
    // An instance out of the table gets no new job, whoever is on it.
    let (c, d) = two(2).await;
    gateway.set(&[&c, &d]).await;
    for n in 0..4 {
        let answer = post(gateway.address, "/prompt", &job(n, 1)).await;
        assert!(answer.instance().ends_with("-g2"));
    }
}

#[tokio::test]
async fn a_picture_is_looked_for_everywhere() {
    let (a, b) = two(1).await;
    a.state.pictures.lock().unwrap().push("a.png".into());
    b.state.pictures.lock().unwrap().push("b.png".into());
    let gateway = Gateway::serving(&[&a, &b], json!({})).await;
    let (c, d) = two(2).await;
    d.state.pictures.lock().unwrap().push("d.png".into());
    gateway.set(&[&c, &d]).await;
    for (name, of) in [("a.png", "s0-g1"), ("b.png", "s1-g1"), ("d.png", "s1-g2")] {
        for path in ["/view", "/api/view"] {
            for _ in 0..2 {
                let answer = get(gateway.address, &format!("{path}?filename={name}&type=output")).await;
                assert_eq!(
                    (answer.status, answer.text(), answer.instance()),
                    (200, &*format!("{name} of {of}"), of)
                );
            }
        }
        let path = format!("/view?filename={name}");
        let answer = send(gateway.address, request("HEAD", &path, &[], full(""))).await;
        assert_eq!((answer.status, answer.text()), (200, ""));
    }
    // Nobody has it: the first one's answer, once each was asked.
    [&a, &b, &c, &d].iter().for_each(|i| i.state.seen.lock().unwrap().clear());
    let answer = get(gateway.address, "/view?filename=none.png").await;
    assert_eq!(answer.status, 404);
    assert!(answer.instance().ends_with("-g2"));
    for instance in [&a, &b, &c, &d] {
        assert_eq!(instance.state.seen(), ["GET /view?filename=none.png"]);
    }
    // Those that are gone do not matter.
    drop(a);
    assert_eq!(get(gateway.address, "/view?filename=a.png").await.status, 404);
    assert_eq!(get(gateway.address, "/view?filename=b.png").await.text(), "b.png of s1-g1");
    let open = gateway.open().await;
    assert!(open.iter().all(|t| t.3 == 0) && open.len() == 2, "{open:?}");
}
