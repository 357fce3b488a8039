//! The request for an access token: a form, or JSON where the endpoint's headers for it say so (WIRE.md 1.4).

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use rustls::ClientConfig;
use url::form_urlencoded;

use crate::{
    delivery::{
        client::Origin,
        request::{Message, Target},
    },
    model::{HeaderUse, OAuth2, Secret, header::reserved},
};

/// What is shown to the token endpoint.
#[derive(Clone, Copy)]
pub enum With<'a> {
    RefreshToken(&'a Secret),
    ClientCredentials,
}

/// All that the requests of one endpoint have in common.
pub struct Ask {
    pub target: Target,
    headers: HeaderMap,
    client: Vec<(&'static str, Secret)>,
    json: bool,
}

impl Ask {
    pub fn new(config: &OAuth2, tls: Option<Arc<ClientConfig>>, user_agent: &HeaderValue) -> Result<Ask, String> {
        let wrong = |problem: String| format!("the token endpoint: {problem}");
        let mut url = config.url.parts();
        if !config.query.is_empty() {
            let mut pairs = url.query_pairs_mut();
            for (name, value) in &config.query {
                pairs.append_pair(name, &String::from_utf8_lossy(value.expose()));
            }
        }
        let origin = Origin::of_tokens(&config.url, tls).map_err(wrong)?;
        let target = Target::new(url.as_str(), Rc::new(origin)).map_err(wrong)?;

        let mut headers = HeaderMap::with_capacity(config.headers.len() + 5);
        headers.insert(header::HOST, target.host().map_err(wrong)?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, user_agent.clone());
        for (name, value) in config.headers.iter().filter(|(name, _)| reserved(name, HeaderUse::Token).is_none()) {
            let mut value =
                HeaderValue::from_bytes(value.expose()).map_err(|_| wrong(format!("the value of the header `{name}` cannot be sent")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| is_json(kind.as_bytes()));
        let client = vec![("client_id", Secret::new(config.client_id.as_bytes())), ("client_secret", config.client_secret.clone())];
        Ok(Ask { target, headers, client, json })
    }

    pub fn message(&self, with: With<'_>) -> Message {
        let grant = match with {
            With::RefreshToken(token) => {
                vec![("grant_type", "refresh_token".into()), ("refresh_token", String::from_utf8_lossy(token.expose()))]
            }
            With::ClientCredentials => vec![("grant_type", "client_credentials".into())],
        };
        let client = self.client.iter().map(|(name, value)| (*name, String::from_utf8_lossy(value.expose())));
        let fields = grant.into_iter().chain(client);
        let body = if self.json {
            let fields: serde_json::Map<_, _> = fields.map(|(name, value)| (name.to_owned(), value.into_owned().into())).collect();
            serde_json::to_vec(&fields).expect("text is always JSON")
        } else {
            form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into_bytes()
        };
        Message::new(self.headers.clone(), Bytes::from(body))
    }
}

/// `application/json` and everything that ends in `+json`, whatever its parameters.
fn is_json(kind: &[u8]) -> bool {
    let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence == "application/json" || essence.ends_with("+json")
}
