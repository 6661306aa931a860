//! The pages for users say what the code says. What can be written from the code is (`docs/reference/`, the tables of reasons in
//! `docs/status.md`): with `SERIN_UPDATE=1`, as `make docs-reference` sets it, these are written anew, otherwise they are held against the
//! code. The other pages are held to what they refer to: links, headings, the book's table of contents, keys of annotations.
#![allow(clippy::unwrap_used)]
use clap::{Arg, Command};
use serde_json::Value;
use serin::api::crd;
use serin::controller::CanaryKey;
use serin::controller::metrics::{CanaryView, Telemetry};
use serin::object::kinds;
use serin::rollout::reasons;
use serin::routing::{self, Capabilities, Feature, ServiceField, Severity, Weights};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_default()
}

/// Holds a page to what it should be, or writes it.
fn generated(name: &str, expected: &str) {
    let path = root().join(name);
    if std::env::var_os("SERIN_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, expected).unwrap();
    }
    assert!(
        page(name) == expected,
        "{name} is out of date: run make docs-reference"
    );
}

/// The same for what stands between two marks of a page that people write.
fn generated_part(name: &str, part: &str, source: &str, expected: &str) {
    let begin = format!("<!-- {part}: written by `make docs-reference` from {source} -->\n");
    let end = format!("<!-- end of {part} -->\n");
    let text = page(name);
    let (head, rest) = text.split_once(&begin).unwrap();
    let (_, tail) = rest.split_once(&end).unwrap();
    generated(name, &format!("{head}{begin}\n{expected}\n{end}{tail}"));
}

/// A cell of a table: one line, and no bar that would end it.
fn cell(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|").replace('<', "&lt;")
}

// ---- custom resources

/// What a field is, in a reader's words.
fn type_of(schema: &Value) -> String {
    if schema["x-kubernetes-int-or-string"] == true {
        return "number or name".to_owned();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "array" => {
            let of = type_of(&schema["items"]);
            format!(
                "list of {}",
                if of == "yes or no" || of == "duration" {
                    of
                } else {
                    format!("{of}s")
                }
            )
        }
        "object" if schema["additionalProperties"].is_object() => {
            format!("map to {}", type_of(&schema["additionalProperties"]))
        }
        "object" => "object".to_owned(),
        "boolean" => "yes or no".to_owned(),
        "integer" | "number" => "number".to_owned(),
        "string" if schema["format"] == "date-time" => "time".to_owned(),
        "string"
            if schema["pattern"]
                .as_str()
                .is_some_and(|text| text.contains("m|s") || text.contains("ms|s")) =>
        {
            "duration".to_owned()
        }
        "string" => "text".to_owned(),
        _ => "any".to_owned(),
    }
}

/// The unit of a number, as its description names it.
fn unit_of(kind: &str, description: &str) -> &'static str {
    // Doc comments name the unit in one of these ways.
    const UNITS: [(&str, &str); 9] = [
        ("in percent", "%"),
        ("Percentage", "%"),
        ("whole seconds", "s"),
        ("in seconds", "s"),
        ("seconds until", "s"),
        ("Seconds", "s"),
        ("milliseconds", "ms"),
        ("in the metric's unit", "the metric's"),
        ("Longest time in", "s"),
    ];
    if kind == "duration" {
        return "`s` `m` `h`";
    }
    if !kind.contains("number") {
        return "";
    }
    UNITS
        .iter()
        .find(|(words, _)| description.contains(words))
        .map_or("", |(_, unit)| unit)
}

/// What a description says, and what it says of the default.
fn split_default(description: &str) -> (String, Option<String>) {
    let Some((before, after)) = description.split_once("Default: ") else {
        return (description.trim().to_owned(), None);
    };
    // A default ends with its sentence; a point within a number or a name ends nothing.
    let end = after.find(". ").unwrap_or(after.len());
    let (default, rest) = after.split_at(end);
    let rest = rest.trim_start_matches('.').trim();
    (
        format!("{} {rest}", before.trim()).trim().to_owned(),
        Some(default.trim_end_matches('.').to_owned()),
    )
}

