//! The description of the API: whole, and as it is kept in the repository.

use std::{collections::BTreeSet, path::Path};

use super::*;

/// Where it is kept.
const KEPT: &str = "docs/openapi.json";

fn document() -> Value {
    serde_json::from_str(&description()).expect("the description is JSON")
}

/// Every operation, with its name.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, operations)| {
            operations.as_object().expect("operations").iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
        .collect()
}

/// What is meant, if it is a reference.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect(reference),
        None => value,
    }
}

#[test]
fn what_is_kept_in_the_repository_is_what_the_code_says() {
    let kept = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(KEPT)).unwrap_or_default();
    let said = description();
    let line = kept.lines().zip(said.lines()).take_while(|(kept, said)| kept == said).count() + 1;
    assert!(kept == said, "{KEPT} differs from line {line} on; renew it: cargo run -q -- openapi > {KEPT}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_answers_it_without_a_token() {
    let api = Api::start().await;
    assert_eq!(api.ask("", "GET", "/openapi.json", "").await.expect(200), document());
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let there: BTreeSet<String> = ["schemas", "responses"]
        .iter()
        .flat_map(|kind| {
            document["components"][kind].as_object().expect("components").keys().map(move |name| format!("#/components/{kind}/{name}"))
        })
        .collect();
    let found: BTreeSet<String> = found.into_iter().map(str::to_owned).collect();
    assert_eq!(found.symmetric_difference(&there).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_operation_says_who_may_call_it_what_it_takes_and_what_it_answers() {
    let document = document();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")), "{}", document["openapi"]);
    let schemes = document["components"]["securitySchemes"].as_object().expect("schemes");
    let mut names = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        assert!(!id.is_empty() && names.insert(id.to_owned()), "{name}: operationId `{id}` is not its own");
        let security = operation.get("security").or(document.get("security")).and_then(Value::as_array).expect(&name);
        assert!(!security.is_empty(), "{name} is for everybody");
        for scheme in security.iter().flat_map(|requirement| requirement.as_object().expect("schemes").keys()) {
            assert!(schemes.contains_key(scheme), "{name}: {scheme}");
        }
        if let Some(body) = operation.get("requestBody") {
            for (kind, content) in body["content"].as_object().expect("content") {
                assert!(
                    content.get("example").or(resolved(&document, &content["schema"]).get("example")).is_some(),
                    "{name}: no example of {kind}"
                );
            }
        }
        let responses = operation["responses"].as_object().expect("responses");
        assert!(responses.contains_key("401") && responses.keys().any(|status| status.starts_with('2')), "{name}");
        for (status, response) in responses {
            let response = resolved(&document, response);
            assert!(response["description"].as_str().is_some_and(|words| !words.is_empty()), "{name} {status} is not described");
            assert!(status.as_str() == "204" || response.get("content").is_some(), "{name} {status} has no body");
        }
    }
}
