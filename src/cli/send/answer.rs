//! What the daemon's answer to a batch means for its lines.

use std::collections::{BTreeMap, HashSet};

use http::StatusCode;

use super::input::{Line, Refusal};
use crate::{cli::client::Answer, model::FieldError};

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Stored,
    /// What is not stored may be when it is sent again.
    Later(String),
    /// It is too much for one request.
    Split,
    /// These will never be taken; the rest may be.
    Refused(Vec<Refusal>),
    /// Nothing will be taken, and no line is at fault.
    Hopeless(String),
}

/// Of the batch as it was sent: fields are named by the place of their line in it.
pub fn judge(batch: &[Line], answer: &Answer) -> Verdict {
    if answer.status.is_success() {
        // A proxy or a receiver may say 200 to anything.
        let is_all = answer.body["accepted"].as_array().is_some_and(|accepted| accepted.len() == batch.len());
        return if is_all { Verdict::Stored } else { Verdict::Hopeless(answer.problem()) };
    }
    if may_pass(answer.status) {
        return Verdict::Later(answer.problem());
    }
    let fields: Vec<(&str, &str)> = answer.fields().collect();
    let is_about_lines = answer.status != StatusCode::UNAUTHORIZED && !fields.is_empty();
    let placed: Option<Vec<(u64, FieldError)>> = fields.iter().map(|(path, message)| placed(batch, path, message)).collect();
    match placed {
        Some(placed) if is_about_lines => {
            let mut lines: BTreeMap<u64, Vec<FieldError>> = BTreeMap::new();
            placed.into_iter().for_each(|(line, error)| lines.entry(line).or_default().push(error));
            Verdict::Refused(lines.into_iter().map(|(line, errors)| Refusal::new(line, errors)).collect())
        }
        _ if answer.status == StatusCode::PAYLOAD_TOO_LARGE && batch.len() > 1 => Verdict::Split,
        _ => Verdict::Hopeless(answer.problem()),
    }
}

/// `[3].data` is the field `data` of the fourth line; of a line that is alone, fields are named as they are.
fn placed(batch: &[Line], path: &str, message: &str) -> Option<(u64, FieldError)> {
    let (index, field) = match path.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((index, field)) => (index.parse().ok()?, field.trim_start_matches('.')),
        None if batch.len() == 1 => (0, path),
        None => return None,
    };
    let field = if field.is_empty() { "." } else { field };
    Some((batch.get::<usize>(index)?.number, FieldError::new(field, message)))
}

/// Whether the same request may succeed later.
fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
}

/// Takes out what is stored: what the answer names.
pub fn take_accepted(batch: &mut Vec<Line>, answer: &Answer) {
    let accepted: HashSet<&str> = answer.body["accepted"].as_array().into_iter().flatten().filter_map(|item| item["id"].as_str()).collect();
    batch.retain(|line| !accepted.contains(&*line.id));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn batch(ids: &[&'static str]) -> Vec<Line> {
        let line = |(index, id): (usize, &&'static str)| Line {
            number: index as u64 * 10,
            id: (*id).into(),
            json: "{}".into(),
            is_in_doubt: false,
        };
        ids.iter().enumerate().map(line).collect()
    }

    fn answer(status: StatusCode, body: Value) -> Answer {
        Answer { url: "http://a".to_owned(), status, body, retry_after: None }
    }

    #[test]
    fn a_partial_success_leaves_what_is_not_stored() {
        let mut batch = batch(&["a", "b", "c"]);
        let body = json!({ "accepted": [{ "id": "a" }, { "id": "c" }] });
        take_accepted(&mut batch, &answer(StatusCode::SERVICE_UNAVAILABLE, body));
        assert_eq!(batch.iter().map(|line| &*line.id).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn an_index_of_the_batch_becomes_a_line() {
        let all = json!({ "accepted": [{ "id": "a" }, { "id": "b" }] });
        assert_eq!(judge(&batch(&["a", "b"]), &answer(StatusCode::ACCEPTED, all.clone())), Verdict::Stored);
        for (status, body) in [(StatusCode::OK, json!(null)), (StatusCode::NO_CONTENT, json!({})), (StatusCode::ACCEPTED, all)] {
            assert!(matches!(judge(&batch(&["a"]), &answer(status, body)), Verdict::Hopeless(told) if told.contains("not as the API")));
        }
        let refused = |status, ids: &[&'static str], path: &str| {
            judge(&batch(ids), &answer(status, json!({ "detail": "d", "errors": [{ "path": path, "message": "m" }] })))
        };
        let (wrong, large) = (StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE);
        for (status, ids, path, line, field) in [
            (wrong, &["a", "b", "c"][..], "[2].data", 20, "data"),
            (StatusCode::FORBIDDEN, &["a", "b"], "[1].tenant", 10, "tenant"),
            (large, &["a", "b"], "[1]", 10, "."),
            (large, &["a"], ".", 0, "."),
            (wrong, &["a"], "type", 0, "type"),
        ] {
            assert_eq!(refused(status, ids, path), Verdict::Refused(vec![Refusal::new(line, vec![FieldError::new(field, "m")])]), "{path}");
        }
        assert_eq!(refused(large, &["a", "b"], "."), Verdict::Split);
        assert_eq!(refused(wrong, &["a", "b"], "[7].data"), Verdict::Hopeless("d".to_owned()), "no line has this place");
        assert!(matches!(refused(StatusCode::UNAUTHORIZED, &["a"], "X-API-Signature"), Verdict::Hopeless(_)));
        assert_eq!(judge(&batch(&["a"]), &answer(StatusCode::FORBIDDEN, json!({ "detail": "d" }))), Verdict::Hopeless("d".to_owned()));
        assert!(matches!(judge(&batch(&["a"]), &answer(StatusCode::SERVICE_UNAVAILABLE, json!({}))), Verdict::Later(_)));
    }
}