/// One table for an object's fields, then one for each object below it.
fn fields(schema: &Value, path: &str, level: usize, out: &mut String) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    let required: BTreeSet<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let _ = writeln!(out, "\n{} {path}\n", "#".repeat(level));
    if let Some(description) = schema["description"].as_str() {
        let _ = writeln!(out, "{}\n", cell(description));
    }
    out.push_str("| field | type | unit | default | |\n|---|---|---|---|---|\n");
    for (name, property) in properties {
        let kind = type_of(property);
        let description = property["description"].as_str().unwrap_or_default();
        let (mut words, said) = split_default(description);
        let of = if property["type"] == "array" {
            &property["items"]
        } else {
            property
        };
        if let Some(values) = of["enum"].as_array() {
            let values: Vec<String> = values
                .iter()
                .filter_map(Value::as_str)
                .filter(|value| !value.is_empty())
                .map(|value| format!("`{value}`"))
                .collect();
            let _ = write!(words, " One of {}.", values.join(", "));
        }
        let default = match (&property["default"], said) {
            (_, Some(said)) => said,
            (Value::Null, None) if required.contains(name.as_str()) => "**required**".to_owned(),
            (Value::Null, None) => String::new(),
            (value, None) => value.to_string(),
        };
        let _ = writeln!(
            out,
            "| `{name}` | {kind} | {} | {} | {} |",
            unit_of(&kind, description),
            cell(&default),
            cell(&words)
        );
    }
    let below = (level + 1).min(5);
    for (name, property) in properties {
        let (below_path, of) = if property["type"] == "array" {
            (format!("{path}.{name}[]"), &property["items"])
        } else if property["additionalProperties"].is_object() {
            (
                format!("{path}.{name}.NAME"),
                &property["additionalProperties"],
            )
        } else {
            (format!("{path}.{name}"), property)
        };
        fields(of, &below_path, below, out);
    }
}

#[test]
fn the_reference_of_the_custom_resources_is_their_schemas() {
    for (file, definition) in crd::all() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut text = format!(
            "# {kind}\n\n<!-- Written by `make docs-reference` from src/api/. -->\n\n{}\n\n\
             `apiVersion: flagger.app/v1beta1`, `kind: {kind}`. `kubectl explain {}.spec` shows the same. Durations are Go's: `500ms`, `30s`, \
             `1m30s`, `1h`.\n",
            cell(schema["description"].as_str().unwrap()),
            definition["spec"]["names"]["plural"].as_str().unwrap(),
        );
        for part in ["spec", "status"] {
            fields(&schema["properties"][part], part, 2, &mut text);
        }
        generated(
            &format!("docs/reference/{}", file.replace(".yaml", ".md")),
            &text,
        );
    }
}

// ---- commands

