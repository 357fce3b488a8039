//! `posthaste send`: events from a file or standard input into a daemon, over its API.
//!
//! Every event that is sent has an id: one that has none gets it here, before the first try, so that a batch can be sent again after a
//! broken connection and its receivers still recognise doubles. What was stored is known line by line, and a run that ends early
//! says with which `--skip` to go on.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use serde_json::value::{RawValue, to_raw_value};
use tokio::{sync::mpsc, time::Instant};

use super::client::{Answer, Client, Daemon};
use crate::model::Rate;

/// Send events to a daemon.
///
/// Each line of the input is one event: {"type": "...", "channel": "...", "data": {...}}, optionally with id, time, tenant, subject,
/// direction and priority. An event counts as sent when the daemon has stored it durably.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  posthaste send events.ndjson\n  generate | posthaste send --rate 200/s\n  posthaste send --type order.created --channel shop --data '{\"n\":1}' --count 10"
)]
pub struct Arguments {
    /// NDJSON file; `-` or nothing is standard input.
    #[arg(value_name = "FILE", conflicts_with_all = ["kind", "channel", "data"])]
    file: Option<PathBuf>,
    /// Send an event of this type instead of reading any.
    #[arg(long = "type", value_name = "TYPE", requires = "channel")]
    kind: Option<String>,
    /// Its channel.
    #[arg(long, value_name = "CHANNEL", requires = "kind")]
    channel: Option<String>,
    /// Its data, as JSON.
    #[arg(long, value_name = "JSON", requires = "kind", default_value = "{}")]
    data: String,
    /// Send it so many times, each with an id of its own.
    #[arg(long, value_name = "COUNT", requires = "kind", default_value_t = 1)]
    count: u64,
    /// At most so many events; without it, as fast as the daemon takes them.
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// Events per request.
    #[arg(long, value_name = "EVENTS", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// Leave out the first lines: where an earlier run ended.
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    skip: u64,
    /// Give up when nothing could be stored for so long.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    patience: Duration,
    #[command(flatten)]
    daemon: Daemon,
}

/// The longest line (bytes): far above what a daemon takes, and a bound for a file that is no text.
const LONGEST_LINE: u64 = 32 * 1024 * 1024;

/// A batch that is not full leaves when its first line is so old: somebody may be typing.
const LINGER: Duration = Duration::from_millis(100);

struct Line {
    number: u64,
    id: String,
    json: String,
}

/// What has happened so far.
struct Progress {
    started: Instant,
    stored: u64,
    /// The last line up to which every one is stored.
    through: u64,
    shown: Instant,
    terminal: bool,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::new(&arguments.daemon)?;
    let file = arguments.file.as_deref().filter(|file| *file != Path::new("-"));
    let mut lines = match (&arguments.kind, &arguments.channel) {
        (Some(kind), Some(channel)) => repeat(kind, channel, &arguments.data, arguments.count, arguments.skip)?,
        _ => read(file, arguments.skip)?,
    };
    let now = Instant::now();
    let mut progress = Progress { started: now, stored: 0, through: arguments.skip, shown: now, terminal: io::stderr().is_terminal() };
    let outcome = tokio::select! {
        outcome = send_all(&client, &mut lines, &arguments, &mut progress) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; what was on its way may be stored or not")),
    };
    progress.end();
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            let source = file.map_or_else(|| "-".to_owned(), |file| file.display().to_string());
            let rest = if progress.through == 0 { String::new() } else { format!(" --skip {}", progress.through) };
            Err(error.context(format!(
                "{} events are stored, all lines up to {} among them; to go on: posthaste send {source}{rest}",
                progress.stored, progress.through
            )))
        }
    }
}

