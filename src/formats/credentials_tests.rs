use super::*;
use proptest::prelude::*;

fn random(prefix: &str) -> String {
    format!("{prefix}k3jX9vQ2mZ7rT5wL1nB8yH4dF6sGk3jX9vQ2mZ7rT5wL1nB8yH4dF6sG")
}

fn whats(text: &str) -> Vec<(usize, What)> {
    find(text).into_iter().map(|f| (f.line, f.what)).collect()
}

#[test]
fn addresses_of_every_kind_of_file() {
    let t = random("");
    for line in [
        format!("--extra-index-url https://user:{t}@host.example/simple"),
        format!("lib @ git+https://{t}@git.example/x/lib.git"),
        format!("\turl = https://oauth2:{t}@git.example/x/y.git"),
        format!("index-url=http://__token__:{t}@host.example:8080/simple"),
        format!(r#"{{"url": "https://files.example/a.whl?token={t}"}}"#),
        format!("url = 'https://s3.example/a?X-Amz-Credential=c&X-Amz-Signature={t}'"),
        format!("https://s3.example/a?x%2Damz%2Dsignature={t}"),
        format!("https://blob.example/a?sv=2020&sig={t}%3D"),
        format!("https://storage.example/a?X-Goog-Signature={t}"),
        format!("https://api.example/a#access_token={t}"),
        format!("postgresql://app:{t}@db.example/x"),
        format!("ssh://git:{t}@git.example/x"),
        format!("source = {{ git = \"https://{t}@git.example/x\", rev = \"1\" }}"),
    ] {
        assert!(
            matches!(&find(&line)[..], [Found { line: 1, what: What::Address { .. } }]),
            "{line}: {:?}",
            find(&line)
        );
        assert!(!redacted(&line).contains(&t), "{}", redacted(&line));
    }
}

/// Found by `any_text`: the end of the first address lies behind a letter of three bytes.
#[test]
fn an_address_behind_an_address() {
    for text in ["://\u{a36}\u{a3c}://", "https://é://user:secret@host"] {
        assert_eq!(redacted(&redacted(text)), redacted(text));
        find(text);
    }
    assert_eq!(
        redacted("https://a/é://user:secret@host"),
        "https://a/é://user:secret@host".replace("user:secret@", "")
    );
}

#[test]
fn what_is_none() {
    for line in [
        "https://host.example/simple",
        "https://user:password@host.example/simple",
        "https://<token>@host.example/simple",
        "https://user:${TOKEN}@host.example/simple",
        "https://{user}:{password}@host",
        "https://YOUR_TOKEN@github.example/x",
        "git@git.example:x/y.git",
        "ssh://git@git.example/x",
        "https://me@git.example/x",
        "https://host.example/a?key=value&page=2#token",
        "https://host.example/a?token=YOUR_TOKEN_HERE",
        "https://host.example/@scope/package",
        "https://files.example/packages/ab/cd/0123456789abcdef0123456789abcdef/a-1.whl#sha256=0123456789abcdef",
        "hf_hub_download_from_somewhere_else_entirely",
        "sk-learn-compatible-estimators-and-transformers-of-models",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "if '-----BEGIN RSA PRIVATE KEY-----' in text:",
        "token = tokenizer.encode(text)",
        "api_key = os.environ['API_KEY']",
        "\"key\": \"0123456789abcdef0123456789abcdef01234567\"",
        "key == 'k3jX9vQ2mZ7rT5wL1nB8yH4'",
        "password = \"correct horse battery staple\"",
    ] {
        assert_eq!(find(line), [], "{line}");
    }
}

#[test]
fn tokens_keys_and_values() {
    for (prefix, _, _, whose) in TOKENS {
        let token = match *whose {
            "AWS" => format!("{prefix}Q3JX9VQ2MZ7RT5WL"),
            _ => random(prefix),
        };
        let line = format!("TOKEN = os.getenv('X') or '{token}'");
        assert!(matches!(&whats(&line)[..], [(1, What::Token(_))]), "{line}");
        assert!(!redacted(&line).contains(&token));
    }
    let key = format!("x\n-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n", random(""));
    assert_eq!(whats(&key), [(2, What::PrivateKey)]);
    assert_eq!(whats(&key.replace('\n', "\\n")), [(1, What::PrivateKey)]);
    for (line, name) in [
        (format!("CIVITAI_TOKEN = \"{}\"", random("")), "CIVITAI_TOKEN"),
        (format!("  \"apiKey\": '{}',", random("")), "apiKey"),
        (format!("os.environ['MY_SECRET'] = '{}'", random("")), "MY_SECRET"),
        ("secret-password: \"0123456789abcdef0123456789abcdef\"".into(), "secret-password"),
    ] {
        assert_eq!(whats(&line), [(1, What::Value(name.into()))], "{line}");
    }
}

#[test]
fn programs_have_defaults() {
    let code = |line: &str| find(line)[0].what.is_certain_in_code();
    assert!(!code("connect('http://admin:admin@localhost')"));
    assert!(code(&format!("connect('http://admin:{}@localhost')", random(""))));
    assert!(code(&format!("'https://{}@git.example'", random(""))));
}

#[test]
fn an_address_is_left_as_it_was_but_for_that() {
    for (text, clean) in [
        ("https://user:token@h/x.git", "https://h/x.git"),
        ("https://h/x.git?token=1", "https://h/x.git"),
        ("https://h/x?a=1&token=2&b=3#egg=x", "https://h/x?a=1&b=3#egg=x"),
        ("git+https://u:p@h/x@main#subdirectory=a", "git+https://h/x@main#subdirectory=a"),
        ("ssh://git:pw@h/x", "ssh://git@h/x"),
        ("git+ssh://git@h/x", "git+ssh://git@h/x"),
        ("https://h/x@y.git", "https://h/x@y.git"),
        ("https://proxy/http://u:p@h/x?to=https://v:q@i", "https://proxy/http://h/x?to=https://i"),
        ("git@h:x.git", "git@h:x.git"),
        ("/srv/x.git", "/srv/x.git"),
        ("a file:///x and https://u:p@h, https://v:q@i", "a file:///x and https://h, https://i"),
        ("é://ü:ä@ö/ß?tokén=1", "é://ö/ß?tokén=1"),
    ] {
        assert_eq!(redacted(text), clean);
        assert_eq!(redacted(clean), clean);
    }
}

proptest! {
    /// Whatever a password is made of, and wherever the address stands, it is found and taken away.
    #[test]
    fn no_credential_survives(
        secret in "[A-Za-z0-9]{6}[A-Za-z0-9._~+-]{14,40}[0-9][a-z]",
        scheme in prop::sample::select(vec!["https", "http", "git+https", "ssh", "ftp", "postgres"]),
        user in "[a-z]{0,8}",
        before in "[ -~é]{0,12}[ \"'=<(]",
        after in "[ \"'>\\n][ -~]{0,12}",
        port in prop::option::of(1u16..),
    ) {
        prop_assume!(!placeholder(&secret) && distinct(&secret) >= 10);
        let port = port.map(|p| format!(":{p}")).unwrap_or_default();
        let address = format!("{scheme}://{user}:{secret}@host.example{port}/x/y.git");
        let text = format!("{before}{address}{after}");
        prop_assert!(!redacted(&text).contains(&secret), "{}", redacted(&text));
        prop_assert!(find(&text).iter().any(|f| f.what.is_certain()), "{text}");
        let host = format!("host.example{port}/x/y.git");
        prop_assert!(redacted(&text).contains(&host));
    }

    #[test]
    fn no_parameter_survives(
        secret in "[A-Za-z0-9]{12}[A-Za-z0-9._~%+-]{8,40}[0-9]",
        name in prop::sample::select(vec!["token", "access_token", "X-Amz-Signature", "x-amz-security-token", "sig", "apikey", "private_token", "X-Goog-Credential", "client_secret"]),
        mark in prop::sample::select(vec!["?", "?a=b&", "#", "?a#b=c&"]),
    ) {
        prop_assume!(!placeholder(&secret));
        let text = format!("x @ https://h.example/a.whl{mark}{name}={secret}&z=1 ; y");
        prop_assert!(!redacted(&text).contains(&secret), "{}", redacted(&text));
        prop_assert!(redacted(&text).contains("z=1"));
        prop_assert!(find(&text).iter().any(|f| f.what.is_certain()), "{text}");
    }

    /// Any text at all: no panic, nothing to do a second time, and a text without addresses and tokens stays.
    #[test]
    fn any_text(text in "\\PC{0,60}(://)?\\PC{0,60}@?\\PC{0,30}[?&#=:/@]{0,6}\\PC{0,10}") {
        let once = redacted(&text);
        prop_assert_eq!(redacted(&once), once.clone());
        find(&text);
        if !text.contains("://") && tokens(&text).next().is_none() {
            prop_assert_eq!(once, text);
        }
    }
}
