//! Filters: an expression of the Common Expression Language (CEL) over an event, beyond type, channel and direction.
//!
//! # Contract
//!
//! - [`Filter::compile`] tells what is wrong with its position: the grammar, names that are not there, calls that do not fit. What it accepts is
//!   bounded: [`MAX_SOURCE`] bytes, [`MAX_DEPTH`] levels, [`MAX_NODES`] operations, [`MAX_FOLDS`] loops.
//! - [`Filter::matches`] neither panics nor takes longer than [`MAX_STEPS`] steps nor makes more than [`MAX_BYTES`] bytes, whatever expression
//!   and event it is given; the same expression and event cost the same number of steps on every instance.
//! - What cannot be decided (too many steps, data that is not read) is told apart from what fails: a field that is not there is
//!   [`Undecided::Failed`], and whoever filters takes that for no match.
//!
//! # Variables
//!
//! `event.id`, `event.type`, `event.channel`, `event.tenant`, `event.priority` (texts), `event.direction`, `event.subject` (text or null),
//! `event.time` (timestamp), `event.data` (JSON). `has(event.subject)` and `has(event.data.order)` ask whether something is there.
//!
//! # Why the evaluation is our own
//!
//! Grammar and macros are those of the crate `cel`. Its interpreter has no budget and cannot be stopped: `["x"].map(a, a + a)` forty times
//! over takes all memory of the process, and two nested loops over a long list hold a thread for minutes. So the tree that it parses is turned into
//! ours (`tree`), checked on the way, and evaluated by steps (`evaluate`). The parser recurses with its input; it runs on a thread with a stack for
//! the deepest text that it can be given.
//!
//! Where JSON and CEL meet we are more lenient than the language: a number is a number (`5 * 1.5`), and unsigned ones are like others.

mod evaluate;
mod functions;
mod pattern;
#[cfg(test)]
mod tests;
mod tree;
mod value;

use std::{fmt, sync::Arc};

use serde::Serialize;
use utoipa::ToSchema;

use self::{evaluate::Evaluator, tree::Node};
use crate::model::{Event, FieldError};

/// The longest expression, bytes.
pub const MAX_SOURCE: usize = 2_048;
/// How deep brackets, and operations within operations, may nest.
pub const MAX_DEPTH: usize = 48;
/// Operations, names and literals of an expression.
pub const MAX_NODES: usize = 512;
/// `all`, `exists`, `exists_one`, `map` and `filter`.
pub const MAX_FOLDS: usize = 8;
/// Steps of one evaluation: a few milliseconds, with the worst of patterns some 20 ms.
pub const MAX_STEPS: u32 = 100_000;
/// Bytes of texts and lists that one evaluation may make.
pub const MAX_BYTES: usize = 1 << 20;
/// Data that is larger is not read: what looks at it stays undecided.
pub const MAX_DATA: usize = 256 << 10;

/// The stack of the parser's thread: it recurses with every operator of a chain, some kilobytes each in a build without optimisation.
const PARSER_STACK: usize = 64 << 20;

/// A compiled expression.
#[derive(Debug)]
pub struct Filter {
    root: Node,
    uses_data: bool,
}

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, thiserror::Error)]
pub struct FilterError {
    /// From 1.
    pub line: usize,
    /// Characters, from 1.
    pub column: usize,
    pub message: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "is wrong at line {}, column {}: {}", self.line, self.column, self.message)
    }
}

impl FilterError {
    fn at(line: usize, column: usize, message: impl Into<String>) -> FilterError {
        FilterError { line, column, message: message.into() }
    }

    /// As the error of a field of a document.
    pub fn of_field(&self, path: &str) -> FieldError {
        FieldError::new(path, self.to_string())
    }
}

/// Why an expression is neither true nor false of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// It asks for what is not there, or compares what cannot be compared.
    #[error("{0}")]
    Failed(String),
    /// It needs more steps or memory than an evaluation has.
    #[error("it needs more than {MAX_STEPS} steps or makes more than {MAX_BYTES} bytes")]
    TooSlow,
    /// It looks at data that is too large or too deep to be read.
    #[error("it looks at `event.data`, which {0}")]
    Unread(&'static str),
}

/// The data of an event, read at most once for all filters that look at it.
#[derive(Debug)]
pub enum Data {
    Json(serde_json::Value),
    Unread(&'static str),
}

impl Data {
    pub fn of(event: &Event) -> Data {
        if event.data.len() > MAX_DATA {
            return Data::Unread("has more than 256 KiB");
        }
        match serde_json::from_slice(&event.data) {
            Ok(value) => Data::Json(value),
            Err(_) => Data::Unread("nests too deep or is no JSON"),
        }
    }
}

impl Filter {
    /// Reads and checks an expression.
    pub fn compile(source: &str) -> Result<Filter, FilterError> {
        before_parsing(source)?;
        let text: Arc<str> = source.into();
        let parse = move || tree::parse(&text);
        let thread = std::thread::Builder::new().name("filter-parser".into()).stack_size(PARSER_STACK).spawn(parse);
        let parsed = thread.map(|thread| thread.join());
        let Ok(parsed) = parsed else { return Err(FilterError::at(1, 1, "cannot be read now: no thread can be made")) };
        // A panic of the parser is the expression's fault.
        let root = parsed.unwrap_or_else(|_| Err(FilterError::at(1, 1, "cannot be read")))?;
        let uses_data = root.uses_data();
        Ok(Filter { root, uses_data })
    }

    /// Whether it looks at `event.data` at all.
    pub fn uses_data(&self) -> bool {
        self.uses_data
    }

    /// Whether the expression holds of the event. `data` is the event's; it is not looked at unless [`Filter::uses_data`].
    pub fn matches(&self, event: &Event, data: &Data) -> Result<bool, Undecided> {
        Evaluator::new(event, data).decide(&self.root)
    }
}

/// What must hold before a recursive parser sees the text.
fn before_parsing(source: &str) -> Result<(), FilterError> {
    if source.len() > MAX_SOURCE {
        return Err(FilterError::at(1, 1, format!("it is longer than {MAX_SOURCE} bytes")));
    }
    if source.trim().is_empty() {
        return Err(FilterError::at(1, 1, "it is empty"));
    }
    let (mut line, mut column, mut depth, mut deepest) = (1, 0, 0_usize, None);
    let mut quote = None;
    let mut escaped = false;
    for letter in source.chars() {
        column += 1;
        if letter == '\n' {
            (line, column) = (line + 1, 0);
        } else if letter.is_control() && letter != '\t' && letter != '\r' {
            return Err(FilterError::at(line, column, "a control character"));
        }
        match (quote, letter) {
            (Some(_), _) if std::mem::take(&mut escaped) => {}
            (Some(_), '\\') => escaped = true,
            (Some(open), closing) if open == closing => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '(' | '[' | '{') => {
                depth += 1;
                if depth > MAX_DEPTH {
                    deepest.get_or_insert((line, column));
                }
            }
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    match deepest {
        Some((line, column)) => Err(FilterError::at(line, column, format!("brackets nest deeper than {MAX_DEPTH}"))),
        None => Ok(()),
    }
}