async fn send_all(client: &Client, lines: &mut Lines, arguments: &Arguments, progress: &mut Progress) -> anyhow::Result<()> {
    let size = match arguments.rate {
        // Ten requests a second at least, so that a low rate is even and not in bursts.
        Some(rate) => usize::from(arguments.batch).min((rate.per_second() / 10.0).ceil() as usize).max(1),
        None => usize::from(arguments.batch),
    };
    let mut batch = Vec::with_capacity(size);
    loop {
        let end = gather(lines, &mut batch, size).await;
        if !batch.is_empty() {
            if let Some(rate) = arguments.rate {
                let due = progress.started + Duration::from_secs_f64(progress.stored as f64 / rate.per_second());
                tokio::time::sleep_until(due).await;
            }
            let last = batch.last().map_or(0, |line: &Line| line.number);
            store(client, &mut batch, arguments.patience, progress).await?;
            progress.through = last;
            progress.show();
        }
        match end {
            End::Full => {}
            End::OfInput => return Ok(()),
            End::Unreadable(error) => return Err(error),
        }
    }
}

enum End {
    /// Full, or nothing more came in time.
    Full,
    OfInput,
    Unreadable(anyhow::Error),
}

async fn gather(lines: &mut Lines, batch: &mut Vec<Line>, size: usize) -> End {
    let mut deadline = None;
    while batch.len() < size {
        let next = match deadline {
            None => lines.recv().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, lines.recv()).await {
                Ok(next) => next,
                Err(_) => return End::Full,
            },
        };
        match next {
            Some(Ok(line)) => batch.push(line),
            Some(Err(error)) => return End::Unreadable(error),
            None => return End::OfInput,
        }
        deadline = deadline.or_else(|| Some(Instant::now() + LINGER));
    }
    End::Full
}

/// Sends the batch until all of it is stored. What was stored is taken out of it.
async fn store(client: &Client, batch: &mut Vec<Line>, patience: Duration, progress: &mut Progress) -> anyhow::Result<()> {
    let mut last_success = Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        let body: String = batch.iter().flat_map(|line| [line.json.as_str(), "\n"]).collect();
        let answer = client.call(Method::POST, "/v1/events", Some(("application/x-ndjson", Bytes::from(body)))).await;
        let stored = match &answer {
            Ok(answer) if answer.status.is_success() => batch.len(),
            Ok(answer) => take_accepted(batch, answer),
            Err(_) => 0,
        };
        progress.stored += stored as u64;
        let (problem, wish) = match answer {
            Ok(answer) if answer.status.is_success() => {
                batch.clear();
                return Ok(());
            }
            Ok(_) if batch.is_empty() => return Ok(()),
            Ok(answer) if may_pass(answer.status) => (anyhow::anyhow!("{}", answer.problem()), answer.retry_after),
            Ok(answer) => {
                let (first, last) = (batch.first().map_or(0, |line| line.number), batch.last().map_or(0, |line| line.number));
                bail!("the daemon refused lines {first} to {last} ({}), none of them is stored: {}", answer.status, answer.problem());
            }
            Err(error) => (error, None),
        };
        if stored > 0 {
            (last_success, pause) = (Instant::now(), Duration::from_millis(100));
        }
        if last_success.elapsed() >= patience {
            return Err(problem.context(format!("nothing could be stored for {}", humantime::format_duration(patience))));
        }
        tokio::time::sleep(wish.unwrap_or(pause).min(patience)).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// Whether the same request may succeed later.
fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
}

/// Takes out what a partial success says is stored; how many those were.
fn take_accepted(batch: &mut Vec<Line>, answer: &Answer) -> usize {
    let accepted: HashSet<&str> = answer.body["accepted"].as_array().into_iter().flatten().filter_map(|item| item["id"].as_str()).collect();
    let before = batch.len();
    batch.retain(|line| !accepted.contains(line.id.as_str()));
    before - batch.len()
}

type Lines = mpsc::Receiver<anyhow::Result<Line>>;

/// Lines read ahead of the sender.
const READ_AHEAD: usize = 2_000;

