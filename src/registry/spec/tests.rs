use super::*;
use crate::model::{Direction, Format, Status};

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn spec(json: &str) -> EndpointSpec {
    serde_json::from_str(json).expect(json)
}

/// The paths that are wrong.
fn wrong(json: &str) -> Vec<String> {
    let mut spec = spec(json);
    spec.fill();
    spec.check(now()).expect_err(json).into_iter().map(|error| error.path).collect()
}

#[test]
fn the_shortest_endpoint_is_a_url() {
    let mut spec = spec(r#"{"url":"https://example.com/hook"}"#);
    spec.fill();
    let endpoint = spec.check(now()).expect("good");
    assert!(endpoint.id.starts_with("ep_"));
    assert_eq!(endpoint.tenant, "default");
    assert_eq!((endpoint.format, endpoint.status), (Format::Standard, Status::Enabled));
    assert!(matches!(endpoint.signing, Signing::Standard { ref secrets } if secrets.len() == 1));
}

#[test]
fn a_document_and_its_endpoint_are_the_same() {
    let full = spec(
        r#"{"id":"a-1_B","url":"https://example.com/hook?x=1","tenant":"acme","description":"d","channels":["c1","c2"],
            "types":["lead.created","quote.*","*"],"direction":"IN","format":"hub","signing":"hub",
            "secret":"a7f3c81e9d2b4605f1a8c3e7b9d40f6218273645a8b9c0d1e2f3041526374859","rate":"50/s","concurrency":7,
            "headers":{"x-team":"blue"},"retry":["30s","5m"],"status":"disabled",
            "auth":{"type":"basic","username":"u","password":"p"}}"#,
    );
    let endpoint = full.clone().check(now()).expect("good");
    assert_eq!(endpoint.direction, Some(Direction::In));
    assert_eq!(EndpointSpec::of(&endpoint), full);
    for auth in [
        r#"{"type":"bearer","token":"t"}"#,
        r#"{"type":"api_key","header":"x-key","key":"k"}"#,
        r#"{"type":"custom_header","name":"authorization","value":"v"}"#,
        r#"{"type":"oauth2","url":"https://idp/token","clientId":"c","clientSecret":"s"}"#,
        r#"{"type":"oauth2","url":"http://127.0.0.1/token?a=b","headers":{"content-type":"application/json","authorization":"x"},
            "queryParams":{"audience":"https://a b"},"clientId":"c","clientSecret":"s","refreshToken":"r","expiresIn":60}"#,
    ] {
        let spec = spec(&format!(r#"{{"id":"a","url":"http://h/","signing":"none","auth":{auth}}}"#));
        let endpoint = spec.clone().check(now()).expect(auth);
        assert_eq!(EndpointSpec::of(&endpoint).auth, spec.auth);
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let json = r#"{"id":"a b","url":"ftp://x","channels":["ok",""],"types":["*.x"],"direction":"in","format":"xml","signing":"rsa",
        "rate":"50","concurrency":0,"headers":{"host":"x","a b":"c","authorization":"x"},"retry":["soon","1ms"],"status":"on",
        "auth":{"type":"bearer","key":"k"}}"#;
    let mut paths = wrong(json);
    paths.sort();
    let expected = [
        "auth.key",
        "auth.token",
        "channels[1]",
        "concurrency",
        "direction",
        "format",
        "headers.a b",
        "headers.authorization",
        "headers.host",
        "id",
        "rate",
        "retry[0]",
        "retry[1]",
        "signing",
        "status",
        "types[0]",
        "url",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn secrets_fit_their_scheme() {
    for (json, path) in [
        (r#"{"url":"http://h/","secret":"hunter2"}"#, "secret"),
        (r#"{"url":"http://h/","secret":["whsec_AAAA"]}"#, "secret"),
        (r#"{"url":"http://h/","secret":[]}"#, "secret"),
        (r#"{"url":"http://h/","signing":"hub","secret":"abc"}"#, "secret"),
        (r#"{"url":"http://h/","signing":"none","secret":"abc"}"#, "secret"),
        (r#"{"url":"http://h/","auth":{"type":"bearer","token":"a\nb"}}"#, "auth.token"),
        (r#"{"url":"http://h/","auth":{"type":"basic","username":"a:b","password":"c"}}"#, "auth.username"),
        (r#"{"url":"http://h/","auth":{"type":"kerberos"}}"#, "auth.type"),
        (r#"{"url":"http://h/","auth":{}}"#, "auth.type"),
        (r#"{"url":"http://h/","auth":{"type":"oauth2","clientId":"c","clientSecret":"s"}}"#, "auth.url"),
        (r#"{"url":"http://h/","auth":{"type":"oauth2","url":"idp","clientId":"c","clientSecret":"s"}}"#, "auth.url"),
        (r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://a:b@idp","clientId":"c","clientSecret":"s"}}"#, "auth.url"),
        (r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientSecret":"s"}}"#, "auth.clientId"),
        (r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientId":"c"}}"#, "auth.clientSecret"),
        (r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientId":"c","clientSecret":""}}"#, "auth.clientSecret"),
        (
            r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientId":"c","clientSecret":"s","refreshToken":""}}"#,
            "auth.refreshToken",
        ),
        (
            r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientId":"c","clientSecret":"s","expiresIn":0}}"#,
            "auth.expiresIn",
        ),
        (
            r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientId":"c","clientSecret":"s","headers":{"Host":"x"}}}"#,
            "auth.headers.Host",
        ),
        (
            r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientId":"c","clientSecret":"s","headers":{"x":"a\nb"}}}"#,
            "auth.headers.x",
        ),
        (
            r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientId":"c","clientSecret":"s","queryParams":{"":"x"}}}"#,
            "auth.queryParams.",
        ),
        (r#"{"url":"http://h/","auth":{"type":"oauth2","url":"https://idp","clientId":"c","clientSecret":"s","token":"x"}}"#, "auth.token"),
        (r#"{"url":"http://h/","auth":{"type":"bearer","token":"x","clientId":"c"}}"#, "auth.clientId"),
        (r#"{"url":"http://h/","auth":{"type":"custom_header","name":"Content-Length","value":"1"}}"#, "auth.name"),
        (r#"{"url":"http://h/","auth":{"type":"custom_header","name":"x-webhook-signature","value":"1"}}"#, "auth.name"),
        (r#"{"url":"http://h/","auth":{"type":"api_key","header":"Transfer-Encoding","key":"1"}}"#, "auth.header"),
        (r#"{"url":"http://h/","headers":{"Content-Type":"text/plain"}}"#, "headers.Content-Type"),
        (r#"{"url":"http://h/","headers":{"Webhook-Id":"1"}}"#, "headers.Webhook-Id"),
        (r#"{"url":"http://h/","tls":{"certificate":"x"}}"#, "tls.key"),
        (r#"{"url":"http://h/","tls":{"key":"x"}}"#, "tls.certificate"),
        (r#"{"url":"http://h/","tls":{"certificate":"x","key":"x"}}"#, "tls.certificate"),
        (r#"{"url":"http://h/","tls":{"ca":"x"}}"#, "tls.ca"),
        (r#"{"url":""}"#, "url"),
    ] {
        assert_eq!(wrong(json), [path], "{json}");
    }
    for signing in ["standard", "hub"] {
        let mut spec = spec(&format!(r#"{{"url":"http://h/","signing":"{signing}"}}"#));
        spec.fill();
        spec.check(now()).expect("what we make up is good");
    }
}

#[test]
fn a_declared_endpoint_needs_its_id_and_secret_written_down() {
    let paths: Vec<_> =
        spec(r#"{"url":"http://h/"}"#).check(now()).expect_err("nobody could know them").into_iter().map(|e| e.path).collect();
    assert_eq!(paths, ["id", "secret"]);
}

#[test]
fn no_secret_is_printed() {
    let spec = spec(r#"{"url":"http://h/","secret":"hunter2","auth":{"type":"bearer","token":"hunter2"}}"#);
    assert!(!format!("{spec:?}").contains("hunter2"));
}

#[test]
fn a_tls_identity_is_checked_when_it_comes_and_comes_back_as_it_was() {
    let made = rcgen::generate_simple_self_signed(["client".to_owned()]).expect("made");
    let other = rcgen::KeyPair::generate().expect("made");
    let with = |key: &rcgen::KeyPair| {
        let mut spec = spec(r#"{"id":"a","url":"https://h/","signing":"none"}"#);
        let key = Some(SecretText(key.serialize_pem()));
        spec.tls = Some(TlsSpec { certificate: Some(made.cert.pem()), key, ca: Some(made.cert.pem()) });
        spec
    };
    let good = with(&made.signing_key);
    assert_eq!(EndpointSpec::of(&good.clone().check(now()).expect("good")).tls, good.tls);
    let wrong = with(&other).check(now()).expect_err("another's key");
    assert_eq!(wrong.iter().map(|error| &*error.path).collect::<Vec<_>>(), ["tls.key"]);
    let mut nothing = good;
    nothing.tls = Some(TlsSpec::default());
    assert_eq!(nothing.check(now()).expect("the same as none").tls, None);
}

#[test]
fn a_reserved_header_is_refused_with_its_reason() {
    for (name, reason) in [("host", "HTTP exchange"), ("webhook-id", "vouches"), ("content-type", "`format`"), ("authorization", "`auth`")]
    {
        let mut spec = spec(&format!(r#"{{"url":"http://h/","headers":{{"{name}":"x"}}}}"#));
        spec.fill();
        let wrong = spec.check(now()).expect_err(name);
        assert!(wrong.len() == 1 && wrong[0].message.contains(reason), "{wrong:?}");
    }
}
