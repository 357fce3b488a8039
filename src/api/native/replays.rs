//! `/v1/replays`: events of the past, once more, for one endpoint.

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Page, dead_letters::Work, endpoints::visible};
use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        input::{Document, Id, Params, time},
    },
    model::{Endpoint, Event, FieldError, Position, Text, Timestamp, token::Role},
    registry::Entry,
    settle::{dead_letter::Filter, journal},
    sources::replay::{Missed, Progress, Request, Span, State as Replaying, TooMany},
};

/// Letters that are looked at in one go, so that the index is not held for long.
const LETTERS: usize = 1_000;

/// How far the answers to what was in flight, and the clocks of other instances, can reach beyond a change.
const SLACK: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewReplay {
    /// Id of the endpoint.
    #[schema(required = true)]
    endpoint: String,
    /// What the log took from this time on.
    #[schema(value_type = String, format = DateTime, required = true)]
    since: Option<String>,
    /// And before this time; now when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayView {
    id: String,
    endpoint: String,
    tenant: String,
    /// `running`, `done`, `cancelled` or `failed`.
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Records read.
    read: u64,
    /// Deliveries appended.
    sent: u64,
    /// Events that could not be, because they are too large.
    skipped: u64,
    /// Records still to be read, at most.
    remaining: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl ReplayView {
    pub fn of(progress: Progress) -> ReplayView {
        let (state, error) = match progress.state {
            Replaying::Running => ("running", None),
            Replaying::Done => ("done", None),
            Replaying::Cancelled => ("cancelled", None),
            Replaying::Failed(error) => ("failed", Some(error)),
        };
        ReplayView {
            id: progress.id.to_string(),
            endpoint: progress.endpoint.to_string(),
            tenant: progress.tenant.to_string(),
            state,
            started_at: progress.started_at,
            read: progress.read,
            sent: progress.sent,
            skipped: progress.skipped,
            remaining: progress.remaining,
            error,
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    #[param(min_length = 1, max_length = 256)]
    tenant: Option<String>,
    /// Id of an endpoint.
    endpoint: Option<String>,
}

/// The replays that this instance remembers, the latest first.
#[utoipa::path(get, path = "/v1/replays", tag = "replays", params(ListQuery), responses((status = 200, body = Page<ReplayView>)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<ReplayView>>, Problem> {
    let tenant = caller.scope(query.tenant.as_deref())?;
    let is = |asked: Option<&str>, found: &Text| asked.is_none_or(|asked| found == asked);
    let mut replays = context.replays.list();
    replays.retain(|replay| is(tenant.as_deref(), &replay.tenant) && is(query.endpoint.as_deref(), &replay.endpoint));
    Ok(Json(Page { items: replays.into_iter().map(ReplayView::of).collect(), next: None }))
}

/// Sends what an endpoint listens to, and the log took in that time, to it once more. In the background.
#[utoipa::path(post, path = "/v1/replays", tag = "replays", request_body(content = NewReplay, example = json!({"endpoint": "orders", "since": "2026-01-31T08:00:00Z", "until": "2026-01-31T12:00:00Z"})),
    responses((status = 202, body = ReplayView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "The endpoint is disabled or suspended.", body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)))]
pub async fn create(
    State(context): State<Context>,
    caller: Caller,
    Document(new): Document<NewReplay>,
) -> Result<(StatusCode, Json<ReplayView>), Problem> {
    caller.need(Role::Developer)?;
    let until = time("until", new.until.as_deref())?;
    let since = time("since", new.since.as_deref())?;
    let since = since.ok_or_else(|| Problem::invalid(vec![FieldError::new("since", "is required")]))?;
    if until.is_some_and(|until| until <= since) {
        return Err(Problem::invalid(vec![FieldError::new("until", "is not after `since`")]));
    }
    let entry = visible(&context, &caller, &new.endpoint)?;
    if !entry.is_served() {
        return Err(Problem::conflict(format!(
            "the endpoint `{}` gets no events: enable it first, with `recover` if it is about what it missed",
            new.endpoint
        )));
    }
    let span = Span::Time { topics: context.topics.events().to_vec(), since, until };
    let progress = start(&context, &entry, span, HashSet::new(), None)?;
    Ok((StatusCode::ACCEPTED, Json(ReplayView::of(progress))))
}

