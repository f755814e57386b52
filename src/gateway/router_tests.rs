use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;

fn target(slot: u32, generation: u64) -> Target {
    let port = 1000 + slot as u16 + 10 * generation as u16;
    Target {
        id: format!("s{slot}-g{generation}"),
        address: format!("127.0.0.1:{port}").parse().unwrap(),
        slot,
        generation,
    }
}

fn table(targets: &[Target]) -> Table {
    Table { version: GATEWAY_VERSION, targets: targets.to_vec(), ..Table::default() }
}

fn router(targets: &[Target]) -> Router {
    let router = Router::default();
    router.set(targets, FirstHealth::Well);
    router
}

fn claim(router: &Router) -> Claim {
    router.claim(&Preference::default()).unwrap()
}

#[test]
fn the_least_loaded_and_equals_in_turn() {
    let router = router(&[target(0, 1), target(1, 1), target(2, 1)]);
    let claims: Vec<Claim> = (0..6).map(|_| claim(&router)).collect();
    for status in router.status() {
        assert_eq!(status.requests, 2);
    }
    let freed = claims[3].instance.id().to_string();
    let kept: Vec<Claim> = claims.into_iter().enumerate().filter(|(i, _)| *i != 3).map(|c| c.1).collect();
    assert_eq!(claim(&router).instance.id(), freed);
    drop(kept);
    let turns: std::collections::BTreeSet<String> =
        (0..3).map(|_| claim(&router).instance.id().to_string()).collect();
    assert_eq!(turns.len(), 3);
}

#[test]
fn websockets_count_for_websockets_alone() {
    let router = router(&[target(0, 1), target(1, 1)]);
    let mut first = claim(&router);
    first.becomes_websocket();
    let other = router.claim(&Preference { upgrade: true, ..Preference::default() }).unwrap();
    assert_ne!(other.instance.id(), first.instance.id());
}

#[test]
fn what_left_the_table_is_shown_until_nothing_is_open() {
    let router = router(&[target(0, 1)]);
    let mut claim = claim(&router);
    router.set(&[target(0, 2)], FirstHealth::Well);
    let shown = |router: &Router| -> Vec<(String, bool, u64, u64)> {
        router.status().into_iter().map(|s| (s.id, s.draining, s.requests, s.websockets)).collect()
    };
    assert_eq!(shown(&router), [("s0-g2".into(), false, 0, 0), ("s0-g1".into(), true, 1, 0)]);
    claim.becomes_websocket();
    assert_eq!(shown(&router)[1], ("s0-g1".into(), true, 0, 1));
    drop(claim);
    assert_eq!(shown(&router).len(), 1);
}

#[test]
fn a_holder_is_asked_while_it_drains_until_it_is_closed() {
    let router = router(&[target(0, 1)]);
    router.set(&[target(0, 2)], FirstHealth::Well);
    let preference = Preference { holder: Some("s0-g1".into()), ..Preference::default() };
    let holder = router.claim(&preference).unwrap();
    assert_eq!(holder.instance.id(), "s0-g1");
    holder.instance.close();
    assert_eq!(router.claim(&preference).unwrap().instance.id(), "s0-g2");
    // It is still shown: a request is open on it.
    assert_eq!(router.status().len(), 2);
}

#[test]
fn back_in_the_table_it_keeps_its_counts() {
    let router = router(&[target(0, 1)]);
    let _claim = claim(&router);
    router.set(&[target(0, 2)], FirstHealth::Well);
    assert!(router.set(&[target(0, 1)], FirstHealth::Well).is_empty());
    assert_eq!(router.status()[0].requests, 1);
}

/// What the agent does: it stops an instance when `status` says that it is idle. Threads, because the
/// rule is one about locks.
#[test]
fn no_claim_is_held_on_an_instance_that_status_called_idle() {
    let router = Arc::new(router(&[target(0, 0)]));
    let stopped: Arc<Vec<AtomicBool>> = Arc::new((0..400).map(|_| AtomicBool::new(false)).collect());
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let (router, stopped, over) = (router.clone(), stopped.clone(), over.clone());
            std::thread::spawn(move || {
                let mut held = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let mut claim = claim(&router);
                    let generation = claim.instance.target.generation as usize;
                    assert!(!stopped[generation].load(Ordering::SeqCst));
                    if held.len() % 3 == n % 3 {
                        claim.becomes_websocket();
                    }
                    held.push((claim, generation));
                    if held.len() > 5 {
                        for (_, generation) in &held {
                            assert!(!stopped[*generation].load(Ordering::SeqCst));
                        }
                        held.clear();
                    }
                }
            })
        })
        .collect();
    for generation in 1..400u64 {
        router.set(&[target(0, generation)], FirstHealth::Well);
        let old = format!("s0-g{}", generation - 1);
        while router.status().iter().any(|s| s.id == old) {
            std::thread::yield_now();
        }
        stopped[generation as usize - 1].store(true, Ordering::SeqCst);
    }
    over.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.join().unwrap();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Set(Vec<(u32, u64)>),
    Claim { slot: Option<u32>, holder: Option<(u32, u64)> },
    Websocket(usize),
    Release(usize),
    Health(u32, u64, bool),
    Cut(u32, u64),
    Tidy,
}

