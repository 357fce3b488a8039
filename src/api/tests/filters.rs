//! Filters, agents and the history of tickets over the API.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_checked_before_it_is_stored() {
    let api = Api::start().await;
    let new = |filter: &str| json!({"id": "a", "url": "https://example.com/", "filter": filter});
    for (filter, said) in [
        ("event.data.total >", "line 1, column 19"),
        ("order.total > 1", "there is no variable `order`"),
        ("", "is empty"),
        (&"x".repeat(3_000), "longer than 2048 bytes"),
    ] {
        let answer = api.admin("POST", "/v1/endpoints", new(filter)).await;
        assert_eq!(answer.paths(), ["filter"], "{}", answer.body);
        assert!(answer.expect(422)["detail"].as_str().is_some_and(|detail| detail.contains(said)), "{filter}");
    }
    let created = api.admin("POST", "/v1/endpoints", new("event.data.total > 100")).await.expect(201);
    assert_eq!(created["filter"], "event.data.total > 100");
    let answer = api.admin("PATCH", "/v1/endpoints/a", json!({"filter": "event.total > 1", "url": "http://10.0.0.1/"})).await;
    assert_eq!(answer.paths(), ["url", "filter"]);
    answer.expect(422);
    let read = api.admin("GET", "/v1/endpoints/a", Value::Null).await.expect(200);
    assert_eq!((&read["filter"], &read["url"]), (&created["filter"], &created["url"]), "nothing was changed");
    let changed = api.admin("PATCH", "/v1/endpoints/a", json!({"filter": null})).await.expect(200);
    assert_eq!(changed["filter"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_can_be_tried_without_saving_it() {
    let api = Api::start().await;
    let viewer = api.token("acme", "viewer").await;
    let event = json!({"type": "order.created", "channel": "shop", "data": {"total": 120}});
    for (filter, event, matches, result) in [
        ("event.data.total > 100", event.clone(), true, "matched"),
        ("event.data.total > 500", event.clone(), false, "unmatched"),
        ("event.tenant == 'acme'", event.clone(), true, "matched"),
        ("event.data.vip", event.clone(), false, "failed"),
        ("event.data.total == 1 || event.type == 'test'", json!({}), true, "matched"),
        ("event.data.a == 'x'", json!({"data": {"a": "x".repeat(300_000)}}), false, "undecided"),
    ] {
        let body = json!({"filter": filter, "event": event}).to_string();
        let answer = api.ask(&viewer, "POST", "/v1/filters/test", body).await.expect(200);
        assert_eq!((&answer["matches"], &answer["result"]), (&json!(matches), &json!(result)), "{filter}");
    }
    for (body, status, path) in [
        (json!({"filter": "event.data.total >", "event": event}), 422, "filter"),
        (json!({"filter": "true", "event": {"time": "yesterday"}}), 422, "event.time"),
        (json!({"filter": "true", "event": []}), 400, "event"),
        (json!({"expression": "true"}), 400, "expression"),
    ] {
        let answer = api.ask(&viewer, "POST", "/v1/filters/test", body.to_string()).await;
        assert_eq!(answer.paths(), [path], "{}", answer.body);
        answer.expect(status);
    }
    api.ask("wrong", "POST", "/v1/filters/test", "{}").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_created_read_changed_and_deleted() {
    let api = Api::start().await;
    for id in ["crm", "other"] {
        api.admin("POST", "/v1/endpoints", json!({"id": id, "url": "https://example.com/"})).await.expect(201);
    }
    let new = json!({"name": "VIP", "externalId": "18", "condition": "event.data.ticket.vip", "endpoint": "crm"});
    let created = api.admin("POST", "/v1/agents", new).await.expect(201);
    assert_eq!((&created["state"], &created["reason"], &created["tenant"]), (&json!("watching"), &Value::Null, &json!("default")));
    let path = format!("/v1/agents/{}", created["id"].as_str().expect("an id"));
    assert_eq!(api.admin("GET", &path, Value::Null).await.expect(200), created, "read your writes");
    assert_eq!(api.admin("GET", "/v1/agents", Value::Null).await.expect(200)["items"], json!([created]));

    let conflict = api.admin("DELETE", "/v1/endpoints/crm", Value::Null).await.expect(409);
    assert!(conflict["detail"].as_str().is_some_and(|detail| detail.contains("tells this endpoint")));
    let changed =
        api.admin("PATCH", &path, json!({"name": "All", "externalId": null, "condition": "true", "endpoint": "other"})).await.expect(200);
    assert_eq!(
        (&changed["name"], &changed["externalId"], &changed["condition"], &changed["endpoint"], &changed["createdAt"]),
        (&json!("All"), &Value::Null, &json!("true"), &json!("other"), &created["createdAt"])
    );
    api.admin("DELETE", "/v1/endpoints/crm", Value::Null).await.expect(204);
    api.admin("DELETE", &path, Value::Null).await.expect(204);
    for method in ["GET", "DELETE"] {
        api.admin(method, &path, Value::Null).await.expect(404);
    }
    api.admin("DELETE", "/v1/endpoints/other", Value::Null).await.expect(204);
    // What stands for an agent inside is no endpoint to the outside.
    api.admin("GET", "/v1/endpoints/agent:x", Value::Null).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_belong_to_their_tenant_and_roles_hold() {
    let api = Api::start().await;
    let (acme, viewer, other) =
        (api.token("acme", "developer").await, api.token("acme", "viewer").await, api.token("other", "admin").await);
    api.ask(&acme, "POST", "/v1/endpoints", json!({"id": "crm", "url": "https://example.com/"}).to_string()).await.expect(201);
    let new = json!({"name": "n", "condition": "true", "endpoint": "crm"}).to_string();
    let created = api.ask(&acme, "POST", "/v1/agents", new.clone()).await.expect(201);
    assert_eq!(created["tenant"], "acme");
    let path = format!("/v1/agents/{}", created["id"].as_str().expect("an id"));
    for (key, method, path, body, status) in [
        (&acme, "GET", &*path, "", 200),
        (&viewer, "GET", &path, "", 200),
        (&viewer, "PATCH", &path, "{}", 403),
        (&viewer, "DELETE", &path, "", 403),
        (&viewer, "POST", "/v1/agents", &new, 403),
        (&viewer, "GET", "/v1/agents", "", 200),
        (&viewer, "GET", "/v1/tickets/T1/history", "", 200),
        (&other, "GET", &path, "", 404),
        (&other, "PATCH", &path, "{}", 404),
        (&other, "DELETE", &path, "", 404),
        (&other, "GET", "/v1/agents?tenant=acme", "", 403),
        (&other, "GET", "/v1/tickets/T1/history?tenant=acme", "", 403),
        (&other, "POST", "/v1/agents", r#"{"name":"n","condition":"true","endpoint":"crm","tenant":"acme"}"#, 403),
        // The endpoint of another tenant is none.
        (&other, "POST", "/v1/agents", &new, 422),
    ] {
        let answer = api.ask(key, method, path, body.to_owned()).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
    }
    assert_eq!(api.ask(&other, "GET", "/v1/agents", "").await.expect(200)["items"], json!([]));
    for (body, fields) in [
        (json!({}), vec!["name", "condition", "endpoint"]),
        (json!({"name": "n", "condition": "ticket.vip", "endpoint": "crm", "tenant": "acme"}), vec!["condition"]),
        (json!({"name": "n", "condition": "true", "endpoint": "none", "externalId": "", "tenant": "acme"}), vec!["externalId", "endpoint"]),
    ] {
        let answer = api.admin("POST", "/v1/agents", body).await;
        assert_eq!(answer.paths(), fields, "{}", answer.body);
        answer.expect(422);
    }
    let refused = api.ask(&acme, "PATCH", &path, json!({"name": "new", "condition": "1 +"}).to_string()).await;
    assert_eq!(refused.paths(), ["condition"]);
    assert_eq!(api.ask(&acme, "GET", &path, "").await.expect(200), created, "nothing was changed");
    assert_eq!(api.admin("GET", "/v1/tickets/T1/history?cursor=x", Value::Null).await.paths(), ["cursor"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_condition_lets_a_suspended_agent_watch_again() {
    let api = Api::start().await;
    api.admin("POST", "/v1/endpoints", json!({"id": "crm", "url": "https://example.com/"})).await.expect(201);
    let created = api.admin("POST", "/v1/agents", json!({"name": "n", "condition": "true", "endpoint": "crm"})).await.expect(201);
    let id = created["id"].as_str().expect("an id");
    assert!(api.registry.listener(id).is_some());
    let suspend = |agent: &crate::model::Agent| Ok(crate::model::Agent { suspended: Some("condition_too_slow".into()), ..agent.clone() });
    api.registry.update_agent(id, suspend).await.expect("stored");
    let path = format!("/v1/agents/{id}");
    let read = api.admin("GET", &path, Value::Null).await.expect(200);
    assert_eq!((&read["state"], &read["reason"]), (&json!("suspended"), &json!("condition_too_slow")));
    assert!(api.registry.listener(id).is_none());
    let changed = api.admin("PATCH", &path, json!({"condition": "false"})).await.expect(200);
    assert_eq!(changed["state"], "watching");
    assert!(api.registry.listener(id).is_some());
}
