//! JSON text of one object, written member by member into the buffer that becomes the body.

use std::io::Write as _;

use bytes::Bytes;
use jiff::fmt::temporal::DateTimePrinter;
use serde_json::value::RawValue;

use crate::model::Timestamp;

/// Room for the envelope around the data, so that a body is one allocation in nearly all cases.
const ENVELOPE: usize = 384;

/// Prints as `Display` does, without its machinery.
static TIMES: DateTimePrinter = DateTimePrinter::new();

/// Names are ours and need no escaping, but for those of [`Object::copy`]; values are escaped. What is opened is closed by its writer.
pub(super) struct Object(Vec<u8>);

impl Object {
    /// For a body that holds `data`.
    pub fn new(data: &[u8]) -> Object {
        let mut text = Vec::with_capacity(data.len() + ENVELOPE);
        text.push(b'{');
        Object(text)
    }

    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.escaped(value);
    }

    /// `null` for none.
    pub fn text_or_null(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.null(name),
        }
    }

    pub fn null(&mut self, name: &str) {
        self.json(name, b"null");
    }

    pub fn flag(&mut self, name: &str, value: bool) {
        self.json(name, if value { b"true" } else { b"false" });
    }

    pub fn integer(&mut self, name: &str, value: i64) {
        self.name(name);
        write!(self.0, "{value}").expect("a Vec takes all bytes");
    }

    pub fn time(&mut self, name: &str, value: Timestamp) {
        self.name(name);
        self.0.push(b'"');
        TIMES.print_timestamp(&value, &mut self.0).expect("a Vec takes all bytes");
        self.0.push(b'"');
    }

    /// `value` is JSON text; without any it is `null`.
    pub fn json(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.0.extend_from_slice(if value.is_empty() { b"null" } else { value });
    }

    /// As [`Object::json`], if there is a value; otherwise there is no such member.
    pub fn json_if(&mut self, name: &str, value: Option<&RawValue>) {
        if let Some(value) = value {
            self.json(name, value.get().as_bytes());
        }
    }

    /// A member with a name that came from outside.
    pub fn copy(&mut self, name: &str, value: &RawValue) {
        self.separate();
        self.escaped(name);
        self.0.push(b':');
        self.0.extend_from_slice(value.get().as_bytes());
    }

    /// The members of `object`, JSON text, verbatim. False, and nothing is written, if it is no object.
    pub fn splice(&mut self, object: &[u8]) -> bool {
        let Some(members) = object.trim_ascii().strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")) else { return false };
        let members = members.trim_ascii();
        if !members.is_empty() {
            self.separate();
            self.0.extend_from_slice(members);
        }
        true
    }

    pub fn open(&mut self, name: &str) {
        self.name(name);
        self.0.push(b'{');
    }

    /// An object in the list that is open.
    pub fn open_item(&mut self) {
        self.separate();
        self.0.push(b'{');
    }

    pub fn close(&mut self) {
        self.0.push(b'}');
    }

    pub fn open_list(&mut self, name: &str) {
        self.name(name);
        self.0.push(b'[');
    }

    pub fn text_item(&mut self, value: &str) {
        self.separate();
        self.escaped(value);
    }

    /// `value` is JSON text.
    pub fn json_item(&mut self, value: &[u8]) {
        self.separate();
        self.0.extend_from_slice(value);
    }

    pub fn close_list(&mut self) {
        self.0.push(b']');
    }

    pub fn end(mut self) -> Bytes {
        self.close();
        self.0.into()
    }

    fn name(&mut self, name: &str) {
        self.separate();
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// No value ends with an opening bracket, so one at the end means that nothing has been written behind it.
    fn separate(&mut self) {
        if !matches!(self.0.last(), Some(b'{' | b'[')) {
            self.0.push(b',');
        }
    }

    fn escaped(&mut self, text: &str) {
        // Nearly all texts are names without anything to escape.
        if !text.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
            self.0.push(b'"');
            self.0.extend_from_slice(text.as_bytes());
            return self.0.push(b'"');
        }
        serde_json::to_writer(&mut self.0, text).expect("text is JSON, and a Vec takes it");
    }
}
