//! Where events come from, line by line, and how a line that is none is named.
//!
//! Lines are judged here by the function by which the daemon judges them, so that most of what is wrong is found without asking. What depends on
//! the daemon (its limits, the tenant of the token) it says itself.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use serde_json::{
    error::Category,
    value::{RawValue, to_raw_value},
};
use tokio::sync::mpsc;

use crate::{
    cli::{harmless, say},
    log::record::event_from_json,
    model::{Event, FieldError, Text, Timestamp},
};

/// The longest line (bytes): far above what a daemon takes, and a bound for a file that is no text.
const LONGEST_LINE: u64 = 32 * 1024 * 1024;

/// Lines read ahead of the sender.
const READ_AHEAD: usize = 2_000;

pub enum Input {
    File(PathBuf),
    Stdin,
    /// The options of the command.
    Options,
}

#[derive(Debug)]
pub struct Line {
    pub number: u64,
    pub id: Text,
    pub json: Text,
    /// It was sent, and what became of that is not known.
    pub is_in_doubt: bool,
}

/// A line that cannot be sent, and all that is wrong with it.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub number: u64,
    errors: Vec<FieldError>,
}

/// What became of a line.
#[derive(Debug)]
pub enum Read {
    Event(Line),
    Refused(Refusal),
    /// Nothing more can be read.
    Broken(anyhow::Error),
}

pub type Lines = mpsc::Receiver<Read>;

impl Input {
    pub fn of(file: Option<&Path>, is_given_by_options: bool) -> Input {
        match file {
            _ if is_given_by_options => Input::Options,
            Some(file) if file != Path::new("-") => Input::File(file.to_owned()),
            _ => Input::Stdin,
        }
    }

    fn name(&self) -> Cow<'_, str> {
        match self {
            Input::File(file) => file.to_string_lossy(),
            Input::Stdin => "standard input".into(),
            Input::Options => "the event".into(),
        }
    }

    /// Where it is wrong, what, and what would be right: a line for each mistake.
    pub fn told(&self, refusal: &Refusal) -> String {
        refusal.errors.iter().map(|error| self.told_error(refusal.number, error)).collect::<Vec<_>>().join("\n")
    }

    fn told_error(&self, number: u64, FieldError { path: field, message }: &FieldError) -> String {
        // Both may repeat what stands in the input.
        let (field, message) = (harmless(field), harmless(message));
        let right = match message.as_str() {
            message if message.contains("expected one of") || message.contains("write ") => String::new(),
            message if message.contains("tenant of the token") => "; leave it out, or give a token of that tenant".to_owned(),
            _ => right(&field).map_or_else(String::new, |right| format!("; write {right}")),
        };
        let place = match (self, field.as_str()) {
            (Input::Options, "type" | "channel" | "data") => return format!("--{field} {message}{right}"),
            (Input::Options, _) => self.name().into_owned(),
            (Input::File(_) | Input::Stdin, _) => format!("{}:{number}:", self.name()),
        };
        if field == "." { format!("{place} {message}") } else { format!("{place} `{field}` {message}{right}") }
    }
}

/// What its parts are called.
impl fmt::Display for Input {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Input::File(_) | Input::Stdin => "lines",
            Input::Options => "events",
        })
    }
}

impl Refusal {
    pub fn new(number: u64, errors: Vec<FieldError>) -> Refusal {
        Refusal { number, errors }
    }
}

/// What a field may hold.
fn right(field: &str) -> Option<String> {
    let text = |limit: usize, example: &str| Some(format!("a text of 1 to {limit} bytes{example}"));
    match field {
        "type" => text(Event::NAME_LIMIT, ", such as \"order.created\""),
        "channel" => text(Event::NAME_LIMIT, ", such as \"shop\""),
        "id" | "tenant" | "source" => text(Event::NAME_LIMIT, ""),
        "subject" => text(Event::SUBJECT_LIMIT, ""),
        "time" => Some("a time as in RFC 3339, such as \"2026-01-31T12:00:00Z\"".to_owned()),
        "data" => Some("any JSON, such as {\"n\":1}".to_owned()),
        "direction" => Some("\"IN\", \"OUT\" or \"INTERNAL\"".to_owned()),
        "priority" => Some("\"high\", \"normal\" or \"low\"".to_owned()),
        _ => None,
    }
}

