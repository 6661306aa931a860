//! The Go `text/template` language as metric templates need it (Flagger chapter 4.4).
//!
//! Users write `{{ target }}` and `{{ variables.team }}` in their `PromQL`, and everything else that Go's templates offer. The values
//! are functions, not fields of the dot, and the dot is nil. A key that a map does not have is an error (`missingkey=error`).
//! Templates are written by tenants, so every size is bounded: source, nesting, work and output. No template can hang a
//! rollout or fill the memory.
//!
//! ```text
//! source ──lex──▶ tokens ──parse──▶ tree ──exec──▶ query text        format: printf and friends
//! ```

mod exec;
mod format;
mod lex;
mod parse;
mod value;

use std::collections::BTreeMap;

/// Longest template that is accepted, in bytes.
pub const MAX_SOURCE: usize = 64 * 1024;
/// Longest text that a template may produce, in bytes.
pub const MAX_OUTPUT: usize = 256 * 1024;

/// What a template can ask for, by the names of its functions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateContext {
    /// `name`: the name of the Canary.
    pub name: String,
    /// `namespace`: the namespace of the Canary.
    pub namespace: String,
    /// `target`: the name of the target workload.
    pub target: String,
    /// `service`: `spec.service.name`, or the target.
    pub service: String,
    /// `ingress`: the name of `spec.ingressRef`, or the target.
    pub ingress: String,
    /// `route`: the name of `spec.routeRef`, or the target.
    pub route: String,
    /// `interval`: the metric's interval as it was written; empty for templates when it was left out.
    pub interval: String,
    /// `variables`: `templateVariables` of the metric.
    pub variables: BTreeMap<String, String>,
}

/// Why a template can't be rendered, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template line {line}, column {column}: {message}")]
pub struct TemplateError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was found and what would be right.
    pub message: String,
}

/// An error at a byte offset; it becomes a [`TemplateError`] once the source is at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    at: usize,
    message: String,
}

impl Fault {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }

    fn locate(self, source: &str) -> TemplateError {
        let mut at = self.at.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        let before = &source[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        TemplateError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: self.message,
        }
    }
}

/// A float as Go prints it with `%v`: `99`, `99.5`, `1e+06`.
#[must_use]
pub fn go_number(value: f64) -> String {
    format::display(&value::Value::Float(value))
}

/// Renders `template` with the values of `context`.
pub fn render(template: &str, context: &TemplateContext) -> Result<String, TemplateError> {
    run(template, context, None)
}

/// The same with `facts` as the dot, so that `{{ .key }}` is one of them.
pub fn render_facts(
    template: &str,
    context: &TemplateContext,
    facts: &BTreeMap<String, String>,
) -> Result<String, TemplateError> {
    run(template, context, Some(facts))
}

fn run(
    template: &str,
    context: &TemplateContext,
    facts: Option<&BTreeMap<String, String>>,
) -> Result<String, TemplateError> {
    if template.len() > MAX_SOURCE {
        return Err(TemplateError {
            line: 1,
            column: 1,
            message: format!(
                "the template has {} bytes, the limit is {MAX_SOURCE}",
                template.len()
            ),
        });
    }
    lex::lex(template)
        .and_then(parse::parse)
        .and_then(|tree| exec::execute(&tree, context, facts))
        .map_err(|fault| fault.locate(template))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
