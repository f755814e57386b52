use super::*;
use crate::jobs::fixture::*;
use crate::jobs::store::Sort;
use proptest::prelude::*;

fn open(folder: &tempfile::TempDir) -> Sqlite {
    Sqlite::open(&folder.path().join("jobs.db")).unwrap()
}

#[test]
fn a_job_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    let odd = Job {
        number: -0.1 - f64::from(i32::MAX),
        priority: -7,
        owner: "o'; DROP TABLE job; --\u{0}é".into(),
        client: Some(String::new()),
        workflow: Some("flow".into()),
        retry: false,
        ..job(1)
    };
    store.write(&[Write::Accept { job: Box::new(odd.clone()), body: Box::new(body(1)) }, accept(2)]).unwrap();
    drop(store);
    let mut store = open(&folder);
    assert_eq!(store.job(&odd.id).unwrap().as_ref(), Some(&odd));
    assert_eq!(store.body(&odd.id).unwrap(), Some(body(1)));
    assert_eq!(store.history(&odd.id).unwrap(), None);
    assert_eq!(store.open_jobs().unwrap(), (vec![odd, job(2)], 2));
    assert_eq!(
        (store.job("none").unwrap(), store.body("none").unwrap(), store.history("none").unwrap()),
        (None, None, None)
    );
    // The order of members is the client's.
    let prompt = store.body(&id(2)).unwrap().unwrap().prompt;
    assert_eq!(prompt.as_object().unwrap().keys().collect::<Vec<_>>(), ["2", "1"]);
}

#[test]
fn the_deepest_prompt_comes_back() {
    // As deep as serde_json lets a request be: in the body it is one member, and another one is deeper still.
    let deep = |levels: usize| -> serde_json::Value {
        serde_json::from_str(&format!("{}{}", "[".repeat(levels), "]".repeat(levels))).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    let mut body = Body { prompt: deep(127), ..body(1) };
    body.others.insert("deep".into(), deep(127));
    store.write(&[Write::Accept { job: Box::new(job(1)), body: Box::new(body.clone()) }]).unwrap();
    assert_eq!(store.body(&id(1)).unwrap(), Some(body));
}

#[test]
fn credentials_go_at_the_end_and_what_was_not_dispatched_waits() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    let mut body = body(1);
    body.extra_data["api_key_comfy_org"] = "secret".into();
    store.write(&[Write::Accept { job: Box::new(job(1)), body: Box::new(body.clone()) }, accept(2)]).unwrap();
    store.write(&[Write::Requeue { id: id(1), tried: None }, dispatch(1, 10), start(1, 20)]).unwrap();
    assert_eq!(store.body(&id(1)).unwrap(), Some(body.clone()));
    store.write(&[end(1, State::Failed, 30)]).unwrap();
    body.extra_data.as_object_mut().unwrap().shift_remove("api_key_comfy_org");
    assert_eq!(store.body(&id(1)).unwrap(), Some(body));
    let kept = "SELECT bytes, (SELECT length(content) FROM body WHERE seq = 1) + \
                coalesce((SELECT length(content) FROM history WHERE seq = 1), 0) FROM job WHERE seq = 1";
    let kept: (i64, i64) =
        store.connection.query_row(kept, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(kept.0, kept.1);
}

#[test]
fn a_life_of_two_tries() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    store.write(&[accept(1), dispatch(1, 10), start(1, 20)]).unwrap();
    let running = store.job(&id(1)).unwrap().unwrap();
    let given = Job {
        state: State::Running,
        dispatched: Some(10),
        started: Some(20),
        instance: Some("s0-g7".into()),
        generation: Some(7),
        ..job(1)
    };
    assert_eq!(running, given);

    store.write(&[Write::Cancel { id: id(1) }]).unwrap();
    assert_eq!(store.job(&id(1)).unwrap().unwrap(), Job { cancelled: true, ..given.clone() });
    let given = Job { cancelled: true, ..given };
    store.write(&[Write::Requeue { id: id(1), tried: Some(tried(20)) }]).unwrap();
    let queued = store.job(&id(1)).unwrap().unwrap();
    let waits =
        Job { state: State::Queued, dispatched: None, started: None, tries: vec![tried(20)], ..given };
    assert_eq!(queued, waits);
    store.write(&[dispatch(1, 30), Write::Requeue { id: id(1), tried: None }]).unwrap();
    assert_eq!(store.job(&id(1)).unwrap().unwrap(), waits);

    store.write(&[dispatch(1, 40), start(1, 50), end(1, State::Failed, 90)]).unwrap();
    let failed = store.job(&id(1)).unwrap().unwrap();
    assert_eq!((failed.state, failed.started, failed.ended), (State::Failed, Some(50), Some(90)));
    assert_eq!(failed.reason, Some(reason("it did not end well")));
    assert_eq!(store.history(&id(1)).unwrap().unwrap()["outputs"]["2"]["images"][0], 1);
    assert_eq!(store.open_jobs().unwrap(), (vec![], 1));

    store.write(&[Write::Again { id: id(1) }, Write::Cancel { id: id(2) }]).unwrap();
    assert_eq!(store.open_jobs().unwrap(), (vec![job(1)], 1));
    assert_eq!(store.history(&id(1)).unwrap(), None);
    store.write(&[dispatch(1, 100), end(1, State::Succeeded, 200)]).unwrap();
    assert_eq!(store.body(&id(1)).unwrap(), Some(body(1)));
}