/// Reads on a thread of its own: standard input blocks.
pub fn read(input: &Input, skip: u64) -> anyhow::Result<Lines> {
    let name = input.name().into_owned();
    let mut input: Box<dyn BufRead + Send> = match input {
        Input::File(file) => Box::new(BufReader::new(File::open(file).with_context(|| format!("{name} cannot be read"))?)),
        Input::Stdin | Input::Options => {
            if io::stdin().is_terminal() {
                say("reading events from standard input, one JSON object on each line; Ctrl-D ends it\n");
            }
            Box::new(BufReader::new(io::stdin()))
        }
    };
    let (lines, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::Builder::new().name("read-events".to_owned()).spawn(move || {
        let mut buffer = Vec::new();
        for number in 1.. {
            let read = match next_line(&mut *input, &mut buffer) {
                Ok(0) => return,
                Ok(size) if size as u64 == LONGEST_LINE => {
                    Read::Broken(anyhow!("{name}:{number}: is longer than {LONGEST_LINE} bytes: write each event on a line of its own"))
                }
                Ok(_) if number <= skip || buffer.trim_ascii().is_empty() => continue,
                Ok(_) => line(number, buffer.trim_ascii_end()),
                Err(error) => Read::Broken(anyhow!("{name} cannot be read: {error}")),
            };
            let is_last = matches!(read, Read::Broken(_));
            if lines.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn next_line(input: &mut dyn BufRead, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.clear();
    input.take(LONGEST_LINE).read_until(b'\n', buffer)
}

fn line(number: u64, bytes: &[u8]) -> Read {
    let read = match std::str::from_utf8(bytes) {
        Ok(text) => event(number, text),
        Err(wrong) => Err(vec![FieldError::new(".", format!("is no UTF-8 from byte {} on", wrong.valid_up_to() + 1))]),
    };
    match read {
        Ok(line) => Read::Event(line),
        Err(errors) => Read::Refused(Refusal::new(number, errors)),
    }
}

/// The same event `count` times, but for the first `skip`; each has its own id.
pub fn repeat(kind: &str, channel: &str, data: &str, count: u64, skip: u64) -> anyhow::Result<Lines> {
    let wrong = |errors| anyhow!("{}", Input::Options.told(&Refusal::new(1, errors)));
    let data: Box<RawValue> =
        serde_json::from_str(data).map_err(|error| wrong(vec![FieldError::new("data", format!("is no JSON: {error}"))]))?;
    let json = serde_json::json!({ "type": kind, "channel": channel, "data": data }).to_string();
    event(1, &json).map_err(wrong)?;
    let (lines, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::Builder::new().name("make-events".to_owned()).spawn(move || {
        for number in skip + 1..=count {
            if lines.blocking_send(line(number, json.as_bytes())).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// An event with an id and, where it has none, the time of now: both would otherwise change when it is sent again.
fn event(number: u64, text: &str) -> Result<Line, Vec<FieldError>> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).map_err(|wrong| vec![no_object(text, wrong)])?;
    let now = Timestamp::now();
    // As it is written: a map would keep the last of two members of one name.
    let event = event_from_json(&Text::from(text), now, &Text::from_static(Event::DEFAULT_TENANT))?;
    let id = if event.id.is_empty() { uuid::Uuid::now_v7().to_string().into() } else { event.id };
    for (field, own) in [("id", &*id), ("time", &now.to_string())] {
        if fields.get(field).is_none_or(|value| value.get() == "null") {
            fields.insert(field.to_owned(), to_raw_value(own).expect("a text is always JSON"));
        }
    }
    let json = Text::from(serde_json::to_string(&fields).expect("members that were read are JSON"));
    Ok(Line { number, id, json, is_in_doubt: false })
}

/// Why a line is no event, for those who sent an array, or one object over several lines.
fn no_object(text: &str, wrong: serde_json::Error) -> FieldError {
    // The reading ended where no object began; whether it is JSON at all is seen without looking for one.
    let wrong = serde_json::from_str::<&RawValue>(text).err().unwrap_or(wrong);
    let message = match wrong.classify() {
        Category::Data if text.trim_start().starts_with('[') => {
            "is an array: write each event on a line of its own (`jq -c '.[]'` does it)".to_owned()
        }
        Category::Eof => "ends in the middle of the JSON: write each event whole on one line (`jq -c .` does it)".to_owned(),
        Category::Data => "is no JSON object: write {\"type\": \"...\", \"channel\": \"...\", \"data\": ...}".to_owned(),
        Category::Syntax | Category::Io => {
            let what = wrong.to_string();
            let what = what.split_once(" at line ").map_or(&*what, |(what, _)| what);
            format!("is no JSON: {what}, in column {}", wrong.column())
        }
    };
    FieldError::new(".", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_fields_and_gets_the_id_and_time_that_it_lacks() {
        let line = event(7, r#"{"type":"a","channel":"c","id":null,"data":{"n":1.000000000000000000001}}"#).expect("event");
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&line.json).expect("JSON");
        assert_eq!(fields["data"].get(), r#"{"n":1.000000000000000000001}"#);
        assert_eq!(fields["id"].get(), format!("\"{}\"", line.id));
        assert!(fields.contains_key("time"));

        let line = event(8, r#"{"id":"mine","time":"2026-01-01T00:00:00Z","type":"a","channel":"c","data":1}"#).expect("event");
        assert_eq!(line.id, "mine");
        assert!(line.json.contains("2026-01-01"));

        let cloud_event = event(9, r#"{"specversion":"1.0","id":"x","source":"/shop","type":"a"}"#).expect("a CloudEvent");
        assert_eq!(cloud_event.id, "x");
    }

    #[test]
    fn a_line_that_is_no_event_is_named_with_its_field_and_what_would_be_right() {
        let file = Input::File("events.ndjson".into());
        for (text, told) in [
            (r#"{"type":"a","channel":"c"}"#, r#"`data` is missing; write any JSON, such as {"n":1}"#),
            (r#"{"type":"","channel":"c","data":1}"#, r#"`type` is empty; write a text of 1 to 256 bytes, such as "order.created""#),
            (
                r#"{"id":1,"type":"a","channel":"c","data":1}"#,
                "`id` is wrong: invalid type: integer `1`, expected a text; write a text of 1 to 256 bytes",
            ),
            (
                r#"{"type":"a","channel":"c","data":1,"direction":"up"}"#,
                "`direction` is wrong: unknown variant `up`, expected one of `IN`, `OUT`, `INTERNAL`",
            ),
            (
                r#"{"type":"a","channel":"c","data":1,"time":"now"}"#,
                "`time` is `now`: write a date and time with its offset, as RFC 3339 has it: 2026-01-15T12:00:00Z",
            ),
            (r#"{"type":"a" "channel"}"#, "is no JSON: expected `,` or `}`, in column 13"),
            (r#"{"type":"a","#, "ends in the middle of the JSON: write each event whole on one line (`jq -c .` does it)"),
            (r#"[{"type":"a"}]"#, "is an array: write each event on a line of its own (`jq -c '.[]'` does it)"),
            (
                r#"{"type":"a","type":"b","channel":"c","data":1}"#,
                "`type` is wrong: duplicate field `type`; write a text of 1 to 256 bytes, such as \"order.created\"",
            ),
            (
                r#"{"type":"a","channel":"c","data":1,"direction":"x at line 3\u001b[2J\n"}"#,
                "`direction` is wrong: unknown variant `x at line 3\\u{1b}[2J\\n`, expected one of `IN`, `OUT`, `INTERNAL`",
            ),
            ("[api]", "is no JSON: expected value, in column 2"),
            ("7", r#"is no JSON object: write {"type": "...", "channel": "...", "data": ...}"#),
        ] {
            let Read::Refused(refusal) = line(3, text.as_bytes()) else { panic!("{text}") };
            assert_eq!(file.told(&refusal), format!("events.ndjson:3: {told}"));
        }
        let Read::Refused(refusal) = line(3, br#"{"type":"a\nb","data":1}"#) else { panic!("two mistakes") };
        let lines: Vec<String> = file.told(&refusal).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("events.ndjson:3: `type` has control") && lines[1].starts_with("events.ndjson:3: `channel` is missing")
        );
        let refusal = Refusal::new(1, vec![FieldError::new("tenant", "is not the tenant of the token")]);
        assert_eq!(
            Input::Stdin.told(&refusal),
            "standard input:1: `tenant` is not the tenant of the token; leave it out, or give a token of that tenant"
        );
        let Read::Refused(refusal) = line(3, b"{\xff") else { panic!("no UTF-8") };
        assert_eq!(Input::Stdin.told(&refusal), "standard input:3: is no UTF-8 from byte 2 on");
    }

    #[test]
    fn an_option_is_named_as_it_is_written() {
        for (kind, channel, data, option) in
            [("", "c", "1", "--type is empty"), ("t", "\n", "1", "--channel has"), ("t", "c", "{", "--data is")]
        {
            let said = repeat(kind, channel, data, 1, 0).expect_err(option).to_string();
            assert!(said.starts_with(option) && said.contains("; write "), "{said}");
        }
    }
}
