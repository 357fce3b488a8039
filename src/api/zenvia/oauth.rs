//! `webhook.auth`: OAuth2 as Zenvia writes it (WIRE.md 1.4), and the endpoint's own document of the same.

use serde_json::{Map, Value, json};

use crate::{api::fields::Reader, registry::spec::AuthSpec};

/// What stands for a secret on read; sent back, it means the secret that is there.
pub const MASK: &str = "********";

const PATH: &str = "webhook.auth";

const KIND: &str = "oauth2";

/// The endpoint's document of `webhook.auth`. `present`: what the endpoint has, from which masked secrets are taken.
pub fn translate(read: &mut Reader, auth: &Map<String, Value>, present: Option<&AuthSpec>) -> Option<AuthSpec> {
    let before = read.errors.len();
    let present = present.and_then(members);
    read.only(PATH, auth, &["type", "url", "headers", "queryParams", "oauth"]);
    read.word("webhook.auth.type", auth.get("type"), &[("OAUTH", ())]);
    let url = read.required_text("webhook.auth.url", auth.get("url"));
    if url.is_some_and(|url| !is_https(url)) {
        read.wrong("webhook.auth.url", "must be an https URL");
    }
    let mut document = Map::from_iter([("type".to_owned(), json!(KIND)), ("url".to_owned(), json!(url))]);
    for name in ["headers", "queryParams"] {
        let path = format!("{PATH}.{name}");
        let mut pairs = read.pairs(&path, auth.get(name));
        for (key, value) in pairs.iter_mut().filter(|(_, value)| *value == MASK) {
            let kept = present.as_ref().and_then(|present| present.get(name)?.get(key)?.as_str());
            *value = unmasked(read, &format!("{path}.{key}"), kept);
        }
        if !pairs.is_empty() {
            document.insert(name.to_owned(), json!(pairs));
        }
    }
    match read.object("webhook.auth.oauth", auth.get("oauth")) {
        Some(oauth) => credentials(read, oauth, present.as_ref(), &mut document),
        None if auth.get("oauth").is_none_or(Value::is_null) => read.wrong("webhook.auth.oauth", "is required"),
        None => {}
    }
    if read.errors.len() > before {
        return None;
    }
    serde_json::from_value(Value::Object(document)).map_err(|error| read.wrong(PATH, format!("cannot be read: {error}"))).ok()
}

fn credentials(read: &mut Reader, oauth: &Map<String, Value>, present: Option<&Map<String, Value>>, document: &mut Map<String, Value>) {
    let path = |name: &str| format!("{PATH}.oauth.{name}");
    read.only("webhook.auth.oauth", oauth, &["grantType", "clientId", "clientSecret", "refreshToken", "expiresIn"]);
    read.word(&path("grantType"), oauth.get("grantType"), &[("client_credentials", ())]);
    for (name, is_required) in [("clientId", true), ("clientSecret", true), ("refreshToken", false)] {
        let given = oauth.get(name);
        if !is_required && given.is_none_or(Value::is_null) {
            continue;
        }
        let Some(text) = read.required_text(&path(name), given) else { continue };
        let text = match text {
            MASK if name != "clientId" => unmasked(read, &path(name), present.and_then(|present| present.get(name)?.as_str())),
            text => text.to_owned(),
        };
        document.insert(name.to_owned(), json!(text));
    }
    match oauth.get("expiresIn") {
        None | Some(Value::Null) => {}
        // Any number is allowed; a part of a second makes no difference.
        Some(Value::Number(seconds)) if seconds.as_f64().is_some_and(|seconds| seconds >= 1.0) => {
            document.insert("expiresIn".to_owned(), json!(seconds.as_f64().unwrap_or_default() as u64));
        }
        Some(_) => read.wrong(&path("expiresIn"), "must be a number of seconds, at least 1"),
    }
}