/// The flags and arguments of a command.
fn flags<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut groups: BTreeMap<Option<String>, String> = BTreeMap::new();
    for argument in arguments {
        if argument.is_hide_set() || ["help", "version"].contains(&argument.get_id().as_str()) {
            continue;
        }
        let mut name = match (argument.get_short(), argument.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, Some(long)) => format!("--{long}"),
            (None, None) => String::new(),
        };
        if argument.get_action().takes_values() {
            let values = argument
                .get_value_names()
                .map_or_else(|| argument.get_id().to_string(), |names| names.join(" "));
            let _ = write!(name, " {values}");
        }
        let mut help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let possible: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set() && !["true", "false"].contains(&value.get_name()))
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        // clap takes the last point away.
        if !help.is_empty() && !help.ends_with('.') {
            help.push('.');
        }
        if !possible.is_empty() {
            let _ = write!(help, " One of {}.", possible.join(", "));
        }
        if let Some(variable) = argument.get_env() {
            let _ = write!(help, " Variable `{}`.", variable.to_string_lossy());
        }
        let defaults: Vec<String> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy().into_owned())
            .filter(|value| !value.is_empty())
            .collect();
        let default = if !defaults.is_empty() && argument.get_action().takes_values() {
            format!("`{}`", defaults.join(","))
        } else if argument.is_required_set() {
            "**required**".to_owned()
        } else {
            String::new()
        };
        let _ = writeln!(
            groups
                .entry(argument.get_help_heading().map(str::to_owned))
                .or_default(),
            "| `{}` | {default} | {} |",
            name.trim(),
            cell(&help)
        );
    }
    groups
        .into_iter()
        .fold(String::new(), |mut text, (heading, rows)| {
            if let Some(heading) = heading {
                let _ = write!(text, "\n{heading}:\n");
            }
            let _ = write!(text, "\n| flag | default | |\n|---|---|---|\n{rows}");
            text
        })
}

fn commands(command: &Command, path: &str, out: &mut String) {
    for command in command.get_subcommands() {
        if command.is_hide_set() || command.get_name() == "help" {
            continue;
        }
        let path = format!("{path} {}", command.get_name());
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = write!(out, "\n## {path}\n\n{about}\n");
        out.push_str(&flags(command.get_arguments()));
        commands(command, &path, out);
    }
}

#[test]
fn the_reference_of_commands_is_the_command_line() {
    let mut command = serin::cli::command();
    command.build();
    let mut text = String::from(
        "# Commands and flags\n\n<!-- Written by `make docs-reference` from src/cli/. -->\n\n\
         `serin COMMAND --help` says the same. Long flags of `controller`, `crd`, `loadtester`, `rbac` and `simulate` may have one dash or two, as with Flagger. \
         [The command line](../cli.md) leads through the commands that ask and tell.\n",
    );
    commands(&command, "serin", &mut text);
    let _ = write!(
        text,
        "\n## Exit codes\n\n```text\n{}\n```\n",
        serin::cli::EXIT_CODES
            .lines()
            .skip(1)
            .map(str::trim_start)
            .collect::<Vec<_>>()
            .join("\n")
    );
    generated("docs/reference/commands.md", &text);
}

// ---- series

/// Every family with a sample, so that its labels show.
fn exposition() -> String {
    let telemetry = Telemetry::new("gatewayapi:v1");
    let key = CanaryKey::new("shop", "web");
    telemetry.show(
        &key,
        CanaryView {
            target: "web".into(),
            phase: "Progressing".into(),
            weights: (90.0, 10.0),
            strategy: "canary",
        },
    );
    telemetry.measured(&key, "request-success-rate", 99.5);
    telemetry.succeeded(&key, false);
    telemetry.failed(&key);
    telemetry.analysed(&key, Duration::from_millis(20));
    telemetry.passed("done", Duration::from_millis(1));
    telemetry.wrote("apply", &kinds::DEPLOYMENT, "ok");
    telemetry.watch_failed(&kinds::DEPLOYMENT);
    telemetry.cached(&kinds::DEPLOYMENT, 1);
    telemetry.dropped("event");
    telemetry.alerted("sent");
    telemetry.render()
}

