//! A configuration being read: the file, the environment laid over it, and every problem found on the way.
//!
//! serde stops at the first thing that is wrong. So that a person sees all of them at once, a section is read again and again:
//! each time the offending value is noted and cut out, until what is left can be read. Every value carries its place: the span in
//! the file or, for those from the environment, a span behind the end of the file that stands for the variable.

use std::{borrow::Cow, collections::BTreeSet, ops::Range};

use serde::{Deserialize, de::DeserializeOwned};
use serde_path_to_error::Segment;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    print,
    problem::{Place, Problem, nearest},
};

type Node<'t> = Spanned<DeValue<'t>>;

pub struct Document<'t> {
    name: &'t str,
    text: &'t str,
    /// Names of the variables that were laid over the file; variable i has the span `text.len() + 1 + i`.
    variables: Vec<String>,
    root: DeTable<'t>,
    /// Sections that were read, kept for the places of their keys.
    read: DeTable<'t>,
    /// Lines that are no TOML: what was recovered from them is not judged a second time.
    broken: BTreeSet<usize>,
    /// Beginnings and names of keys whose value could not be read: a check sees their default, and what it says of that is of no use.
    unread: BTreeSet<(usize, String)>,
    problems: Vec<Problem>,
}

/// One element of an array of tables, such as `[[endpoint]]`.
pub struct Element<'t, T> {
    pub value: T,
    /// What problems call it: `endpoint(orders)` by its id, or `endpoint[3]` by its number.
    label: String,
    /// As it was read, for the places of its keys.
    node: Node<'t>,
}

