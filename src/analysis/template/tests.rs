//! What the template language does, held against Go's own answers in `golden/` and against hostile templates.

use super::{MAX_SOURCE, TemplateContext, render};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    template: String,
    output: Option<String>,
    error: Option<String>,
}

fn context() -> TemplateContext {
    let variables = [
        ("a", "1"),
        ("b", "two"),
        ("team", "blue"),
        ("quoted", "say \"hi\""),
        ("empty", ""),
    ];
    TemplateContext {
        name: "podinfo".to_owned(),
        namespace: "test".to_owned(),
        target: "podinfo".to_owned(),
        service: "podinfo-svc".to_owned(),
        ingress: "podinfo-ing".to_owned(),
        route: "podinfo-route".to_owned(),
        interval: "1m".to_owned(),
        variables: variables
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

#[test]
fn go_and_serin_agree_on_every_template_of_the_golden_file() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("golden/templates.json")).unwrap();
    assert!(rows.len() > 200);
    let mut differences = Vec::new();
    for row in rows {
        match (render(&row.template, &context()), row.output) {
            (Ok(found), Some(expected)) if found == expected => {}
            (Err(_), None) => {}
            (found, expected) => differences.push(format!(
                "{}\n  serin {found:?}\n  go    {expected:?} {:?}",
                row.template, row.error
            )),
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn complaint(template: &str) -> String {
    render(template, &context()).unwrap_err().to_string()
}

#[test]
fn errors_say_where_what_was_found_and_what_would_be_right() {
    let cases = [
        (
            "sum({{ variables.nope }})",
            "template line 1, column 8: the variable \"nope\" is not set; templateVariables has a, b, empty, quoted, team",
        ),
        (
            "a\n  {{ .target }}",
            "template line 2, column 6: no data for .target: the values are functions; write {{ target }} without the dot",
        ),
        (
            "é {{ podname }}",
            "template line 1, column 6: the function \"podname\" is not known; expected one of name, namespace, target, service, ingress, route, interval, variables,",
        ),
        (
            "{{ if target }}",
            "template line 1, column 4: this {{if}} is not closed; expected {{end}}",
        ),
        (
            "x{{ target",
            "template line 1, column 2: this {{ is not closed; expected }}",
        ),
        (
            "{{ variables.my-team }}",
            "template line 1, column 16: found '-' directly after \".my\"; expected a space, |, . or }}; a key with a dash needs index, for example {{ index variables \"my-…\" }}",
        ),
        (
            "{{ \"\\d+\" }}",
            "template line 1, column 5: unknown escape; expected one of",
        ),
        (
            "{{ len 5 }}",
            "template line 1, column 4: len: expected a string or a map, found int",
        ),
        (
            "{{ target 1 }}",
            "template line 1, column 4: wrong number of arguments for target: expected 0, found 1",
        ),
    ];
    for (template, expected) in cases {
        let found = complaint(template);
        assert!(found.starts_with(expected), "{template}: {found}");
    }
}

#[test]
fn hostile_templates_end_with_an_error_and_not_with_the_machine() {
    let deep_parentheses = format!("{{{{ {}target{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let deep_controls = "{{ if true }}".repeat(4000);
    let long_chain = format!(
        "{{{{ if 0 }}}}{}{{{{ end }}}}",
        "{{ else if 0 }}".repeat(3000)
    );
    let cases = [
        ("{{ range 1000000000000 }}{{ end }}", "too much work"),
        (
            "{{ range 100000 }}{{ range 100000 }}x{{ end }}{{ end }}",
            "longer than",
        ),
        (
            "{{ define \"x\" }}{{ template \"x\" }}{{ end }}{{ template \"x\" }}",
            "nest deeper",
        ),
        (
            "{{ define \"x\" }}{{ range 9 }}{{ template \"x\" }}{{ end }}{{ end }}{{ template \"x\" }}",
            "nest deeper",
        ),
        (
            "{{ $x := \"aaaaaaaaaa\" }}{{ range 1000 }}{{ $x = print $x $x }}{{ end }}",
            "longer than",
        ),
        ("{{ printf \"%1000000000d\" 1 }}", "wider than"),
        ("{{ printf \"%*d\" 1000000000 1 }}", "wider than"),
        ("{{ printf \"%.999999999f\" 1.0 }}", "wider than"),
        (&deep_parentheses, "nested deeper"),
        (&deep_controls, "nested deeper"),
        (&long_chain, "nested deeper"),
    ];
    for (template, expected) in cases {
        let found = complaint(template);
        assert!(found.contains(expected), "{expected}: {found}");
    }
    assert!(complaint(&" ".repeat(MAX_SOURCE + 1)).contains("the limit is"));
}

#[test]
fn the_deepest_template_that_is_accepted_runs_on_a_small_stack() {
    let body = format!(
        "{}{{{{ template \"x\" }}}}{}",
        "{{ with 1 }}".repeat(38),
        "{{ end }}".repeat(38)
    );
    let template = format!("{{{{ define \"x\" }}}}{body}{{{{ end }}}}{{{{ template \"x\" }}}}");
    let found = std::thread::Builder::new()
        .stack_size(1024 * 1024)
        .spawn(move || complaint(&template))
        .unwrap()
        .join()
        .unwrap();
    assert!(found.contains("nest deeper"), "{found}");
}

proptest! {
    #[test]
    fn any_text_is_a_template_or_an_error(source in "\\PC{0,200}") {
        let _ = render(&source, &context());
    }

    #[test]
    fn any_text_inside_of_actions_is_a_template_or_an_error(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("{{"), Just("}}"), Just("{{-"), Just(" -}}"), Just(" "), Just("\n"), Just("("), Just(")"), Just("|"),
                Just("if"), Just("else"), Just("end"), Just("range"), Just("with"), Just("define"), Just("block"), Just("template"),
                Just("break"), Just("continue"), Just("nil"), Just("true"), Just("."), Just(".a"), Just("$"), Just("$x"), Just(":="),
                Just("="), Just(","), Just("target"), Just("variables"), Just("variables.a"), Just("printf"), Just("\"%5.2v %q %[2]*d\""),
                Just("\"x\""), Just("`y`"), Just("'é'"), Just("-1"), Just("0x1f"), Just("1.5e3"), Just("index"), Just("slice"), Just("and"),
                Just("eq"), Just("len"), Just("/*"), Just("*/"), Just("é"), Just("\\"), Just("\""), Just("html"),
            ],
            0..40,
        )
    ) {
        let _ = render(&parts.concat(), &context());
    }

    #[test]
    fn any_format_is_printed_or_refused(format in "[%#0+\\- .*\\[\\]0-9vTtbcdoOqxXUeEfFgGspé]{0,12}") {
        for argument in ["5", "-5", "1.5", "\"é\"", "true", "nil", "variables", "5 6", ""] {
            let _ = render(&format!("{{{{ printf `{format}` {argument} }}}}"), &context());
        }
    }
}