#[test]
fn the_reference_of_series_is_what_is_exported() {
    let text = exposition();
    let mut rows = String::new();
    let mut named = BTreeSet::new();
    for line in text.lines() {
        let Some((family, help)) = line
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let kind = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# TYPE {family} ")))
            .unwrap();
        let series = match kind {
            "counter" => format!("{family}_total"),
            "histogram" => format!("{family}_bucket"),
            _ => family.to_owned(),
        };
        let sample = text
            .lines()
            .find(|line| {
                line.starts_with(&format!("{series}{{")) || line.starts_with(&format!("{series} "))
            })
            .unwrap_or_else(|| {
                panic!("{series} has no sample: call what sets it in exposition(), tests/docs.rs")
            });
        let labels: Vec<String> = sample
            .split_once('{')
            .map_or("", |(_, rest)| rest.split_once('}').unwrap().0)
            .split("\",")
            .filter_map(|pair| Some(format!("`{}`", pair.split_once('=')?.0)))
            .filter(|label| label != "`le`")
            .collect();
        let shown = if kind == "counter" { &series } else { family };
        let _ = writeln!(
            rows,
            "| `{shown}` | {kind} | {} | {} |",
            labels.join(", "),
            cell(help.trim_end_matches('.'))
        );
        named.insert(family.to_owned());
    }
    let source = page("src/controller/metrics.rs");
    let registered = regex::Regex::new(r#"register\(\s*"([a-z_]+)""#).unwrap();
    for found in registered.captures_iter(&source) {
        assert!(
            named.contains(&found[1]),
            "{} has no sample: call what sets it in exposition(), tests/docs.rs",
            &found[1]
        );
    }
    generated(
        "docs/reference/metrics.md",
        &format!(
            "# Series of the controller\n\n<!-- Written by `make docs-reference` from src/controller/metrics.rs. -->\n\n\
             What `/metrics` exports, in the OpenMetrics format. `flagger_…` series have Flagger's names, labels and values, so dashboards and alerts go on; \
             `serin_…` are new. The series of a canary go when it goes. `name` is the target's name. A histogram `x` is exported as `x_bucket`, `x_sum` \
             and `x_count`.\n\n| series | type | labels | |\n|---|---|---|---|\n{rows}\n\
             The chart brings alerts and a dashboard made of these: see [operations](../operations.md#health).\n"
        ),
    );
}

// ---- reasons

#[test]
fn the_reasons_are_those_of_the_code() {
    for (part, reasons) in [
        ("reasons of conditions", reasons::OF_CONDITIONS.as_slice()),
        ("reasons of events", reasons::OF_EVENTS.as_slice()),
    ] {
        let table = reasons.iter().fold(
            "| reason | meaning |\n|---|---|\n".to_owned(),
            |mut table, (reason, meaning)| {
                let _ = writeln!(table, "| `{reason}` | {meaning} |");
                table
            },
        );
        generated_part("docs/status.md", part, "src/rollout/reasons.rs", &table);
    }
}

// ---- routers

/// `headers` exact, regex; `queryParams` exact
fn conditions(can: &Capabilities) -> String {
    let mut subjects: Vec<(&str, Vec<&str>)> = Vec::new();
    for condition in can.conditions {
        let (subject, how) = condition.label();
        match subjects.iter_mut().find(|(known, _)| *known == subject) {
            Some((_, all)) => all.push(how),
            None => subjects.push((subject, vec![how])),
        }
    }
    let subjects: Vec<String> = subjects
        .into_iter()
        .map(|(subject, how)| format!("`{subject}` {}", how.join(", ")))
        .collect();
    subjects.join("; ")
}

#[test]
fn the_reference_of_routers_is_their_table() {
    let mut table = String::from(
        "| provider | weights | A/B test by | mirror | affinity | TCP |\n|---|---|---|---|---|---|\n",
    );
    let mut fields = String::from("| provider |");
    for field in ServiceField::ALL {
        let _ = write!(fields, " `{}` |", field.name());
    }
    let _ = writeln!(fields, "\n|---|{}", "---|".repeat(ServiceField::ALL.len()));
    for (provider, can) in routing::table() {
        let weights = match can.weights {
            Weights::None => "no".to_owned(),
            Weights::Steps(percent) => format!("{percent} %"),
        };
        let mirror: Vec<&str> = [
            (can.mirror.blue_green, "Blue/Green"),
            (can.mirror.canary_step, "canary step"),
            (can.mirror.percentage, "part"),
        ]
        .into_iter()
        .filter_map(|(can, word)| can.then_some(word))
        .collect();
        let affinity = match (can.affinity, can.primary_affinity) {
            (true, true) => "both",
            (true, false) => "canary",
            _ => "",
        };
        let yes = |can: bool| if can { "yes" } else { "" };
        let _ = writeln!(
            table,
            "| `{provider}` | {weights} | {} | {} | {affinity} | {} |",
            conditions(&can),
            mirror.join(", "),
            yes(can.tcp)
        );
        let _ = write!(fields, "| `{provider}` |");
        for field in ServiceField::ALL {
            let _ = write!(fields, " {} |", yes(can.fields.contains(&field)));
        }
        fields.push('\n');
    }
    let (page, source) = ("docs/routers/README.md", "src/routing/");
    generated_part(page, "what each router can express", source, &table);
    generated_part(page, "fields that each router writes", source, &fields);
    let mut lacking = String::from(
        "| asked for | where the router lacks it | why, or how it goes on |\n|---|---|---|\n",
    );
    for feature in Feature::ALL {
        let answer = match feature.severity() {
            Severity::Error => "refused",
            Severity::Warning => "warned about",
        };
        let (asked, why) = feature.label();
        let _ = writeln!(lacking, "| {asked} | {answer} | {why} |");
    }
    generated_part(page, "what comes of what is lacking", source, &lacking);
}

/// The series of a row of the built-in queries stand on the page of the router that the row is for.
#[test]
fn the_pages_of_routers_name_the_series_that_are_asked_for() {
    let queries = page("src/analysis/golden/queries.txt");
    let series = regex::Regex::new(r"([a-z_]+)\{").unwrap();
    let (mut row, mut checked) = ("", 0);
    for line in queries.lines() {
        if !line.starts_with(' ') {
            row = line;
            continue;
        }
        let name = match row {
            "linkerd" | "osm" => "smi",
            row => row,
        };
        let text = page(&format!("docs/routers/{name}.md"));
        if text.is_empty() {
            // Rows for what may stand behind any route are in docs/metrics.md.
            continue;
        }
        for found in series.captures_iter(line) {
            let found = ["_sum", "_count", "_bucket"]
                .iter()
                .fold(&found[1], |name, end| name.trim_end_matches(end));
            assert!(
                text.contains(found),
                "docs/routers/{name}.md does not name {found}, which the built-in queries ask for"
            );
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} series found");
}

// ---- scenarios

#[test]
fn the_reference_of_scenarios_is_their_table() {
    let source = page("e2e/src/scenarios/mod.rs");
    let row = regex::Regex::new(
        r#"scenario!\(\s*\w+,\s*(\w+),\s*\[[^\]]*\],\s*"([^"]+)",\s*[\w:]+,\s*"([^"]+)",?\s*\)"#,
    )
    .unwrap();
    let mut table = String::from("| scenario | what holds when it passes |\n|---|---|\n");
    for found in row.captures_iter(&source) {
        let (name, title) = (&found[2], &found[3]);
        let star = if &found[1] == "Seldom" { " *" } else { "" };
        let _ = writeln!(table, "| `{name}`{star} | {} |", cell(title));
    }
    assert!(table.lines().count() > 30, "{table}");
    generated_part(
        "docs/testing.md",
        "scenarios",
        "e2e/src/scenarios/mod.rs",
        &table,
    );
}

/// `e2e/figures.tsv` is written by the stories themselves, with `SERIN_FIGURES`.
#[test]
fn the_reference_of_planes_is_what_the_stories_measured() {
    let scenarios = page("e2e/src/scenarios/mod.rs");
    let text = page("e2e/figures.tsv");
    let mut lines = text.lines().map(|line| line.split('\t'));
    let columns: Vec<&str> = lines.next().unwrap().collect();
    let expected = [
        "scenario", "route", "plane", "sent", "lost", "away", "split", "seconds",
    ];
    assert_eq!(columns, expected);
    let mut rows: Vec<[String; 8]> = lines
        .map(|line| {
            let cells: Vec<String> = line.map(cell).collect();
            cells.try_into().unwrap()
        })
        .collect();
    rows.sort_by_key(|row| [1, 0, 2].map(|column| row[column].clone()));
    let mut table = String::from(
        "| route | scenario | plane | sent | lost | while the route was away | split asked: measured of answers | s |\n\
         |---|---|---|---:|---:|---:|---|---:|\n",
    );
    for [scenario, route, plane, sent, lost, away, split, seconds] in rows {
        assert!(
            scenarios.contains(&format!("\"{scenario}\"")),
            "e2e/figures.tsv tells of {scenario}, which is no scenario"
        );
        let _ = writeln!(
            table,
            "| {route} | `{scenario}` | {plane} | {sent} | {lost} | {away} | {split} | {seconds} |"
        );
    }
    generated_part(
        "docs/testing.md",
        "figures of the planes",
        "e2e/figures.tsv",
        &table,
    );
}

/// `e2e/router-budget.md` is written by the scenario `router-budget`, with `SERIN_ROUTER_BUDGET`.
#[test]
fn the_reference_of_requests_has_every_router() {
    let table = page("e2e/router-budget.md");
    for (provider, _) in serin::routing::table() {
        let row = format!("| {provider} | ");
        assert!(
            table.lines().any(|line| line.starts_with(&row)),
            "e2e/router-budget.md does not tell of {provider}"
        );
    }
    generated_part(
        "docs/testing.md",
        "requests behind each router",
        "e2e/router-budget.md",
        &table,
    );
}

// ---- annotations and labels

#[test]
fn the_page_of_annotations_has_every_key_of_the_code() {
    let key = regex::Regex::new(r#""((?:serin\.dev|flagger\.app|finalizer\.flagger\.app|autoscaling\.keda\.sh|scaledobject\.keda\.sh|[a-z]+\.toolkit\.fluxcd\.io)/[A-Za-z-]+)""#).unwrap();
    let mut used = BTreeSet::new();
    for file in files_below(&root().join("src"), "rs") {
        // Below the project's folder, whatever that is called.
        let path = file.strip_prefix(root()).unwrap().to_string_lossy();
        if path.contains("/sim/") || path.contains("tests") {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        used.extend(
            key.captures_iter(source)
                .map(|found| found[1].to_owned())
                .filter(|key| !key.starts_with("flagger.app/v1")),
        );
    }
    let text = page("docs/reference/annotations.md");
    let row = regex::Regex::new(r"(?m)^\| `([^`]+/[^`]+)` \|").unwrap();
    let listed: BTreeSet<String> = row
        .captures_iter(&text)
        .map(|found| found[1].to_owned())
        .collect();
    let lacking: Vec<&String> = used.difference(&listed).collect();
    let stale: Vec<&String> = listed.difference(&used).collect();
    assert!(
        lacking.is_empty() && stale.is_empty(),
        "docs/reference/annotations.md lacks {lacking:?} and lists {stale:?}, which no code names"
    );
}

// ---- pages

fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The pages that people are led to.
fn pages() -> Vec<PathBuf> {
    let mut pages = files_below(&root().join("docs"), "md");
    pages.extend(files_below(&root().join("charts"), "md"));
    pages.extend(files_below(&root().join("examples"), "md"));
    for name in [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ] {
        pages.push(root().join(name));
    }
    pages
}

/// The lines of a page without its code.
fn prose(text: &str) -> Vec<String> {
    let code = regex::Regex::new(r"`[^`]*`").unwrap();
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            lines.push(code.replace_all(line, "").into_owned());
        }
    }
    lines
}

/// The anchors of a page, as GitHub and mdBook make them from headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading
            .trim()
            .chars()
            .filter_map(|character| match character {
                ' ' => Some('-'),
                '-' | '_' => Some(character),
                _ if character.is_alphanumeric() => Some(character.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        let mut name = slug.clone();
        let mut number = 0;
        while !anchors.insert(name) {
            number += 1;
            name = format!("{slug}-{number}");
        }
    }
    anchors
}

/// A path without `..` and `.`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Relative links of a page: where they lead, and the anchor there.
fn links(file: &Path) -> Vec<(String, PathBuf, Option<String>)> {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let text = fs::read_to_string(file).unwrap();
    let mut links = Vec::new();
    for line in prose(&text) {
        for found in link.captures_iter(&line) {
            let written = found[1].to_owned();
            if written.contains("://") || written.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = match written.split_once('#') {
                Some((path, anchor)) => (path.to_owned(), Some(anchor.to_owned())),
                None => (written.clone(), None),
            };
            let target = if path.is_empty() {
                file.to_owned()
            } else {
                plain(&file.parent().unwrap().join(path))
            };
            links.push((written, target, anchor));
        }
    }
    links
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for file in pages() {
        for (written, target, anchor) in links(&file) {
            seen += 1;
            let known = match (&anchor, target.exists()) {
                (_, false) => false,
                (None, true) => true,
                (Some(anchor), true) => {
                    anchors(&fs::read_to_string(&target).unwrap_or_default()).contains(anchor)
                }
            };
            if !known {
                broken.push(format!(
                    "{}: {written}",
                    file.strip_prefix(root()).unwrap().display()
                ));
            }
        }
    }
    assert!(seen > 50, "only {seen} links found");
    assert!(
        broken.is_empty(),
        "these lead nowhere:\n{}",
        broken.join("\n")
    );
}

#[test]
fn the_book_has_every_page() {
    let summary = root().join("docs/SUMMARY.md");
    let listed: Vec<PathBuf> = links(&summary)
        .into_iter()
        .map(|(_, path, _)| path)
        .collect();
    let unique: BTreeSet<&PathBuf> = listed.iter().collect();
    assert_eq!(
        unique.len(),
        listed.len(),
        "docs/SUMMARY.md lists a page twice"
    );
    for file in files_below(&root().join("docs"), "md") {
        assert!(
            file == summary || unique.contains(&file),
            "docs/SUMMARY.md does not list {}",
            file.display()
        );
    }
}

#[test]
fn the_read_me_is_short_and_leads_to_each_page_once() {
    let text = page("README.md");
    let lines = text.lines().count();
    assert!(
        lines <= 90,
        "README.md has {lines} lines, more than two screens"
    );
    let mut led = BTreeSet::new();
    for (written, ..) in links(&root().join("README.md")) {
        assert!(
            led.insert(written.clone()),
            "README.md links {written} twice"
        );
    }
}

// ---- examples

#[test]
fn lint_finds_nothing_wrong_with_the_examples() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_serin"))
        .args(["lint", "--strict"])
        .args(files_below(&root().join("examples"), "yaml"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Lint needs no cluster, so whether its picture is still true can be seen anywhere.
#[test]
fn the_picture_of_lint_shows_what_lint_says() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_serin"))
        .args(["lint", "shop.yaml"])
        .current_dir(root().join("tests/fixtures/lint"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let picture = page("docs/images/lint.svg");
    let text = regex::Regex::new("<text[^>]*>([^<]*)</text>").unwrap();
    let shown: String = text
        .captures_iter(&picture)
        .map(|found| found[1].to_owned())
        .collect();
    let shown = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#x27;", "'"),
        ("&amp;", "&"),
    ]
    .into_iter()
    .fold(shown, |text, (escaped, plain)| text.replace(escaped, plain));
    // Long lines are folded in the picture.
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(
        bare(&shown),
        bare(&format!("$ serin lint shop.yaml {said}")),
        "docs/images/lint.svg is out of date: hack/pictures.sh says how to make it"
    );
}

#[test]
fn every_example_is_listed() {
    let listed: BTreeSet<PathBuf> = links(&root().join("examples/README.md"))
        .into_iter()
        .map(|(_, path, _)| path)
        .collect();
    for file in files_below(&root().join("examples"), "yaml") {
        assert!(
            listed.contains(&file) || listed.contains(file.parent().unwrap()),
            "examples/README.md does not list {}",
            file.display()
        );
    }
}

/// The YAML of a page: each block's first line and text.
fn yaml_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        if let Some((_, inside)) = &mut block {
            if line.starts_with("```") {
                blocks.extend(block.take());
            } else {
                inside.push_str(line);
                inside.push('\n');
            }
        } else if line == "```yaml" {
            block = Some((number + 1, String::new()));
        }
    }
    blocks
}

/// A part of a Canary, `analysis:` or `spec:`, made whole.
fn whole(part: &Value) -> Value {
    let mut canary = serde_json::json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "shop", "namespace": "test"},
        "spec": {
            "provider": "gatewayapi:v1",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"},
            "service": {"port": 80, "gatewayRefs": [{"name": "public", "namespace": "infra"}]},
            "analysis": {"interval": "1m", "threshold": 3, "stepWeight": 10, "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99}}]},
        },
    });
    if let Some(spec) = part["spec"].as_object() {
        for (key, value) in spec {
            canary["spec"][key] = value.clone();
        }
    }
    if part["analysis"].is_object() {
        canary["spec"]["analysis"] = part["analysis"].clone();
    }
    canary
}

#[test]
fn lint_finds_no_error_in_the_yaml_of_the_pages() {
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for file in files_below(&root().join("docs"), "md") {
        for (line, block) in yaml_blocks(&fs::read_to_string(&file).unwrap()) {
            let object: Value = serde_saphyr::from_str(&block)
                .unwrap_or_else(|error| panic!("{}:{line}: {error}", file.display()));
            let object = match object["apiVersion"].as_str() {
                Some("flagger.app/v1beta1") => object,
                Some(_) => continue,
                None => whole(&object),
            };
            let path = folder.path().join("block.yaml");
            fs::write(&path, object.to_string()).unwrap();
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_serin"))
                .arg("lint")
                .arg(&path)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}:{line}: {said}", file.display());
            checked += 1;
        }
    }
    assert!(checked > 8, "only {checked} blocks found");
}

