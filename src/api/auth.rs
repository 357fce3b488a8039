//! Who calls: the admin token of the installation, or a token of a tenant; and what it may do.
//!
//! [`identify`] stands before every route and finds out; a route asks by taking a [`Caller`], and is answered 401 if there is none.

use std::{borrow::Cow, path::Path, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    Context, conversion,
    error::Problem,
    input::{BODY_LIMIT, read_body},
    signature,
};
use crate::{
    log::record::name_field,
    model::{
        FieldError, Secret, Text,
        token::{Role, Token, TokenKind},
    },
    registry::{hash_of_key, private_file, seal::fill_random},
};

/// The file in the data directory that holds the admin token when `api.admin_token` is absent.
pub const TOKEN_FILE: &str = "admin.token";

/// The token that acts for every tenant. Only its hash is kept.
pub struct AdminToken(String);

impl AdminToken {
    pub fn new(token: &str) -> AdminToken {
        AdminToken(hash_of_key(token))
    }

    /// The configured token, or else the one in the data directory, which is made (mode 0600) if it is not there: then the second value is true,
    /// and whoever starts the daemon should be told where it lies.
    pub fn load(configured: Option<&Secret>, data_directory: Option<&Path>) -> Result<(AdminToken, bool), String> {
        if let Some(secret) = configured {
            return Ok((AdminToken::new(secret.expose_str().ok_or("`api.admin_token` is no text")?), false));
        }
        let Some(directory) = data_directory else {
            return Err("`api.admin_token` is missing: all instances take the same one, so it cannot be made here \
                        (`openssl rand -hex 32` makes one; POSTHASTE_API__ADMIN_TOKEN passes it by environment)"
                .into());
        };
        let (token, made) = private_file::read_or_make(&directory.join(TOKEN_FILE), || Ok(new_key()))?;
        Ok((AdminToken::new(&token), made))
    }
}

/// A new key of a token: 256 random bits, so that one hash of it is enough to store.
pub fn new_key() -> Zeroizing<String> {
    random("phk_")
}

/// What a signature token signs with.
pub fn new_signing_secret() -> Zeroizing<String> {
    random("phs_")
}

fn random(prefix: &str) -> Zeroizing<String> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut bytes = Zeroizing::new([0; 32]);
    fill_random(bytes.as_mut_slice());
    Zeroizing::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())))
}

/// Who makes a request. Taking one as an argument is what makes a route need a token.
#[derive(Debug, Clone)]
pub enum Caller {
    Admin,
    Token(Arc<Token>),
}

impl Caller {
    /// Fails unless the caller has at least this role.
    pub fn need(&self, role: Role) -> Result<(), Problem> {
        match self {
            Caller::Admin => Ok(()),
            Caller::Token(token) if token.role >= role => Ok(()),
            Caller::Token(token) => Err(Problem::forbidden(format!(
                "the token `{}` has the role `{}`, this needs `{}`",
                token.id,
                name(token.role),
                name(role)
            ))),
        }
    }

    /// Only for the admin token.
    pub fn need_admin_token(&self) -> Result<(), Problem> {
        match self {
            Caller::Admin => Ok(()),
            Caller::Token(_) => Err(Problem::forbidden("this needs the admin token of the installation")),
        }
    }

    /// The tenant whose things are asked for: the one that was named, that of the token, or none for all of them. Naming another one is refused.
    pub fn scope(&self, named: Option<&str>) -> Result<Option<Text>, Problem> {
        if let Some(named) = named {
            // An event of such a tenant could not be read again.
            name_field("tenant", named.into()).map_err(|wrong| Problem::malformed(wrong.path, wrong.message))?;
        }
        match self {
            Caller::Admin => Ok(named.map(Text::from)),
            Caller::Token(token) if named.is_none_or(|named| token.tenant == named) => Ok(Some(token.tenant.clone())),
            Caller::Token(_) => Err(Problem::forbidden("`tenant` is not the tenant of the token")),
        }
    }

    /// Whether a thing of this tenant exists for the caller.
    pub fn sees(&self, tenant: &str) -> bool {
        match self {
            Caller::Admin => true,
            Caller::Token(token) => token.tenant == tenant,
        }
    }
}

pub fn name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Developer => "developer",
        Role::Admin => "admin",
    }
}

/// What [`identify`] has found out about a request that has a key.
#[derive(Clone)]
enum Identity {
    Known(Caller),
    /// The key is that of a signature token, and the signature is not good.
    Refused(FieldError),
}

impl FromRequestParts<Context> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Context) -> Result<Caller, Problem> {
        match parts.extensions.get::<Identity>() {
            Some(Identity::Known(caller)) => Ok(caller.clone()),
            Some(Identity::Refused(error)) => Err(Problem::unsigned(error.clone())),
            None => Err(Problem::unauthorized()),
        }
    }
}

