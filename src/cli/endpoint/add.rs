//! `posthaste endpoint add`: an option for every field of an endpoint.

use std::io::Write;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    auth::{Auth, More, Tls, header},
    secret,
};
use crate::{
    cli::client::{Client, Daemon},
    model::Rate,
};

/// Register a receiver. Its secret is printed once.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste endpoint add https://example.com/hooks --type 'order.*' --channel shop\n  posthaste endpoint add https://example.com/hub --format hub --signing hub --rate 50/s\n  posthaste endpoint add https://example.com/x --bearer \"$TOKEN\" --header 'X-Source: posthaste'\n  posthaste endpoint add https://example.com/z --oauth2 https://idp.example.com/token --client ID:SECRET --token-param audience=hooks\n  posthaste endpoint add https://example.com/m --tls-certificate us.pem --tls-key us.key --filter 'event.data.total > 100' --retry 30s,5m,1h"
)]
pub struct Add {
    /// http or https.
    url: String,
    /// Made up when absent.
    #[arg(long)]
    id: Option<String>,
    /// Absent: that of the token.
    #[arg(long)]
    tenant: Option<String>,
    /// For people.
    #[arg(long)]
    description: Option<String>,
    /// A channel to listen to; several times for several; none for all.
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// An event type, exact (`lead.created`) or by prefix (`lead.*`); several times for several; none for all.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events of this direction.
    #[arg(long, value_enum, ignore_case = true)]
    direction: Option<Direction>,
    /// A CEL expression over the event that must hold as well, such as `event.data.total > 100`.
    #[arg(long)]
    filter: Option<String>,
    /// The shape of the body: standard, cloudevents, hub, z_api, chatwoot, zenvia, zenvia_v1 or conversion.
    #[arg(long)]
    format: Option<String>,
    /// standard, hub or none.
    #[arg(long)]
    signing: Option<String>,
    /// Sign with this instead of a secret that the daemon makes; with several ones while they are changed, the newest first.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Requests of the whole fleet, such as 50/s.
    #[arg(long)]
    rate: Option<Rate>,
    /// Requests in flight at once, per instance.
    #[arg(long)]
    concurrency: Option<u16>,
    /// A header to send along, as `Name: value`; several times for several.
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Retry schedule: standard, zenvia, none, or delays such as 30s,5m,1h.
    #[arg(long)]
    retry: Option<String>,
    /// A disabled one gets nothing until it is enabled.
    #[arg(long, value_enum, ignore_case = true)]
    status: Option<Status>,
    /// What is kept with it and shown again, as a JSON object.
    #[arg(long, value_name = "JSON", value_parser = object)]
    attributes: Option<Map<String, Value>>,
    /// Print the API's JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    auth: Auth,
    #[command(flatten)]
    more: More,
    #[command(flatten)]
    tls: Tls,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Direction {
    In,
    Out,
    Internal,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Enabled,
    Disabled,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|wrong| format!("write a JSON object, such as {{\"team\":\"sales\"}}: {wrong}"))
}

pub async fn run(arguments: &Add, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut document = document(arguments);
    if let Some(tls) = arguments.tls.document()? {
        document["tls"] = tls;
    }
    let made = Client::new(&arguments.daemon)?.expect(Method::POST, "/v1/endpoints", Some(document)).await?;
    if arguments.json {
        return Ok(writeln!(out, "{made:#}")?);
    }
    writeln!(out, "id      {}", made["id"].as_str().unwrap_or("-"))?;
    secret(&made, out)
}

