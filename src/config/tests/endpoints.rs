//! `[[endpoint]]` can say everything that an endpoint has, and what it says comes back.

use std::collections::BTreeSet;

use super::*;
use crate::{
    model::{Auth, Endpoint, Timestamp},
    registry::spec::{AuthSpec, EndpointSpec, TlsSpec},
};

fn read(text: &str) -> Vec<Endpoint> {
    let loaded = parse("test.toml", text, []).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let mut endpoints = loaded.config.endpoints;
    for endpoint in &mut endpoints {
        // They are made when they are read.
        (endpoint.created_at, endpoint.updated_at) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    }
    endpoints
}

/// One endpoint with every field, and one for every other way to authenticate and to sign.
fn everything() -> String {
    let made = rcgen::generate_simple_self_signed(["client".to_owned()]).expect("made");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let mut text = format!(
        r#"
[[endpoint]]
id = "all"
url = "https://hooks.example.com/orders?a=b"
tenant = "acme"
description = "The shop's order service"
channels = ["shop", "web"]
types = ["order.*", "quote.updated"]
direction = "OUT"
filter = "event.data.total > 100 && has(event.subject)"
format = "cloudevents"
signing = "standard"
secret = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
rate = "50/s"
concurrency = 16
retry = ["30s", "5m", "1h"]
status = "disabled"
attributes = {{ customAttributes = {{ team = "sales", size = 3 }} }}
[endpoint.headers]
x-source = "posthaste"
[endpoint.auth]
type = "oauth2"
url = "https://idp.example.com/token"
clientId = "us"
clientSecret = "cs"
refreshToken = "rt"
expiresIn = 60
[endpoint.auth.headers]
content-type = "application/json"
[endpoint.auth.queryParams]
audience = "hooks"
[endpoint.tls]
certificate = """
{certificate}"""
key = """
{key}"""
ca = """
{certificate}"""
"#
    );
    let others = [
        ("hub", "hub", "secret = \"a7f3c81e9d2b4605f1a8c3e7b9d40f6218273645a8b9c0d1e2f3041526374859\"", "type = \"bearer\"\ntoken = \"t\""),
        ("z_api", "none", "retry = \"zenvia\"", "type = \"api_key\"\nheader = \"x-own\"\nkey = \"k\""),
        ("zenvia", "none", "retry = \"none\"", "type = \"basic\"\nusername = \"u\"\npassword = \"p\""),
        ("conversion", "none", "direction = \"IN\"", "type = \"custom_header\"\nname = \"x-own\"\nvalue = \"v\""),
    ];
    for (format, signing, more, auth) in others {
        text += &format!(
            "[[endpoint]]\nid = \"{format}\"\nurl = \"https://hooks.example.com/\"\nformat = \"{format}\"\nsigning = \"{signing}\"\n{more}\n[endpoint.auth]\n{auth}\n"
        );
    }
    text
}

#[test]
fn a_document_with_everything_is_read_and_comes_back_the_same() {
    let text = everything();
    let endpoints = read(&text);
    let written: Vec<EndpointSpec> = endpoints.iter().map(EndpointSpec::of).collect();
    let again = toml::to_string(&std::collections::BTreeMap::from([("endpoint", &written)])).expect("TOML can hold it");
    assert_eq!(read(&again), endpoints);

    // What was handed in is what stands there, word for word where there is one way to say it.
    let values: toml::Table = toml::from_str(&text).expect("TOML");
    let handed_in: EndpointSpec = values["endpoint"][0].clone().try_into().expect("an endpoint");
    let expected = EndpointSpec { retry: written[0].retry.clone(), ..handed_in };
    assert_eq!(written[0], expected);
    assert!(matches!(endpoints[0].auth, Auth::OAuth2(_)) && endpoints[0].tls.is_some());
}

#[test]
fn everything_is_every_field_that_there_is() {
    let values: toml::Table = toml::from_str(&everything()).expect("TOML");
    let endpoints = values["endpoint"].as_array().expect("a list");
    let named = |of: &dyn Fn(&toml::Value) -> Option<toml::Value>| -> BTreeSet<String> {
        endpoints
            .iter()
            .filter_map(of)
            .filter_map(|value| value.as_table().cloned())
            .flat_map(|table| table.into_iter().map(|(key, _)| key))
            .collect()
    };
    let all = |keys: &[&str]| -> BTreeSet<String> { keys.iter().map(|key| (*key).to_owned()).collect() };
    assert_eq!(named(&|endpoint| Some(endpoint.clone())), all(keys::<EndpointSpec>()));
    assert_eq!(named(&|endpoint| endpoint.get("auth").cloned()), all(keys::<AuthSpec>()));
    assert_eq!(named(&|endpoint| endpoint.get("tls").cloned()), all(keys::<TlsSpec>()));
}
