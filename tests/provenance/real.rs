//! Once against the real index that this machine's pip is configured for.
use super::*;

/// The directory of the standard library and of pip, as the machine's own python says.
fn machine() -> Option<(PathBuf, PathBuf)> {
    let code = "import sysconfig; print(sysconfig.get_path('stdlib')); print(sysconfig.get_path('purelib'))";
    let out = std::process::Command::new("python3").args(["-c", code]).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let mut lines = text.lines().map(PathBuf::from);
    Some((lines.next()?, lines.next()?))
}

#[tokio::test]
async fn numpy_of_the_real_index() {
    let Some((stdlib, purelib)) = machine() else {
        eprintln!("skipped: no python3");
        return;
    };
    let input =
        SettingsInput { stdlib: Some(stdlib), site_packages: vec![purelib], ..SettingsInput::from_process() };
    let settings = IndexSettings::discover(&input).unwrap();
    if settings.indexes.is_empty() {
        eprintln!("skipped: {}", settings.source);
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let client = IndexClient::new(settings.clone(), Some(cache.path()), ClientOptions::default()).unwrap();
    let numpy = Want {
        name: "numpy".into(),
        version: "1.26.4".into(),
        wheel_tags: ["manylinux_2_17_x86_64", "manylinux2014_x86_64"]
            .map(|platform| format!("cp311-cp311-{platform}"))
            .into(),
        wheel_file: Vec::new(),
        python: "cp311".into(),
        machine: "x86_64".into(),
        build: None,
        direct_url: None,
    };
    let found = find_wheels(&client, std::slice::from_ref(&numpy), |_, _| {}).await;
    let listing = match &found[0] {
        Candidate::Wheel(listing) => listing,
        // A machine without a network must still pass; the reason says which it is.
        Candidate::None(why) => {
            assert!(why.unreachable(), "{why}");
            eprintln!("skipped: {why}");
            return;
        }
    };
    let rows = Record::parse(&listing.record_bytes).unwrap().rows;
    assert_eq!(listing.entries.len(), rows.len());
    assert!(rows.len() > 500);
    let stats = client.stats();
    assert!(stats.range_bytes < 1 << 20, "{stats:?}");
    eprintln!("{stats:?} {} entries", rows.len());
    let warm = IndexClient::new(settings, Some(cache.path()), ClientOptions::default()).unwrap();
    let again = find_wheels(&warm, &[numpy], |_, _| {}).await;
    assert!(matches!(&again[0], Candidate::Wheel(same) if same == listing));
    assert_eq!(warm.stats().requests, 0);
}