/// Finds out who calls, for every route in one place. A signature covers the body, so the body of a request with a good key of a signature
/// token is read here, within bounds, and kept for the route; no other body is touched. Whether a caller is needed the routes say, by taking one.
pub async fn identify(State(context): State<Context>, mut request: Request, next: Next) -> Response {
    let Some(caller) = key_of(&request).and_then(|key| find(&context, &key)) else { return next.run(request).await };
    if let Caller::Token(token) = &caller {
        if token.kind == TokenKind::Signature {
            request = match signed(&context, token, request).await {
                Ok(Signed::Good(request)) => request,
                Ok(Signed::Wrong(mut request, error)) => {
                    request.extensions_mut().insert(Identity::Refused(error));
                    return next.run(request).await;
                }
                Err(problem) => return problem.into_response(),
            };
        }
        let now = context.clock.now();
        if context.registry.note_use(&token.id, now) {
            let (context, id) = (Arc::clone(&context), token.id.clone());
            // Beside the request, and once an hour for each token at most.
            tokio::spawn(async move {
                if let Err(error) = context.registry.record_use(&id, now).await {
                    tracing::warn!(token = %id, %error, "when it was used could not be stored");
                }
            });
        }
    }
    request.extensions_mut().insert(Identity::Known(caller));
    next.run(request).await
}

fn find(context: &Context, key: &str) -> Option<Caller> {
    // Hashes are compared, in constant time, so how long it takes tells nothing of the token.
    if bool::from(hash_of_key(key).as_bytes().ct_eq(context.admin.0.as_bytes())) {
        return Some(Caller::Admin);
    }
    context.registry.authenticate(key).map(Caller::Token)
}

enum Signed {
    Good(Request),
    Wrong(Request, FieldError),
}

/// Whether the request is signed by the token; if it is, with its body in its extensions.
async fn signed(context: &Context, token: &Token, request: Request) -> Result<Signed, Problem> {
    let claim = match signature::Claim::of(&request, context.clock.now()) {
        Ok(claim) => claim,
        Err(error) => return Ok(Signed::Wrong(request, error)),
    };
    let (mut parts, body) = request.into_parts();
    // Each route has a bound of its own, which is held to when it reads; this is the largest of them.
    let limit = BODY_LIMIT.max(context.ingest.body_limit());
    let mut arriving = Request::new(body);
    arriving.headers_mut().extend(parts.headers.get(header::CONTENT_LENGTH).map(|length| (header::CONTENT_LENGTH, length.clone())));
    let body = read_body(arriving, limit, "", &context.bodies).await?;
    let good = token.secret.as_ref().is_some_and(|secret| claim.is_signed_by(secret, &body.bytes));
    parts.extensions.insert(body);
    let request = Request::from_parts(parts, axum::body::Body::empty());
    if good { Ok(Signed::Good(request)) } else { Ok(Signed::Wrong(request, signature::wrong())) }
}

/// The key that a request shows. Conversion takes it in the query as well, on its older paths only (WIRE.md 2.2).
fn key_of(request: &Request) -> Option<Cow<'_, str>> {
    let headers = request.headers();
    if let Some(key) = headers.get("x-api-token") {
        return key.to_str().ok().map(Cow::Borrowed);
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| Cow::Borrowed(key.trim()));
    }
    let query = request.uri().query().filter(|_| conversion::takes_key_in_query(request.uri().path()))?;
    url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "api-key").map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_admin_token_is_made_once_unless_it_is_configured() {
        let directory = tempfile::tempdir().expect("a directory");
        let (made, is_new) = AdminToken::load(None, Some(directory.path())).expect("made");
        let path = directory.path().join(TOKEN_FILE);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let (read, is_new_again) = AdminToken::load(None, Some(directory.path())).expect("read");
        assert_eq!((is_new, is_new_again, made.0 == read.0), (true, false, true));
        let (configured, is_new) = AdminToken::load(Some(&Secret::new("hunter2")), Some(directory.path())).expect("configured");
        assert_eq!((configured.0, is_new), (hash_of_key("hunter2"), false));
        assert!(AdminToken::load(None, None).is_err_and(|error| error.contains("api.admin_token")));
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let key = |name: &'static str, value: &str| {
            let request = Request::builder().header(name, value).body(axum::body::Body::empty()).expect("a request");
            key_of(&request).map(Cow::into_owned)
        };
        assert_eq!(key("authorization", "Bearer abc").as_deref(), Some("abc"));
        assert_eq!(key("authorization", "bearer abc").as_deref(), Some("abc"));
        assert_eq!(key("x-api-token", "abc").as_deref(), Some("abc"));
        assert_eq!(key("authorization", "Basic abc"), None);
        assert_eq!(key("cookie", "abc"), None);
    }

    #[test]
    fn a_key_in_the_query_counts_on_the_paths_that_document_it_and_nowhere_else() {
        for (uri, expected) in [
            ("/v1/notifications/topics?api-key=a%2Bb", Some("a+b")),
            ("/v1/notifications/subscription/x?y=1&api-key=abc", Some("abc")),
            ("/v1/notifications/topics?key=abc", None),
            ("/v1/subscriptions?api-key=abc", None),
            ("/v2/subscriptions?api-key=abc", None),
            ("/v1/endpoints?api-key=abc", None),
        ] {
            let request = Request::builder().uri(uri).body(axum::body::Body::empty()).expect("a request");
            assert_eq!(key_of(&request).as_deref(), expected, "{uri}");
        }
    }
}
