//! A state that is lost, damaged, half written or of another version.
use super::*;
use std::fs;

fn golden() -> ServiceState {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state/v1/state.json");
    ServiceState::read(&file, "demo").unwrap().state
}

#[test]
fn what_is_written_is_read_and_what_is_broken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    let fresh = ServiceState::load(&file, "demo").unwrap();
    assert_eq!(fresh, ServiceState::new("demo"));
    golden().save(&file).unwrap();
    assert_eq!(ServiceState::read(&file, "demo").unwrap(), Found { state: golden(), warning: None });
    let name = file.display();
    fs::write(&file, "{\"version\": 7}").unwrap();
    // A copy of an older version never takes the place of a newer state.
    let error = ServiceState::load(&file, "demo").unwrap_err();
    assert_eq!(error.to_string(), format!("{name} is not a service's state: version 7, this agent reads 2"));
    assert!(!may_be_replaced(&file));
    fs::remove_file(copy_of(&file)).unwrap();
    fs::write(&file, "{").unwrap();
    let error = ServiceState::load(&file, "demo").unwrap_err();
    assert!(error.to_string().starts_with(&format!("{name} is not a service's state: EOF")), "{error}");
    assert!(error.hint.unwrap().starts_with("stillframe host repair"));
}

#[test]
fn whatever_happens_to_the_file_its_copy_is_used_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    golden().save(&file).unwrap();
    let text = fs::read(&file).unwrap();
    let damages: [(&str, Option<Vec<u8>>); 6] = [
        ("is gone", None),
        ("EOF", Some(Vec::new())),
        ("EOF", Some(text[..text.len() / 2].to_vec())),
        ("invalid utf-8", Some([&text[..200], b"\xff", &text[201..]].concat())),
        // Valid JSON, and not what was written: one digit of a port.
        (
            "its bytes are not those that were written",
            Some(
                String::from_utf8(text.clone())
                    .unwrap()
                    .replacen("\"port\": 2", "\"port\": 3", 1)
                    .into_bytes(),
            ),
        ),
        ("expected value", Some(vec![0; text.len()])),
    ];
    for (why, bytes) in damages {
        match bytes {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let found = ServiceState::read(&file, "demo").unwrap();
        assert_eq!(found.state, golden(), "{why}");
        let warning = found.warning.unwrap();
        assert!(warning.contains(why) && warning.ends_with("state.copy.json is used"), "{warning}");
        // The next write mends it.
        golden().save(&file).unwrap();
        assert_eq!(ServiceState::read(&file, "demo").unwrap().warning, None);
    }
}

/// A generation that failed has left no file, and its number is used up all the same.
#[test]
fn a_number_is_not_used_again_when_the_state_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    ServiceState { next_generation: 3, ..ServiceState::new("demo") }.save(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::remove_file(copy_of(&file)).unwrap();
    assert_eq!(ServiceState::load(&file, "demo").unwrap().next_generation, 3);
    golden().save(&file).unwrap();
    assert_eq!(next_generation(&file), (golden().next_generation, None));
}

#[test]
fn a_service_whose_state_is_lost_is_no_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    golden().save(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::remove_file(copy_of(&file)).unwrap();
    let error = ServiceState::read(&file, "demo").unwrap_err();
    assert_eq!(error.to_string(), format!("{} is gone, and so is its copy", file.display()));
    assert!(is_known(&file));
    assert_eq!(read_generations(&file), golden().generations);
    // One that can be read no more is left out; that of a generation which went is not there.
    fs::write(generations_of(&file).join("000001.json"), "{").unwrap();
    assert_eq!(read_generations(&file).into_keys().collect::<Vec<_>>(), [2]);
    let state = ServiceState { generations: BTreeMap::new(), ..golden() };
    state.save(&file).unwrap();
    assert_eq!(numbered(&generations_of(&file)), []);
}

#[test]
fn a_state_without_a_copy_is_a_state_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    // What cannot be replaced stands for a full disk.
    fs::create_dir_all(copy_of(&file).join("in the way")).unwrap();
    golden().save(&file).unwrap();
    assert_eq!(ServiceState::read(&file, "demo").unwrap(), Found { state: golden(), warning: None });
}
