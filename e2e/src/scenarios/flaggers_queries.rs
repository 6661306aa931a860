//! Queries that people have copied from Flagger's documentation: each must reach its metrics backend as it would from Flagger. They are read
//! from the texts of the pinned Flagger, so none is chosen by us and a later version brings its own.
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use serin::analysis::template::{TemplateContext, render};

use crate::bed::Bed;
use crate::tools::{self, FlaggersQueries};

/// A query and where it stands.
#[derive(Debug, PartialEq)]
struct Found {
    place: String,
    query: String,
}

/// The value of a `query` whose line is the first of `lines`: all that is indented more is part of it.
fn value_of<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Option<String>> {
    let mut lines = lines.peekable();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let outer = lines.peek().map_or(0, |line| indent(line));
    let text: Vec<&str> = lines
        .enumerate()
        .take_while(|(at, line)| *at == 0 || line.trim().is_empty() || indent(line) > outer)
        .map(|(_, line)| line.get(outer..).unwrap_or_default())
        .collect();
    let read: Value = serde_saphyr::from_str(&text.join("\n"))?;
    Ok(read["query"].as_str().map(str::to_owned))
}

/// The queries of a text, which may be YAML, a page or a script that has some in it. A `query` without a value, as in a definition or an
/// outline, is none.
fn queries(name: &str, text: &str) -> Result<Vec<Found>> {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| line.trim_start_matches([' ', '-']).starts_with("query:");
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| begins(line)) {
        let place = format!("{name}:{}", at + 1);
        let rest = lines[at + 1..].iter().copied();
        let first = line.replacen('-', " ", 1);
        let first = if line.trim_start().starts_with('-') {
            first.as_str()
        } else {
            line
        };
        let value = value_of(std::iter::once(first).chain(rest)).context(place.clone())?;
        found.extend(value.map(|query| Found { place, query }));
    }
    Ok(found)
}

fn gather(folder: &Path, root: &Path, into: &mut Vec<Found>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            gather(&path, root, into)?;
        } else {
            let name = path.strip_prefix(root)?.display().to_string();
            into.extend(queries(&name, &fs::read_to_string(&path)?)?);
        }
    }
    Ok(())
}

/// What is rendered into each query: no two values alike, then with everything empty, then with all that may need quoting.
fn models() -> [TemplateContext; 3] {
    let words = |say: fn(&str) -> String| TemplateContext {
        name: say("canary"),
        namespace: say("shop"),
        target: say("app"),
        service: say("svc"),
        ingress: say("ing"),
        route: say("route"),
        interval: say("90s"),
        variables: ["direction", "path", "reporter"]
            .map(|key| (key.to_owned(), say(key)))
            .into(),
    };
    [
        words(str::to_owned),
        TemplateContext::default(),
        words(|word| format!("{word}-\"<&>'`%s\\ {{{{ é 漢\n")),
    ]
}

fn question(query: &str, model: &TemplateContext) -> Value {
    json!({"query": query, "model": {
        "name": model.name, "namespace": model.namespace, "target": model.target, "service": model.service,
        "ingress": model.ingress, "route": model.route, "interval": model.interval, "variables": model.variables,
    }})
}

#[derive(Deserialize)]
struct Answer {
    output: String,
    error: String,
}

/// What Flagger makes of them.
fn ask_flagger(program: &Path, questions: &[Value]) -> Result<Vec<Answer>> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    child
        .stdin
        .take()
        .context("the program has no input")?
        .write_all(serde_json::to_string(questions)?.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

pub async fn run(_: &Bed) -> Result<()> {
    compare(&tools::flaggers_queries()?)
}

/// Renders each query by both, in each model.
fn compare(flagger: &FlaggersQueries) -> Result<()> {
    let mut found = Vec::new();
    gather(&flagger.texts, &flagger.texts, &mut found)?;
    ensure!(found.len() > 30, "only {} queries were found", found.len());
    let models = models();
    let cases: Vec<(&Found, &TemplateContext)> = found
        .iter()
        .flat_map(|found| models.iter().map(move |model| (found, model)))
        .collect();
    let questions: Vec<Value> = cases
        .iter()
        .map(|(found, model)| question(&found.query, model))
        .collect();
    let answers = ask_flagger(&flagger.render, &questions)?;
    ensure!(answers.len() == cases.len(), "an answer for each");
    let (mut differences, mut rendered) = (Vec::new(), 0);
    for ((found, model), flaggers) in cases.iter().zip(answers) {
        match render(&found.query, model) {
            Ok(ours) if flaggers.error.is_empty() && ours == flaggers.output => rendered += 1,
            Err(_) if !flaggers.error.is_empty() => (),
            ours => differences.push(format!(
                "{}\n  serin   {ours:?}\n  flagger {:?} {:?}",
                found.place, flaggers.output, flaggers.error
            )),
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    ensure!(
        rendered >= 2 * found.len(),
        "each can be rendered with values, {rendered} of {} were",
        cases.len()
    );
    println!(
        "        {} queries, {rendered} of {} renderings alike, the others refused by both",
        found.len(),
        cases.len()
    );
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_found_in_yaml_pages_and_scripts() {
        let text = "# page\n```yaml\nspec:\n  query: |\n    a{{ target }}\n\n      b\n  other: 1\n```\ncat <<EOF\n- query: up ==\n    1\nEOF\nquery: # none\n";
        let found: Vec<(String, String)> = queries("page.md", text)
            .unwrap()
            .into_iter()
            .map(|found| (found.place, found.query))
            .collect();
        assert_eq!(
            found,
            [
                ("page.md:4".into(), "a{{ target }}\n\n  b\n".into()),
                ("page.md:11".into(), "up == 1".into()),
            ]
        );
    }
}
