//! Runs a parsed template. Work is counted: each node, each evaluation and each byte made costs one unit of a fixed budget, and calls
//! nest only so deep. What Go does in reflection is here a match over few types.

use super::format::{self, Printed};
use super::parse::{Control, Node, Operand, Pipeline, Term, Tree};
use super::value::Value;
use super::{Fault, MAX_OUTPUT, TemplateContext};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Units of work for one rendering; an ordinary query needs some hundreds.
const MAX_WORK: usize = 4_000_000;
/// How deep control structures, parentheses and `{{template}}` calls may nest while running.
const MAX_DEPTH: usize = 100;

/// The functions of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Name,
    Namespace,
    Target,
    Service,
    Ingress,
    Route,
    Interval,
    Variables,
    And,
    Call,
    Html,
    Index,
    Slice,
    Js,
    Len,
    Not,
    Or,
    Print,
    Printf,
    Println,
    UrlQuery,
    Eq,
    Ge,
    Gt,
    Le,
    Lt,
    Ne,
}

/// Name, function, least and most number of arguments.
pub(super) const FUNCTIONS: [(&str, Function, usize, usize); 27] = [
    ("name", Function::Name, 0, 0),
    ("namespace", Function::Namespace, 0, 0),
    ("target", Function::Target, 0, 0),
    ("service", Function::Service, 0, 0),
    ("ingress", Function::Ingress, 0, 0),
    ("route", Function::Route, 0, 0),
    ("interval", Function::Interval, 0, 0),
    ("variables", Function::Variables, 0, 0),
    ("and", Function::And, 1, usize::MAX),
    ("call", Function::Call, 1, usize::MAX),
    ("html", Function::Html, 0, usize::MAX),
    ("index", Function::Index, 1, usize::MAX),
    ("slice", Function::Slice, 1, 4),
    ("js", Function::Js, 0, usize::MAX),
    ("len", Function::Len, 1, 1),
    ("not", Function::Not, 1, 1),
    ("or", Function::Or, 1, usize::MAX),
    ("print", Function::Print, 0, usize::MAX),
    ("printf", Function::Printf, 1, usize::MAX),
    ("println", Function::Println, 0, usize::MAX),
    ("urlquery", Function::UrlQuery, 0, usize::MAX),
    ("eq", Function::Eq, 2, usize::MAX),
    ("ge", Function::Ge, 2, 2),
    ("gt", Function::Gt, 2, 2),
    ("le", Function::Le, 2, 2),
    ("lt", Function::Lt, 2, 2),
    ("ne", Function::Ne, 2, 2),
];

impl Function {
    fn row(self) -> (&'static str, usize, usize) {
        FUNCTIONS
            .iter()
            .find(|(_, function, ..)| *function == self)
            .map_or(("", 0, usize::MAX), |(name, _, least, most)| {
                (*name, *least, *most)
            })
    }
}

/// Runs `tree` with the facts as the dot; with nil where there are none.
pub(super) fn execute(
    tree: &Tree,
    context: &TemplateContext,
    facts: Option<&BTreeMap<String, String>>,
) -> Result<String, Fault> {
    let dot = facts.map_or(Value::Nil, |facts| Value::Map(Rc::new(facts.clone())));
    let mut machine = Machine {
        tree,
        context,
        variables: Value::Map(Rc::new(context.variables.clone())),
        output: String::new(),
        scope: vec![("$".to_owned(), dot.clone())],
        work: 0,
        depth: 0,
        facts: facts.is_some(),
    };
    machine.list(&dot, &tree.root)?;
    Ok(machine.output)
}

/// What comes after a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Machine<'a> {
    tree: &'a Tree,
    context: &'a TemplateContext,
    variables: Value,
    output: String,
    scope: Vec<(String, Value)>,
    work: usize,
    depth: usize,
    /// Whether maps hold facts of an alert rather than a metric's variables.
    facts: bool,
}