impl<'t> Document<'t> {
    pub fn parse(name: &'t str, text: &'t str) -> Document<'t> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Document {
            name,
            text,
            variables: Vec::new(),
            root: root.into_inner(),
            read: DeTable::new(),
            broken: BTreeSet::new(),
            unread: BTreeSet::new(),
            problems: Vec::new(),
        };
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            document.broken.insert(document.line(span.start));
            document.report(&span, String::new(), format!("this is no TOML: {}", error.message()));
        }
        document
    }

    /// Lays the value of an environment variable over the key it names. Tables are merged key by key; everything else is replaced.
    pub fn overlay(&mut self, variable: &str, section: &str, key: &str, value: &'t str) {
        let place = self.text.len() + 1 + self.variables.len();
        self.variables.push(variable.to_owned());
        let place = place..place;
        let value = match environment_value(value) {
            Ok(value) => moved(value, &place),
            Err(problem) => return self.report(&place, format!("{section}.{key}"), problem),
        };
        let table = self
            .root
            .entry(Spanned::new(place.clone(), Cow::Owned(section.to_owned())))
            .or_insert_with(|| Spanned::new(place.clone(), DeValue::Table(DeTable::new())));
        // A section that is no table is reported when it is read.
        if let DeValue::Table(table) = table.get_mut() {
            merge(table, Spanned::new(place, Cow::Owned(key.to_owned())), value);
        }
    }

    /// Something wrong with the environment itself.
    pub fn report_variable(&mut self, variable: &str, what: String) {
        self.problems.push(Problem { place: Place::Environment(variable.to_owned()), key: String::new(), what });
    }

    /// The whole as plain values: the file with the environment over it.
    pub fn values(&self) -> toml::Table {
        let node = Spanned::new(0..0, DeValue::Table(self.root.clone()));
        toml::Table::deserialize(ValueDeserializer::from(node)).unwrap_or_default()
    }

    /// Reads a section; what cannot be read is reported and has its default. Then `check` judges the ranges and relations of its keys.
    pub fn section<T: DeserializeOwned + Default, K: AsRef<str>>(&mut self, name: &str, check: impl FnOnce(&T) -> Vec<(K, String)>) -> T {
        let value = match self.root.remove_entry(name) {
            // A list would be taken for the values of the keys, in their order.
            Some((header, node)) if node.get_ref().as_table().is_none() => {
                self.report(&header.span(), name.to_owned(), format!("is no table: write [{name}] once, and its keys below it"));
                T::default()
            }
            Some((header, node)) => {
                self.read.insert(header, node.clone());
                self.read(name, node).unwrap_or_default()
            }
            None => T::default(),
        };
        for (key, problem) in check(&value) {
            self.report_key(name, key.as_ref(), problem);
        }
        value
    }

    /// Whether the value of a key (`delivery.allow_networks`) could not be read, so that its default stands in its place.
    pub fn is_unread(&self, key: &str) -> bool {
        self.unread.iter().any(|(_, unread)| unread == key)
    }

    /// Reports something about a key of a section, if it could be read.
    pub fn report_key(&mut self, section: &str, key: &str, what: String) {
        let place = match self.read.get_key_value(section) {
            Some((header, node)) => find(node, key).unwrap_or_else(|| header.span()),
            None => usize::MAX..usize::MAX,
        };
        self.report_read(&place, format!("{section}.{key}"), what);
    }

    /// Reads an array of tables, element by element.
    pub fn elements<T: DeserializeOwned>(&mut self, name: &str) -> Vec<Element<'t, T>> {
        let Some((header, node)) = self.root.remove_entry(name) else { return Vec::new() };
        let span = header.span();
        let what = format!("is no list of tables: write [[{name}]] for each, and its keys below it");
        let elements = match node.into_inner() {
            DeValue::Array(elements) => elements,
            // Most likely meant as the only one.
            DeValue::Table(element) => {
                self.report(&span, name.to_owned(), what);
                std::iter::once(Spanned::new(span.clone(), DeValue::Table(element))).collect()
            }
            _ => {
                self.report(&span, name.to_owned(), what);
                return Vec::new();
            }
        };
        let mut read = Vec::new();
        for (index, element) in elements.into_iter().enumerate() {
            if element.get_ref().as_table().is_none() {
                self.report(&element.span(), format!("{name}[{index}]"), format!("is no table: write [[{name}]], and its keys below it"));
                continue;
            }
            let element = if element.span().is_empty() { Spanned::new(span.clone(), element.into_inner()) } else { element };
            let label = match element.get_ref().get("id").and_then(|id| id.get_ref().as_str()) {
                Some(id) => format!("{name}({id})"),
                None => format!("{name}[{index}]"),
            };
            if let Some(value) = self.read(&label, element.clone()) {
                read.push(Element { value, label, node: element });
            }
        }
        read
    }

    /// Reports something about a key of an element, if it could be read.
    pub fn report_element<T>(&mut self, element: &Element<'t, T>, key: &str, what: String) {
        let place = find(&element.node, key).unwrap_or_else(|| element.node.span());
        self.report_read(&place, format!("{}.{key}", element.label), what);
    }

    /// Reports every section that nobody has read: there is none of that name.
    pub fn finish(mut self, known: &[&str]) -> Vec<Problem> {
        for (name, _) in std::mem::take(&mut self.root) {
            let what = unknown("section", name.get_ref(), known);
            self.report(&name.span(), name.get_ref().to_string(), what);
        }
        let mut problems = self.problems;
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        problems.dedup();
        problems
    }

    fn read<T: DeserializeOwned>(&mut self, name: &str, mut node: Node<'t>) -> Option<T> {
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(ValueDeserializer::from(node.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let path: Vec<Step> = error.path().iter().map_while(step).collect();
            let span = span_of(&node, &path);
            // A number in the environment may be meant as text: `POSTHASTE_KAFKA__GROUP=7`.
            if span.start > self.text.len() && retry_as_text(&mut node, &path) {
                continue;
            }
            let keys: Vec<&str> = path.iter().filter_map(Step::key).collect();
            let key = std::iter::once(name).chain(keys.iter().copied()).collect::<Vec<_>>().join(".");
            // What stands there may be a secret that was written without quotes, and this goes into logs.
            let is_hidden = keys.iter().any(|key| print::is_secret(key) || *key == "headers");
            let message = if is_hidden { without_value(error.inner().message()) } else { Cow::Borrowed(error.inner().message()) };
            let message = &*message;
            let what = match at(&mut node, &path).and_then(|value| value.get_ref().as_str()) {
                // Some parsers do not say what they did not like.
                Some(text) if !message.contains(text) && !message.starts_with("unknown field") && !is_hidden => {
                    format!("`{text}`: {}", explain(message))
                }
                _ => explain(message),
            };
            self.unread.insert((span.start, key.clone()));
            self.report(&span, key, what);
            if !cut(&mut node, &path) {
                return None;
            }
        }
    }

    fn report_read(&mut self, span: &Range<usize>, key: String, what: String) {
        let of_key = (span.start, key);
        if !self.unread.contains(&of_key) {
            self.report(span, of_key.1, what);
        }
    }

    fn report(&mut self, span: &Range<usize>, key: String, what: String) {
        let place = match span.start {
            usize::MAX => Place::Default,
            start if start > self.text.len() => Place::Environment(self.variables[start - self.text.len() - 1].clone()),
            start => Place::File { name: self.name.to_owned(), line: self.line(start) },
        };
        let echo = matches!(&place, Place::File { line, .. } if self.broken.contains(line) && !key.is_empty());
        if !echo {
            self.problems.push(Problem { place, key, what });
        }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count()
    }
}