/// `webhook.auth` of an endpoint, if it has OAuth2: secrets are masked, and so is what looks like one among headers and query parameters.
pub fn show(auth: &AuthSpec) -> Option<Value> {
    let auth = members(auth)?;
    let masked = |name: &str| auth.get(name).map(|_| json!(MASK));
    let pairs = |name: &str| {
        let pairs = auth.get(name)?.as_object()?.iter();
        let pairs = pairs.map(|(key, value)| (key.clone(), if is_secret(key) { json!(MASK) } else { value.clone() }));
        Some(Value::Object(pairs.collect()))
    };
    let some = |members: Vec<(&str, Option<Value>)>| -> Map<String, Value> {
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    };
    let oauth = some(vec![
        ("grantType", Some(json!("client_credentials"))),
        ("clientId", auth.get("clientId").cloned()),
        ("clientSecret", masked("clientSecret")),
        ("refreshToken", masked("refreshToken")),
        ("expiresIn", auth.get("expiresIn").cloned()),
    ]);
    Some(Value::Object(some(vec![
        ("type", Some(json!("OAUTH"))),
        ("url", auth.get("url").cloned()),
        ("headers", pairs("headers")),
        ("queryParams", pairs("queryParams")),
        ("oauth", Some(Value::Object(oauth))),
    ])))
}

/// The members of the document, if it is one of OAuth2.
fn members(auth: &AuthSpec) -> Option<Map<String, Value>> {
    if auth.kind != KIND {
        return None;
    }
    match serde_json::to_value(auth) {
        Ok(Value::Object(mut members)) => {
            members.retain(|_, value| !value.is_null());
            Some(members)
        }
        _ => None,
    }
}

fn unmasked(read: &mut Reader, path: &str, kept: Option<&str>) -> String {
    if kept.is_none() {
        read.wrong(path, "is a mask, and there is no secret behind it: write the secret itself");
    }
    kept.unwrap_or_default().to_owned()
}

/// Whether a header or parameter is named like one that carries a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "cookie", "key", "password", "secret", "token"].iter().any(|part| name.contains(part))
}

/// `^(https)://[^\s/$.?#].[^\s]*$`
fn is_https(url: &str) -> bool {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let mut chars = rest.chars();
    let begins = chars.next().is_some_and(|first| !"/$.?#".contains(first));
    begins && chars.next().is_some() && !rest.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(auth: Value) -> Vec<String> {
        let mut read = Reader::default();
        translate(&mut read, auth.as_object().expect("an object"), None);
        read.errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let oauth = json!({ "clientId": "c", "clientSecret": "s" });
        for (auth, paths) in [
            (json!({}), vec!["webhook.auth.url", "webhook.auth.oauth"]),
            (json!({ "type": "BASIC", "url": "https://idp/x", "oauth": oauth }), vec!["webhook.auth.type"]),
            (json!({ "url": "http://idp/x", "oauth": oauth }), vec!["webhook.auth.url"]),
            (json!({ "url": "https://idp/ x", "oauth": oauth }), vec!["webhook.auth.url"]),
            (json!({ "url": "https://idp/x", "oauth": oauth, "scope": "x" }), vec!["webhook.auth.scope"]),
            (json!({ "url": "https://idp/x", "headers": { "a": [] }, "oauth": oauth }), vec!["webhook.auth.headers.a"]),
            (json!({ "url": "https://idp/x", "oauth": {} }), vec!["webhook.auth.oauth.clientId", "webhook.auth.oauth.clientSecret"]),
            (
                json!({ "url": "https://idp/x", "oauth": { "grantType": "password", "clientId": "c", "clientSecret": "", "refreshToken": "", "expiresIn": "1h" } }),
                vec![
                    "webhook.auth.oauth.grantType",
                    "webhook.auth.oauth.clientSecret",
                    "webhook.auth.oauth.refreshToken",
                    "webhook.auth.oauth.expiresIn",
                ],
            ),
            (
                json!({ "url": "https://idp/x", "oauth": { "clientId": "c", "clientSecret": MASK } }),
                vec!["webhook.auth.oauth.clientSecret"],
            ),
        ] {
            assert_eq!(wrong(auth.clone()), paths, "{auth}");
        }
    }
}