impl Machine<'_> {
    fn charge(&mut self, at: usize, units: usize) -> Result<(), Fault> {
        self.work = self.work.saturating_add(units);
        if self.work > MAX_WORK {
            return Err(Fault::new(
                at,
                "the template takes too much work; is there a loop or a template that calls itself?",
            ));
        }
        Ok(())
    }

    fn deeper<T>(
        &mut self,
        at: usize,
        inside: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.charge(at, 1)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::new(
                at,
                format!("calls nest deeper than {MAX_DEPTH} levels; does a template call itself?"),
            ));
        }
        let result = inside(self);
        self.depth -= 1;
        result
    }

    fn write(&mut self, at: usize, text: &str) -> Result<(), Fault> {
        self.charge(at, text.len())?;
        if self.output.len() + text.len() > MAX_OUTPUT {
            return Err(Fault::new(
                at,
                format!("the query becomes longer than {MAX_OUTPUT} bytes"),
            ));
        }
        self.output.push_str(text);
        Ok(())
    }

    fn list(&mut self, dot: &Value, nodes: &[Node]) -> Result<Flow, Fault> {
        for node in nodes {
            let flow = self.node(dot, node)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, dot: &Value, node: &Node) -> Result<Flow, Fault> {
        match node {
            Node::Text { at, text } => self.write(*at, text)?,
            Node::Action(pipeline) => {
                let value = self.pipeline(dot, pipeline)?;
                if pipeline.variables.is_empty() {
                    let text = if value == Value::Nil {
                        "<no value>".to_owned()
                    } else {
                        format::display(&value)
                    };
                    self.write(pipeline.at, &text)?;
                }
            }
            Node::If(control) => return self.choice(dot, control, false),
            Node::With(control) => return self.choice(dot, control, true),
            Node::Range(control) => return self.range(dot, control),
            Node::Template { at, name, pipeline } => {
                self.call_template(dot, *at, name, pipeline.as_ref())?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn choice(&mut self, dot: &Value, control: &Control, with: bool) -> Result<Flow, Fault> {
        let mark = self.scope.len();
        let flow = self.deeper(control.pipeline.at, |machine| {
            let value = machine.pipeline(dot, &control.pipeline)?;
            if value.truth() {
                machine.list(if with { &value } else { dot }, &control.body)
            } else {
                machine.list(dot, &control.otherwise)
            }
        });
        self.scope.truncate(mark);
        flow
    }

    fn range(&mut self, dot: &Value, control: &Control) -> Result<Flow, Fault> {
        let mark = self.scope.len();
        let at = control.pipeline.at;
        let flow = self.deeper(at, |machine| {
            let over = machine.pipeline(dot, &control.pipeline)?;
            match &over {
                Value::Map(map) if !map.is_empty() => {
                    for (key, value) in map.iter() {
                        let (key, value) = (Value::text(key), Value::text(value));
                        if !machine.iteration(control, key, &value)? {
                            break;
                        }
                    }
                }
                Value::Int(_) | Value::Byte(_) => {
                    if control.pipeline.variables.len() > 1 {
                        return Err(Fault::new(
                            at,
                            "a range over a number has one variable, not two",
                        ));
                    }
                    let count = over.integer().unwrap_or_default();
                    if count <= 0 {
                        return machine.list(dot, &control.otherwise);
                    }
                    let mut next = 0;
                    while next < count
                        && machine.iteration(control, Value::Nil, &Value::Int(next))?
                    {
                        next += 1;
                    }
                }
                Value::Nil | Value::Map(_) => return machine.list(dot, &control.otherwise),
                other => {
                    return Err(Fault::new(
                        at,
                        format!(
                            "can't range over {} of type {}; expected variables or a number",
                            format::display(other),
                            other.type_name()
                        ),
                    ));
                }
            }
            Ok(Flow::On)
        });
        self.scope.truncate(mark);
        flow
    }

    /// One round of a range; false after `{{break}}`.
    fn iteration(&mut self, control: &Control, key: Value, value: &Value) -> Result<bool, Fault> {
        let pipeline = &control.pipeline;
        self.charge(pipeline.at, 1)?;
        let names = &pipeline.variables;
        if let Some(name) = names.last() {
            self.assign(name, value.clone());
        }
        if names.len() > 1 {
            self.assign(&names[0], key);
        }
        let mark = self.scope.len();
        let flow = self.list(value, &control.body)?;
        self.scope.truncate(mark);
        Ok(flow != Flow::Break)
    }

    fn assign(&mut self, name: &str, value: Value) {
        if let Some(slot) = self.scope.iter_mut().rev().find(|(known, _)| known == name) {
            slot.1 = value;
        }
    }

    fn call_template(
        &mut self,
        dot: &Value,
        at: usize,
        name: &str,
        pipeline: Option<&Pipeline>,
    ) -> Result<(), Fault> {
        let tree = self.tree;
        let Some(body) = tree.templates.get(name) else {
            let known: Vec<&str> = tree.templates.keys().map(String::as_str).collect();
            return Err(Fault::new(
                at,
                format!(
                    "the template {name:?} is not defined; defined are: {}",
                    if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    }
                ),
            ));
        };
        self.deeper(at, |machine| {
            let dot = match pipeline {
                Some(pipeline) => machine.pipeline(dot, pipeline)?,
                None => Value::Nil,
            };
            let scope = std::mem::replace(&mut machine.scope, vec![("$".to_owned(), dot.clone())]);
            machine.list(&dot, body)?;
            machine.scope = scope;
            Ok(())
        })
    }

    fn pipeline(&mut self, dot: &Value, pipeline: &Pipeline) -> Result<Value, Fault> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(dot, command, value)?);
        }
        let value = value.unwrap_or(Value::Nil);
        for name in &pipeline.variables {
            if pipeline.assigns {
                self.assign(name, value.clone());
            } else {
                self.scope.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    fn command(
        &mut self,
        dot: &Value,
        command: &[Operand],
        piped: Option<Value>,
    ) -> Result<Value, Fault> {
        let Some((first, arguments)) = command.split_first() else {
            return Ok(Value::Nil);
        };
        if let Term::Function(function) = first.term {
            return self.call(dot, first.at, function, arguments, piped);
        }
        if !arguments.is_empty() || piped.is_some() {
            return Err(Fault::new(
                first.at,
                "can't give arguments to something that is not a function",
            ));
        }
        if matches!(first.term, Term::Nil) {
            return Err(Fault::new(first.at, "nil is not a command"));
        }
        self.operand(dot, first)
    }

    fn operand(&mut self, dot: &Value, operand: &Operand) -> Result<Value, Fault> {
        self.charge(operand.at, 1)?;
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Nil => Ok(Value::Nil),
            Term::Bool(value) => Ok(Value::Bool(*value)),
            Term::Int(value) => Ok(Value::Int(*value)),
            Term::Float(value) => Ok(Value::Float(*value)),
            Term::Text(text) => {
                self.charge(operand.at, text.len())?;
                Ok(Value::text(text))
            }
            Term::Function(function) => self.call(dot, operand.at, *function, &[], None),
            Term::Field(fields) => self.fields(operand.at, dot.clone(), fields),
            Term::Variable(name, fields) => {
                let value = self
                    .scope
                    .iter()
                    .rev()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone())
                    .ok_or_else(|| {
                        Fault::new(operand.at, format!("the variable {name} is not declared"))
                    })?;
                self.fields(operand.at, value, fields)
            }
            Term::Parenthesis(pipeline) => {
                self.deeper(operand.at, |machine| machine.pipeline(dot, pipeline))
            }
            Term::Chain(base, fields) => {
                let value = self.operand(dot, base)?;
                self.fields(operand.at, value, fields)
            }
        }
    }

    fn fields(&self, at: usize, base: Value, fields: &[String]) -> Result<Value, Fault> {
        let mut value = base;
        for field in fields {
            value = match &value {
                Value::Map(map) => match map.get(field) {
                    Some(found) => Value::text(found),
                    None if self.facts => return Err(Fault::new(at, no_fact(field, map.keys()))),
                    None => return Err(Fault::new(at, missing(field, map.keys()))),
                },
                Value::Nil => {
                    let hint = if FUNCTIONS[..8].iter().any(|(name, ..)| name == field) {
                        format!("write {{{{ {field} }}}} without the dot")
                    } else {
                        format!("a variable is {{{{ variables.{field} }}}}")
                    };
                    return Err(Fault::new(
                        at,
                        format!("no data for .{field}: the values are functions; {hint}"),
                    ));
                }
                other => {
                    return Err(Fault::new(
                        at,
                        format!("can't take .{field} of a {}", other.type_name()),
                    ));
                }
            };
        }
        Ok(value)
    }

    fn call(
        &mut self,
        dot: &Value,
        at: usize,
        function: Function,
        operands: &[Operand],
        piped: Option<Value>,
    ) -> Result<Value, Fault> {
        self.charge(at, 1)?;
        let (name, least, most) = function.row();
        let given = operands.len() + usize::from(piped.is_some());
        if given < least || given > most {
            let expected = if least == most {
                least.to_string()
            } else if most == usize::MAX {
                format!("at least {least}")
            } else {
                format!("{least} to {most}")
            };
            return Err(Fault::new(
                at,
                format!("wrong number of arguments for {name}: expected {expected}, found {given}"),
            ));
        }
        // `and` and `or` stop at the first argument that decides, and don't look at the rest.
        let stops_at = match function {
            Function::And => Some(false),
            Function::Or => Some(true),
            _ => None,
        };
        let mut arguments = Vec::with_capacity(given);
        for operand in operands {
            let value = self.operand(dot, operand)?;
            if stops_at == Some(value.truth()) {
                return Ok(value);
            }
            arguments.push(value);
        }
        arguments.extend(piped);
        let value = self
            .apply(function, arguments)
            .map_err(|problem| Fault::new(at, format!("{name}: {problem}")))?;
        if let Value::Text(text) = &value {
            self.charge(at, text.len())?;
        }
        Ok(value)
    }

    /// Applies a function; the number of arguments is already checked.
    fn apply(&self, function: Function, mut arguments: Vec<Value>) -> Result<Value, String> {
        let context = self.context;
        let text = |text: &str| Ok(Value::text(text));
        match function {
            Function::Name => text(&context.name),
            Function::Namespace => text(&context.namespace),
            Function::Target => text(&context.target),
            Function::Service => text(&context.service),
            Function::Ingress => text(&context.ingress),
            Function::Route => text(&context.route),
            Function::Interval => text(&context.interval),
            Function::Variables => Ok(self.variables.clone()),
            Function::And | Function::Or => Ok(arguments.pop().unwrap_or(Value::Nil)),
            Function::Call => Err(format!(
                "expected a function value, found {}; there are none here",
                arguments[0].type_name()
            )),
            Function::Html => bounded(format::html(&format::print(&arguments, Printed::Escaped))),
            Function::Js => bounded(format::js(&format::print(&arguments, Printed::Escaped))),
            Function::UrlQuery => bounded(format::url_query(&format::print(
                &arguments,
                Printed::Escaped,
            ))),
            Function::Print => bounded(format::print(&arguments, Printed::Plain)),
            Function::Println => bounded(format::print(&arguments, Printed::Line)),
            Function::Printf => match &arguments[0] {
                Value::Text(pattern) => bounded(format::printf(pattern, &arguments[1..])?),
                other => Err(format!(
                    "expected a format string first, found {}",
                    other.type_name()
                )),
            },
            Function::Not => Ok(Value::Bool(!arguments[0].truth())),
            Function::Len => match &arguments[0] {
                Value::Text(text) => Ok(Value::Int(i64::try_from(text.len()).unwrap_or(i64::MAX))),
                Value::Map(map) => Ok(Value::Int(i64::try_from(map.len()).unwrap_or(i64::MAX))),
                other => Err(format!(
                    "expected a string or a map, found {}",
                    other.type_name()
                )),
            },
            Function::Index => index(&arguments),
            Function::Slice => slice(&arguments),
            Function::Eq => equal(&arguments).map(Value::Bool),
            Function::Ne => equal(&arguments).map(|equal| Value::Bool(!equal)),
            Function::Lt => order(&arguments).map(|order| Value::Bool(order.is_lt())),
            Function::Le => order(&arguments).map(|order| Value::Bool(order.is_le())),
            Function::Gt => order(&arguments).map(|order| Value::Bool(order.is_gt())),
            Function::Ge => order(&arguments).map(|order| Value::Bool(order.is_ge())),
        }
    }
}