/// A step on the way to a value.
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn key(&self) -> Option<&str> {
        match self {
            Step::Key(key) => Some(key),
            Step::Index(_) => None,
        }
    }
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// The span of the value at `path`: of its key, if it is one of a table.
fn span_of(node: &Node<'_>, path: &[Step]) -> Range<usize> {
    let mut at = node;
    let mut span = node.span();
    for step in path {
        let next = match (step, at.get_ref()) {
            (Step::Key(key), DeValue::Table(table)) => table.get_key_value(key.as_str()).map(|(key, value)| (key.span(), value)),
            (Step::Index(index), DeValue::Array(array)) => array.get(*index).map(|value| (value.span(), value)),
            _ => None,
        };
        let Some((place, value)) = next else { return span };
        (span, at) = (place, value);
    }
    span
}

/// The place of a key, given as text (`delivery`, `auth.token`, `properties.linger.ms`), or of the nearest table above it that is there.
fn find(node: &Node<'_>, key: &str) -> Option<Range<usize>> {
    let DeValue::Table(table) = node.get_ref() else { return None };
    // A name may have dots in it.
    if let Some((name, _)) = table.get_key_value(key) {
        return Some(name.span());
    }
    let first = key.split(['.', '[']).next()?;
    let (name, value) = table.get_key_value(first)?;
    Some(find(value, key[first.len()..].trim_start_matches('.')).unwrap_or_else(|| name.span()))
}

fn at<'n, 't>(node: &'n mut Node<'t>, path: &[Step]) -> Option<&'n mut Node<'t>> {
    path.iter().try_fold(node, |node, step| match (step, node.get_mut()) {
        (Step::Key(key), DeValue::Table(table)) => table.get_mut(key.as_str()),
        (Step::Index(index), DeValue::Array(array)) => array.get_mut(*index),
        _ => None,
    })
}

/// Cuts the value at `path` out; false if that is the whole node.
fn cut(node: &mut Node<'_>, path: &[Step]) -> bool {
    let Some((last, above)) = path.split_last() else { return false };
    match (last, at(node, above).map(Spanned::get_mut)) {
        (Step::Key(key), Some(DeValue::Table(table))) => table.remove(key.as_str()).is_some(),
        (Step::Index(index), Some(DeValue::Array(array))) if *index < array.len() => {
            *array = array.clone().into_iter().enumerate().filter(|(other, _)| other != index).map(|(_, value)| value).collect();
            true
        }
        _ => false,
    }
}

/// Turns a number or a boolean at `path` into its text; false if it is none.
fn retry_as_text(node: &mut Node<'_>, path: &[Step]) -> bool {
    let Some(node) = at(node, path) else { return false };
    let text = match node.get_ref() {
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_) => return false,
    };
    *node.get_mut() = DeValue::String(Cow::Owned(text));
    true
}