#[test]
fn what_may_not_follow_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    store.write(&[accept(1), accept(2), dispatch(2, 5), end(2, State::Succeeded, 9)]).unwrap();
    let refused = [
        (accept(1), "there is a job 00000000-0000-4000-8000-000000000001 or one with the number 1 already"),
        (dispatch(2, 10), "is succeeded and cannot become dispatched"),
        (end(2, State::Failed, 10), "is succeeded and cannot become failed"),
        (start(1, 10), "is queued and cannot become running"),
        (end(1, State::Succeeded, 10), "is queued and cannot become succeeded"),
        (end(1, State::Running, 10), "running is no end of a job"),
        (Write::Again { id: id(1) }, "is queued: it has not ended"),
        (Write::Requeue { id: id(3), tried: None }, "there is no job 00000000-0000-4000-8000-000000000003"),
    ];
    let before = store.find(&Find::default()).unwrap();
    for (write, why) in refused {
        let error = store.write(&[accept(9), write]).unwrap_err();
        assert_eq!(error.kind, Kind::Input);
        assert!(error.message.ends_with(why), "{error}");
        assert_eq!(store.find(&Find::default()).unwrap(), before, "{why}");
    }
    assert_eq!(store.open_jobs().unwrap().1, 2, "a number of a batch that failed");
    // An unknown one is forgotten already, and one that has not ended is not forgotten.
    store.write(&[Write::Forget { ids: vec![id(1), id(2), id(7)] }]).unwrap();
    assert_eq!(store.find(&Find::default()).unwrap(), (vec![job(1)], 1));
    assert_eq!(store.body(&id(2)).unwrap(), None);
    assert_eq!(store.open_jobs().unwrap().1, 2, "no number is given twice");
}

