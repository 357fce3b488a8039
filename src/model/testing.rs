//! Nouns for the tests of all modules: as plain as they can be, for `..` to build upon.

use super::*;

/// An enabled endpoint of the tenant `default` that takes everything, unsigned.
pub fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        id: Text::from(id),
        tenant: "default".into(),
        url: EndpointUrl::parse("http://localhost/").expect("a URL"),
        description: None,
        channels: Vec::new(),
        types: Vec::new(),
        direction: None,
        filter: None,
        format: Format::Standard,
        signing: Signing::None,
        auth: Auth::None,
        tls: None,
        headers: Vec::new(),
        rate: None,
        concurrency: None,
        retry: None,
        status: Status::Enabled,
        attributes: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        registry_offset: 0,
    }
}
