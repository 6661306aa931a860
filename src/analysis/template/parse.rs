//! Makes a tree of the tokens. What Go refuses when it parses (unknown functions, undeclared variables, a `break` outside of a
//! `range`) is refused here too, before anything runs.

use super::Fault;
use super::exec::{FUNCTIONS, Function};
use super::lex::{Kind, Token};
use std::collections::BTreeMap;

/// How deep control structures and parentheses may nest.
const MAX_NESTING: usize = 40;

/// A parsed template.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub root: Vec<Node>,
    /// What `define` and `block` declared.
    pub templates: BTreeMap<String, Vec<Node>>,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Text {
        at: usize,
        text: String,
    },
    Action(Pipeline),
    If(Control),
    With(Control),
    Range(Control),
    Template {
        at: usize,
        name: String,
        pipeline: Option<Pipeline>,
    },
    Break,
    Continue,
}

/// `if`, `with` or `range` with what is inside.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub pipeline: Pipeline,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub at: usize,
    /// Variables that take the value, with their dollar.
    pub variables: Vec<String>,
    /// `=` instead of `:=`.
    pub assigns: bool,
    /// Commands; each has at least one operand.
    pub commands: Vec<Vec<Operand>>,
}

#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub at: usize,
    pub term: Term,
}

#[derive(Clone, Debug)]
pub(super) enum Term {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Function(Function),
    /// Fields of the dot.
    Field(Vec<String>),
    /// A variable and fields of it.
    Variable(String, Vec<String>),
    Parenthesis(Box<Pipeline>),
    /// Fields of a function's or parenthesis' value.
    Chain(Box<Operand>, Vec<String>),
}

/// Parses `tokens`, which end with [`Kind::End`].
pub(super) fn parse(tokens: Vec<Token>) -> Result<Tree, Fault> {
    let mut parser = Parser {
        tokens,
        next: 0,
        scope: vec!["$".to_owned()],
        ranges: 0,
        nesting: 0,
        tree: Tree::default(),
    };
    let (root, end) = parser.list(true)?;
    match end {
        ListEnd::Source => {}
        ListEnd::End(at) => {
            return Err(Fault::new(at, "this {{end}} closes nothing"));
        }
        ListEnd::Else(at) => {
            return Err(Fault::new(
                at,
                "{{else}} outside of {{if}}, {{with}} and {{range}}",
            ));
        }
    }
    parser.tree.root = root;
    Ok(parser.tree)
}

enum ListEnd {
    Source,
    End(usize),
    Else(usize),
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    scope: Vec<String>,
    ranges: usize,
    nesting: usize,
    tree: Tree,
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Text(_) => "text".to_owned(),
        Kind::LeftDelim => "{{".to_owned(),
        Kind::RightDelim => "}}".to_owned(),
        Kind::Identifier(name) | Kind::Variable(name) => format!("{name:?}"),
        Kind::Keyword(name) => format!("{{{{{name}}}}}"),
        Kind::Field(name) => format!("\".{name}\""),
        Kind::Dot => "\".\"".to_owned(),
        Kind::Nil => "nil".to_owned(),
        Kind::Bool(value) => value.to_string(),
        Kind::Int(value) => value.to_string(),
        Kind::Float(value) => value.to_string(),
        Kind::Quoted(text) => format!("the string {text:?}"),
        Kind::LeftParen => "\"(\"".to_owned(),
        Kind::RightParen => "\")\"".to_owned(),
        Kind::Pipe => "\"|\"".to_owned(),
        Kind::Declare => "\":=\"".to_owned(),
        Kind::Assign => "\"=\"".to_owned(),
        Kind::Other(c) => format!("{c:?}"),
        Kind::End => "the end of the template".to_owned(),
    }
}

impl Parser {
    fn peek(&self) -> &Token {
        // The last token is End and is never passed.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn unexpected<T>(token: &Token, context: &str, expected: &str) -> Result<T, Fault> {
        Err(Fault::new(
            token.at,
            format!(
                "found {} in {context}; expected {expected}",
                describe(&token.kind)
            ),
        ))
    }

    fn close(&mut self, context: &str) -> Result<(), Fault> {
        let token = self.take();
        if token.kind == Kind::RightDelim {
            return Ok(());
        }
        Self::unexpected(&token, context, "}}")
    }

