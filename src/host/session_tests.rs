//! The conversation without systemd: who holds what, and what the record says when it ends early.
use super::*;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn attempt(service: &str, deployment: &str) -> Box<Attempt> {
    Box::new(Attempt {
        version: 0,
        attempt: 0,
        service: service.into(),
        deployment: deployment.into(),
        kind: AttemptKind::Deploy,
        by: "a@b".into(),
        snapshot: None,
        label: None,
        hosts: vec!["alpha".into()],
        began: 0,
        project: None,
        take_over: false,
    })
}

fn begin(service: &str, deployment: &str) -> Order {
    Order::Begin { version: ORDERS_VERSION, attempt: attempt(service, deployment) }
}

/// The whole conversation for these orders, then the end of the input.
fn talk(layout: &Layout, orders: &[Order]) -> Vec<Answer> {
    let mut input = Vec::new();
    orders.iter().for_each(|o| wire::write_line(&mut input, o).unwrap());
    let mut said = Said::default();
    converse(layout, std::io::Cursor::new(input), &mut said).unwrap();
    let bytes = said.0.lock().unwrap().clone();
    let mut input = std::io::Cursor::new(bytes);
    std::iter::from_fn(|| wire::read_line(&mut input).unwrap()).collect()
}

fn last(layout: &Layout) -> (Status, String) {
    let record = journal::newest(&layout.service("demo"), 1).unwrap().remove(0);
    let outcome = record.outcome().unwrap();
    (outcome.status, outcome.error.clone().unwrap_or_default())
}

#[test]
fn an_early_end_is_recorded_as_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let held = Answer::Held { attempt: 1, serving: None, stopped: None };
    let copying = Order::Copying { text: "copying".into(), bytes: Some((1, 2)) };
    assert_eq!(talk(&layout, &[begin("demo", "d1"), copying])[0], held);
    assert_eq!(last(&layout), (Status::Interrupted, "the workstation ended the connection".into()));
    let give_up =
        Order::GiveUp { status: Status::Failed, message: "no room".into(), hint: Some("make some".into()) };
    let answers = talk(&layout, &[begin("demo", "d2"), give_up]);
    assert_eq!(
        answers[1],
        Answer::Failed { status: Status::Failed, message: "no room".into(), hint: Some("make some".into()) }
    );
    assert_eq!(last(&layout), (Status::Failed, "no room".into()));
    talk(&layout, &[begin("demo", "d3"), Order::Cancel { by: "c@d".into() }]);
    assert_eq!(last(&layout), (Status::Cancelled, "cancelled by c@d".into()));
    assert_eq!(lease::holder(&layout.service("demo")), None);
}

#[test]
fn a_second_one_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let (mut tell, heard) = std::os::unix::net::UnixStream::pair().unwrap();
    let first = layout.clone();
    let thread = std::thread::spawn(move || converse(&first, heard, &mut Said::default()).unwrap());
    wire::write_line(&mut tell, &begin("demo", "d1")).unwrap();
    let service = layout.service("demo");
    while lease::holder(&service).is_none_or(|(h, _)| h.attempt == 0) {
        std::thread::sleep(LOOK);
    }
    let Answer::Busy { holder } = talk(&layout, &[begin("demo", "d2")]).remove(0) else { panic!("not busy") };
    assert_eq!((holder.deployment.as_str(), holder.by.as_str(), holder.attempt), ("d1", "a@b", 1));
    // It is taken away: the first notices and ends.
    lease::break_it(&service).unwrap();
    thread.join().unwrap();
    assert_eq!(last(&layout), (Status::Interrupted, "the lease was taken away (stillframe unlock)".into()));
    tell.flush().unwrap();
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let failed = |orders: &[Order]| match talk(&layout, orders).pop() {
        Some(Answer::Failed { message, hint, .. }) => format!("{message} ({})", hint.unwrap_or_default()),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        failed(&[begin("Demo", "d")]),
        "\"Demo\" is no name for a service (1 to 27 letters a-z, digits and '-', neither first nor last)"
    );
    assert_eq!(
        failed(&[Order::Begin { version: 9, attempt: attempt("demo", "d") }]),
        "the workstation speaks version 9, this agent 1 (stillframe and the agent on the host must be of one version: \
         deploy with the newer one)"
    );
    assert_eq!(failed(&[Order::End]), "a conversation begins with `begin` ()");
    for (to, message) in [
        (Back::Previous, "no generation of demo served before this one"),
        (Back::Generation(4), "demo has no generation 4"),
        (Back::Snapshot("abc".into()), "no generation of demo has the snapshot abc"),
    ] {
        let got = failed(&[begin("demo", "d"), Order::Return { to }]);
        assert_eq!(got, format!("{message} (it has none: deploy first)"));
        assert_eq!(last(&layout), (Status::Failed, message.into()));
    }
}

