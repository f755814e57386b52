//! Servers, answers, RECORDs and archives that are wrong; each reason in full.
use super::*;

#[tokio::test]
async fn server_without_ranges_is_not_downloaded_from() {
    let server = Server::start().await;
    publish(&server, good());
    let route = Route { ranges: false, ..Route::new("application/zip", good()) };
    server.put(&format!("/files/{FILE}"), route);
    assert_eq!(reason(&server).await, format!("{} does not serve ranges of {FILE}", server.authority));
    let route = Route { status: 403, ..Route::new("text/plain", "") };
    server.put(&format!("/files/{FILE}"), route);
    assert_eq!(reason(&server).await, format!("{} answers with status 403 for {FILE}", server.authority));
}

#[tokio::test]
async fn answers_that_are_no_index() {
    let server = Server::start().await;
    let missing = "the index has no wheel Demo 1.0 for tags py3-none-any (built from an sdist?)";
    assert_eq!(reason(&server).await, missing);
    server.put("/simple/demo/", Route::new(JSON, "{\"files\": 5}"));
    assert_eq!(
        reason(&server).await,
        "the index's answer for demo is unusable: the answer is no index page in JSON (invalid type: integer `5`, expected a list of files at line 1 column 11)"
    );
    server.put("/simple/demo/", Route::new("text/plain", "out of order"));
    assert_eq!(
        reason(&server).await,
        "the index's answer for demo is unusable: the answer is no index page in HTML"
    );
    server.put("/simple/demo/", Route { status: 500, ..Route::new("text/plain", "x") });
    assert_eq!(
        reason(&server).await,
        format!("the index could not be reached: {} answers with status 500", server.authority)
    );
    let bare = format!("<html><a href=\"/files/{FILE}\">{FILE}</a></html>");
    server.put("/simple/demo/", Route::new("text/html", bare));
    assert_eq!(reason(&server).await, format!("the index gives no sha256 for {FILE}"));
    let settings = client(&format!("{}/simple", server.base), None).settings().clone();
    let small = ClientOptions { max_index_bytes: 10, ..options() };
    let small = IndexClient::new(settings, None, small).unwrap();
    assert_eq!(
        look(&small).await.unwrap_err(),
        format!(
            "the index's answer for demo is unusable: {} answers with more than 10 bytes",
            server.authority
        )
    );
}

#[tokio::test]
async fn slow_and_unreachable() {
    let server = Server::start().await;
    server.put("/simple/demo/", Route { silent: true, ..Route::new(JSON, "") });
    assert_eq!(
        reason(&server).await,
        format!("the index could not be reached: {} is silent for 0.2 s", server.authority)
    );
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = free.local_addr().unwrap().to_string();
    drop(free);
    let client = client(&format!("http://{authority}/simple"), None);
    let wants = vec![want(); 50];
    let all = find_wheels(&client, &wants, |_, _| {}).await;
    for candidate in all {
        let Candidate::None(why) = candidate else { panic!("found") };
        assert_eq!(
            why.to_string(),
            format!(
                "the index could not be reached: cannot connect to {authority}: Connection refused (os error 111)"
            )
        );
    }
    assert!(client.stats().requests <= 32, "the rest fails without asking");
}

#[tokio::test]
async fn the_index_lies_about_the_size() {
    let server = Server::start().await;
    let bytes = good();
    publish(&server, bytes.clone());
    server.put("/simple/demo/", Route::new(JSON, page(&bytes, bytes.len() - 1)));
    assert_eq!(
        reason(&server).await,
        format!("the index says {FILE} has {} bytes, the server has {}", bytes.len() - 1, bytes.len())
    );
}

#[tokio::test]
async fn records_that_lie() {
    let server = Server::start().await;
    let text = record(&members());
    let first = text.lines().next().unwrap().to_owned();
    let cases = [
        (
            text.replace(&first, "demo/__init__.py,,15"),
            "the wheel's RECORD has no sha256 for \"demo/__init__.py\"",
        ),
        (
            text.replace(&first, &first.replace("demo/", "../demo/")),
            "the wheel's RECORD names \"../demo/__init__.py\", which holds a \"..\" component",
        ),
        (
            text.replace(&first, &first.replace("demo/", "/demo/")),
            "the wheel's RECORD names \"/demo/__init__.py\", which is absolute",
        ),
        (format!("{first}\n{text}"), "the wheel's RECORD names \"demo/__init__.py\" twice"),
        (
            text.replace(&format!("{first}\n"), ""),
            "the wheel's RECORD does not list \"demo/__init__.py\", which the wheel holds",
        ),
        (
            format!("{}\n{text}", first.replace("__init__", "ghost")),
            "the wheel's RECORD lists \"demo/ghost.py\", which the wheel does not hold",
        ),
        (
            text.replace(&first, &first.replace(",15", ",16")),
            "the wheel's RECORD says 16 bytes for \"demo/__init__.py\", the wheel holds 15",
        ),
        (
            text.replace(&base64url(&Sha256::digest(WHEEL).into()), &base64url(&[7; 32])),
            "the wheel's RECORD has a hash for WHEEL that its content does not have",
        ),
        ("\"".into(), "the wheel's RECORD has 1 columns in row 1, expected 3"),
    ];
    for (record, expected) in cases {
        publish(&server, wheel(&members(), &record));
        assert_eq!(reason(&server).await, expected);
    }
}

#[tokio::test]
async fn archives_that_lie() {
    let server = Server::start().await;
    publish(&server, b"this is no zip archive".to_vec());
    assert_eq!(reason(&server).await, format!("the wheel {FILE} is no zip archive (no end record)"));
    let mut escaping = members();
    escaping[0].0 = "../x.py".into();
    publish(&server, wheel(&escaping, &record(&escaping)));
    assert_eq!(
        reason(&server).await,
        format!("the wheel {FILE} names \"../x.py\", which holds a \"..\" component")
    );
    // The zip crate refuses to write a name twice, so two names of one length are made equal.
    let mut twice = members();
    twice[1].0 = "demo/__twin__.py".into();
    let mut bytes = wheel(&twice, &record(&twice));
    for at in 0..bytes.len() - 16 {
        if &bytes[at..at + 16] == b"demo/__twin__.py" {
            bytes[at..at + 16].copy_from_slice(b"demo/__init__.py");
        }
    }
    publish(&server, bytes);
    assert_eq!(reason(&server).await, format!("the wheel {FILE} names \"demo/__init__.py\" twice"));
    let other: Vec<_> =
        members().into_iter().map(|(name, data)| (name.replace("demo-1.0", "demo-9.9"), data)).collect();
    publish(&server, wheel(&other, ""));
    assert_eq!(reason(&server).await, "the wheel has 2 dist-info directories, expected one");
}