/// Reads on a thread of its own: standard input blocks.
fn read(file: Option<&Path>, skip: u64) -> anyhow::Result<Lines> {
    let mut input: Box<dyn BufRead + Send> = match file {
        Some(file) => Box::new(BufReader::new(File::open(file).with_context(|| format!("{} cannot be read", file.display()))?)),
        None => Box::new(BufReader::new(io::stdin())),
    };
    let (lines, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::Builder::new().name("read-events".to_owned()).spawn(move || {
        for number in 1.. {
            let line = match read_line(&mut *input) {
                Ok(None) => return,
                Ok(Some(line)) if number <= skip || line.trim().is_empty() => continue,
                Ok(Some(line)) => event(number, &line),
                Err(error) => Err(error.into()),
            };
            let last = line.is_err();
            if lines.blocking_send(line.with_context(|| format!("line {number}"))).is_err() || last {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn read_line(input: &mut dyn BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    match input.take(LONGEST_LINE).read_line(&mut line)? {
        0 => Ok(None),
        size if size as u64 == LONGEST_LINE => Err(io::Error::other(format!("is longer than {LONGEST_LINE} bytes"))),
        _ => Ok(Some(line)),
    }
}

fn repeat(kind: &str, channel: &str, data: &str, count: u64, skip: u64) -> anyhow::Result<Lines> {
    let data: Box<RawValue> = serde_json::from_str(data).context("--data is no JSON")?;
    let json = serde_json::json!({ "type": kind, "channel": channel, "data": data }).to_string();
    event(1, &json)?;
    let (lines, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::Builder::new().name("make-events".to_owned()).spawn(move || {
        for number in skip + 1..=count {
            if lines.blocking_send(event(number, &json)).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// An event with an id and, where it has none, the time of now: both would otherwise change when it is sent again.
fn event(number: u64, line: &str) -> anyhow::Result<Line> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).context("is no JSON object")?;
    let id = match fields.get("id") {
        Some(id) => serde_json::from_str::<String>(id.get()).context("`id` is no text")?,
        None => uuid::Uuid::now_v7().to_string(),
    };
    fields.insert("id".to_owned(), to_raw_value(&id)?);
    if !fields.contains_key("time") {
        fields.insert("time".to_owned(), to_raw_value(&crate::model::Timestamp::now().to_string())?);
    }
    Ok(Line { number, id, json: serde_json::to_string(&fields)? })
}

impl Progress {
    fn show(&mut self) {
        let interval = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
        if self.shown.elapsed() >= interval {
            self.shown = Instant::now();
            let line = self.line();
            eprint!("{}", if self.terminal { format!("\r{line}\u{1b}[K") } else { format!("{line}\n") });
            // Progress is no result: that nobody sees it is no reason to stop.
            let _ = io::stderr().flush();
        }
    }

    fn end(&self) {
        eprintln!("{}{}", if self.terminal { "\r\u{1b}[K" } else { "" }, self.line());
    }

    fn line(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        format!("{} events stored in {seconds:.1} s ({:.0}/s)", self.stored, self.stored as f64 / seconds.max(0.001))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_fields_and_gets_the_id_and_time_that_it_lacks() {
        let line = event(7, r#"{"type":"a","channel":"c","data":{"n":1.000000000000000000001}}"#).expect("event");
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&line.json).expect("JSON");
        assert_eq!(fields["data"].get(), r#"{"n":1.000000000000000000001}"#);
        assert_eq!(fields["id"].get(), format!("\"{}\"", line.id));
        assert!(fields.contains_key("time"));

        let line = event(8, r#"{"id":"mine","time":"2026-01-01T00:00:00Z"}"#).expect("event");
        assert_eq!(line.id, "mine");
        assert!(line.json.contains("2026-01-01"));

        for wrong in ["[]", "x", r#"{"id":1}"#] {
            assert!(event(1, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_partial_success_leaves_what_is_not_stored() {
        let mut batch: Vec<Line> = ["a", "b", "c"].map(|id| Line { number: 1, id: id.into(), json: String::new() }).into();
        let body = serde_json::json!({ "accepted": [{ "id": "a" }, { "id": "c" }] });
        let answer = Answer { status: StatusCode::SERVICE_UNAVAILABLE, body, retry_after: None };
        assert_eq!(take_accepted(&mut batch, &answer), 2);
        assert_eq!(batch.iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