fn no_fact<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<String> = known.map(|name| format!(".{name}")).collect();
    format!("there is no .{key} here; there are {}", known.join(", "))
}

fn missing<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).take(20).collect();
    if known.is_empty() {
        format!(
            "the variable {key:?} is not set and templateVariables is empty; set it in the metric's templateVariables"
        )
    } else {
        format!(
            "the variable {key:?} is not set; templateVariables has {}",
            known.join(", ")
        )
    }
}

fn bounded(text: String) -> Result<Value, String> {
    if text.len() > MAX_OUTPUT {
        return Err(format!("the text becomes longer than {MAX_OUTPUT} bytes"));
    }
    Ok(Value::Text(Rc::from(text)))
}

fn position(value: &Value, limit: usize) -> Result<usize, String> {
    let Some(number) = value.integer() else {
        return Err(format!("expected a number, found {}", value.type_name()));
    };
    usize::try_from(number)
        .ok()
        .filter(|position| *position <= limit)
        .ok_or_else(|| format!("index {number} is out of range 0..={limit}"))
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let mut item = arguments[0].clone();
    if item == Value::Nil {
        return Err("can't index nil".to_owned());
    }
    for key in &arguments[1..] {
        item = match &item {
            Value::Map(map) => match key {
                // Unlike a field, a missing key gives an empty text here: Go's index does not know missingkey.
                Value::Text(key) => Value::text(map.get(key.as_ref()).map_or("", String::as_str)),
                other => {
                    return Err(format!(
                        "the key of a map is a string, found {}",
                        other.type_name()
                    ));
                }
            },
            Value::Text(text) => {
                let position = position(key, text.len())?;
                let byte = text
                    .as_bytes()
                    .get(position)
                    .ok_or_else(|| format!("index {position} is out of range"))?;
                Value::Byte(*byte)
            }
            other => return Err(format!("can't index a {}", other.type_name())),
        };
    }
    Ok(item)
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let Value::Text(text) = &arguments[0] else {
        return Err(format!(
            "expected a string, found {}",
            arguments[0].type_name()
        ));
    };
    if arguments.len() > 3 {
        return Err("a string takes at most two positions".to_owned());
    }
    let start = arguments
        .get(1)
        .map_or(Ok(0), |value| position(value, text.len()))?;
    let end = arguments
        .get(2)
        .map_or(Ok(text.len()), |value| position(value, text.len()))?;
    if start > end {
        return Err(format!("the start {start} lies behind the end {end}"));
    }
    // Positions count bytes as in Go; half a character can't be kept in a query.
    Ok(Value::text(&String::from_utf8_lossy(
        &text.as_bytes()[start..end],
    )))
}

fn incomparable(one: &Value, other: &Value) -> String {
    format!(
        "can't compare {} with {}",
        one.type_name(),
        other.type_name()
    )
}

fn equal(arguments: &[Value]) -> Result<bool, String> {
    let first = &arguments[0];
    for other in &arguments[1..] {
        let same = match (first, other) {
            (Value::Map(_), Value::Map(_)) => return Err(incomparable(first, other)),
            (Value::Nil, other) | (other, Value::Nil) => *other == Value::Nil,
            _ => match (first.integer(), other.integer()) {
                (Some(one), Some(other)) => one == other,
                _ if first.type_name() == other.type_name() => first == other,
                _ => return Err(incomparable(first, other)),
            },
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

fn order(arguments: &[Value]) -> Result<Ordering, String> {
    match (&arguments[0], &arguments[1]) {
        (Value::Text(one), Value::Text(other)) => Ok(one.as_bytes().cmp(other.as_bytes())),
        (Value::Float(one), Value::Float(other)) => Ok(one.total_cmp(other)),
        (one, other) => match (one.integer(), other.integer()) {
            (Some(one), Some(other)) => Ok(one.cmp(&other)),
            _ => Err(incomparable(one, other)),
        },
    }
}
