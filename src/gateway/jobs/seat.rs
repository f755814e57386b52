//! An instance's place for jobs, and the task that fills it: it tells the instance what to run, hears over a
//! WebSocket of the gateway's own how that goes, and asks the instance itself where the two may disagree.
//!
//! ```text
//! connect ─▶ reconcile (which of its jobs does it have, which have ended, which does it not know?) ─▶ listen
//!     ▲                                                                                                 │
//!     └──────────── the socket ended ◀── events in their order, orders of the gateway ◀─────────────────┘
//! ```
use crate::formats::comfy::api::paths;
use crate::gateway::access_log::Level;
use crate::gateway::jobs::call;
use crate::gateway::jobs::ending::{self, Turn};
use crate::gateway::jobs::engine::Engine;
use crate::gateway::jobs::listening::Listening;
use crate::gateway::jobs::place::{Order, Seat};
use crate::gateway::jobs::reconcile;
use crate::gateway::jobs::sending;
use crate::gateway::link::ConnectError;
use crate::gateway::shared::Gateway;
use crate::gateway::upstream::Upstream;
use crate::jobs::model::ReasonKind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

/// How long an instance that is up may take for a WebSocket's handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two tries to reach an instance.
const AGAIN: Duration = Duration::from_millis(200);

/// Until the instance is gone and has no job of ours.
pub async fn run(
    gateway: Arc<Gateway>,
    engine: Arc<Engine>,
    seat: Arc<Seat>,
    mut orders: UnboundedReceiver<Order>,
) {
    // After an upgrade of the gateway: what is heard before the clients' sockets have come over is lost to them.
    gateway.hub.settled().await;
    while !engine.is_paused() {
        match connect(&seat).await {
            Ok((jobs, all)) => {
                learn_features(&gateway, &seat).await;
                let mut listening = Listening::new(&gateway, &engine, &seat);
                if reconcile::all(&gateway, &engine, &seat).await {
                    seat.set_ready(true);
                    engine.dispatch(&gateway.router);
                    listen(&mut listening, jobs, all, &mut orders).await;
                    seat.set_ready(false);
                }
            }
            Err(ConnectError::Refused) => {
                // Nothing listens, so the process that had them is gone: a Unix socket has no other reason to refuse.
                for (at, id) in seat.jobs().into_iter().enumerate() {
                    let why = format!("the process of {} has ended", seat.instance.id());
                    let turn = if at == 0 { Turn::Its } else { Turn::Later };
                    ending::lost(&gateway, &engine, &seat, &id, (ReasonKind::InstanceDied, turn), &why).await;
                }
                seat.set_stuck(false);
            }
            Err(why) => {
                let text = format!("{} cannot be listened to: {why:?}", seat.instance.id());
                engine.note(&gateway.log, Level::Warning, &text);
            }
        }
        if seat.count() == 0 && (!gateway.router.knows(&seat.instance) || seat.instance.is_closed()) {
            break;
        }
        let until = Instant::now() + AGAIN;
        while let Ok(Some(order)) = tokio::time::timeout_at(until, orders.recv()).await {
            unheard(&gateway, &engine, &seat, order).await;
        }
    }
    engine.drop_seat(&seat);
}

async fn connect(seat: &Seat) -> Result<(Upstream, Upstream), ConnectError> {
    let address = &seat.instance.target.address;
    let jobs = Upstream::connect(address, &seat.sid, HANDSHAKE).await?;
    // What an instance says to everybody comes over the second alone: over the first it could not be told from
    // what is for the client of the job that runs.
    let all = Upstream::connect(address, &format!("{}-all", seat.sid), HANDSHAKE).await?;
    Ok((jobs, all))
}

/// What the service's sockets say that it can do is what an instance of the serving generation can.
async fn learn_features(gateway: &Gateway, seat: &Seat) {
    if gateway.router.is_named(&seat.instance)
        && let Ok(answer) = call::get(&seat.instance, paths::FEATURES).await
        && let Some(flags) = answer.json().filter(|_| answer.status.is_success())
    {
        gateway.hub.set_features(&flags);
    }
}

async fn listen(
    listening: &mut Listening<'_>,
    mut jobs: Upstream,
    mut all: Upstream,
    orders: &mut UnboundedReceiver<Order>,
) {
    let engine = listening.engine.clone();
    loop {
        // Listens before it asks, so that no pause is missed.
        let mut changed = pin!(engine.changed.notified());
        changed.as_mut().enable();
        if engine.is_paused() {
            return;
        }
        tokio::select! {
            event = jobs.next() => match event {
                Some(event) => listening.of_job(event).await,
                None => return,
            },
            event = all.next() => match event {
                Some(event) => listening.of_all(event),
                None => return,
            },
            Some(order) = orders.recv() => listening.order(order).await,
            () = listening.quiet() => listening.ask().await,
            // A new connection asks the instance what has become of its jobs.
            () = listening.deaf() => {
                if listening.is_deaf() {
                    return;
                }
            }
            () = changed => {}
        }
    }
}

/// An order while the instance cannot be heard. What it has is found out when it can be again.
async fn unheard(gateway: &Arc<Gateway>, engine: &Arc<Engine>, seat: &Arc<Seat>, order: Order) {
    match order {
        Order::Run(id) => ending::put_back(gateway, engine, seat, &id).await,
        Order::Sent(id, outcome) => sending::sent(gateway, engine, seat, &id, outcome).await,
        // `reconcile` sees the wish, and whether the instance is still in the table.
        Order::Cancel(_) | Order::TakeBack => {}
        Order::Release(done) => {
            // It may run what it has all the same: it is asked.
            reconcile::release(gateway, engine, seat).await;
            // Nobody waits if the agent has given up.
            let _ = done.send(());
        }
    }
}
