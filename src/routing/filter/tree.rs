//! From what the parser made of an expression to the tree that is evaluated: names become places, calls become functions, patterns are compiled,
//! and everything that has no meaning here is told with its position.

use std::sync::Arc;

use cel::{
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators},
    parser::Parser,
};

use super::{FilterError, MAX_DEPTH, MAX_FOLDS, MAX_NODES, functions::Function, pattern::Pattern};

#[derive(Debug)]
pub enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Arc<str>),
    Field(Field),
    /// Whether the event has it.
    HasField(Field),
    /// A variable of a loop, counted from the outermost.
    Local(usize),
    Select(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// False only for `false`: an error in one round of a loop does not end it.
    NotFalse(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Choose(Box<[Node; 3]>),
    Binary(Operator, Box<[Node; 2]>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Pattern),
    Fold(Box<Fold>),
}

/// What the macros over lists and maps expand to: a loop with a variable and an accumulator, which are the next two places.
#[derive(Debug)]
pub struct Fold {
    pub over: Node,
    pub begin: Node,
    pub go_on: Node,
    pub step: Node,
    pub result: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Id,
    Type,
    Channel,
    Direction,
    Time,
    Tenant,
    Subject,
    Priority,
    Data,
}

const FIELDS: &[(&str, Field)] = &[
    ("id", Field::Id),
    ("type", Field::Type),
    ("channel", Field::Channel),
    ("direction", Field::Direction),
    ("time", Field::Time),
    ("tenant", Field::Tenant),
    ("subject", Field::Subject),
    ("priority", Field::Priority),
    ("data", Field::Data),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Index,
}

const OPERATORS: &[(&str, Operator)] = &[
    (operators::ADD, Operator::Add),
    (operators::SUBSTRACT, Operator::Subtract),
    (operators::MULTIPLY, Operator::Multiply),
    (operators::DIVIDE, Operator::Divide),
    (operators::MODULO, Operator::Remainder),
    (operators::EQUALS, Operator::Equal),
    (operators::NOT_EQUALS, Operator::NotEqual),
    (operators::LESS, Operator::Less),
    (operators::LESS_EQUALS, Operator::LessOrEqual),
    (operators::GREATER, Operator::Greater),
    (operators::GREATER_EQUALS, Operator::GreaterOrEqual),
    (operators::IN, Operator::In),
    (operators::INDEX, Operator::Index),
];

/// Parses and checks; to be called on a thread with a large stack.
pub fn parse(source: &str) -> Result<Node, FilterError> {
    let (expression, info) = Parser::new().parse_with_source_info(source).map_err(|errors| {
        let Some(first) = errors.errors.first() else { return FilterError::at(1, 1, "cannot be read") };
        let (line, column) = first.pos;
        FilterError::at(usize::try_from(line).unwrap_or(1).max(1), usize::try_from(column).unwrap_or(1).max(1), clipped(&first.msg))
    })?;
    let mut builder = Builder { info: &info, names: Vec::new(), nodes: 0, folds: 0, depth: 0 };
    builder.node(&expression)
}

/// What the parser says can hold the whole text again.
fn clipped(text: &str) -> String {
    const MOST: usize = 200;
    text.chars().take(MOST).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

struct Builder<'a> {
    info: &'a SourceInfo,
    /// Variables of the loops around: for each its own and `@result`.
    names: Vec<String>,
    nodes: usize,
    folds: usize,
    depth: usize,
}

impl Builder<'_> {
    fn wrong<T>(&self, at: &IdedExpr, message: impl Into<String>) -> Result<T, FilterError> {
        let start = self.info.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let before: Vec<char> = self.info.source.chars().take(start).collect();
        let line = before.iter().filter(|letter| **letter == '\n').count() + 1;
        let column = before.iter().rev().take_while(|letter| **letter != '\n').count() + 1;
        Err(FilterError::at(line, column, message))
    }

    fn node(&mut self, expression: &IdedExpr) -> Result<Node, FilterError> {
        self.nodes += 1;
        self.depth += 1;
        if self.nodes > MAX_NODES {
            return self.wrong(expression, format!("it has more than {MAX_NODES} operations, names and literals"));
        }
        if self.depth > MAX_DEPTH {
            return self.wrong(expression, format!("operations nest deeper than {MAX_DEPTH}; brackets around parts of a long chain help"));
        }
        let node = match &expression.expr {
            Expr::Literal(literal) => self.literal(expression, literal)?,
            Expr::Ident(name) => self.name(expression, name)?,
            Expr::Select(select) => self.select(expression, select)?,
            Expr::Call(call) => self.call(expression, call)?,
            Expr::List(list) => Node::List(self.all(&list.elements)?),
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return self.wrong(expression, "messages have no meaning here") };
                    entries.push((self.node(&entry.key)?, self.node(&entry.value)?));
                }
                Node::Map(entries)
            }
            Expr::Comprehension(comprehension) => self.fold(expression, comprehension)?,
            Expr::Struct(_) => return self.wrong(expression, "messages have no meaning here"),
            Expr::Unspecified => return self.wrong(expression, "something is missing"),
        };
        self.depth -= 1;
        Ok(node)
    }

    fn all(&mut self, expressions: &[IdedExpr]) -> Result<Vec<Node>, FilterError> {
        expressions.iter().map(|expression| self.node(expression)).collect()
    }

    fn boxed(&mut self, expression: &IdedExpr) -> Result<Box<Node>, FilterError> {
        self.node(expression).map(Box::new)
    }

    fn literal(&self, at: &IdedExpr, literal: &LiteralValue) -> Result<Node, FilterError> {
        Ok(match literal {
            LiteralValue::Boolean(value) => Node::Bool(*value.inner()),
            LiteralValue::Int(value) => Node::Int(*value.inner()),
            LiteralValue::UInt(value) => match i64::try_from(*value.inner()) {
                Ok(value) => Node::Int(value),
                Err(_) => return self.wrong(at, "the number is too large"),
            },
            LiteralValue::Double(value) => Node::Double(*value.inner()),
            LiteralValue::String(value) => Node::Text(value.inner().into()),
            LiteralValue::Null => Node::Null,
            LiteralValue::Bytes(_) => return self.wrong(at, "bytes have no meaning here: write a text"),
        })
    }

    fn name(&self, at: &IdedExpr, name: &str) -> Result<Node, FilterError> {
        if let Some(place) = self.names.iter().rposition(|known| known == name) {
            return Ok(Node::Local(place));
        }
        match name {
            "event" => self.wrong(at, format!("`event` stands for nothing alone: name one of its fields, {}", field_names())),
            _ => self.wrong(at, format!("there is no variable `{}`: everything is under `event`", clipped(name))),
        }
    }

    fn select(&mut self, at: &IdedExpr, select: &SelectExpr) -> Result<Node, FilterError> {
        if matches!(&select.operand.expr, Expr::Ident(name) if name == "event") {
            let Some((_, field)) = FIELDS.iter().find(|(name, _)| *name == select.field) else {
                return self.wrong(at, format!("there is no `event.{}`: there are {}", clipped(&select.field), field_names()));
            };
            return Ok(if select.test { Node::HasField(*field) } else { Node::Field(*field) });
        }
        let (of, name) = (self.boxed(&select.operand)?, select.field.as_str().into());
        Ok(if select.test { Node::Has(of, name) } else { Node::Select(of, name) })
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr) -> Result<Node, FilterError> {
        let name = call.func_name.as_str();
        if call.target.is_none() {
            match (name, call.args.as_slice()) {
                (operators::LOGICAL_AND, [left, right]) => return Ok(Node::And(Box::new([self.node(left)?, self.node(right)?]))),
                (operators::LOGICAL_OR, [left, right]) => return Ok(Node::Or(Box::new([self.node(left)?, self.node(right)?]))),
                (operators::CONDITIONAL, [condition, yes, no]) => {
                    return Ok(Node::Choose(Box::new([self.node(condition)?, self.node(yes)?, self.node(no)?])));
                }
                (operators::LOGICAL_NOT, [operand]) => return Ok(Node::Not(self.boxed(operand)?)),
                (operators::NEGATE, [operand]) => return Ok(Node::Negate(self.boxed(operand)?)),
                (operators::NOT_STRICTLY_FALSE, [operand]) => return Ok(Node::NotFalse(self.boxed(operand)?)),
                (_, [left, right]) => {
                    if let Some((_, operator)) = OPERATORS.iter().find(|(known, _)| *known == name) {
                        return Ok(Node::Binary(*operator, Box::new([self.node(left)?, self.node(right)?])));
                    }
                }
                _ => {}
            }
        }
        // `text.startsWith(a)` is the function with the text in front.
        let operands: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        if name == "matches" {
            let [text, pattern] = operands.as_slice() else { return self.wrong(at, "`matches` is called as `text.matches('pattern')`") };
            let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
                return self.wrong(at, "the pattern of `matches` must be written out as a text");
            };
            return match Pattern::compile(pattern.inner()) {
                Ok(pattern) => Ok(Node::Matches(self.boxed(text)?, pattern)),
                Err(error) => self.wrong(at, format!("the pattern is wrong: {}", clipped(&error))),
            };
        }
        let Some(function) = Function::named(name, call.target.is_some()) else {
            return self.wrong(at, format!("there is no function `{}` that is called so: there are {}", clipped(name), Function::names()));
        };
        if !function.takes(operands.len()) {
            return self.wrong(at, format!("`{}` does not take so many arguments", clipped(name)));
        }
        let operands = operands.into_iter().map(|operand| self.node(operand)).collect::<Result<_, _>>()?;
        Ok(Node::Call(function, operands))
    }

    fn fold(&mut self, at: &IdedExpr, comprehension: &ComprehensionExpr) -> Result<Node, FilterError> {
        self.folds += 1;
        if self.folds > MAX_FOLDS {
            return self.wrong(at, format!("it has more than {MAX_FOLDS} loops (all, exists, exists_one, map, filter)"));
        }
        if comprehension.iter_var == "event" {
            return self.wrong(at, "the variable of a loop cannot be called `event`");
        }
        let over = self.node(&comprehension.iter_range)?;
        let begin = self.node(&comprehension.accu_init)?;
        self.names.push(comprehension.iter_var.clone());
        self.names.push(comprehension.accu_var.clone());
        let (go_on, step) = (self.node(&comprehension.loop_cond)?, self.node(&comprehension.loop_step)?);
        let result = self.node(&comprehension.result)?;
        self.names.truncate(self.names.len() - 2);
        Ok(Node::Fold(Box::new(Fold { over, begin, go_on, step, result })))
    }
}

fn field_names() -> String {
    FIELDS.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl Node {
    pub fn uses_data(&self) -> bool {
        let any = |nodes: &[Node]| nodes.iter().any(Node::uses_data);
        match self {
            Node::Field(field) | Node::HasField(field) => *field == Field::Data,
            Node::Null | Node::Bool(_) | Node::Int(_) | Node::Double(_) | Node::Text(_) | Node::Local(_) => false,
            Node::Select(of, _) | Node::Has(of, _) | Node::Not(of) | Node::Negate(of) | Node::NotFalse(of) | Node::Matches(of, _) => {
                of.uses_data()
            }
            Node::And(two) | Node::Or(two) | Node::Binary(_, two) => any(&two[..]),
            Node::Choose(three) => any(&three[..]),
            Node::List(nodes) | Node::Call(_, nodes) => any(nodes),
            Node::Map(entries) => entries.iter().any(|(key, value)| key.uses_data() || value.uses_data()),
            Node::Fold(fold) => [&fold.over, &fold.begin, &fold.go_on, &fold.step, &fold.result].into_iter().any(Node::uses_data),
        }
    }
}