fn name() -> impl Strategy<Value = (u32, u64)> {
    (0u32..3, 1u64..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => proptest::collection::btree_set(name(), 0..4).prop_map(|s| Step::Set(s.into_iter().collect())),
        6 => (proptest::option::of(0u32..3), proptest::option::of(name()))
            .prop_map(|(slot, holder)| Step::Claim { slot, holder }),
        2 => any::<usize>().prop_map(Step::Websocket),
        4 => any::<usize>().prop_map(Step::Release),
        2 => (name(), any::<bool>()).prop_map(|((s, g), well)| Step::Health(s, g, well)),
        1 => name().prop_map(|(s, g)| Step::Cut(s, g)),
        1 => Just(Step::Tidy),
    ]
}

/// What the status shows of the instances that are named, and of the claims that are held, each of which may be
/// a WebSocket's.
fn the_status_is_right(
    status: &[TargetStatus],
    named: &[String],
    held: &[(Claim, bool)],
) -> Result<(), TestCaseError> {
    for (id, draining) in status.iter().map(|s| (&s.id, s.draining)) {
        prop_assert_eq!(named.contains(id), !draining);
    }
    // An id with another address is another instance: sum them up.
    let ids: std::collections::BTreeSet<&str> = held.iter().map(|c| c.0.instance.id()).collect();
    for id in ids {
        let mine: Vec<bool> = held.iter().filter(|c| c.0.instance.id() == id).map(|c| c.1).collect();
        let shown = status.iter().find(|s| s.id == id);
        let shown = shown.map_or((0, 0), |s| (s.requests, s.websockets));
        let websockets = mine.iter().filter(|w| **w).count() as u64;
        prop_assert_eq!(shown, (mine.len() as u64 - websockets, websockets));
    }
    Ok(())
}

proptest! {
    #[test]
    fn claims_go_to_the_table_and_counts_are_right(steps in proptest::collection::vec(step(), 1..80)) {
        let router = Router::default();
        let mut named: Vec<String> = Vec::new();
        let mut held: Vec<(Claim, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Set(names) => {
                    let targets: Vec<Target> = names.iter().map(|(s, g)| target(*s, *g)).collect();
                    router.set(&targets, FirstHealth::Well);
                    named = targets.into_iter().map(|t| t.id).collect();
                }
                Step::Claim { slot, holder } => {
                    let holder: Option<Arc<str>> = holder.map(|(s, g)| target(s, g).id.into());
                    let preference = Preference { slot, holder: holder.clone(), ..Preference::default() };
                    match router.claim(&preference) {
                        Some(claim) => {
                            let id = claim.instance.id().to_string();
                            let by_holder = holder.as_deref() == Some(&id);
                            prop_assert!(named.contains(&id) || by_holder);
                            prop_assert!(claim.instance.is_healthy() || by_holder);
                            prop_assert!(!claim.instance.is_closed());
                            held.push((claim, false));
                        }
                        None => prop_assert_eq!(router.ready(), 0),
                    }
                }
                Step::Websocket(at) if !held.is_empty() => {
                    let at = at % held.len();
                    held[at].0.becomes_websocket();
                    held[at].1 = true;
                }
                Step::Release(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                Step::Health(slot, generation, well) => {
                    let id = target(slot, generation).id;
                    for (instance, draining) in router.all() {
                        if instance.id() == id && !draining {
                            if well { instance.well(); } else { instance.refused("refused"); }
                        }
                    }
                }
                Step::Cut(slot, generation) => {
                    let id = target(slot, generation).id;
                    prop_assert_eq!(router.cut(&id).is_err(), named.contains(&id));
                }
                Step::Tidy => router.tidy(),
                _ => {}
            }
            the_status_is_right(&router.status(), &named, &held)?;
        }
        held.clear();
        prop_assert!(router.status().iter().all(|s| s.requests == 0 && s.websockets == 0));
    }
}