    fn deeper(&mut self, at: usize) -> Result<(), Fault> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(Fault::new(
                at,
                format!("nested deeper than {MAX_NESTING} levels"),
            ));
        }
        Ok(())
    }

    /// Nodes up to `{{end}}`, `{{else}}` or the end of the source.
    fn list(&mut self, top: bool) -> Result<(Vec<Node>, ListEnd), Fault> {
        let mut nodes = Vec::new();
        loop {
            let token = self.take();
            match token.kind {
                Kind::End => return Ok((nodes, ListEnd::Source)),
                Kind::Text(text) => nodes.push(Node::Text { at: token.at, text }),
                // The lexer gives nothing else outside of actions.
                _ => {
                    let keyword = match self.peek().kind {
                        Kind::Keyword(keyword) => Some(keyword),
                        _ => None,
                    };
                    let at = self.peek().at;
                    if keyword.is_some() {
                        self.next += 1;
                    }
                    match keyword {
                        Some("end") => {
                            self.close("{{end}}")?;
                            return Ok((nodes, ListEnd::End(at)));
                        }
                        Some("else") => {
                            let chained = matches!(self.peek().kind, Kind::Keyword("if" | "with"));
                            if !chained {
                                self.close("{{else}}")?;
                            }
                            return Ok((nodes, ListEnd::Else(at)));
                        }
                        Some("define") => {
                            if !top {
                                return Err(Fault::new(
                                    at,
                                    "{{define}} stands only at the top level of a template",
                                ));
                            }
                            self.define(at)?;
                        }
                        Some(keyword) => nodes.push(self.keyword(keyword, at)?),
                        None => {
                            nodes
                                .push(Node::Action(self.pipeline("a command", &Kind::RightDelim)?));
                        }
                    }
                }
            }
        }
    }

    fn keyword(&mut self, keyword: &str, at: usize) -> Result<Node, Fault> {
        match keyword {
            "if" => self.control("if", at).map(Node::If),
            "with" => self.control("with", at).map(Node::With),
            "range" => self.control("range", at).map(Node::Range),
            "template" => {
                let name = self.template_name("{{template}}")?;
                let pipeline = if self.peek().kind == Kind::RightDelim {
                    self.next += 1;
                    None
                } else {
                    Some(self.pipeline("{{template}}", &Kind::RightDelim)?)
                };
                Ok(Node::Template { at, name, pipeline })
            }
            "block" => {
                let name = self.template_name("{{block}}")?;
                let pipeline = self.pipeline("{{block}}", &Kind::RightDelim)?;
                self.definition(at, name.clone())?;
                Ok(Node::Template {
                    at,
                    name,
                    pipeline: Some(pipeline),
                })
            }
            keyword => {
                self.close(&format!("{{{{{keyword}}}}}"))?;
                if self.ranges == 0 {
                    return Err(Fault::new(
                        at,
                        format!("{{{{{keyword}}}}} outside of {{{{range}}}}"),
                    ));
                }
                Ok(if keyword == "break" {
                    Node::Break
                } else {
                    Node::Continue
                })
            }
        }
    }

    fn template_name(&mut self, context: &str) -> Result<String, Fault> {
        let token = self.take();
        match token.kind {
            Kind::Quoted(name) => Ok(name),
            _ => Self::unexpected(&token, context, "the template's name in quotes"),
        }
    }

    fn define(&mut self, at: usize) -> Result<(), Fault> {
        let name = self.template_name("{{define}}")?;
        self.close("{{define}}")?;
        self.definition(at, name)
    }

    /// The body of a `define` or `block`: a template of its own, which doesn't see the variables around it.
    fn definition(&mut self, at: usize, name: String) -> Result<(), Fault> {
        self.deeper(at)?;
        let scope = std::mem::replace(&mut self.scope, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, end) = self.list(false)?;
        if !matches!(end, ListEnd::End(_)) {
            return Err(Fault::new(
                at,
                format!("the template {name:?} is not closed; expected {{{{end}}}}"),
            ));
        }
        self.scope = scope;
        self.ranges = ranges;
        self.nesting -= 1;
        let is_blank = |nodes: &Vec<Node>| {
            nodes
                .iter()
                .all(|node| matches!(node, Node::Text { text, .. } if text.trim().is_empty()))
        };
        match self.tree.templates.get(&name) {
            Some(known) if !is_blank(known) => {
                if !is_blank(&body) {
                    return Err(Fault::new(
                        at,
                        format!("the template {name:?} is defined twice"),
                    ));
                }
            }
            _ => {
                self.tree.templates.insert(name, body);
            }
        }
        Ok(())
    }

    fn control(&mut self, keyword: &'static str, at: usize) -> Result<Control, Fault> {
        self.deeper(at)?;
        let scope = self.scope.len();
        let context = format!("{{{{{keyword}}}}}");
        let pipeline = self.pipeline(&context, &Kind::RightDelim)?;
        let loops = usize::from(keyword == "range");
        self.ranges += loops;
        let (body, end) = self.list(false)?;
        self.ranges -= loops;
        let mut otherwise = Vec::new();
        let unclosed = || {
            Fault::new(
                at,
                format!("this {{{{{keyword}}}}} is not closed; expected {{{{end}}}}"),
            )
        };
        match end {
            ListEnd::Source => return Err(unclosed()),
            ListEnd::End(_) => {}
            ListEnd::Else(_) => {
                let chained_at = self.peek().at;
                match self.peek().kind {
                    // `{{else if}}` shares the `{{end}}` of the `{{if}}` before it. A plain `{{else}}` is already closed, so that
                    // what comes next is text or a delimiter, never a keyword.
                    Kind::Keyword(chained) if chained == keyword && keyword != "range" => {
                        self.next += 1;
                        otherwise.push(self.keyword(chained, chained_at)?);
                    }
                    Kind::Keyword(chained) => {
                        return Err(Fault::new(
                            chained_at,
                            format!(
                                "{{{{else {chained}}}}} can't follow {{{{{keyword}}}}}; expected {{{{else}}}}"
                            ),
                        ));
                    }
                    _ => {
                        let (body, end) = self.list(false)?;
                        match end {
                            ListEnd::End(_) => otherwise = body,
                            ListEnd::Source => return Err(unclosed()),
                            ListEnd::Else(at) => {
                                return Err(Fault::new(
                                    at,
                                    format!(
                                        "a second {{{{else}}}} for the same {{{{{keyword}}}}}; expected {{{{end}}}}"
                                    ),
                                ));
                            }
                        }
                    }
                }
            }
        }
        self.scope.truncate(scope);
        self.nesting -= 1;
        Ok(Control {
            pipeline,
            body,
            otherwise,
        })
    }

    fn declarations(&mut self, context: &str, pipeline: &mut Pipeline) -> Result<(), Fault> {
        while let Kind::Variable(name) = self.peek().kind.clone() {
            let following = self.tokens.get(self.next + 1);
            match following.map(|token| &token.kind) {
                Some(Kind::Declare | Kind::Assign) => {
                    pipeline.assigns = following.is_some_and(|token| token.kind == Kind::Assign);
                    self.next += 2;
                    pipeline.variables.push(name);
                    break;
                }
                Some(Kind::Other(',')) => {
                    let at = self.peek().at;
                    if context != "{{range}}" || !pipeline.variables.is_empty() {
                        return Err(Fault::new(
                            at,
                            format!(
                                "too many variables in {context}; expected {{{{range $key, $value := …}}}} at most"
                            ),
                        ));
                    }
                    self.next += 2;
                    pipeline.variables.push(name);
                    if !matches!(self.peek().kind, Kind::Variable(_)) {
                        let token = self.take();
                        return Self::unexpected(&token, context, "a second variable");
                    }
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, context: &str, end: &Kind) -> Result<Pipeline, Fault> {
        let mut pipeline = Pipeline {
            at: self.peek().at,
            variables: Vec::new(),
            assigns: false,
            commands: Vec::new(),
        };
        self.declarations(context, &mut pipeline)?;
        if pipeline.assigns {
            for name in &pipeline.variables {
                self.known(name, pipeline.at)?;
            }
        } else {
            self.scope.extend(pipeline.variables.iter().cloned());
        }
        loop {
            if self.peek().kind == *end {
                let close = self.take();
                if pipeline.commands.is_empty() {
                    return Err(Fault::new(
                        close.at,
                        format!("{context} has no value; expected for example {{{{ target }}}}"),
                    ));
                }
                break;
            }
            let command = self.command(context)?;
            if !pipeline.commands.is_empty()
                && let Some(first) = command.first()
                && matches!(
                    first.term,
                    Term::Bool(_)
                        | Term::Dot
                        | Term::Nil
                        | Term::Int(_)
                        | Term::Float(_)
                        | Term::Text(_)
                )
            {
                return Err(Fault::new(
                    first.at,
                    "only a function can stand after |, for example {{ target | printf \"%q\" }}",
                ));
            }
            pipeline.commands.push(command);
        }
        Ok(pipeline)
    }

    fn command(&mut self, context: &str) -> Result<Vec<Operand>, Fault> {
        let mut operands = Vec::new();
        loop {
            if let Some(operand) = self.operand(context)? {
                operands.push(operand);
            }
            match &self.peek().kind {
                Kind::RightDelim | Kind::RightParen => break,
                // Go lets a pipeline end with a |, so we do too.
                Kind::Pipe => {
                    self.next += 1;
                    break;
                }
                _ if self.peek().spaced && self.starts_operand() => {}
                _ => {
                    let token = self.take();
                    return Self::unexpected(&token, context, "a space and an operand, | or }}");
                }
            }
        }
        if operands.is_empty() {
            return Err(Fault::new(
                self.peek().at,
                format!("an empty command in {context}; expected a function or a value"),
            ));
        }
        Ok(operands)
    }

    fn starts_operand(&self) -> bool {
        matches!(
            self.peek().kind,
            Kind::Identifier(_)
                | Kind::Dot
                | Kind::Nil
                | Kind::Variable(_)
                | Kind::Field(_)
                | Kind::Bool(_)
                | Kind::Int(_)
                | Kind::Float(_)
                | Kind::Quoted(_)
                | Kind::LeftParen
        )
    }

    fn operand(&mut self, context: &str) -> Result<Option<Operand>, Fault> {
        if !self.starts_operand() {
            if matches!(
                self.peek().kind,
                Kind::Pipe | Kind::RightDelim | Kind::RightParen
            ) {
                return Ok(None);
            }
            let token = self.take();
            return Self::unexpected(&token, context, "a function or a value");
        }
        let token = self.take();
        let at = token.at;
        let term = match token.kind {
            Kind::Identifier(name) => Term::Function(Self::function(&name, at)?),
            Kind::Dot => Term::Dot,
            Kind::Nil => Term::Nil,
            Kind::Bool(value) => Term::Bool(value),
            Kind::Int(value) => Term::Int(value),
            Kind::Float(value) => Term::Float(value),
            Kind::Quoted(text) => Term::Text(text),
            Kind::Field(name) => Term::Field(vec![name]),
            Kind::Variable(name) => {
                self.known(&name, at)?;
                Term::Variable(name, Vec::new())
            }
            _ => {
                self.deeper(at)?;
                let inner = self.pipeline("a parenthesis", &Kind::RightParen)?;
                self.nesting -= 1;
                Term::Parenthesis(Box::new(inner))
            }
        };
        let mut fields = Vec::new();
        while let Kind::Field(name) = &self.peek().kind
            && !self.peek().spaced
        {
            fields.push(name.clone());
            self.next += 1;
        }
        if fields.is_empty() {
            return Ok(Some(Operand { at, term }));
        }
        let term = match term {
            Term::Field(mut first) => {
                first.append(&mut fields);
                Term::Field(first)
            }
            Term::Variable(name, _) => Term::Variable(name, fields),
            term @ (Term::Function(_) | Term::Parenthesis(_)) => {
                Term::Chain(Box::new(Operand { at, term }), fields)
            }
            _ => {
                return Err(Fault::new(
                    at,
                    format!("a constant has no field .{}", fields[0]),
                ));
            }
        };
        Ok(Some(Operand { at, term }))
    }

    fn known(&self, name: &str, at: usize) -> Result<(), Fault> {
        if self.scope.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(Fault::new(
            at,
            format!(
                "the variable {name} is not declared here; expected {{{{ {name} := … }}}} before it"
            ),
        ))
    }

    fn function(name: &str, at: usize) -> Result<Function, Fault> {
        FUNCTIONS
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, function, ..)| *function)
            .ok_or_else(|| {
                let all: Vec<&str> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
                Fault::new(
                    at,
                    format!(
                        "the function {name:?} is not known; expected one of {}",
                        all.join(", ")
                    ),
                )
            })
    }
}