#[utoipa::path(get, path = "/v1/replays/{id}", tag = "replays", params(("id" = String, Path)),
    responses((status = 200, body = ReplayView), (status = 404, body = Problem)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<ReplayView>, Problem> {
    Ok(Json(ReplayView::of(known(&context, &caller, &id)?)))
}

/// Ends a replay. What it has appended is delivered, and how far it came can still be read.
#[utoipa::path(delete, path = "/v1/replays/{id}", tag = "replays", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn delete(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<StatusCode, Problem> {
    caller.need(Role::Developer)?;
    known(&context, &caller, &id)?;
    context.replays.cancel(&id);
    Ok(StatusCode::NO_CONTENT)
}

fn known(context: &Context, caller: &Caller, id: &str) -> Result<Progress, Problem> {
    context.replays.get(id).filter(|replay| caller.sees(&replay.tenant)).ok_or_else(|| Problem::not_found("replay", id))
}

/// What an endpoint missed while it was suspended: its dead letters are redriven, and what passed it by is replayed. The events of the letters are left
/// out of the replay, and so are those that the journal has as delivered: the positions lie below what was open when it was suspended.
pub fn recovery(context: &Context, entry: &Entry) -> Result<(Work, Option<Progress>), Problem> {
    let until = context.clock.now();
    let letters = Filter { endpoint: Some(entry.endpoint.id.clone()), until: Some(until), ..Filter::default() };
    let progress = match entry.suspension() {
        Some(suspension) if !suspension.positions.is_empty() => {
            let redriven = origins(context, &letters)?;
            let missed = missed(context, entry, suspension.since);
            Some(start(context, entry, Span::Positions(suspension.positions.clone()), redriven, Some(missed))?)
        }
        Some(_) | None => None,
    };
    Ok((Work::All(letters), progress))
}

/// Where the events of these letters lay first.
fn origins(context: &Context, letters: &Filter) -> Result<HashSet<Position>, Problem> {
    let mut origins = HashSet::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = context.dead_letters.list(letters, cursor.as_deref(), LETTERS).map_err(|wrong| Problem::malformed("cursor", wrong))?;
        origins.extend(page.items.into_iter().map(|letter| letter.origin));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(origins);
        }
    }
}

/// What the endpoint got is what was journalled until it was suspended, and since it is served again. In between it got nothing.
fn missed(context: &Context, entry: &Entry, suspended: Timestamp) -> Missed {
    let (log, topic, endpoint) = (Arc::clone(&context.log), Arc::clone(context.topics.attempts()), entry.endpoint.id.clone());
    let until = suspended.checked_add(SLACK).unwrap_or(Timestamp::MAX);
    let again = context.clock.now().checked_sub(SLACK).unwrap_or(Timestamp::MIN).max(until);
    let got = move |since: Timestamp| {
        let mut got = journal::delivered(&*log, &topic, &endpoint, since, until)?;
        got.extend(journal::delivered(&*log, &topic, &endpoint, again, Timestamp::MAX)?);
        Ok(got)
    };
    let positions = Arc::clone(&context.positions);
    let is_settled = move |ends: &[Position]| {
        let Ok(settled) = positions() else { return false };
        let is_below =
            |end: &Position| settled.iter().all(|at| (&at.topic, at.partition) != (&end.topic, end.partition) || at.offset >= end.offset);
        ends.iter().all(is_below)
    };
    Missed { is_settled: Box::new(is_settled), got: Box::new(got) }
}

fn start(context: &Context, entry: &Entry, span: Span, without: HashSet<Position>, missed: Option<Missed>) -> Result<Progress, Problem> {
    let endpoint = Arc::clone(&entry.endpoint);
    let request = Request {
        endpoint: endpoint.id.clone(),
        registry_offset: context.registry.known_at(),
        tenant: endpoint.tenant.clone(),
        span,
        wants: Box::new(move |event, position| listens(&endpoint, event) && !without.contains(position)),
        missed,
    };
    context.replays.start(request).map_err(|too_many: TooMany| Problem::too_many(too_many.to_string(), 10))
}

/// Whether the endpoint listens to the event, as the route table has it.
fn listens(endpoint: &Endpoint, event: &Event) -> bool {
    endpoint.tenant == event.tenant
        && (endpoint.channels.is_empty() || endpoint.channels.contains(&event.channel))
        && (endpoint.types.is_empty() || endpoint.types.iter().any(|pattern| pattern.matches(&event.kind)))
        && endpoint.direction.is_none_or(|direction| event.direction == Some(direction))
}
