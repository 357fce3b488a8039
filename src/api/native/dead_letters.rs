//! `/v1/dead-letters`: what could not be delivered, and sending it again.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{Page, endpoints::visible};
use crate::{
    api::{
        Context,
        auth::Caller,
        error::Problem,
        input::{Document, Id, Params, limit, time},
        jobs::{Job, JobState},
    },
    log::record::{DeadLetter, DeadThing, encode_event},
    model::{DeadReason, FieldError, Text, Timestamp, token::Role},
    settle::dead_letter::{Filter, LetterId, RedriveError, Summary},
};

/// Letters that can be named in one request.
const MAX_IDS: usize = 1_000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    #[param(min_length = 1, max_length = 256)]
    pub tenant: Option<String>,
    /// Id of an endpoint.
    pub endpoint: Option<String>,
    pub channel: Option<String>,
    /// Of the event.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    pub kind: Option<String>,
    /// Only of dead letters: `exhausted`, `final`, `expired`, `endpoint_inactive`, …
    pub reason: Option<String>,
    /// At or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub since: Option<String>,
    /// Before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub until: Option<String>,
    /// 1 to 1,000; 100 when absent.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub limit: Option<String>,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LetterView {
    id: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    reason: &'static str,
    /// What went wrong, in words.
    detail: String,
    /// Where the event lay first: `topic:partition:offset`.
    origin: String,
    /// Null with all that follows: a record that never became a delivery.
    endpoint: Option<String>,
    tenant: Option<String>,
    /// Id of the event.
    event: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    channel: Option<String>,
    attempts: Option<u32>,
    /// What it holds: the event, or the text of a record that could not be read. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    content: Option<Box<RawValue>>,
}

impl LetterView {
    fn of(summary: Summary) -> LetterView {
        let about = summary.delivery;
        LetterView {
            id: summary.id.to_string(),
            at: summary.at,
            reason: summary.reason.as_str(),
            detail: summary.detail.to_string(),
            origin: summary.origin.to_string(),
            endpoint: about.as_ref().map(|about| about.endpoint.to_string()),
            tenant: about.as_ref().map(|about| about.tenant.to_string()),
            event: about.as_ref().map(|about| about.event.to_string()),
            kind: about.as_ref().map(|about| about.kind.to_string()),
            channel: about.as_ref().map(|about| about.channel.to_string()),
            attempts: about.map(|about| about.attempts),
            content: None,
        }
    }

    fn whole(id: LetterId, letter: DeadLetter) -> LetterView {
        let view = LetterView {
            id: id.to_string(),
            at: letter.at,
            reason: letter.reason.as_str(),
            detail: letter.detail.to_string(),
            origin: String::new(),
            endpoint: None,
            tenant: None,
            event: None,
            kind: None,
            channel: None,
            attempts: None,
            content: None,
        };
        match letter.thing {
            DeadThing::Delivery(delivery) => {
                let event = encode_event(&delivery.event).value.unwrap_or_default();
                LetterView {
                    origin: delivery.origin.to_string(),
                    endpoint: Some(delivery.endpoint.to_string()),
                    tenant: Some(delivery.event.tenant.to_string()),
                    event: Some(delivery.event.id.to_string()),
                    kind: Some(delivery.event.kind.to_string()),
                    channel: Some(delivery.event.channel.to_string()),
                    attempts: Some(delivery.attempts),
                    content: serde_json::from_slice(&event).ok(),
                    ..view
                }
            }
            DeadThing::Record { origin, value, .. } => {
                let text = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                LetterView {
                    origin: origin.to_string(),
                    content: text.and_then(|text| serde_json::value::to_raw_value(&text).ok()),
                    ..view
                }
            }
        }
    }
}

/// Dead letters, newest first.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "dead letters", params(ListQuery),
    responses((status = 200, body = Page<LetterView>,
            links(("letter" = (operation_id = "dead_letters_get", parameters(("id" = "$response.body#/items/0/id")))))),
        (status = 400, body = Problem)))]
