//! Deploys under load: the table is swapped again and again, and each old instance is stopped, with all it
//! has, as soon as `status` says that nothing is open on it. Nothing may fail.
//!
//! With the feature `fault-late-claim`, which counts a request only once its answer has begun, this test must
//! fail: then `status` calls instances idle to which requests are on their way.
use crate::harness::{Gateway, wait};
use crate::load::{Kind, Load};
use crate::standin::StandIn;
use serde_json::json;

const SWAPS: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_in_many_deploys() {
    let mut old = vec![StandIn::start(0, 1).await, StandIn::start(1, 1).await];
    let gateway = Gateway::serving(&[&old[0], &old[1]], json!({})).await;
    let kinds = [
        Kind::Get,
        Kind::Get,
        Kind::Kept,
        Kind::Kept,
        Kind::Upload,
        Kind::Upload,
        Kind::Slow,
        Kind::Slow,
        Kind::Slow,
        Kind::Job,
        Kind::Socket,
        Kind::Socket,
    ];
    let load = Load::start(gateway.address, &kinds);
    for generation in 2..2 + SWAPS {
        load.more(15).await;
        let new = vec![StandIn::start(0, generation).await, StandIn::start(1, generation).await];
        gateway.set(&[&new[0], &new[1]]).await;
        for mut instance in std::mem::replace(&mut old, new) {
            let id = instance.target.id.clone();
            wait(&format!("{id} to be idle"), || async {
                gateway.open().await.iter().all(|(other, ..)| *other != id)
            })
            .await;
            instance.stop().await;
        }
    }
    load.more(50).await;
    let (done, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {} failed: {failures:#?}", failures.len(), done);
    assert!(done > 15 * SWAPS);
    wait("nothing to be open", || async { gateway.open().await.iter().all(|t| t.3 + t.4 == 0) }).await;
}