/// The value of an environment variable: as in TOML where it looks like it (lists, tables, quoted text, numbers), and plain text otherwise.
fn environment_value(text: &str) -> Result<Node<'_>, String> {
    let trimmed = text.trim();
    match DeValue::parse(trimmed) {
        Ok(value) => Ok(value),
        Err(error) if trimmed.starts_with(['[', '{', '"', '\'']) => Err(format!(
            "the value is no TOML: {}; write a list as '[\"a\", \"b\"]' and a table as '{{ key = \"value\" }}'",
            error.message()
        )),
        Err(_) => Ok(Spanned::new(0..0, DeValue::String(Cow::Borrowed(text)))),
    }
}

/// The same value with every span at `place`.
fn moved<'t>(node: Node<'t>, place: &Range<usize>) -> Node<'t> {
    let value = match node.into_inner() {
        DeValue::Table(table) => DeValue::Table(
            table.into_iter().map(|(key, value)| (Spanned::new(place.clone(), key.into_inner()), moved(value, place))).collect(),
        ),
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|value| moved(value, place)).collect()),
        scalar => scalar,
    };
    Spanned::new(place.clone(), value)
}

fn merge<'t>(table: &mut DeTable<'t>, key: Spanned<Cow<'t, str>>, value: Node<'t>) {
    let span = value.span();
    match (table.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.into_inner()) {
        (Some(DeValue::Table(below)), DeValue::Table(above)) => {
            for (key, value) in above {
                merge(below, key, value);
            }
        }
        (_, value) => {
            table.remove(key.get_ref().as_ref());
            table.insert(key, Spanned::new(span, value));
        }
    }
}

/// `invalid type: integer `7`, expected a string` without the 7.
fn without_value(message: &str) -> Cow<'_, str> {
    match (message.split_once(": "), message.rsplit_once(", expected ")) {
        (Some((kind @ ("invalid type" | "invalid value"), _)), Some((_, expected))) => format!("{kind}, expected {expected}").into(),
        _ => message.into(),
    }
}

/// What serde says, in our words: with the nearest known word for an unknown one, and an example of what the type wants.
fn explain(message: &str) -> String {
    let message = message.trim_end();
    for (begin, noun) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        if let Some((word, expected)) = message.strip_prefix(begin).and_then(|rest| rest.split_once('`')) {
            let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
            return unknown(noun, word, &known);
        }
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("{field} is missing");
    }
    let whole = ["u8", "u16", "u32", "u64", "usize"].iter().any(|number| message.ends_with(&format!("expected {number}")));
    let example = match message {
        wrong if wrong.contains("expected a duration") => "; write a number and a unit as text, such as \"5s\", \"250ms\" or \"1h 30m\"",
        wrong if wrong.contains("expected parsable string") => "; write a size with a unit as text, such as \"16KiB\" or \"256MiB\"",
        wrong if wrong.contains("socket address") => "; write address and port as text, such as \"127.0.0.1:8080\"",
        wrong if wrong.contains("network address") || wrong.starts_with("invalid IP") => {
            "; write address and prefix as text, such as \"10.0.0.0/8\" or \"::1/128\""
        }
        wrong if wrong.contains(": sequence") || wrong.contains(": map") => "",
        wrong if wrong.contains("expected a string") || wrong.contains("expected path string") => "; write it in quotes",
        wrong if wrong.contains("expected a sequence") => "; write a list, such as [\"a\", \"b\"]",
        wrong if wrong.contains("expected a boolean") => "; write true or false",
        wrong if wrong.contains("expected an object") => "; write a table of keys",
        wrong if wrong.contains("expected f64") => "; write a number",
        wrong if wrong.contains("invalid value: integer") => " (out of range)",
        _ if whole => "; write a whole number",
        _ => "",
    };
    format!("{message}{example}")
}

fn unknown(noun: &str, word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(meant) => format!("unknown {noun} `{word}`; did you mean `{meant}`?"),
        None => format!("unknown {noun} `{word}`; known here: {}", known.join(", ")),
    }
}