pub async fn list(
    State(context): State<Context>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<LetterView>>, Problem> {
    let text = |field: &Option<String>| field.as_deref().map(Text::from);
    let filter = Filter {
        tenant: caller.scope(query.tenant.as_deref())?,
        endpoint: text(&query.endpoint),
        channel: text(&query.channel),
        kind: text(&query.kind),
        reason: query.reason.as_deref().map(reason).transpose()?,
        since: time("since", query.since.as_deref())?,
        until: time("until", query.until.as_deref())?,
    };
    let page = context.dead_letters.list(&filter, query.cursor.as_deref(), limit(query.limit.as_deref())?);
    let page = page.map_err(|wrong| Problem::malformed("cursor", wrong))?;
    Ok(Json(Page { items: page.items.into_iter().map(LetterView::of).collect(), next: page.next }))
}

/// A dead letter with what it holds.
#[utoipa::path(get, path = "/v1/dead-letters/{id}", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 200, body = LetterView), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn get(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<LetterView>, Problem> {
    let unknown = || Problem::not_found("dead letter", &id);
    let letter_id: LetterId = id.parse().map_err(|_| unknown())?;
    let letter = context.dead_letters.get(letter_id, caller.scope(None)?.as_ref()).await?;
    Ok(Json(LetterView::whole(letter_id, letter.ok_or_else(unknown)?)))
}

/// Which dead letters to send again: by their ids, or all that match the other fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redrive {
    #[schema(min_items = 1, max_items = 1000)]
    ids: Option<Vec<String>>,
    #[schema(min_length = 1, max_length = 256)]
    tenant: Option<String>,
    endpoint: Option<String>,
    channel: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reason: Option<String>,
    /// At or after this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<String>,
    /// Before this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<String>,
}

/// How far a redrive has come.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    id: String,
    state: JobState,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Dead letters that were sent again.
    redriven: u64,
    /// Those that cannot be, that are not kept any more, or whose endpoint is gone, disabled or inactive.
    skipped: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl JobView {
    pub fn of(job: &Job) -> JobView {
        use std::sync::atomic::Ordering::Relaxed;
        let (state, error) = job.state();
        JobView {
            id: job.id.to_string(),
            state,
            started_at: job.started_at,
            redriven: job.progress.redriven.load(Relaxed),
            skipped: job.progress.skipped.load(Relaxed),
            error,
        }
    }
}

