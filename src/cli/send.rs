//! `posthaste send`: events from a file or standard input into a daemon, over its API.
//!
//! Every event that is sent has an id: one that has none gets it here, before the first try, so that a batch can be sent again after a
//! broken connection and its receivers still recognise doubles. A line that is no event is named and left out, and the others are sent: one bad
//! line in a million is no reason to begin anew. What was stored is known line by line, and a run that ends early says with which `--skip` to go on.

mod answer;
mod input;

use std::{
    collections::HashSet,
    fmt,
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use http::Method;
use tokio::time::Instant;

use self::{
    answer::{Verdict, judge, take_accepted},
    input::{Input, Line, Lines, Read, Refusal},
};
use super::{
    client::{Client, Daemon, Unreachable},
    duration, say,
};
use crate::model::Rate;

/// Send events to a daemon.
///
/// Each line of the input is one event: {"type": "...", "channel": "...", "data": {...}}, optionally with id, time, tenant, subject,
/// direction and priority. An event counts as sent when the daemon has stored it durably. A line that is no such event is named with what
/// is wrong with it, and left out; the others are sent, and the exit code is 1. When the first 100 lines are all wrong, it stops.
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
    #[arg(long, value_name = "COUNT", requires = "kind", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
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
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    patience: Duration,
    #[command(flatten)]
    daemon: Daemon,
}

/// A batch that is not full leaves when its first line is so old: somebody may be typing.
const LINGER: Duration = Duration::from_millis(100);

/// Largest batch (bytes), but for an event that is larger: below what a daemon takes in one request, also over a slow line.
const LARGEST_BATCH: usize = 4 * 1024 * 1024;

/// When the first so many lines are all refused, it is another file that was meant, or another token.
const HOPELESS: u64 = 100;

/// What has happened so far.
struct Progress {
    started: Instant,
    stored: u64,
    refused: u64,
    /// The last line up to which every one is stored or was refused.
    through: u64,
    /// The first and the last line of which it is not known whether they are stored.
    unknown: Option<(u64, u64)>,
    shown: Instant,
    terminal: bool,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client::new(&arguments.daemon)?;
    let input = Input::of(arguments.file.as_deref(), arguments.kind.is_some());
    let mut lines = match (&arguments.kind, &arguments.channel) {
        (Some(kind), Some(channel)) => input::repeat(kind, channel, &arguments.data, arguments.count, arguments.skip)?,
        _ => input::read(&input, arguments.skip)?,
    };
    let now = Instant::now();
    let mut progress = Progress {
        started: now,
        stored: 0,
        refused: 0,
        through: arguments.skip,
        unknown: None,
        shown: now,
        terminal: io::stderr().is_terminal(),
    };
    let outcome = tokio::select! {
        outcome = send_all(&client, &input, &mut lines, &arguments, &mut progress) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    progress.end();
    match outcome {
        Ok(()) if progress.refused > 0 => bail!(
            "refused {} of {} {input}, named above; the others are stored: correct those and send them alone",
            progress.refused,
            progress.refused + progress.stored
        ),
        Ok(()) => Ok(()),
        Err(error) => Err(anyhow::anyhow!("{error:#}; {}", progress.how_to_go_on(&input, arguments.skip))),
    }
}

async fn send_all(client: &Client, input: &Input, lines: &mut Lines, arguments: &Arguments, progress: &mut Progress) -> anyhow::Result<()> {
    let size = match arguments.rate {
        // Ten requests a second at least, so that a low rate is even and not in bursts.
        Some(rate) => usize::from(arguments.batch).min((rate.per_second() / 10.0).ceil() as usize).max(1),
        None => usize::from(arguments.batch),
    };
    let mut batch = Vec::with_capacity(size);
    loop {
        let gathered = gather(lines, &mut batch, size).await;
        for refusal in &gathered.refusals {
            progress.refuse(input, refusal);
        }
        if batch.is_empty() {
            progress.is_hopeless(None)?;
        }
        if !batch.is_empty() {
            if let Some(rate) = arguments.rate {
                let due = progress.started + Duration::from_secs_f64(progress.stored as f64 / rate.per_second());
                tokio::time::sleep_until(due).await;
            }
            store(client, input, &mut batch, arguments.patience, progress).await?;
        }
        progress.through = gathered.last.unwrap_or(progress.through);
        progress.show();
        match gathered.end {
            End::Full => {}
            End::OfInput => return Ok(()),
            End::Unreadable(error) => return Err(error),
        }
    }
}

/// What came beside the lines of a batch.
struct Gathered {
    refusals: Vec<Refusal>,
    /// The last line that was read.
    last: Option<u64>,
    end: End,
}

enum End {
    /// Full, or nothing more came in time.
    Full,
    OfInput,
    Unreadable(anyhow::Error),
}

async fn gather(lines: &mut Lines, batch: &mut Vec<Line>, size: usize) -> Gathered {
    let (mut refusals, mut last, mut deadline, mut bytes) = (Vec::new(), None, None, 0);
    let end = loop {
        if batch.len() + refusals.len() >= size || bytes >= LARGEST_BATCH || refusals.len() as u64 >= HOPELESS {
            break End::Full;
        }
        let next = match deadline {
            None => lines.recv().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, lines.recv()).await {
                Ok(next) => next,
                Err(_) => break End::Full,
            },
        };
        match next {
            Some(Read::Event(line)) => {
                last = Some(line.number);
                bytes += line.json.len();
                batch.push(line);
            }
            Some(Read::Refused(refusal)) => {
                last = Some(refusal.number);
                refusals.push(refusal);
            }
            Some(Read::Broken(error)) => break End::Unreadable(error),
            None => break End::OfInput,
        }
        deadline = deadline.or_else(|| Some(Instant::now() + LINGER));
    };
    Gathered { refusals, last, end }
}

