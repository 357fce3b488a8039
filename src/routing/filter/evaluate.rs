//! Evaluation by steps. Every node costs one, whatever is copied or compared costs what it is long; so nothing has to watch the clock.

use std::{cmp::Ordering, rc::Rc};

use super::{
    Data, MAX_BYTES, MAX_STEPS, Undecided,
    tree::{Field, Fold, Node, Operator},
    value::Value,
};
use crate::model::{Direction, Event, Priority};

/// Bytes of a made text or list that cost a step.
const BYTES_PER_STEP: usize = 64;

/// What an item of a list or a member of a map takes, roughly.
const ITEM: usize = 64;

pub struct Evaluator<'a> {
    event: &'a Event,
    data: &'a Data,
    steps: u32,
    bytes: usize,
    /// Variables of the loops around: for each its own and its accumulator.
    locals: Vec<Answer<'a>>,
}

type Answer<'a> = Result<Value<'a>, Undecided>;

fn failed<'a>(why: impl Into<String>) -> Answer<'a> {
    Err(Undecided::Failed(why.into()))
}

impl<'a> Evaluator<'a> {
    pub fn new(event: &'a Event, data: &'a Data) -> Evaluator<'a> {
        Evaluator { event, data, steps: 0, bytes: 0, locals: Vec::new() }
    }

    pub fn decide(mut self, root: &'a Node) -> Result<bool, Undecided> {
        match self.value(root)? {
            Value::Bool(value) => Ok(value),
            other => Err(Undecided::Failed(format!("it is {}, not true or false", other.kind()))),
        }
    }

    fn step(&mut self, steps: u32) -> Result<(), Undecided> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS { Err(Undecided::TooSlow) } else { Ok(()) }
    }

    fn make(&mut self, bytes: usize) -> Result<(), Undecided> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_BYTES {
            return Err(Undecided::TooSlow);
        }
        self.step(u32::try_from(bytes / BYTES_PER_STEP).unwrap_or(u32::MAX))
    }

    fn value(&mut self, node: &'a Node) -> Answer<'a> {
        self.step(1)?;
        match node {
            Node::Null => Ok(Value::Null),
            Node::Bool(value) => Ok(Value::Bool(*value)),
            Node::Int(value) => Ok(Value::Int(*value)),
            Node::Double(value) => Ok(Value::Double(*value)),
            Node::Text(text) => Ok(Value::Text(text)),
            Node::Field(field) => self.field(*field),
            Node::HasField(field) => Ok(Value::Bool(match field {
                Field::Subject => self.event.subject.is_some(),
                Field::Direction => self.event.direction.is_some(),
                _ => true,
            })),
            Node::Local(place) => self.locals[*place].clone(),
            Node::Select(of, name) => {
                let of = self.value(of)?;
                match of.member(name) {
                    Some(value) => Ok(value),
                    None if of.members().is_some() => failed(format!("there is no `{name}`")),
                    None => failed(format!("{} has no `{name}`", of.kind())),
                }
            }
            Node::Has(of, name) => {
                let of = self.value(of)?;
                match of.members() {
                    Some(_) => Ok(Value::Bool(of.member(name).is_some())),
                    None => failed(format!("{} has no `{name}`", of.kind())),
                }
            }
            Node::Not(of) => match self.value(of)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                other => failed(format!("`!` of {}", other.kind())),
            },
            Node::Negate(of) => match self.value(of)? {
                Value::Int(value) => value.checked_neg().map_or_else(overflow, |value| Ok(Value::Int(value))),
                Value::Double(value) => Ok(Value::Double(-value)),
                Value::Duration(value) => value.checked_neg().map_or_else(overflow, |value| Ok(Value::Duration(value))),
                other => failed(format!("`-` of {}", other.kind())),
            },
            Node::NotFalse(of) => match self.value(of) {
                Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
                Ok(_) | Err(Undecided::Failed(_)) => Ok(Value::Bool(true)),
                Err(cannot) => Err(cannot),
            },
            Node::And(two) => self.logic(&two[0], &two[1], false),
            Node::Or(two) => self.logic(&two[0], &two[1], true),
            Node::Choose(three) => match self.value(&three[0])? {
                Value::Bool(true) => self.value(&three[1]),
                Value::Bool(false) => self.value(&three[2]),
                other => failed(format!("{} decides nothing before `?`", other.kind())),
            },
            Node::Binary(Operator::Add, two) => self.add(&two[0], &two[1]),
            Node::Binary(operator, two) => {
                let (one, other) = (self.value(&two[0])?, self.value(&two[1])?);
                self.binary(*operator, &one, &other)
            }
            Node::List(nodes) => {
                self.make(nodes.len() * ITEM)?;
                let items = nodes.iter().map(|node| self.value(node)).collect::<Result<_, _>>()?;
                Ok(Value::MadeItems(Rc::new(items)))
            }
            Node::Map(entries) => {
                self.make(entries.len() * 2 * ITEM)?;
                let mut members = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    members.push((self.value(key)?, self.value(value)?));
                }
                Ok(Value::MadeMembers(Rc::new(members)))
            }
            Node::Call(function, nodes) => {
                let operands = nodes.iter().map(|node| self.value(node)).collect::<Result<Vec<_>, _>>()?;
                for operand in &operands {
                    self.step(operand.breadth())?;
                }
                let made = function.call(&operands).map_err(Undecided::Failed)?;
                if let Value::MadeText(text) = &made {
                    self.make(text.len())?;
                }
                Ok(made)
            }
            Node::Matches(of, pattern) => {
                let of = self.value(of)?;
                let Some(text) = of.text() else { return failed(format!("`matches` is asked of {}", of.kind())) };
                self.step(pattern.steps(text.len()))?;
                Ok(Value::Bool(pattern.is_in(text)))
            }
            Node::Fold(fold) => self.fold(fold),
        }
    }

    fn field(&self, field: Field) -> Answer<'a> {
        let event = self.event;
        Ok(match field {
            Field::Id => Value::Text(&event.id),
            Field::Type => Value::Text(&event.kind),
            Field::Channel => Value::Text(&event.channel),
            Field::Tenant => Value::Text(&event.tenant),
            Field::Time => Value::Time(event.time),
            Field::Subject => event.subject.as_deref().map_or(Value::Null, Value::Text),
            Field::Direction => event.direction.map_or(Value::Null, |direction| {
                Value::Text(match direction {
                    Direction::In => "IN",
                    Direction::Out => "OUT",
                    Direction::Internal => "INTERNAL",
                })
            }),
            Field::Priority => Value::Text(match event.priority {
                Priority::High => "high",
                Priority::Normal => "normal",
                Priority::Low => "low",
            }),
            Field::Data => match self.data {
                Data::Json(value) => Value::of(value),
                Data::Unread(why) => return Err(Undecided::Unread(why)),
            },
        })
    }

    /// `&&` and `||`: what decides, decides, on whichever side it stands and whatever fails on the other.
    fn logic(&mut self, one: &'a Node, other: &'a Node, decisive: bool) -> Answer<'a> {
        let first = match self.value(one) {
            Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
            Ok(Value::Bool(_)) => None,
            Ok(other) => Some(Undecided::Failed(format!("{} is neither true nor false", other.kind()))),
            Err(failed @ Undecided::Failed(_)) => Some(failed),
            Err(cannot) => return Err(cannot),
        };
        match (self.value(other)?, first) {
            (Value::Bool(value), _) if value == decisive => Ok(Value::Bool(decisive)),
            (_, Some(failed)) => Err(failed),
            (Value::Bool(value), None) => Ok(Value::Bool(value)),
            (other, None) => failed(format!("{} is neither true nor false", other.kind())),
        }
    }

    fn add(&mut self, one: &'a Node, other: &'a Node) -> Answer<'a> {
        // The accumulator of a loop is put together again by every round and looked at by nobody else: it is taken, not copied.
        let first = match one {
            Node::Local(place) if matches!(&self.locals[*place], Ok(Value::MadeItems(_))) && place % 2 == 1 => {
                self.step(1)?;
                std::mem::replace(&mut self.locals[*place], Ok(Value::Null))?
            }
            _ => self.value(one)?,
        };
        let second = self.value(other)?;
        match (first, second) {
            (Value::Int(one), Value::Int(other)) => one.checked_add(other).map_or_else(overflow, |sum| Ok(Value::Int(sum))),
            (Value::Time(time), Value::Duration(duration)) | (Value::Duration(duration), Value::Time(time)) => {
                time.checked_add(duration).map_or_else(|_| overflow(), |time| Ok(Value::Time(time)))
            }
            (Value::Duration(one), Value::Duration(other)) => one.checked_add(other).map_or_else(overflow, |sum| Ok(Value::Duration(sum))),
            (Value::MadeItems(mut items), second) if second.items().is_some() => {
                let added = second.rounds().unwrap_or_default();
                let copied = if Rc::strong_count(&items) == 1 { 0 } else { items.len() };
                self.make((added.len() + copied) * ITEM)?;
                Rc::make_mut(&mut items).extend(added);
                Ok(Value::MadeItems(items))
            }
            (first, second) => {
                if let (Some(one), Some(other)) = (first.number(), second.number()) {
                    return Ok(Value::Double(one + other));
                }
                if let (Some(one), Some(other)) = (first.text(), second.text()) {
                    self.make(one.len() + other.len())?;
                    return Ok(Value::MadeText([one, other].concat().into()));
                }
                if let (Some(one), Some(other)) = (first.items(), second.items()) {
                    self.make((one + other) * ITEM)?;
                    let mut items = first.rounds().unwrap_or_default();
                    items.extend(second.rounds().unwrap_or_default());
                    return Ok(Value::MadeItems(Rc::new(items)));
                }
                failed(format!("{} and {} cannot be added", first.kind(), second.kind()))
            }
        }
    }

    fn binary(&mut self, operator: Operator, one: &Value<'a>, other: &Value<'a>) -> Answer<'a> {
        match operator {
            Operator::Equal => self.equal(one, other).map(Value::Bool),
            Operator::NotEqual => self.equal(one, other).map(|equal| Value::Bool(!equal)),
            Operator::Less => self.order(one, other).map(|order| Value::Bool(order == Some(Ordering::Less))),
            Operator::LessOrEqual => self.order(one, other).map(|order| Value::Bool(order.is_some_and(Ordering::is_le))),
            Operator::Greater => self.order(one, other).map(|order| Value::Bool(order == Some(Ordering::Greater))),
            Operator::GreaterOrEqual => self.order(one, other).map(|order| Value::Bool(order.is_some_and(Ordering::is_ge))),
            Operator::In => self.contains(other, one).map(Value::Bool),
            Operator::Index => index(one, other),
            Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder => {
                arithmetic(operator, one, other)
            }
        }
    }

    /// None: neither is before the other (a number that is none).
    fn order(&mut self, one: &Value<'a>, other: &Value<'a>) -> Result<Option<Ordering>, Undecided> {
        self.step(one.breadth().min(other.breadth()))?;
        let numbers = one.number().zip(other.number());
        match (one.compare(other), numbers) {
            (Some(order), _) => Ok(Some(order)),
            (None, Some(_)) => Ok(None),
            (None, None) => Err(Undecided::Failed(format!("{} and {} cannot be compared", one.kind(), other.kind()))),
        }
    }

    /// Values of different kinds are not equal, which is no error.
    fn equal(&mut self, one: &Value<'a>, other: &Value<'a>) -> Result<bool, Undecided> {
        self.step(1 + one.breadth().min(other.breadth()))?;
        if let (Some(items), Some(others)) = (one.items(), other.items()) {
            if items != others {
                return Ok(false);
            }
            for at in 0..items {
                let (Some(one), Some(other)) = (one.item(at), other.item(at)) else { return Ok(false) };
                if !self.equal(&one, &other)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        if let (Some(members), Some(others)) = (one.members(), other.members()) {
            if members != others {
                return Ok(false);
            }
            for key in one.rounds().unwrap_or_default() {
                self.step(1)?;
                let (Ok(one), Ok(other)) = (index(one, &key), index(other, &key)) else { return Ok(false) };
                if !self.equal(&one, &other)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        Ok(match (one, other) {
            (Value::Null, Value::Null) => true,
            _ => one.compare(other) == Some(Ordering::Equal),
        })
    }

    fn contains(&mut self, container: &Value<'a>, item: &Value<'a>) -> Result<bool, Undecided> {
        if let Some(items) = container.items() {
            for at in 0..items {
                if let Some(candidate) = container.item(at)
                    && self.equal(&candidate, item)?
                {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        match container.members() {
            Some(_) => {
                self.step(container.breadth())?;
                Ok(index(container, item).is_ok())
            }
            None => Err(Undecided::Failed(format!("nothing is `in` {}", container.kind()))),
        }
    }

    fn fold(&mut self, fold: &'a Fold) -> Answer<'a> {
        let over = self.value(&fold.over)?;
        let begin = self.value(&fold.begin)?;
        self.step(over.breadth())?;
        let Some(rounds) = over.rounds() else { return failed(format!("{} has nothing to go over", over.kind())) };
        let place = self.locals.len();
        self.locals.push(Ok(Value::Null));
        self.locals.push(Ok(begin));
        let outcome = self.rounds(fold, rounds, place);
        self.locals.truncate(place);
        outcome
    }

    fn rounds(&mut self, fold: &'a Fold, rounds: Vec<Value<'a>>, place: usize) -> Answer<'a> {
        for item in rounds {
            if !matches!(self.value(&fold.go_on)?, Value::Bool(true)) {
                break;
            }
            self.locals[place] = Ok(item);
            // An error stays in the accumulator: a later round may decide without it.
            self.locals[place + 1] = match self.value(&fold.step) {
                Err(cannot @ (Undecided::TooSlow | Undecided::Unread(_))) => return Err(cannot),
                answer => answer,
            };
        }
        self.value(&fold.result)
    }
}

fn overflow<'a>() -> Answer<'a> {
    failed("the result is out of range")
}

fn index<'a>(container: &Value<'a>, key: &Value<'a>) -> Answer<'a> {
    if container.items().is_some() {
        let at = match key {
            Value::Int(at) => usize::try_from(*at).ok(),
            Value::Double(at) if at.fract() == 0.0 && *at >= 0.0 => Some(*at as usize),
            _ => None,
        };
        return at.and_then(|at| container.item(at)).map_or_else(|| failed("there is no such item"), Ok);
    }
    let found = match container {
        // Keys of JSON are texts.
        Value::Members(_) => key.text().and_then(|name| container.member(name)),
        Value::MadeMembers(members) => {
            let same = |known: &Value| known.compare(key) == Some(Ordering::Equal);
            members.iter().find(|(known, _)| same(known)).map(|(_, value)| value.clone())
        }
        _ => return failed(format!("{} has no `[…]`", container.kind())),
    };
    found.map_or_else(|| failed("there is no such member"), Ok)
}

fn arithmetic<'a>(operator: Operator, one: &Value<'a>, other: &Value<'a>) -> Answer<'a> {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => {
            if *other == 0 && matches!(operator, Operator::Divide | Operator::Remainder) {
                return failed("a division by zero");
            }
            let result = match operator {
                Operator::Subtract => one.checked_sub(*other),
                Operator::Multiply => one.checked_mul(*other),
                Operator::Divide => one.checked_div(*other),
                Operator::Remainder => one.checked_rem(*other),
                _ => None,
            };
            result.map_or_else(overflow, |value| Ok(Value::Int(value)))
        }
        (Value::Time(one), Value::Time(other)) if operator == Operator::Subtract => Ok(Value::Duration(one.duration_since(*other))),
        (Value::Time(time), Value::Duration(duration)) if operator == Operator::Subtract => {
            time.checked_sub(*duration).map_or_else(|_| overflow(), |time| Ok(Value::Time(time)))
        }
        (Value::Duration(one), Value::Duration(other)) if operator == Operator::Subtract => {
            one.checked_sub(*other).map_or_else(overflow, |duration| Ok(Value::Duration(duration)))
        }
        _ => match (one.number().zip(other.number()), operator) {
            (Some((one, other)), Operator::Subtract) => Ok(Value::Double(one - other)),
            (Some((one, other)), Operator::Multiply) => Ok(Value::Double(one * other)),
            (Some((one, other)), Operator::Divide) => Ok(Value::Double(one / other)),
            _ => failed(format!("there is no such operation of {} and {}", one.kind(), other.kind())),
        },
    }
}
