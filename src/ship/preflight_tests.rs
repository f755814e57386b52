//! What a host's answers come to: facts, and what would stop a deployment.
use super::*;

fn healthy() -> Facts {
    parse(
        "machine x86_64\nkernel 6.1\nos Debian\nhostname a\ninit systemd\nsystemd 257\nnix 2.26.3\ndaemon /usr/bin/nix-daemon\n\
         glibc 2.41\ncpus 4\nmemory_kib 1048576\nstore_free_kib 2097152\nstore_free_inodes 500000\nstate_free_kib 9\n\
         cuda_driver 550.90.07\ngpu 0\nlistens 0100007F:1FFC\nlistens 00000000000000000000000000000000:0016\n\
         folder /srv/models\nprepared yes\nserves other 8188\nmeasures other 8190\nserves quiet 9000\nmeasures quiet \ndriver_glibc 2.34\n",
    )
    .unwrap()
    .0
}

fn whats(found: &[Problem]) -> Vec<&str> {
    found.iter().map(|p| p.what.as_str()).collect()
}

#[test]
fn a_host_that_has_all_has_no_problem() {
    let needs = Needs {
        system: "x86_64-linux".into(),
        folders: vec!["/srv/models".into()],
        port: Some(8189),
        prepared: true,
        glibc: Some((2, 36)),
        gpus: vec!["0".into()],
        cuda: Some("12.4".into()),
        memory_bytes: 1 << 30,
        ..Needs::default()
    };
    assert_eq!(check(&healthy(), &needs), []);
    // Its own port is not taken.
    let own = Needs { port: Some(8188), service: "other".into(), ..needs };
    assert_eq!(check(&healthy(), &own), []);
    assert_eq!(healthy().ports, BTreeSet::from([22, 8188]));
}

#[test]
fn everything_that_is_wrong_is_named_at_once() {
    let facts = Facts {
        machine: "aarch64".into(),
        init: "runit".into(),
        systemd: Some(247),
        nix: Some("2.3.16".into()),
        cuda_driver: Some("470.1".into()),
        prepared: false,
        ..healthy()
    };
    let needs = Needs {
        system: "x86_64-linux".into(),
        folders: vec!["/mnt/models".into()],
        files: vec!["/srv/models/a.safetensors".into()],
        port: Some(8188),
        metrics_port: Some(8190),
        prepared: true,
        service: "demo".into(),
        glibc: Some((2, 31)),
        gpus: vec!["0".into(), "3".into()],
        cuda: Some("12.4".into()),
        memory_bytes: 2 << 30,
    };
    assert_eq!(
        whats(&check(&facts, &needs)),
        [
            "process 1 is \"runit\", not systemd",
            "systemd 247 is too old; 250 or later is needed",
            "Nix 2.3.16 is too old; 2.8 or later is needed",
            "the host is not prepared",
            "the host's GPU driver needs a C library 2.34, the snapshot brings 2.31",
            "the host is aarch64-linux, the snapshot is for x86_64-linux",
            "there is no folder /mnt/models",
            "there is no file /srv/models/a.safetensors",
            "port 8188 is taken: the service other is served on it",
            "port 8190 is taken: the service other has its metrics on it",
            "there is no GPU 3 (/dev/nvidia3)",
            "the NVIDIA driver 470.1 is too old for the snapshot's CUDA 12.4",
            "2048 MiB of memory are asked for, the host has 1024",
        ]
    );
    let bare = Facts { init: "systemd".into(), machine: "x86_64".into(), ..Facts::default() };
    assert_eq!(whats(&check(&bare, &Needs::default())), ["Nix is not installed"]);
}

#[test]
fn an_agent_that_does_not_run_is_no_preparation() {
    let text = "init systemd\nsystemd 257\nnix 2.26.3\ndaemon /usr/bin/nix-daemon\n\
                broken_agent /nix/store/x-stillframe-agent\nprepared yes\n";
    let (facts, agent) = parse(text).unwrap();
    assert!(!agent);
    let found = check(&facts, &Needs { prepared: true, ..Needs::default() });
    let what = "the host's agent does not run: /nix/store/x-stillframe-agent is not what was brought there";
    assert_eq!(whats(&found), [what]);
    assert!(found[0].mended_by_prepare);
}

#[test]
fn room_is_counted_in_bytes_and_inodes() {
    assert_eq!(room(&healthy(), 1 << 30, 10), []);
    assert_eq!(
        whats(&room(&Facts { store_free_inodes: Some(1000), ..healthy() }, 4 << 30, 10)),
        [
            "the store has 2048 MiB free, 4352 MiB are needed",
            "the store has 1000 inodes free, about 524298 are needed"
        ]
    );
}

#[test]
fn an_answer_that_did_not_come_is_none() {
    assert_eq!(parse("machine x86_64\nfailed 124\n"), None);
    assert!(parse("agent yes\n").unwrap().1);
}
