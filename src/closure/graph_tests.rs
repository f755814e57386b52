use super::*;
use crate::capture::model::change::How;
use crate::capture::trees::tree::TreeRef;
use crate::formats::nix::hash::Sha256;

#[test]
fn the_programs_own_models_are_named_in_what_json_and_yaml_both_read() {
    let text = own_models(&["configs".into(), "it's".into()], "/nix/store/x-comfyui");
    let wanted = r#"{"comfyui-repository":{"base_path":"/nix/store/x-comfyui/models","configs":"configs","it's":"it's"}}"#;
    assert_eq!(text, format!("{wanted}\n"));
}

#[test]
fn what_replaced_the_files_of_another_comes_before_it() {
    let distribution = |name: &str, by: &[&str]| DistributionLock {
        name: name.into(),
        version: "1".into(),
        provenance: Provenance::Patched,
        reason: None,
        real_files: false,
        headers: None,
        site: 0,
        scripts: vec![],
        has_modules: true,
        tree: TreeRef { name: name.into(), nar_hash: Sha256::of(name), nar_size: 0, references: vec![] },
        wheel: None,
        changed: by
            .iter()
            .map(|by| FileChange { path: "cv2/cv2.so".into(), how: How::ReplacedBy(by.to_string()) })
            .collect(),
        commit: None,
    };
    let names = |all: &[DistributionLock]| in_order(all).iter().map(|d| d.name.clone()).collect::<Vec<_>>();
    let all = [
        distribution("a", &["b", "gone"]),
        distribution("b", &["d"]),
        distribution("c", &[]),
        distribution("d", &["a"]),
    ];
    // A circle, too, has an end.
    assert_eq!(names(&all), ["d", "b", "a", "c"]);
    assert_eq!(names(&all[2..]), ["c", "d"]);
}
