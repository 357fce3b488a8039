//! Headers of an endpoint: which may be set, and what may stand in them.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};

use super::build::Check;
use crate::model::{HeaderUse, header::reserved};

pub const MAX_HEADERS: usize = 32;
pub const MAX_VALUE: usize = 4_096;
pub const NO_VALUE: &str = "is no header value: line breaks and control characters cannot be sent";

/// The headers that every delivery has.
pub fn plain(check: &mut Check, headers: &BTreeMap<String, String>) -> Vec<(HeaderName, HeaderValue)> {
    check.limit("headers", headers.len() <= MAX_HEADERS, || format!("are more than {MAX_HEADERS}"));
    let mut checked = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let path = format!("headers.{name}");
        check.limit(&path, value.len() <= MAX_VALUE, || format!("is longer than {MAX_VALUE} bytes"));
        let pair =
            (self::name(check, &path, name, HeaderUse::Plain), check.take(&path, HeaderValue::from_str(value).map_err(|_| NO_VALUE)));
        if let (Some(name), Some(value)) = pair {
            checked.push((name, value));
        }
    }
    checked
}

/// The name of a header that may be set there.
pub fn name(check: &mut Check, path: &str, name: &str, for_use: HeaderUse) -> Option<HeaderName> {
    let name = check.take(path, name.parse::<HeaderName>().map_err(|_| format!("`{name}` is no name of a header")))?;
    let reserved = reserved(&name, for_use);
    check.limit(path, reserved.is_none(), || format!("`{name}` {}", reserved.unwrap_or_default()));
    Some(name)
}
