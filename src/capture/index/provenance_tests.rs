use super::*;

fn want(tags: &[&str]) -> Want {
    Want {
        name: "My.Pkg".into(),
        version: "1.0".into(),
        wheel_tags: tags.iter().map(|t| (*t).to_owned()).collect(),
        wheel_file: Vec::new(),
        python: "cp312".into(),
        machine: "x86_64".into(),
        build: None,
        direct_url: None,
    }
}

fn file(filename: &str) -> IndexFile {
    IndexFile {
        filename: filename.into(),
        url: format!("https://f.example/{filename}"),
        sha256: Some([1; 32]),
        size: None,
        yanked: false,
    }
}

fn chosen(files: &[IndexFile], want: &Want) -> Option<(String, bool)> {
    choose(files, want).map(|c| (c.file.filename.clone(), c.exact))
}

#[test]
fn exact_before_overlap() {
    let both = "my_pkg-1.0.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl";
    let one = "my_pkg-1.0-cp311-cp311-manylinux2014_x86_64.whl";
    let files = [file(both), file(one), file("my_pkg-1.1-py3-none-any.whl"), file("odd.whl")];
    let plain = want(&["cp311-cp311-manylinux2014_x86_64"]);
    assert_eq!(chosen(&files, &plain), Some((one.into(), true)));
    assert_eq!(chosen(&files[..1], &plain), Some((both.into(), false)));
    let full = want(&["cp311-cp311-manylinux2014_x86_64", "cp311-cp311-manylinux_2_17_x86_64"]);
    assert_eq!(chosen(&files, &full), Some((both.into(), true)));
    assert_eq!(chosen(&files, &want(&["py3-none-any"])), None);
}

#[test]
fn a_wheel_whose_tags_lie_is_found_by_the_interpreter() {
    let files = [
        file("my_pkg-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"),
        file("my_pkg-1.0-cp312-cp312-manylinux_2_28_aarch64.whl"),
        file("my_pkg-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"),
        file("my_pkg-1.0-cp312-cp312-win_amd64.whl"),
    ];
    let lying = want(&["py3-none-linux_x86_64"]);
    let choice = choose(&files, &lying).unwrap();
    assert_eq!((choice.file, choice.exact, choice.named), (&files[2], false, false));
    assert!(choose(&files[..2], &lying).is_none());
}

#[test]
fn build_tags_and_hashes() {
    let files = [
        IndexFile { sha256: None, ..file("my_pkg-1.0-py3-none-any.whl") },
        file("my_pkg-1.0-2-py3-none-any.whl"),
        file("my_pkg-1.0-py3-none-any.whl"),
    ];
    let mut w = want(&["py3-none-any"]);
    assert_eq!(choose(&files, &w).unwrap().file, &files[2]);
    w.build = Some("2".into());
    assert_eq!(choose(&files, &w).unwrap().file, &files[1]);
    w.build = Some("3".into());
    assert!(choose(&files, &w).is_none());
}

#[test]
fn direct_urls() {
    let reason = |json: String| {
        let direct = DirectUrl::parse(json.as_bytes()).unwrap();
        direct_file(&direct, &want(&[])).map(|f| f.filename).unwrap_or_else(|e| e.to_string())
    };
    let with = |url: &str, info: &str| reason(format!("{{\"url\":\"{url}\",{info}}}"));
    assert_eq!(
        with("https://g.example/a.git", r#""vcs_info":{"vcs":"git","commit_id":"abc"}"#),
        "installed from git https://g.example/a.git at commit abc"
    );
    let dir = |editable| format!("\"dir_info\":{{\"editable\":{editable}}}");
    assert_eq!(with("file:///src/a", &dir(true)), "editable install of /src/a");
    assert_eq!(with("file:///src/a", &dir(false)), "installed from the local directory /src/a");
    let bare = r#""archive_info":{}"#;
    let hashed = format!("\"archive_info\":{{\"hashes\":{{\"sha256\":\"{}\"}}}}", "ab".repeat(32));
    assert_eq!(with("file:///w/a.whl", bare), "installed from a local archive, /w/a.whl");
    assert_eq!(
        with("https://f.example/a.zip", bare),
        "installed from https://f.example/a.zip, which is no wheel"
    );
    let url = "https://f.example/my_pkg-1.0-py3-none-any.whl";
    assert_eq!(with(url, bare), format!("installed from {url}, whose sha256 was not recorded"));
    assert_eq!(with(url, &hashed), "my_pkg-1.0-py3-none-any.whl");
    let other = "https://f.example/my_pkg-2.0-py3-none-any.whl";
    assert_eq!(with(other, &hashed), format!("installed from {other}, which is not My.Pkg 1.0"));
}