/// A workstation whose line was cut says it in a new conversation: where nothing of its deployment serves, that is all.
#[test]
fn a_take_back_needs_no_conversation_of_before() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let take_back = Order::TakeBack { why: "beta failed".into() };
    let answers = talk(&layout, &[begin("demo", "d1"), take_back, Order::End]);
    let Some(Answer::Outcome { outcome }) = answers.last() else { panic!("{answers:?}") };
    assert_eq!((outcome.status, outcome.generation), (Status::Reverted, None));
    assert_eq!(outcome.warnings, ["nothing had changed"]);
    assert_eq!(last(&layout), (Status::Reverted, "beta failed".into()));
}

/// Who asked for the deployment's end asked for this: it is what brings the hosts back that were switched already.
#[test]
fn a_request_to_cancel_does_not_stop_the_way_back() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let service = layout.service("demo");
    std::fs::create_dir_all(&service.home).unwrap();
    cancel::request(&service, "d1", "c@d").unwrap();
    let asked = Attempt { kind: AttemptKind::TakeBack, ..*attempt("demo", "d1") };
    let begin = Order::Begin { version: ORDERS_VERSION, attempt: Box::new(asked) };
    let take_back = Order::TakeBack { why: "cancelled by c@d".into() };
    talk(&layout, &[begin, Order::Alive, take_back, Order::End]);
    assert_eq!(last(&layout), (Status::Reverted, "cancelled by c@d".into()));
    // A deployment hears it.
    talk(&layout, &[self::begin("demo", "d1"), Order::Alive, Order::End]);
    assert_eq!(last(&layout), (Status::Cancelled, "cancelled by c@d".into()));
}

/// A connection that is gone may show in what is said before it shows in what is heard.
#[test]
fn an_activation_that_nobody_hears_keeps_its_record() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let service = layout.service("demo");
    let (_tell, orders) = std::sync::mpsc::channel::<Heard>();
    let mut talk = Talk { layout: &layout, output: &mut Closed, orders };
    let Ok(Some(mut held)) = talk.begin(*attempt("demo", "d1")) else { panic!("nothing was begun") };
    goal::write(&service, 1, &Goal::Kept(1)).unwrap();
    let follower = Follower::new(&service, 1, false);
    let Err(stop) = talk.follow(&mut held, follower, None) else { panic!("it was heard") };
    assert!(matches!(stop, Stop::Gone("the workstation is gone")));
    talk.stop(Some(held), stop).unwrap();
    assert_eq!(journal::read(&service, 1).unwrap().outcome(), None);
    assert!(service.goal(1).exists());
}

/// A disk that fails is no failure of the activation, which goes on: the workstation hears no outcome, and asks again.
#[test]
fn an_activation_whose_record_cannot_be_read_is_not_said_to_have_failed() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let service = layout.service("demo");
    let mut said = Vec::new();
    let (_tell, orders) = std::sync::mpsc::channel::<Heard>();
    let mut talk = Talk { layout: &layout, output: &mut said, orders };
    let Ok(Some(mut held)) = talk.begin(*attempt("demo", "d1")) else { panic!("nothing was begun") };
    goal::write(&service, 1, &Goal::Kept(1)).unwrap();
    let record = service.attempts().join("000001.jsonl");
    let text = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    let follower = Follower::new(&service, 1, false);
    let Err(stop) = talk.follow(&mut held, follower, None) else { panic!("it was read") };
    assert!(talk.stop(Some(held), stop).unwrap_err().to_string().contains("000001.jsonl"));
    assert_eq!(String::from_utf8(said).unwrap(), "");
    std::fs::remove_dir(&record).unwrap();
    std::fs::write(&record, text).unwrap();
    assert_eq!(journal::read(&service, 1).unwrap().outcome(), None);
    assert!(service.goal(1).exists());
}

/// A newer workstation may ask for what an older agent does not know: that is told, not taken for a cut line.
#[test]
fn what_is_of_another_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let mut input = Vec::new();
    wire::write_line(&mut input, &begin("demo", "d1")).unwrap();
    input.extend(b"{\"type\":\"scale\",\"to\":3}\n");
    let mut said = Said::default();
    converse(&layout, std::io::Cursor::new(input), &mut said).unwrap();
    let (status, message) = last(&layout);
    let start = "the workstation asks for something that this agent does not know: unknown variant `scale`";
    assert!(status == Status::Failed && message.starts_with(start), "{status}: {message}");
}
