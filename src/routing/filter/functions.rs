//! The functions that an expression can call.

use std::rc::Rc;

use jiff::{SignedDuration, tz::TimeZone};

use super::value::Value;
use crate::model::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Lower,
    Upper,
    Int,
    Double,
    Text,
    Bool,
    Timestamp,
    Duration,
    Dyn,
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// How a function is called: `f(a)`, `a.f(b)`, or both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Global,
    Member,
    Both,
}

/// Name, function, form, fewest and most operands (the one in front included).
const FUNCTIONS: &[(&str, Function, Call, usize, usize)] = &[
    ("size", Function::Size, Call::Both, 1, 1),
    ("contains", Function::Contains, Call::Member, 2, 2),
    ("startsWith", Function::StartsWith, Call::Member, 2, 2),
    ("endsWith", Function::EndsWith, Call::Member, 2, 2),
    ("lowerAscii", Function::Lower, Call::Member, 1, 1),
    ("upperAscii", Function::Upper, Call::Member, 1, 1),
    ("int", Function::Int, Call::Global, 1, 1),
    ("double", Function::Double, Call::Global, 1, 1),
    ("string", Function::Text, Call::Global, 1, 1),
    ("bool", Function::Bool, Call::Global, 1, 1),
    ("timestamp", Function::Timestamp, Call::Global, 1, 1),
    ("duration", Function::Duration, Call::Global, 1, 1),
    ("dyn", Function::Dyn, Call::Global, 1, 1),
    ("getFullYear", Function::FullYear, Call::Member, 1, 2),
    ("getMonth", Function::Month, Call::Member, 1, 2),
    ("getDate", Function::Date, Call::Member, 1, 2),
    ("getDayOfMonth", Function::DayOfMonth, Call::Member, 1, 2),
    ("getDayOfWeek", Function::DayOfWeek, Call::Member, 1, 2),
    ("getDayOfYear", Function::DayOfYear, Call::Member, 1, 2),
    ("getHours", Function::Hours, Call::Member, 1, 2),
    ("getMinutes", Function::Minutes, Call::Member, 1, 2),
    ("getSeconds", Function::Seconds, Call::Member, 1, 2),
    ("getMilliseconds", Function::Milliseconds, Call::Member, 1, 2),
];

impl Function {
    pub fn named(name: &str, member: bool) -> Option<Function> {
        let fits = |form: Call| form == Call::Both || (form == Call::Member) == member;
        FUNCTIONS.iter().find(|(known, _, form, ..)| *known == name && fits(*form)).map(|(_, function, ..)| *function)
    }

    pub fn takes(self, operands: usize) -> bool {
        FUNCTIONS.iter().any(|(_, function, _, fewest, most)| *function == self && (*fewest..=*most).contains(&operands))
    }

    pub fn names() -> String {
        let names =
            FUNCTIONS.iter().map(|(name, _, form, ..)| if *form == Call::Member { format!("`.{name}`") } else { format!("`{name}`") });
        names.chain([String::from("`.matches`")]).collect::<Vec<_>>().join(", ")
    }

