//! What the Hub's routes refuse, in the shape of the family that was called; nothing is changed by it.

use super::{
    hub::{CHANNEL, TEMPLATE},
    *,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_call_needs_the_account_role() {
    let api = Api::start().await;
    let key = api.token("acme", "admin").await;
    for (collection, event) in [(CHANNEL, "BLOCK"), (TEMPLATE, "UPDATE_TEMPLATE_STATUS")] {
        let one = format!("{collection}/x");
        let new = json!({"url": "https://h/", "events": [event]}).to_string();
        for (method, path, body) in [
            ("GET", collection, ""),
            ("POST", collection, new.as_str()),
            ("POST", collection, "nonsense"),
            ("GET", one.as_str(), ""),
            ("PATCH", one.as_str(), "{}"),
            ("DELETE", one.as_str(), ""),
        ] {
            assert_eq!(api.ask(&key, method, path, body.to_owned()).await.refused(path, 422), "This action requires ENTERPRISE role");
        }
        // It is in force with the answer to its booking, and gone with the answer to its end.
        api.admin("PUT", "/v1/tenants/acme", json!({"accountRoles": ["OTHER", "ENTERPRISE"]})).await.expect(200);
        api.ask(&key, "POST", collection, new).await.expect(201);
        api.admin("PUT", "/v1/tenants/acme", json!({"accountRoles": ["OTHER"]})).await.expect(200);
        api.ask(&key, "GET", collection, "").await.refused(collection, 422);
    }
    api.admin("GET", TEMPLATE, Value::Null).await.refused(TEMPLATE, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_answered_in_the_shape_of_its_family_and_changes_nothing() {
    let api = Api::enterprise(&["default"]).await;
    let channel = api.admin("POST", CHANNEL, json!({"url": "https://h/", "events": ["BLOCK"]})).await.expect(201);
    let template = api.admin("POST", TEMPLATE, json!({"url": "https://h/", "events": ["UPDATE_TEMPLATE_STATUS"]})).await.expect(201);
    let of_channel = format!("{CHANNEL}/{}", channel["id"].as_str().expect("an id"));
    let of_template = format!("{TEMPLATE}/{}", template["id"].as_str().expect("an id"));
    let before = api.registry.endpoints(None, None, 10);
    let long = format!(r#"{{"url":"https://h/{}","events":["BLOCK"]}}"#, "a".repeat(2048 - 9));
    let deep = format!(r#"{{"customAttributes":{{"a":{}1{}}}}}"#, "[".repeat(200), "]".repeat(200));
    let nested = |levels: usize| format!(r#"{{"customAttributes":{{"a":{}1{}}}}}"#, "[".repeat(levels), "]".repeat(levels));
    let deeper = nested(64);
    let big = json!({"customAttributes": {"a": "x".repeat(17 * 1024)}}).to_string();
    let formats = "`DEFAULT`, `Z_API`, `CHATWOOT`";
    let types = "`NONE`, `BEARER`, `API_KEY`, `BASIC`, `CUSTOM_HEADER`";
    for (method, path, body, status, told) in [
        ("POST", CHANNEL, r#"{"events":["BLOCK"]}"#, 400, "=url is required"),
        ("POST", CHANNEL, r#"{"url":"","events":["BLOCK"]}"#, 400, "=url is required"),
        ("POST", CHANNEL, r#"{"url":"https://h/"}"#, 400, "=events is required"),
        ("POST", CHANNEL, "", 400, "=url is required; events is required"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":[]}"#, 400, "events must name at least one of `MESSAGE_RECEIVED`"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK","NOPE"]}"#, 400, "events[1] `NOPE` is none of `MESSAGE_RECEIVED`, "),
        ("POST", CHANNEL, r#"{"url":"ftp://h/","events":["BLOCK"]}"#, 400, "url has the scheme `ftp`"),
        ("POST", CHANNEL, r#"{"url":"http://10.0.0.1/","events":["BLOCK"]}"#, 400, "url "),
        ("POST", CHANNEL, &long, 400, "url is longer than 2048 characters"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"payloadFormat":"XML"}"#, 400, formats),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"auth":{"type":"DIGEST"}}"#, 400, types),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"auth":{}}"#, 400, "auth.type is required"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"auth":{"type":"BEARER"}}"#, 400, "auth.token is required"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"auth":{"type":"API_KEY"}}"#, 400, "auth.key is required"),
        (
            "POST",
            CHANNEL,
            r#"{"url":"https://h/","events":["BLOCK"],"auth":{"type":"BASIC","password":"p"}}"#,
            400,
            "auth.username is required",
        ),
        (
            "POST",
            CHANNEL,
            r#"{"url":"https://h/","events":["BLOCK"],"auth":{"type":"CUSTOM_HEADER","headerName":"x-a"}}"#,
            400,
            "auth.headerValue is required",
        ),
        (
            "POST",
            CHANNEL,
            r#"{"url":"https://h/","events":["BLOCK"],"auth":{"type":"CUSTOM_HEADER","headerName":"host","headerValue":"v"}}"#,
            400,
            "auth.headerName ",
        ),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"auth":{"type":"BEARER","token":"a\nb"}}"#, 400, "auth.token "),
        (
            "POST",
            CHANNEL,
            r#"{"url":"https://h/","events":["BLOCK"],"auth":{"type":"NONE","token":"t"}}"#,
            400,
            "auth.token does not belong",
        ),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"authType":"BEARER"}"#, 400, "authType belongs into `auth`"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"status":"DISABLED"}"#, 400, "status "),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"secret":"x"}"#, 400, "secret cannot be chosen"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"colour":"red"}"#, 400, "colour"),
        ("POST", CHANNEL, r#"{"url":7}"#, 400, "url cannot be read"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"signing":"yes"}"#, 400, "signing cannot be read"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["BLOCK"],"customAttributes":[]}"#, 400, "customAttributes cannot be read"),
        ("POST", CHANNEL, "[]", 400, "cannot be read"),
        ("POST", CHANNEL, "{", 400, "cannot be read"),
        ("POST", CHANNEL, &deep, 400, "recursion limit"),
        ("POST", CHANNEL, r#"{"url":"https://h/","events":["UPDATE_TEMPLATE_STATUS"]}"#, 422, "accept only channel events"),
        ("POST", "/v1/channels/%0a/webhooks", r#"{"url":"https://h/","events":["BLOCK"]}"#, 400, "channelId has control characters"),
        ("GET", "/v1/channels/%ff/webhooks", "", 400, "path"),
        ("GET", "/v1/channels/c/webhooks?colour=red", "", 400, "`colour` cannot be read"),
        ("PATCH", of_channel.as_str(), r#"{"url":""}"#, 400, "Validation error: url is required"),
        ("PATCH", of_channel.as_str(), r#"{"url":"no"}"#, 400, "Validation error: url is no URL"),
        ("PATCH", of_channel.as_str(), r#"{"description":"x","events":["NOPE"]}"#, 400, "Validation error: events[0]"),
        ("PATCH", of_channel.as_str(), r#"{"description":"x","events":["UPDATE_TEMPLATE_STATUS"]}"#, 422, "accept only channel events"),
        ("PATCH", of_channel.as_str(), r#"{"url":7}"#, 400, "Validation error: url cannot be read"),
        ("PATCH", of_channel.as_str(), r#"{"status":"PAUSED"}"#, 400, "`ENABLED`, `DISABLED`"),
        ("PATCH", of_channel.as_str(), r#"{"description":"x","auth":{"type":"BEARER"}}"#, 400, "auth.token is required"),
        ("PATCH", of_channel.as_str(), &deeper, 400, "customAttributes are nested in more than 64 levels"),
        ("PATCH", of_channel.as_str(), &big, 400, "customAttributes are longer"),
        ("PUT", of_channel.as_str(), "{}", 405, "PUT"),
        ("DELETE", CHANNEL, "", 405, "DELETE"),
        ("GET", "/v1/channels/c/webhooks/x/y", "", 404, "there is nothing"),
        ("GET", "/v1/channels", "", 404, "there is nothing"),
        (
            "POST",
            TEMPLATE,
            r#"{"url":"https://h/","events":["BLOCK"]}"#,
            422,
            "=Global webhooks (without instance) accept only template events",
        ),
        ("POST", TEMPLATE, r#"{"url":"https://h/","events":["NOPE"]}"#, 400, "`UPDATE_TEMPLATE_STATUS`, `UPDATE_TEMPLATE_CATEGORY`"),
        ("POST", TEMPLATE, "", 400, "=url is required; events is required"),
        ("POST", TEMPLATE, r#"{"url":"https://h/","events":["UPDATE_TEMPLATE_STATUS"],"authType":"BEARER"}"#, 400, "=token is required"),
        ("POST", TEMPLATE, r#"{"url":"https://h/","events":["UPDATE_TEMPLATE_STATUS"],"token":"t"}"#, 400, "authType is required"),
        ("POST", TEMPLATE, "nonsense", 400, "cannot be read"),
        (
            "PATCH",
            of_template.as_str(),
            r#"{"events":["MESSAGE_STATUS"]}"#,
            422,
            "=Global webhooks (without instance) accept only template events",
        ),
        ("PATCH", of_template.as_str(), r#"{"payloadFormat":"XML"}"#, 400, formats),
        ("PUT", TEMPLATE, "{}", 405, "PUT"),
        ("GET", "/v1/webhooks/x/y", "", 404, "there is nothing"),
        ("GET", "/v1/webhooks/x", "", 404, "=Webhook not found"),
    ] {
        let text = api.ask(ADMIN, method, path, body.to_owned()).await.refused(path, status);
        let fits = told.strip_prefix('=').map_or_else(|| text.contains(told), |whole| text == whole);
        assert!(fits, "{method} {path} {}: {text} instead of {told}", &body[..body.len().min(120)]);
    }
    for (path, method) in [(CHANNEL, "POST"), (TEMPLATE, "POST"), (&of_channel, "PATCH"), (&of_template, "PATCH")] {
        api.ask(ADMIN, method, path, "x".repeat(input::BODY_LIMIT + 1)).await.refused(path, 413);
        for key in ["", "wrong"] {
            api.ask(key, method, path, "{}").await.refused(path, 401);
        }
    }
    assert_eq!(api.registry.endpoints(None, None, 10), before, "nothing was changed");
    let deepest = api.ask(ADMIN, "PATCH", &of_channel, nested(63)).await.expect(200);
    assert_eq!(api.ask(ADMIN, "GET", &of_channel, "").await.expect(200)["customAttributes"], deepest["customAttributes"]);
    api.admin("POST", CHANNEL, json!({"url": format!("https://h/{}", "a".repeat(2048 - 10)), "events": ["BLOCK"]})).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_header_is_told_by_each_family_in_its_way() {
    let api = Api::start().await;
    let ask = async |path: &str| {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = api.router.clone().oneshot(request).await.expect("never fails");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    assert_eq!(ask(TEMPLATE).await, (400, json!({"error": "Authorization header is required"})));
    let (status, body) = ask(CHANNEL).await;
    assert_eq!((status, &body["error"]), (401, &json!(401)), "{body}");
    // The native paths beside them keep their own.
    let (status, body) = ask("/v1/endpoints").await;
    assert_eq!((status, &body["code"]), (401, &json!("unauthorized")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_is_that_of_the_key_and_others_do_not_exist() {
    let api = Api::enterprise(&["default", "acme", "other"]).await;
    let (acme, other) = (api.token("acme", "developer").await, api.token("other", "admin").await);
    let viewer = api.token("acme", "viewer").await;
    for (collection, event) in [(CHANNEL, "BLOCK"), (TEMPLATE, "UPDATE_TEMPLATE_STATUS")] {
        let new = json!({"url": "https://h/", "events": [event]}).to_string();
        let created = api.ask(&acme, "POST", collection, new.clone()).await.expect(201);
        let path = format!("{collection}/{}", created["id"].as_str().expect("an id"));
        for method in ["GET", "PATCH", "DELETE"] {
            assert_eq!(api.ask(&other, method, &path, "{}").await.refused(collection, 404), "Webhook not found");
            assert_eq!(api.ask(ADMIN, method, &path, "{}").await.refused(collection, 404), "Webhook not found", "it acts for `default`");
        }
        assert_eq!(api.ask(&other, "GET", collection, "").await.expect(200), json!([]));
        api.ask(&other, "GET", &format!("{collection}?tenant=acme"), "").await.refused(collection, 403);
        api.ask(ADMIN, "PATCH", &format!("{path}?tenant=acme"), r#"{"description":"by the administrator"}"#).await.expect(200);
        assert_eq!(api.ask(&viewer, "GET", &path, "").await.expect(200)["description"], "by the administrator");
        for (method, path) in [("POST", collection), ("PATCH", &path), ("DELETE", &path)] {
            api.ask(&viewer, method, path, new.clone()).await.refused(collection, 403);
        }
        api.ask(&acme, "DELETE", &path, "").await.expect(204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_tells_cannot_be_deleted_here_either() {
    let api = Api::enterprise(&["default"]).await;
    let webhook = api.admin("POST", CHANNEL, json!({"url": "https://h/", "events": ["BLOCK"]})).await.expect(201);
    let id = webhook["id"].as_str().expect("an id");
    let agent = api.admin("POST", "/v1/agents", json!({"name": "n", "condition": "true", "endpoint": id})).await.expect(201);
    let path = format!("{CHANNEL}/{id}");
    let told = api.admin("DELETE", &path, Value::Null).await.refused(&path, 409);
    assert!(told.contains(agent["id"].as_str().expect("an id")), "{told}");
    api.admin("GET", &path, Value::Null).await.expect(200);
    api.admin("DELETE", &format!("/v1/agents/{}", agent["id"].as_str().expect("an id")), Value::Null).await.expect(204);
    api.admin("DELETE", &path, Value::Null).await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_refused_before_its_route_has_the_shape_of_the_family_too() {
    let api = Api::enterprise(&["acme"]).await;
    let new = json!({"name": "n", "kind": "signature", "role": "admin", "tenant": "acme"});
    let token = api.admin("POST", "/v1/tokens", new).await.expect(201);
    let body = "x".repeat(32 << 20);
    for path in [CHANNEL, TEMPLATE] {
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        let request = Request::builder().method("POST").uri(path).header("host", "h").header("content-type", "application/json");
        let request =
            request.header("x-api-token", token["key"].as_str().expect("a key")).header("date", date).header("x-api-signature", "AAAA");
        let (head, body) = api.send(request.body(Body::from(body.clone())).expect("a request")).await;
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (413, &"application/json".parse().expect("a value")), "{body}");
        assert!(!body["error"].is_null() && body.get("type").is_none(), "{path}: {body}");
    }
}