/// What `POST /v1/endpoints` takes: only what was given.
fn document(arguments: &Add) -> Value {
    let mut document = Map::from_iter([("url".to_owned(), json!(arguments.url))]);
    let texts = [
        ("id", &arguments.id),
        ("tenant", &arguments.tenant),
        ("description", &arguments.description),
        ("filter", &arguments.filter),
        ("format", &arguments.format),
        ("signing", &arguments.signing),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            document.insert(name.to_owned(), json!(value));
        }
    }
    for (name, values) in [("channels", &arguments.channels), ("types", &arguments.types)] {
        if !values.is_empty() {
            document.insert(name.to_owned(), json!(values));
        }
    }
    match arguments.secrets.as_slice() {
        [] => {}
        [one] => _ = document.insert("secret".to_owned(), json!(one)),
        several => _ = document.insert("secret".to_owned(), json!(several)),
    }
    if let Some(status) = arguments.status {
        let status = match status {
            Status::Enabled => "enabled",
            Status::Disabled => "disabled",
        };
        document.insert("status".to_owned(), json!(status));
    }
    if let Some(attributes) = &arguments.attributes {
        document.insert("attributes".to_owned(), Value::Object(attributes.clone()));
    }
    if let Some(direction) = arguments.direction {
        let direction = match direction {
            Direction::In => "IN",
            Direction::Out => "OUT",
            Direction::Internal => "INTERNAL",
        };
        document.insert("direction".to_owned(), json!(direction));
    }
    if let Some(rate) = arguments.rate {
        document.insert("rate".to_owned(), json!(rate));
    }
    if let Some(concurrency) = arguments.concurrency {
        document.insert("concurrency".to_owned(), json!(concurrency));
    }
    if !arguments.headers.is_empty() {
        document.insert("headers".to_owned(), arguments.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect());
    }
    if let Some(retry) = &arguments.retry {
        let delays: Vec<&str> = retry.split(',').map(str::trim).collect();
        let is_preset = delays.len() == 1 && humantime::parse_duration(retry).is_err();
        document.insert("retry".to_owned(), if is_preset { json!(retry) } else { json!(delays) });
    }
    if let Some(auth) = arguments.auth.document(&arguments.more) {
        document.insert("auth".to_owned(), auth);
    }
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Parser, Subcommand};
    use utoipa::PartialSchema;

    use super::*;
    use crate::registry::spec::{AuthSpec, EndpointSpec, TlsSpec};

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Subcommand)]
    enum Command {
        Add(Box<Add>),
    }

    #[test]
    fn only_what_was_given_is_sent() {
        for (line, expected) in [
            ("x add http://a/", json!({ "url": "http://a/" })),
            (
                "x add http://a/ --type a.* --type b --direction in --rate 5/s --retry zenvia --bearer T",
                json!({ "url": "http://a/", "types": ["a.*", "b"], "direction": "IN", "rate": "5/s", "retry": "zenvia",
                        "auth": { "type": "bearer", "token": "T" } }),
            ),
            (
                "x add http://a/ --retry 30s,5m --header A:b --basic u:p:q",
                json!({ "url": "http://a/", "retry": ["30s", "5m"], "headers": { "A": "b" },
                        "auth": { "type": "basic", "username": "u", "password": "p:q" } }),
            ),
            (
                "x add http://a/ --oauth2 https://idp/t --client c:s:s --refresh-token r --token-header A:b --token-param q=1=2 --expires-in 60",
                json!({ "url": "http://a/", "auth": { "type": "oauth2", "url": "https://idp/t", "clientId": "c", "clientSecret": "s:s",
                        "refreshToken": "r", "headers": { "A": "b" }, "queryParams": { "q": "1=2" }, "expiresIn": 60 } }),
            ),
            ("x add http://a/ --retry 30s", json!({ "url": "http://a/", "retry": ["30s"] })),
            (
                "x add http://a/ --secret new --secret old --status disabled --attributes {\"a\":1} --api-key k --api-key-header X-Own",
                json!({ "url": "http://a/", "secret": ["new", "old"], "status": "disabled", "attributes": { "a": 1 },
                        "auth": { "type": "api_key", "key": "k", "header": "X-Own" } }),
            ),
        ] {
            let Command::Add(add) = Line::try_parse_from(line.split(' ')).expect(line).command;
            assert_eq!(document(&add), expected, "{line}");
        }
        for wrong in [
            "--bearer T --api-key K",
            "--oauth2 https://idp/",
            "--client c:s",
            "--bearer T --oauth2 https://idp/ --client c:s",
            "--tls-key k",
            "--api-key-header X-Own",
            "--attributes [1]",
        ] {
            assert!(Line::try_parse_from(format!("x add http://a/ {wrong}").split(' ')).is_err(), "{wrong}");
        }
    }

    /// The fields of a document of the API, from its schema.
    fn fields<T: PartialSchema>() -> BTreeSet<String> {
        let schema = serde_json::to_value(T::schema()).expect("a schema is JSON");
        schema["properties"].as_object().expect("an object").keys().cloned().collect()
    }

    #[test]
    fn every_field_of_an_endpoint_has_its_option() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let file = file.path().to_str().expect("text");
        let all = format!(
            "x add http://a/ --id i --tenant t --description d --channel c --type t --direction in --filter f --format f --signing s --secret s \
             --rate 1/s --concurrency 1 --header A:b --retry none --status enabled --attributes {{}} \
             --tls-certificate {file} --tls-key {file} --tls-ca {file} "
        );
        let auths = [
            "--bearer t",
            "--api-key k --api-key-header X",
            "--basic u:p",
            "--auth-header A:b",
            "--oauth2 http://i/ --client c:s --refresh-token r --token-header A:b --token-param q=1 --expires-in 60",
        ];
        let mut auth = BTreeSet::new();
        for options in auths {
            let line = all.clone() + options;
            let Command::Add(add) = Line::try_parse_from(line.split_whitespace()).expect(options).command;
            let mut document = document(&add);
            document["tls"] = add.tls.document().expect("the files are there").expect("given");
            let named = |document: &Value| document.as_object().expect("an object").keys().cloned().collect::<BTreeSet<String>>();
            assert_eq!(named(&document), fields::<EndpointSpec>());
            assert_eq!(named(&document["tls"]), fields::<TlsSpec>());
            auth.extend(named(&document["auth"]));
        }
        assert_eq!(auth, fields::<AuthSpec>());
    }
}