    /// The value of a call; an error is told in words. How many bytes it made is the caller's to count.
    pub fn call<'a>(self, operands: &[Value<'a>]) -> Result<Value<'a>, String> {
        let Some(first) = operands.first() else { return Err("a call without operands".into()) };
        let second = operands.get(1);
        let texts = || {
            let both = first.text().zip(second.and_then(Value::text));
            both.ok_or_else(|| format!("`{self:?}` is asked of {} with {}", first.kind(), second.map_or("nothing", Value::kind)))
        };
        let unfit = |what: &str| Err(format!("{} is no {what}", first.kind()));
        Ok(match self {
            Function::Size => {
                let size = first.text().map(|text| text.chars().count()).or_else(|| first.items()).or_else(|| first.members());
                match size {
                    Some(size) => Value::Int(i64::try_from(size).unwrap_or(i64::MAX)),
                    None => return Err(format!("{} has no size", first.kind())),
                }
            }
            Function::Contains => texts().map(|(text, part)| Value::Bool(text.contains(part)))?,
            Function::StartsWith => texts().map(|(text, part)| Value::Bool(text.starts_with(part)))?,
            Function::EndsWith => texts().map(|(text, part)| Value::Bool(text.ends_with(part)))?,
            Function::Lower | Function::Upper => match first.text() {
                Some(text) if self == Function::Lower => Value::MadeText(text.to_ascii_lowercase().into()),
                Some(text) => Value::MadeText(text.to_ascii_uppercase().into()),
                None => return unfit("text"),
            },
            Function::Int => match first {
                Value::Int(value) => Value::Int(*value),
                Value::Double(value) if value.is_finite() && value.abs() < 9.2e18 => Value::Int(*value as i64),
                Value::Time(time) => Value::Int(time.as_second()),
                other => match other.text().and_then(|text| text.trim().parse().ok()) {
                    Some(value) => Value::Int(value),
                    None => return unfit("whole number"),
                },
            },
            Function::Double => match (first.number(), first.text().and_then(|text| text.trim().parse().ok())) {
                (Some(value), _) | (None, Some(value)) => Value::Double(value),
                (None, None) => return unfit("number"),
            },
            Function::Text => match first {
                Value::Text(_) | Value::MadeText(_) => first.clone(),
                Value::Bool(value) => made(value.to_string()),
                Value::Int(value) => made(value.to_string()),
                Value::Double(value) => made(value.to_string()),
                Value::Time(time) => made(time.to_string()),
                Value::Duration(duration) => made(format!("{}s", duration.as_secs_f64())),
                _ => return unfit("text"),
            },
            Function::Bool => match (first, first.text()) {
                (Value::Bool(value), _) => Value::Bool(*value),
                (_, Some("true")) => Value::Bool(true),
                (_, Some("false")) => Value::Bool(false),
                _ => return unfit("bool"),
            },
            Function::Timestamp => match (first, first.text().and_then(|text| text.parse::<Timestamp>().ok())) {
                (Value::Time(time), _) => Value::Time(*time),
                (_, Some(time)) => Value::Time(time),
                (Value::Int(seconds), None) => match Timestamp::from_second(*seconds) {
                    Ok(time) => Value::Time(time),
                    Err(_) => return unfit("timestamp"),
                },
                _ => return unfit("timestamp as in RFC 3339"),
            },
            Function::Duration => match (first, first.text().and_then(duration)) {
                (Value::Duration(duration), _) => Value::Duration(*duration),
                (_, Some(duration)) => Value::Duration(duration),
                _ => return unfit("duration such as `1h30m` or `2.5s`"),
            },
            Function::Dyn => first.clone(),
            Function::FullYear
            | Function::Month
            | Function::Date
            | Function::DayOfMonth
            | Function::DayOfWeek
            | Function::DayOfYear
            | Function::Hours
            | Function::Minutes
            | Function::Seconds
            | Function::Milliseconds => self.part(first, second)?,
        })
    }

    /// A part of a point in time (UTC, or the zone that is named), or the whole of a duration in that unit.
    fn part<'a>(self, of: &Value<'a>, zone: Option<&Value<'a>>) -> Result<Value<'a>, String> {
        let time = match of {
            Value::Time(time) => *time,
            Value::Duration(duration) => {
                return Ok(Value::Int(match self {
                    Function::Hours => duration.as_secs() / 3_600,
                    Function::Minutes => duration.as_secs() / 60,
                    Function::Seconds => duration.as_secs(),
                    Function::Milliseconds => i64::from(duration.subsec_millis()),
                    _ => return Err("a duration has no date".into()),
                }));
            }
            other => return Err(format!("{} is no timestamp", other.kind())),
        };
        let zone = match zone.map(|zone| zone.text().map(zone_named)) {
            None => TimeZone::UTC,
            Some(Some(Some(zone))) => zone,
            Some(_) => return Err("the time zone is not known: write an offset such as `-03:00`, or `UTC`".into()),
        };
        let local = zone.to_datetime(time);
        let date = local.date();
        Ok(Value::Int(match self {
            Function::FullYear => i64::from(date.year()),
            // Months, and days but for `getDate`, begin at 0: so says the language.
            Function::Month => i64::from(date.month()) - 1,
            Function::Date => i64::from(date.day()),
            Function::DayOfMonth => i64::from(date.day()) - 1,
            Function::DayOfWeek => i64::from(date.weekday().to_sunday_zero_offset()),
            Function::DayOfYear => i64::from(date.day_of_year()) - 1,
            Function::Hours => i64::from(local.hour()),
            Function::Minutes => i64::from(local.minute()),
            Function::Seconds => i64::from(local.second()),
            _ => i64::from(local.millisecond()),
        }))
    }
}

fn made<'a>(text: String) -> Value<'a> {
    Value::MadeText(Rc::from(text))
}

/// An offset such as `-03:00`, or UTC: the names of zones depend on what is installed where we run.
fn zone_named(name: &str) -> Option<TimeZone> {
    if matches!(name, "UTC" | "Z") {
        return Some(TimeZone::UTC);
    }
    let (sign, rest) = match name.as_bytes().first()? {
        b'-' => (-1, &name[1..]),
        b'+' => (1, &name[1..]),
        _ => (1, name),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (hours.parse::<u8>().ok().filter(|hours| *hours <= 23)?, minutes.parse::<u8>().ok().filter(|one| *one <= 59)?);
    let seconds = sign * (i32::from(hours) * 3_600 + i32::from(minutes) * 60);
    jiff::tz::Offset::from_seconds(seconds).ok().map(TimeZone::fixed)
}

/// As the language writes it: `1h30m`, `2.5s`, `-10ms`.
fn duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|letter: char| letter.is_ascii_digit() || letter == '.').map_or(rest.len(), |at| end + at);
        let unit = match &rest[end..unit_end] {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    SignedDuration::try_from_secs_f64(if negative { -seconds } else { seconds }).ok()
}