#[test]
fn a_cookie_or_a_websocket_names_a_ready_instance_only() {
    let router = router(&[target(0, 1), target(1, 1)]);
    let seated = Preference { slot: Some(1), ..Preference::default() };
    let named = Preference { instance: Some("s0-g1".into()), slot: Some(1), ..Preference::default() };
    for _ in 0..4 {
        assert_eq!(router.claim(&seated).unwrap().instance.id(), "s1-g1");
        assert_eq!(router.claim(&named).unwrap().instance.id(), "s0-g1");
    }
    router.claim(&seated).unwrap().instance.refused("refused");
    assert_eq!(router.claim(&seated).unwrap().instance.id(), "s0-g1");
    // The slot of the next generation.
    router.set(&[target(0, 2), target(1, 2)], FirstHealth::Well);
    assert_eq!(router.claim(&seated).unwrap().instance.id(), "s1-g2");
    assert_ne!(router.claim(&named).unwrap().instance.id(), "s0-g1");
}

#[test]
fn those_not_reached_are_not_asked_again() {
    let router = router(&[target(0, 1), target(1, 1)]);
    let mut preference = Preference::default();
    preference.not.push(router.claim(&preference).unwrap().instance.clone());
    let other = router.claim(&preference).unwrap();
    assert!(!Arc::ptr_eq(&other.instance, &preference.not[0]));
    preference.not.push(other.instance.clone());
    assert!(router.claim(&preference).is_none());
}

#[test]
fn others_are_those_of_the_table_then_those_that_drain() {
    let router = router(&[target(0, 1)]);
    router.set(&[target(0, 2), target(1, 2)], FirstHealth::Well);
    let mut asked = Vec::new();
    let mut order = Vec::new();
    while let Some(claim) = router.claim_other(&asked) {
        order.push(claim.instance.id().to_string());
        asked.push(claim.instance.clone());
    }
    assert_eq!(order, ["s0-g2", "s1-g2", "s0-g1"]);
}

#[test]
fn an_address_that_has_a_new_instance_has_no_old_one() {
    let router = router(&[target(0, 1)]);
    let again = Target { id: "s0-g2".into(), generation: 2, ..target(0, 1) };
    router.set(&[again], FirstHealth::Well);
    let preference = Preference { holder: Some("s0-g1".into()), ..Preference::default() };
    assert_eq!(router.claim(&preference).unwrap().instance.id(), "s0-g2");
}

#[test]
fn unknown_health_waits_for_a_look() {
    let router = Router::default();
    let fresh = router.set(&[target(0, 1)], FirstHealth::Unknown);
    assert!(router.claim(&Preference::default()).is_none());
    assert_eq!(router.why_none(), "s0-g1: not looked at yet");
    fresh[0].well();
    assert!(router.claim(&Preference::default()).is_some());
    router.set(&[], FirstHealth::Well);
    assert_eq!(router.why_none(), "no instance is in the table");
}

#[test]
fn what_drains_is_not_remembered_without_end() {
    let router = Router::default();
    for generation in 1..100 {
        router.set(&[target(0, generation)], FirstHealth::Well);
    }
    assert_eq!(router.known(), 1 + REMEMBERED);
}

#[test]
fn a_table_is_checked() {
    assert!(check_table(&table(&[target(0, 1), target(1, 1)])).is_ok());
    assert_eq!(
        check_table(&table(&[target(0, 1), target(0, 1)])).unwrap_err(),
        "the table names s0-g1 twice"
    );
    assert_eq!(
        check_table(&Table { version: 9, ..Table::default() }).unwrap_err(),
        "the table is of version 9, this gateway knows 1"
    );
    let bad = Target { id: "s0\r\nx: y".into(), ..target(0, 1) };
    assert!(check_table(&table(&[bad])).is_err());
}

#[test]
fn one_that_has_just_been_started_has_requests_once_it_answers() {
    let router = Router::default();
    let (one, two) = (target(0, 1), target(1, 1));
    router.set(std::slice::from_ref(&one), FirstHealth::Well);
    let fresh = router.set_with(&[one.clone(), two.clone()], FirstHealth::Well, &["s1-g1".into()]);
    assert_eq!(fresh.iter().map(|i| (i.id(), i.is_healthy())).collect::<Vec<_>>(), [("s1-g1", false)]);
    assert_eq!(router.ready(), 1);
    assert!(fresh[0].well());
    assert_eq!(router.ready(), 2);
    // It ended, and another process has its slot: what was known of the first says nothing of that.
    router.set(std::slice::from_ref(&one), FirstHealth::Well);
    let fresh = router.set_with(&[one, two], FirstHealth::Well, &["s1-g1".into()]);
    assert_eq!(fresh.len(), 1);
    assert!(!fresh[0].is_healthy());
}