#[test]
fn the_oldest_ends_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    for seq in 1..=20 {
        // The later one came, the sooner it ended; one in four has not.
        let life = [accept(seq), dispatch(seq, 1), end(seq, State::Failed, 10_000 - 100 * seq)];
        store.write(if seq % 4 == 0 { &life[..1] } else { &life }).unwrap();
    }
    let left = |store: &mut Sqlite| -> Vec<u64> {
        let find = Find { oldest_first: true, ..Find::default() };
        store.find(&find).unwrap().0.iter().map(|job| job.seq).filter(|seq| seq % 4 != 0).collect()
    };
    let all = Keep { age_ms: 5_000, count: 100, bytes: 1 << 30 };
    assert_eq!(store.expire(&all, 9_000, 100).unwrap(), 0);
    // 19 ended at 8,100, 18 at 8,200: the first too old at 13,101.
    assert_eq!(store.expire(&all, 13_200, 100).unwrap(), 1);
    assert_eq!(store.expire(&all, 0, 100).unwrap(), 0);
    assert_eq!(store.expire(&Keep { count: 10, ..all }, 9_000, 2).unwrap(), 2);
    assert_eq!(store.expire(&Keep { count: 10, ..all }, 9_000, 2).unwrap(), 2);
    assert_eq!(store.expire(&Keep { count: 10, ..all }, 9_000, 2).unwrap(), 0);
    assert_eq!(left(&mut store), [1, 2, 3, 5, 6, 7, 9, 10, 11, 13]);
    let sizes = "SELECT count(*), sum(bytes) FROM job WHERE ended IS NOT NULL";
    let (count, bytes): (i64, i64) =
        store.connection.query_row(sizes, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let each = "SELECT sum(length(content)) FROM (SELECT content FROM history UNION ALL SELECT content FROM body \
                JOIN job ON job.seq = body.seq WHERE ended IS NOT NULL)";
    let held: i64 = store.connection.query_row(each, [], |row| row.get(0)).unwrap();
    assert_eq!((count, bytes), (10, held));
    let gone = store.expire(&Keep { bytes: bytes as u64 / 2, ..all }, 9_000, 100).unwrap();
    assert!((4..=6).contains(&gone), "{gone}");
    assert_eq!(store.expire(&Keep { age_ms: 0, count: 0, bytes: 0 }, 0, 100).unwrap(), 10 - gone);
    assert_eq!(store.open_jobs().unwrap().0.len(), 5, "what waits stays");
}

/// A file whose better part is free gets smaller.
#[test]
fn space_goes_back_to_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    let noise: String =
        (0..200_000u32).map(|n| char::from(b'a' + (n.wrapping_mul(n) >> 7) as u8 % 26)).collect();
    for seq in 1..=20 {
        let body = Body { prompt: format!("{seq}{noise}").into(), ..body(seq) };
        let accept = Write::Accept { job: Box::new(job(seq)), body: Box::new(body) };
        store.write(&[accept, end(seq, State::Cancelled, seq)]).unwrap();
    }
    let pages = |store: &Sqlite| -> i64 {
        store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
    };
    let before = pages(&store);
    assert_eq!(store.expire(&Keep { age_ms: 0, count: 0, bytes: 0 }, 100, 100).unwrap(), 20);
    assert!(pages(&store) * 2 < before, "{before} pages, {} after", pages(&store));
}

#[test]
fn it_is_synced_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    store.write(&[accept(1)]).unwrap();
    let value =
        |name: &str| -> i64 { store.connection.pragma_query_value(None, name, |row| row.get(0)).unwrap() };
    assert_eq!((value("synchronous"), value("foreign_keys"), value("auto_vacuum")), (2, 1, 2));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["jobs.db", "jobs.db-shm", "jobs.db-wal"]);
    drop(store);
    // A copy that somebody put back for everybody to read.
    let file = folder.path().join("jobs.db");
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    open(&folder);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_backup_is_a_database_of_its_moment() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    store.write(&[accept(1), accept(2)]).unwrap();
    let to = folder.path().join("copy.db");
    store.another().unwrap().backup(&to).unwrap();
    store.write(&[accept(3)]).unwrap();
    assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o777, 0o600);
    let mut copy = Sqlite::open(&to).unwrap();
    assert_eq!(copy.open_jobs().unwrap(), (vec![job(1), job(2)], 2));
    assert_eq!(copy.body(&id(2)).unwrap(), Some(body(2)));
    let error = store.backup(&to).unwrap_err();
    assert_eq!((error.kind, error.message), (Kind::Input, format!("{} is there already", to.display())));
    let error = store.backup(&folder.path().join("none/copy.db")).unwrap_err();
    assert!(error.message.contains("none"), "{error}");
    let left =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with('.')).count(), 0);
}