#[test]
fn flags_and_values_that_the_pages_name_exist() {
    let mut command = serin::cli::command();
    command.build();
    let known: BTreeSet<String> = command
        .get_subcommands()
        .flat_map(Command::get_arguments)
        .filter_map(|argument| argument.get_long().map(str::to_owned))
        .collect();
    let schemas = ["serin", "loadtester"].map(|chart| -> Value {
        serde_json::from_str(&page(&format!("charts/{chart}/values.schema.json"))).unwrap()
    });
    // A long flag with one dash is one of the controller's; `--set` is Helm's.
    let flag = regex::Regex::new(r"[` ]-([a-z]+(?:-[a-z]+)+)").unwrap();
    let value = regex::Regex::new(r"--set '?([A-Za-z.]+)=").unwrap();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in pages() {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        for found in flag.captures_iter(&text) {
            seen += 1;
            if !known.contains(&found[1]) {
                wrong.push(format!("{name}: -{}", &found[1]));
            }
        }
        for found in value.captures_iter(&text) {
            seen += 1;
            let path = found[1].replace('.', "/properties/");
            let pointer = format!("/properties/{path}");
            if schemas
                .iter()
                .all(|schema| schema.pointer(&pointer).is_none())
            {
                wrong.push(format!("{name}: --set {}", &found[1]));
            }
        }
    }
    assert!(seen > 30, "only {seen} found");
    assert!(
        wrong.is_empty(),
        "these do not exist:\n{}",
        wrong.join("\n")
    );
}