/// Sends the batch until all of it is stored or refused. What was, is taken out of it.
async fn store(client: &Client, input: &Input, batch: &mut Vec<Line>, patience: Duration, progress: &mut Progress) -> anyhow::Result<()> {
    let mut last_success = Instant::now();
    let mut pause = Duration::from_millis(100);
    let mut most = batch.len();
    let mut waits = false;
    while !batch.is_empty() {
        let rest = batch.split_off(most.min(batch.len()));
        let body: String = batch.iter().flat_map(|line| [&*line.json, "\n"]).collect();
        // Those of which an earlier try left it open stay so, whatever becomes of this one.
        let doubted: HashSet<u64> = batch.iter().filter(|line| line.is_in_doubt).map(|line| line.number).collect();
        batch.iter_mut().for_each(|line| line.is_in_doubt = true);
        progress.doubt(batch.iter().chain(&rest));
        let answer = client.call(Method::POST, "/v1/events", Some(("application/x-ndjson", Bytes::from(body)))).await;
        let (verdict, wish) = match &answer {
            Ok(answer) => (judge(batch, answer), answer.retry_after),
            Err(error) => (Verdict::Later(format!("{error:#}")), None),
        };
        let before = batch.len();
        if let Ok(answer) = &answer {
            take_accepted(batch, answer);
        }
        let is_known = match &answer {
            Err(error) => error.is::<Unreachable>(),
            // A log that did not take it in time may have it all the same.
            Ok(answer) => !answer.status.is_server_error(),
        };
        if is_known {
            batch.iter_mut().for_each(|line| line.is_in_doubt = doubted.contains(&line.number));
        }
        progress.doubt(batch.iter().chain(&rest));
        progress.stored += (before - batch.len()) as u64;
        let stored = before > batch.len();
        let problem = match verdict {
            Verdict::Stored => None,
            Verdict::Later(problem) => Some(problem),
            Verdict::Split => {
                most = (batch.len() / 2).max(1);
                None
            }
            Verdict::Refused(refusals) => {
                let refused: HashSet<u64> = refusals.iter().map(|refusal| refusal.number).collect();
                batch.retain(|line| !refused.contains(&line.number));
                if matches!(input, Input::Options) {
                    // All are alike.
                    let first = refusals.first().map_or_else(String::new, |refusal| input.told(refusal));
                    bail!("{first}");
                }
                refusals.iter().for_each(|refusal| progress.refuse(input, refusal));
                progress.is_hopeless(batch.first().filter(|line| refused.iter().any(|refused| line.number < *refused)))?;
                None
            }
            Verdict::Hopeless(problem) => bail!("{problem}"),
        };
        batch.extend(rest);
        if stored || problem.is_none() {
            (last_success, pause) = (Instant::now(), Duration::from_millis(100));
        }
        let Some(problem) = problem else { continue };
        if last_success.elapsed() >= patience {
            bail!("{problem}; nothing could be stored for {} (--patience)", humantime::format_duration(patience));
        }
        if !waits {
            waits = true;
            progress.say(&format!("posthaste: {problem}; trying again for {} (--patience)", humantime::format_duration(patience)));
        }
        tokio::time::sleep(wish.unwrap_or(pause).min(patience)).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    Ok(())
}

impl Progress {
    fn refuse(&mut self, input: &Input, refusal: &Refusal) {
        self.refused += 1;
        self.say(&input.told(refusal));
    }

    /// An error if the first [`HOPELESS`] lines were all refused: nothing is stored, and no line among them may still be (`good`).
    fn is_hopeless(&self, good: Option<&Line>) -> anyhow::Result<()> {
        if self.stored == 0 && self.refused >= HOPELESS && good.is_none() {
            bail!("the first {} lines are all refused, as named above: is it the right file, and the right token?", self.refused);
        }
        Ok(())
    }

    /// Notes which lines, of those that are still to be stored, may be stored already.
    fn doubt<'l>(&mut self, lines: impl Iterator<Item = &'l Line>) {
        let mut doubted = lines.filter(|line| line.is_in_doubt).map(|line| line.number);
        self.unknown = doubted.next().map(|first| (first, doubted.last().unwrap_or(first)));
    }

    /// A line that stays.
    fn say(&self, line: &str) {
        say(format_args!("{}{line}\n", self.cleared()));
    }

    fn show(&mut self) {
        let interval = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
        if self.shown.elapsed() >= interval {
            self.shown = Instant::now();
            say(if self.terminal { format!("\r{self}\u{1b}[K") } else { format!("{self}\n") });
        }
    }

    fn end(&self) {
        self.say(&self.to_string());
    }

    /// What takes the line of the progress away.
    fn cleared(&self) -> &'static str {
        if self.terminal { "\r\u{1b}[K" } else { "" }
    }

    /// What is known of an input that was not sent to its end, when its first `skip` lines had been left out.
    fn how_to_go_on(&self, input: &Input, skip: u64) -> String {
        if self.stored == 0 && self.unknown.is_none() {
            return "nothing is stored".to_owned();
        }
        let through = match (self.through, self.refused) {
            (through, _) if through == skip => String::new(),
            (through, 0) => format!(", all {input} up to {through} among them"),
            (through, _) => format!(", all {input} up to {through} are among them or named above"),
        };
        let unknown = match self.unknown {
            Some((first, last)) => {
                format!("; {input} {first} to {last} may be: if they come twice, receivers know those by it that have an id of their own")
            }
            None => String::new(),
        };
        let rest = match self.through {
            0 => String::new(),
            through if skip > 0 && through > skip => format!(" with --skip {through} instead of {skip}"),
            through => format!(" with --skip {through}"),
        };
        format!("{} events are stored{through}{unknown}; to go on, give the same command again{rest}", self.stored)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.started.elapsed().as_secs_f64();
        write!(out, "{} events stored in {seconds:.1} s ({:.0}/s)", self.stored, self.stored as f64 / seconds.max(0.001))?;
        if self.refused > 0 {
            write!(out, ", {} refused", self.refused)?;
        }
        Ok(())
    }
}