#[test]
fn an_earlier_version_becomes_this_one_or_stays_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder);
    store.write(&[accept(1)]).unwrap();
    let next =
        [schema::STEPS, &["ALTER TABLE job ADD COLUMN note text", "UPDATE job SET note = 'old'"]].concat();
    let broken = [&next[..=schema::STEPS.len()], &["UPDATE job SET no_such_column = 1"]].concat();
    assert!(matches!(schema::migrate(&mut store.connection, &broken), Err(Failure::Sqlite(_))));
    assert_eq!(schema::version(&store.connection, &next).unwrap(), schema::STEPS.len());
    assert!(store.connection.prepare("SELECT note FROM job").is_err());

    for _ in 0..2 {
        schema::migrate(&mut store.connection, &next).unwrap();
        let note: String = store.connection.query_row("SELECT note FROM job", [], |row| row.get(0)).unwrap();
        assert_eq!((note.as_str(), schema::version(&store.connection, &next).unwrap()), ("old", next.len()));
    }
}

fn naive(jobs: &[Job], find: &Find) -> (Vec<Job>, u64) {
    let fits = |wanted: &Option<String>, value: Option<&String>| wanted.is_none() || wanted.as_ref() == value;
    let mut found: Vec<Job> = jobs
        .iter()
        .filter(|job| find.states.is_empty() || find.states.contains(&job.state))
        .filter(|job| fits(&find.owner, Some(&job.owner)) && fits(&find.workflow, job.workflow.as_ref()))
        .cloned()
        .collect();
    found.sort_by_key(|job| match find.sort {
        Sort::Accepted => (0, job.seq),
        Sort::Ended => (job.ended.unwrap_or_default(), job.seq),
        Sort::Duration => {
            (job.started.zip(job.ended).map_or(0, |(from, to)| to.saturating_sub(from)), job.seq)
        }
    });
    if !find.oldest_first {
        found.reverse();
    }
    if find.sort == Sort::Ended {
        found.sort_by_key(|job| job.ended.is_none());
    }
    let all = found.len() as u64;
    let limit = find.limit.unwrap_or(u64::MAX) as usize;
    (found.into_iter().skip(find.offset as usize).take(limit).collect(), all)
}

fn a_find() -> impl Strategy<Value = Find> {
    let states = proptest::sample::subsequence(State::ALL.to_vec(), 0..=7);
    let sort = prop_oneof![Just(Sort::Accepted), Just(Sort::Ended), Just(Sort::Duration)];
    let owner = proptest::option::weighted(0.3, (0..4).prop_map(|n| format!("owner-{n}")));
    let workflow = proptest::option::weighted(0.3, (0..3).prop_map(|n| format!("flow-{n}")));
    let limit = proptest::option::of(prop_oneof![0u64..8, Just(u64::MAX)]);
    (states, owner, workflow, sort, any::<bool>(), 0u64..8, limit).prop_map(
        |(states, owner, workflow, sort, oldest_first, offset, limit)| Find {
            states,
            owner,
            workflow,
            sort,
            oldest_first,
            offset,
            limit,
            ..Find::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn pages_are_what_sorting_everything_gives(
        fates in proptest::collection::vec((0usize..7, 0u64..40, 0u64..40, 0u64..3), 0..25),
        finds in proptest::collection::vec(a_find(), 12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder);
        let mut batch = Vec::new();
        for (seq, (state, began, ended, flow)) in (1..).zip(&fates) {
            let workflow = (*flow > 0).then(|| format!("flow-{flow}"));
            let job = Job { workflow, ..job(seq) };
            batch.push(Write::Accept { job: Box::new(job), body: Box::new(body(seq)) });
            let state = State::ALL[*state];
            if !matches!(state, State::Queued | State::Expired | State::Cancelled) {
                batch.push(dispatch(seq, *began));
            }
            if began % 4 > 0 && matches!(state, State::Running | State::Succeeded | State::Failed) || state == State::Running {
                batch.push(start(seq, *began));
            }
            if state.is_over() {
                batch.push(end(seq, state, *ended));
            }
        }
        store.write(&batch).unwrap();
        let jobs: Vec<Job> = (1..=fates.len() as u64).map(|seq| store.job(&id(seq)).unwrap().unwrap()).collect();
        prop_assert!(jobs.iter().zip(&fates).all(|(job, fate)| job.state == State::ALL[fate.0]));
        for find in finds {
            prop_assert_eq!(store.find(&find).unwrap(), naive(&jobs, &find), "{:?}", find);
        }
    }
}