/// Sends dead letters again, in the background.
#[utoipa::path(post, path = "/v1/dead-letters/redrive", tag = "dead letters", request_body(content = Option<Redrive>, example = json!({"endpoint": "orders", "reason": "exhausted"})),
    responses((status = 202, description = "Ask for its id to see how far it has come.", body = JobView), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub async fn redrive(
    State(context): State<Context>,
    caller: Caller,
    Document(asked): Document<Redrive>,
) -> Result<(StatusCode, Json<JobView>), Problem> {
    caller.need(Role::Developer)?;
    let tenant = caller.scope(asked.tenant.as_deref())?;
    let work = match &asked.ids {
        Some(ids) => Work::These(ids_of(&asked, ids)?),
        None => {
            if let Some(endpoint) = &asked.endpoint {
                // Those of a deleted endpoint have nowhere to go.
                visible(&context, &caller, endpoint)?;
            }
            Work::All(Filter {
                tenant: tenant.clone(),
                endpoint: asked.endpoint.map(Text::from),
                channel: asked.channel.map(Text::from),
                kind: asked.kind.map(Text::from),
                reason: asked.reason.as_deref().map(reason).transpose()?,
                since: time("since", asked.since.as_deref())?,
                until: time("until", asked.until.as_deref())?,
            })
        }
    };
    ready(&context).await?;
    let job = start(&context, tenant, work)?;
    Ok((StatusCode::ACCEPTED, Json(JobView::of(&job))))
}

/// How far a redrive has come; asked of the instance that runs it.
#[utoipa::path(get, path = "/v1/dead-letters/redrive/{id}", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 200, body = JobView), (status = 404, body = Problem)))]
pub async fn progress(State(context): State<Context>, caller: Caller, Id(id): Id) -> Result<Json<JobView>, Problem> {
    let scope = caller.scope(None)?;
    let job = context.jobs.get(&id).filter(|job| scope.is_none() || job.tenant == scope);
    Ok(Json(JobView::of(&*job.ok_or_else(|| Problem::not_found("redrive", &id))?)))
}

/// Waits until all that lies in the topic is known: what is not cannot be sent again.
pub async fn ready(context: &Context) -> Result<(), Problem> {
    const LIMIT: Duration = Duration::from_secs(10);
    match context.dead_letters.until_ready(LIMIT).await {
        true => Ok(()),
        false => Err(Problem::unavailable("the dead letters are still being read after the start: ask again in a moment")),
    }
}

pub enum Work {
    These(Vec<LetterId>),
    All(Filter),
}

/// Begins to redrive in the background.
pub fn start(context: &Context, tenant: Option<Text>, work: Work) -> Result<Arc<Job>, Problem> {
    let job = context.jobs.begin(tenant, context.clock.now())?;
    let (context, running) = (Arc::clone(context), Arc::clone(&job));
    // Of an endpoint that was enabled a moment ago, every instance must have heard before it judges what is redriven.
    let known_at = context.registry.known_at();
    tokio::spawn(async move {
        let result = match work {
            Work::All(filter) => {
                let is_served = |endpoint: &Text| is_served(&context, endpoint);
                context.dead_letters.redrive_all(&filter, known_at, &is_served, &running.progress).await
            }
            Work::These(ids) => redrive_these(&context, &running, known_at, ids).await,
        };
        if let Err(error) = &result {
            tracing::warn!(job = %running.id, %error, "redrive ended early");
        }
        running.finish(result);
    });
    Ok(job)
}

fn is_served(context: &Context, endpoint: &str) -> bool {
    context.registry.get(endpoint).is_some_and(|entry| entry.is_served())
}

async fn redrive_these(context: &Context, job: &Job, known_at: i64, ids: Vec<LetterId>) -> Result<(), crate::log::LogError> {
    use std::sync::atomic::Ordering::Relaxed;
    for id in ids {
        match context.dead_letters.redrive(id, job.tenant.as_ref(), known_at, &|endpoint| is_served(context, endpoint)).await {
            Ok(()) => job.progress.redriven.fetch_add(1, Relaxed),
            Err(RedriveError::Unknown | RedriveError::Impossible(_)) => job.progress.skipped.fetch_add(1, Relaxed),
            Err(RedriveError::Log(error)) => return Err(error),
        };
    }
    Ok(())
}

fn ids_of(asked: &Redrive, ids: &[String]) -> Result<Vec<LetterId>, Problem> {
    let others = [&asked.endpoint, &asked.channel, &asked.kind, &asked.reason, &asked.since, &asked.until];
    let mut errors = Vec::new();
    if others.iter().any(|field| field.is_some()) {
        errors.push(FieldError::new("ids", "are given beside other fields: either name the letters or say what they have in common"));
    }
    if ids.is_empty() || ids.len() > MAX_IDS {
        errors.push(FieldError::new("ids", format!("must be 1 to {MAX_IDS}")));
    }
    let mut parsed = Vec::with_capacity(ids.len());
    for (index, id) in ids.iter().enumerate() {
        match id.parse() {
            Ok(id) => parsed.push(id),
            Err(wrong) => errors.push(FieldError::new(format!("ids[{index}]"), wrong)),
        }
    }
    if errors.is_empty() { Ok(parsed) } else { Err(Problem::invalid(errors)) }
}

fn reason(text: &str) -> Result<DeadReason, Problem> {
    DeadReason::parse(text).ok_or_else(|| {
        let words: Vec<&str> = DeadReason::ALL.iter().map(|reason| reason.as_str()).collect();
        Problem::malformed("reason", format!("`{text}` is none of {}", words.join(", ")))
    })
}
