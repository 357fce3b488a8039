//! Who calls: the admin token of the installation, or a token of a tenant; and what it may do.

use std::{path::Path, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use zeroize::Zeroizing;

use super::{Context, error::Problem};
use crate::{
    log::record::name_field,
    model::{
        Secret, Text,
        token::{Role, Token},
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
            return Err("`api.admin_token` is missing: without a data directory there is no place to make one \
                        (POSTHASTE_API__ADMIN_TOKEN passes it by environment)"
                .into());
        };
        let (token, made) = private_file::read_or_make(&directory.join(TOKEN_FILE), new_key)?;
        Ok((AdminToken::new(&token), made))
    }
}

/// A new key of a token: 256 random bits, so that one hash of it is enough to store.
pub fn new_key() -> Zeroizing<String> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut bytes = Zeroizing::new([0; 32]);
    fill_random(bytes.as_mut_slice());
    Zeroizing::new(format!("phk_{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())))
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

impl FromRequestParts<Context> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Caller, Problem> {
        let key = key_of(&parts.headers).ok_or_else(Problem::unauthorized)?;
        // Hashes are compared, so how long it takes tells nothing of the token.
        if hash_of_key(key) == context.admin.0 {
            return Ok(Caller::Admin);
        }
        context.registry.authenticate(key).map(Caller::Token).ok_or_else(Problem::unauthorized)
    }
}

fn key_of(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-token") {
        return key.to_str().ok();
    }
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
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
            let headers = HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().expect("a value"))]);
            key_of(&headers).map(str::to_owned)
        };
        assert_eq!(key("authorization", "Bearer abc").as_deref(), Some("abc"));
        assert_eq!(key("authorization", "bearer abc").as_deref(), Some("abc"));
        assert_eq!(key("x-api-token", "abc").as_deref(), Some("abc"));
        assert_eq!(key("authorization", "Basic abc"), None);
        assert_eq!(key("cookie", "abc"), None);
    }
}
