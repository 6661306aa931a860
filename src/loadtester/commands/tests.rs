//! Command lines as they stand in canaries, and what becomes of them.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::loadtester::generator::HttpVersion;
use proptest::prelude::*;

fn one(line: &str) -> Step {
    let mut steps = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(steps.len(), 1, "{line}");
    steps.remove(0)
}

fn load(line: &str) -> (Plan, Pace) {
    match one(line).action {
        Action::Load { plan, pace } => (plan, pace),
        other => panic!("{line}: {other:?}"),
    }
}

fn http(line: &str) -> (crate::loadtester::generator::HttpPlan, Pace) {
    match load(line) {
        (Plan::Http(plan), pace) => (plan, pace),
        other => panic!("{line}: {other:?}"),
    }
}

fn grpc(line: &str) -> (GrpcPlan, Pace) {
    match load(line) {
        (Plan::Grpc(plan), pace) => (plan, pace),
        other => panic!("{line}: {other:?}"),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as a pace has it")]
fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn the_pace_of_each_program() {
    // Workers, requests a second, requests, time, timeout.
    type Row = (
        &'static str,
        usize,
        Option<f64>,
        Option<u64>,
        Option<Duration>,
        Option<Duration>,
    );
    let rows: [Row; 14] = [
        (
            "hey -z 1m -q 10 -c 2 http://podinfo-canary.test:9898/",
            2,
            Some(20.0),
            None,
            seconds(60),
            seconds(20),
        ),
        (
            "hey http://podinfo.test",
            50,
            None,
            Some(200),
            None,
            seconds(20),
        ),
        (
            "hey -n 1000 -c 100 -t 5 http://podinfo.test",
            100,
            None,
            Some(1000),
            None,
            seconds(5),
        ),
        (
            "hey -n 10 -z 30s -t 0 http://podinfo.test",
            50,
            None,
            None,
            seconds(30),
            None,
        ),
        (
            "/usr/local/bin/hey http://podinfo.test -c=1",
            1,
            None,
            Some(200),
            None,
            seconds(20),
        ),
        (
            "wrk -t2 -c10 -d1m http://podinfo.test/",
            10,
            None,
            None,
            seconds(60),
            seconds(2),
        ),
        (
            "wrk -t12 -c400 -d30 --latency --timeout 5s http://podinfo.test/",
            400,
            None,
            None,
            seconds(30),
            seconds(5),
        ),
        (
            "wrk http://podinfo.test/",
            10,
            None,
            None,
            seconds(10),
            seconds(2),
        ),
        (
            "wrk2 -t2 -c4 -d10s -R200 http://podinfo.test/",
            4,
            Some(200.0),
            None,
            seconds(10),
            seconds(2),
        ),
        (
            "ghz -z 1m -q 10 -c 2 --insecure podinfo.test:9898",
            2,
            Some(10.0),
            None,
            seconds(60),
            seconds(20),
        ),
        (
            "ghz --insecure --proto=/tmp/ghz/health.proto --call=grpc.health.v1.Health/Check podinfo.test:9898",
            50,
            None,
            Some(200),
            None,
            seconds(20),
        ),
        (
            "ghz --insecure -c 5 -n 1000 --rps 50 -t 3s podinfo.test:9898",
            5,
            Some(50.0),
            Some(1000),
            None,
            seconds(3),
        ),
        (
            "ghz -insecure -c5 -n 1000 -x 10s podinfo.test:9898",
            5,
            None,
            Some(1000),
            seconds(10),
            seconds(20),
        ),
        (
            "hey -q 0 -c 3 -z 1s http://podinfo.test",
            3,
            None,
            None,
            seconds(1),
            seconds(20),
        ),
    ];
    for (line, workers, rate, requests, time, timeout) in rows {
        let (_, pace) = load(line);
        let expected = Pace {
            workers,
            rate,
            requests,
            time,
            timeout,
        };
        assert_eq!(pace, expected, "{line}");
    }
}

#[test]
fn what_hey_sends() {
    let (plan, _) = http(
        "hey -z 1m -m post -d '{test: 2}' -T application/json -H 'X-Canary: insider' -H \"Cookie: a=b; c=d\" -a u:p -host shop.example -disable-keepalive -disable-redirects http://podinfo-canary.test:9898/echo?q=1",
    );
    assert_eq!(plan.method, "POST");
    assert_eq!(plan.body.as_ref(), b"{test: 2}");
    let headers: Vec<String> = plan
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    assert_eq!(
        headers,
        [
            "x-canary: insider",
            "cookie: a=b; c=d",
            "authorization: Basic dTpw",
            "content-type: application/json",
            &format!("user-agent: {USER_AGENT}"),
        ]
    );
    assert_eq!(plan.host.as_ref().unwrap(), "shop.example");
    assert!(!plan.keep_alive && plan.redirects == 0 && !plan.verify);
    assert_eq!(plan.target(), "http://podinfo-canary.test:9898/echo");
    let (plan, _) = http("hey -H 'Host: app.example' -h2 https://u:p@podinfo.example/");
    assert_eq!(plan.host.as_ref().unwrap(), "app.example");
    assert_eq!(plan.version, HttpVersion::Negotiated);
    assert_eq!(
        plan.target(),
        "https://podinfo.example/",
        "no password is shown"
    );
    assert_eq!(http("hey -d x http://a").0.headers[0].1, "text/html");
    assert_eq!(http("hey -h2c http://a").0.version, HttpVersion::Two);
    assert_eq!(
        http("hey podinfo.test:9898").0.target(),
        "http://podinfo.test:9898/"
    );
}

#[test]
fn what_ghz_calls() {
    for (line, path, message, tls) in [
        (
            "ghz --insecure a:1",
            "/grpc.health.v1.Health/Check",
            &b""[..],
            None,
        ),
        (
            "ghz --insecure --call grpc.health.v1.Health.Check -d '{\"service\":\"app\"}' a:1",
            "/grpc.health.v1.Health/Check",
            b"\x0a\x03app",
            None,
        ),
        (
            "ghz --insecure --call pkg.v1.Service/Method -d '{}' a:1",
            "/pkg.v1.Service/Method",
            b"",
            None,
        ),
        (
            "ghz --call pkg.Service/Method a:1",
            "/pkg.Service/Method",
            b"",
            Some(true),
        ),
        (
            "ghz --skipTLS --call pkg.Service/Method dns:///a:1",
            "/pkg.Service/Method",
            b"",
            Some(false),
        ),
    ] {
        let (plan, _) = grpc(line);
        assert_eq!(
            (plan.path.as_str(), plan.message.as_ref()),
            (path, message),
            "{line}"
        );
        assert_eq!(plan.tls.map(|tls| tls.verify), tls, "{line}");
        assert_eq!((plan.host.as_str(), plan.port), ("a", 1), "{line}");
    }
    let (plan, _) = grpc("ghz --insecure --call a.B/C -d '{\"x\": 1}' a:1");
    assert_eq!(plan.data, Some(serde_json::json!({"x": 1})));
    let (plan, _) =
        grpc("ghz --insecure -m '{\"x-team\": \"shop\"}' --authority app.example [::1]:9");
    assert_eq!((plan.host.as_str(), plan.port), ("[::1]", 9));
    assert_eq!(plan.authority.as_deref(), Some("app.example"));
    assert_eq!(plan.headers[0].1, "shop");
}

#[test]
fn the_health_of_a_grpc_service_is_asked_once() {
    let step =
        one("grpc_health_probe -addr=podinfo-canary.test:9999 -service app -connect-timeout 2s");
    assert_eq!(
        step.shown(),
        "grpc_health_probe podinfo-canary.test:9999/grpc.health.v1.Health/Check"
    );
    let Action::Health { plan, timeout } = step.action else {
        panic!()
    };
    assert_eq!(
        (plan.message.as_ref(), timeout),
        (&b"\x0a\x03app"[..], Duration::from_secs(3))
    );
}

#[test]
fn one_request_and_what_is_looked_for_in_its_answer() {
    let step = one("curl -sd 'test' http://podinfo-canary.test:9898/token | grep token");
    assert_eq!((step.host(), step.workers()), ("podinfo-canary.test", 1));
    let Action::Fetch(fetch) = step.action else {
        panic!()
    };
    assert_eq!(
        (fetch.plan.method.as_str(), fetch.plan.body.as_ref()),
        ("POST", &b"test"[..])
    );
    assert_eq!(fetch.plan.headers[0].1, "application/x-www-form-urlencoded");
    assert!(!fetch.fail && fetch.plan.verify && fetch.filters.len() == 1);
    let step = one(
        "curl -sSfLk -m 5 -o /dev/null -w '%{http_code}\\n' -XPUT --data-raw a -d b app.test/x",
    );
    let Action::Fetch(fetch) = step.action else {
        panic!()
    };
    assert_eq!(
        (fetch.plan.method.as_str(), fetch.plan.body.as_ref()),
        ("PUT", &b"a&b"[..])
    );
    assert!(fetch.fail && !fetch.plan.verify && !fetch.shows_body && fetch.plan.redirects > 0);
    assert_eq!(
        (fetch.timeout, fetch.write_out(200).as_str()),
        (seconds(5), "200\n")
    );
    let step = one("curl -G -d a=b 'http://app.test/?c=d'");
    let Action::Fetch(fetch) = step.action else {
        panic!()
    };
    assert_eq!(
        (fetch.plan.url.as_str(), fetch.plan.method.as_str()),
        ("http://app.test/?c=d&a=b", "GET")
    );
}

#[test]
fn commands_follow_each_other() {
    let steps =
        parse("hey -n 1 http://a/ && hey -n 2 http://b/ ; wrk http://c/\n\n# the end\n").unwrap();
    let shown: Vec<(String, bool)> = steps
        .iter()
        .map(|step| (step.shown(), step.after_success))
        .collect();
    let expected = [
        ("hey http://a/", false),
        ("hey http://b/", true),
        ("wrk http://c/", false),
    ];
    assert_eq!(
        shown,
        expected.map(|(text, after)| (text.to_owned(), after))
    );
}

#[test]
fn what_is_not_understood_is_said_with_what_is() {
    for (line, told, shell) in [
        ("", "the command is empty", false),
        (" # nothing", "the command is empty", false),
        (
            "bats /tests/acceptance.bats",
            "\"bats\" is not built in (hey, wrk, ghz, grpc_health_probe and curl are)",
            true,
        ),
        (
            "hey $OPTIONS http://a",
            "a variable ($) is for a shell",
            true,
        ),
        ("curl http://a | jq .", "\"jq\" is not built in", true),
        ("hey http://a | grep x", "\"grep\" is not built in", true),
        (
            "hey -z 1x http://a",
            "hey: option -z: expected a duration such as 30s or 1m, found \"1x\"",
            false,
        ),
        (
            "hey -y 1 http://a",
            "hey: unknown option -y; known are -z, -n, -c",
            false,
        ),
        (
            "hey -x p:1 http://a",
            "hey: option -x is not possible here: requests are sent without a proxy",
            false,
        ),
        ("hey -z 1m", "hey: URL is missing", false),
        (
            "hey http://a http://b",
            "hey: expected one URL, found 2",
            false,
        ),
        ("hey ftp://a", "hey: expected a URL such as", false),
        (
            "hey -c 0 http://a",
            "hey: option -c: expected a whole number above 0, found \"0\"",
            false,
        ),
        (
            "hey -H nonsense http://a",
            "hey: option -H: expected a header such as",
            false,
        ),
        (
            "wrk -s x.lua http://a",
            "wrk: option -s is not possible here: there is no Lua",
            false,
        ),
        (
            "ghz --insecure podinfo.test",
            "ghz: expected host:port",
            false,
        ),
        (
            "ghz --insecure --call x a:1",
            "ghz: option --call: expected a method such as",
            false,
        ),
        (
            "grpc_health_probe",
            "grpc_health_probe: option --addr is missing",
            false,
        ),
        (
            "curl -d @/etc/passwd http://a",
            "curl: option -d: expected the data itself: no files are read",
            false,
        ),
        (
            "curl -o /tmp/x http://a",
            "curl: option -o: expected /dev/null: no files are written",
            false,
        ),
        (
            "curl http://a | grep '['",
            "grep: the pattern can't be understood",
            false,
        ),
        ("curl http://a |", "curl: nothing follows the |", false),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.to_string().starts_with(told), "{line}: {error}");
        assert_eq!(error.needs_shell(), shell, "{line}");
    }
}

#[test]
fn the_page_has_every_option_in_its_programs_row() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/loadtester.md")).unwrap();
    for (program, known) in [
        ("hey", hey::known()),
        ("wrk", wrk::known()),
        ("ghz", ghz::known()),
        ("grpc_health_probe", probe::known()),
        ("curl", curl::known()),
        ("grep", curl::known_to_grep()),
    ] {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{program}`")))
            .unwrap_or_else(|| panic!("docs/loadtester.md has no row for {program}"));
        let possible = row.split('|').nth(2).unwrap();
        for (option, refused) in known {
            let told = possible.contains(&format!("`{option}`"));
            assert_eq!(told, !refused, "{program} {option} in docs/loadtester.md");
        }
    }
}

#[test]
fn no_error_repeats_what_may_be_a_secret() {
    for line in [
        "hey -H secret http://a",
        "hey -H 'Authorization: secret\u{7}' http://a",
        "wrk -Hsecret http://a",
        "ghz --insecure -m secret a:1",
        "ghz --insecure -d secret a:1",
        "ghz --insecure --data '{\"password\":\"secret\",}' a:1",
        "ghz --insecure --data=secret a:1",
        "curl --data @secret http://a",
        "curl --data-ascii=@secret http://a",
        "curl --data-binary @secret http://a",
        "curl -sYsecret http://a",
        "curl --header=secret http://a",
        "curl -d @secret http://a",
        "grpc_health_probe -rpc-header secret",
        "hey --password=secret http://a",
        "TOKEN=secret hey http://a",
        "hey http://user:secret@a/ http://b/",
        "hey http://user:secret@a:port/",
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{line}: {error}");
    }
}

proptest! {
    #[test]
    fn whatever_a_line_is_it_is_answered(line in r#"(hey|wrk|ghz|curl|grpc_health_probe|)( (-{0,2}[a-zA-Z0-9é=]{0,4}|['"\\\\|;&$#]|http://a:1/|\PC{0,6})){0,6}"#) {
        if let Err(error) = parse(&line) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
