//! The contract of every path, as canaries and people use it: over HTTP, with the bodies that they send.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::loadtester::tasks::Limits;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// A load tester, and a canary that counts its visitors.
struct Street {
    base: String,
    canary: String,
    visits: Arc<AtomicUsize>,
    office: Arc<Office>,
}

fn limits() -> Limits {
    Limits {
        timeout: Duration::from_mins(1),
        allow_shell: false,
        allowed_hosts: Vec::new(),
        max_workers: 20,
        api_keys: None,
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn street(limits: Limits, access: Access) -> Street {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let telemetry = Arc::new(Telemetry::new());
    let office = Arc::new(Office {
        access,
        gates: Gates::in_memory(),
        tasks: Tasks::new(limits, Arc::clone(&telemetry)),
        telemetry,
    });
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    let canary = Router::new().fallback(move |body: Bytes| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { format!("token for {}", String::from_utf8_lossy(&body)) }
    });
    Street {
        base: serve(router(Arc::clone(&office))).await,
        canary: serve(canary).await,
        visits,
        office,
    }
}

impl Street {
    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
        let answer = reqwest::Client::new()
            .post(format!("{}{path}", self.base))
            .body(body)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn hook(&self, metadata: Value) -> (u16, String) {
        let body = json!({
            "name": "app", "namespace": "test", "phase": "Progressing", "checksum": "1", "metadata": metadata,
        });
        self.post("/", body.to_string()).await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.base)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn gates_are_closed_until_somebody_opens_them() {
    let street = street(limits(), Access::default()).await;
    let app: &str = r#"{"name": "app", "namespace":"test"}"#;
    let other: &str = r#"{"name": "app", "namespace":"shop"}"#;
    for (path, body, status, text) in [
        ("/gate/approve", "", 200, "OK"),
        ("/gate/halt", "", 403, "Forbidden"),
        ("/gate/check", app, 403, "Forbidden"),
        ("/gate/open", app, 202, "open"),
        ("/gate/check", app, 200, "Approved"),
        ("/gate/check", other, 403, "Forbidden"),
        ("/rollback/check", app, 403, "Forbidden"),
        ("/rollback/open", app, 202, "open"),
        ("/gate/close", app, 202, "closed"),
        ("/gate/check", app, 403, "Forbidden"),
        ("/rollback/check", app, 200, "Approved"),
        ("/rollback/close", app, 202, "closed"),
        ("/rollback/check", app, 403, "Forbidden"),
    ] {
        let answer = street.post(path, body).await;
        assert_eq!(answer, (status, text.to_owned()), "{path} {body}");
    }
    for path in ["/gate/check", "/gate/open", "/rollback/close"] {
        for body in [
            "",
            "no JSON",
            "{}",
            r#"{"name": "app"}"#,
            r#"{"name": "a/b", "namespace": "test"}"#,
        ] {
            assert_eq!(street.post(path, body).await.0, 400, "{path} {body}");
        }
    }
    assert_eq!(
        street.get("/gate/approve").await.0,
        200,
        "the method is not looked at"
    );
    assert_eq!(street.get("/healthz").await, (200, "OK".into()));
}

#[tokio::test]
async fn a_load_runs_in_the_background_and_once() {
    let street = street(limits(), Access::default()).await;
    let hook = json!({"type": "cmd", "cmd": format!("hey -z 1m -q 50 -c 2 {}/", street.canary)});
    let all = futures::future::join_all((0..10).map(|_| street.hook(hook.clone()))).await;
    let started = all
        .iter()
        .filter(|(_, text)| text.starts_with("started hey"))
        .count();
    assert!(all.iter().all(|(status, _)| *status == 202), "{all:?}");
    assert_eq!(
        started, 1,
        "of ten that ask at the same time one starts it: {all:?}"
    );
    until("visitors come", || street.visits() > 10).await;
    let (status, text) = street.hook(hook.clone()).await;
    assert_eq!(status, 202);
    assert!(
        text.starts_with("running for") && text.contains("200 "),
        "{text}"
    );
    let (_, metrics) = street.get("/metrics").await;
    assert!(
        metrics.contains("serin_loadtester_tasks_running 1"),
        "{metrics}"
    );
    assert!(
        metrics
            .contains(r#"serin_loadtester_requests_total{namespace="test",name="app",code="200"}"#),
        "{metrics}"
    );
    // Another canary's load is another one, though the command is the same.
    let other = json!({"name": "other", "namespace": "test", "metadata": hook});
    let (_, text) = street.post("/", other.to_string()).await;
    assert!(text.starts_with("started hey"), "{text}");
    // The end of the process stops both and takes nothing new.
    street.office.tasks.finish(Duration::from_secs(10)).await;
    let (_, metrics) = street.get("/metrics").await;
    assert!(
        metrics.contains("serin_loadtester_tasks_running 0"),
        "{metrics}"
    );
    assert!(
        metrics.contains(r#"serin_loadtester_tasks_total{type="cmd",result="stopped"} 2"#),
        "{metrics}"
    );
    let (status, text) = street.hook(hook).await;
    assert_eq!(
        (status, text.as_str()),
        (503, "the load tester is stopping")
    );
}

#[tokio::test]
async fn a_load_that_ended_is_told_to_who_starts_it_again() {
    let street = street(limits(), Access::default()).await;
    let hook = json!({"cmd": format!("hey -n 5 -c 1 {}/", street.canary)});
    assert_eq!(street.hook(hook.clone()).await.0, 202);
    until("it ends", || {
        street.visits() == 5 && street.office.tasks.is_idle()
    })
    .await;
    let (status, text) = street.hook(hook).await;
    assert_eq!(status, 202);
    assert!(
        text.contains("the last one ended") && text.contains("5 requests in"),
        "{text}"
    );
}

#[tokio::test]
async fn a_test_is_waited_for() {
    let street = street(limits(), Access::default()).await;
    let canary = street.canary.clone();
    let bash = |cmd: String| json!({"type": "bash", "cmd": cmd});
    let passing = format!("curl -sd 'test' {canary}/token | grep token");
    assert_eq!(street.hook(bash(passing.clone())).await, (200, "OK".into()));
    let mut told = bash(passing);
    told["returnCmdOutput"] = json!("true");
    assert_eq!(street.hook(told).await, (200, "token for test\n".into()));
    let failing = format!("curl -s {canary}/ | grep missing");
    let (status, text) = street.hook(bash(failing.clone())).await;
    assert_eq!(status, 500);
    assert_eq!(
        text,
        format!("command {failing} failed: grep: nothing matches in the answer\n")
    );
    let (status, text) = street
        .hook(bash("hey -n 2 -c 1 http://127.0.0.1:1/".into()))
        .await;
    assert_eq!(status, 500, "a load without one answer fails: {text}");
    assert!(text.contains("connection refused"), "{text}");
    let mut load = bash(format!("hey -n 7 -c 1 {canary}/"));
    load["returnCmdOutput"] = json!("true");
    let (status, text) = street.hook(load).await;
    assert!(status == 200 && text.contains("7 requests in"), "{text}");
    assert_eq!(
        street
            .hook(bash(format!(
                "curl -sf {canary}/ && curl -sf http://127.0.0.1:1/"
            )))
            .await
            .0,
        500
    );
}

#[tokio::test]
async fn what_can_t_be_run_is_refused_with_the_reason() {
    let street = street(limits(), Access::default()).await;
    for (body, status, told) in [
        (
            json!({"name": "app", "namespace": "test"}),
            400,
            "metadata: expected the task's type and cmd",
        ),
        (
            json!({"metadata": {"type": "cmd"}}),
            400,
            "metadata.cmd: expected a command",
        ),
        (
            json!({"metadata": {"type": "load", "cmd": "hey http://a"}}),
            400,
            "metadata.type: expected cmd, bash, helm, helmv3, kubectl, ngrinder or concord, found \"load\"",
        ),
        (
            json!({"metadata": {"type": "ngrinder", "server": "http://a"}}),
            400,
            "metadata.clone: expected the number of the test to clone, found none",
        ),
        (
            json!({"metadata": {"type": "concord", "org": "a"}}),
            400,
            "metadata.server: expected the URL of the server, such as http://tests.example:8080, found none",
        ),
        (
            json!({"metadata": {"cmd": "hey -y http://a"}}),
            400,
            "hey: unknown option -y; known are",
        ),
        (
            json!({"metadata": {"cmd": "hey -c 21 http://a"}}),
            400,
            "21 workers are more than the 20 that --max-workers allows",
        ),
        (
            json!({"metadata": {"cmd": 1}}),
            400,
            "expected a JSON object",
        ),
        (
            json!({"metadata": {"type": "bash", "cmd": "bats /tests/acceptance.bats"}}),
            403,
            "\"bats\" is not built in",
        ),
        (
            json!({"metadata": {"type": "bash", "cmd": "echo $HOME"}}),
            403,
            "a variable ($) is for a shell, and other programs are not run here",
        ),
        (
            json!({"metadata": {"type": "helmv3", "cmd": "test app"}}),
            403,
            "helm is not built in, and other programs are not run here: the load tester was started without --allow-shell",
        ),
        (
            json!({"metadata": {"type": "kubectl", "cmd": "get pods"}}),
            403,
            "kubectl is not built in",
        ),
    ] {
        let (found, text) = street.post("/anything", body.to_string()).await;
        assert_eq!(found, status, "{body}: {text}");
        assert!(text.starts_with(told), "{body}: {text}");
    }
    assert_eq!(street.post("/", "").await.0, 400);
    let (status, _) = street.get("/").await;
    assert_eq!(status, 400, "a GET is a task without a body");
    let (_, metrics) = street.get("/metrics").await;
    assert!(metrics.contains(r#"result="refused"} 11"#), "{metrics}");
}

#[tokio::test]
async fn with_leave_programs_run_and_are_stopped_in_time() {
    let limits = Limits {
        allow_shell: true,
        timeout: Duration::from_secs(2),
        ..limits()
    };
    let street = street(limits, Access::default()).await;
    let told = |cmd: &str| json!({"type": "bash", "cmd": cmd, "returnCmdOutput": "true"});
    assert_eq!(
        street.hook(told("x=2; echo $((x + 2))")).await,
        (200, "4\n".into())
    );
    let (status, text) = street.hook(told("echo why >&2; false")).await;
    assert_eq!(
        (status, text.as_str()),
        (
            500,
            "command echo why >&2; false failed: why\nexit status: 1\n"
        )
    );
    let (status, text) = street.hook(told("sleep 60")).await;
    assert_eq!(status, 500);
    assert!(
        text.contains("stopped after 2s, the longest that a task may take"),
        "{text}"
    );
    let begun = Instant::now();
    let (status, text) = street
        .hook(json!({"type": "bash", "cmd": format!("hey -z 1h -q 5 -c 1 {}/", street.canary)}))
        .await;
    assert!(status == 500 && text.contains("stopped after 2s"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let (status, text) = street
        .hook(json!({"type": "helm", "cmd": "test app && rm -r /"}))
        .await;
    assert!(status == 403 || status == 400, "{text}");
}

#[tokio::test]
async fn a_test_of_another_server_runs_in_the_background_and_once() {
    let street = street(limits(), Access::default()).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let server = serve(Router::new().fallback(move || {
        let before = counted.fetch_add(1, Ordering::SeqCst);
        let id = (before == 0).then_some(7);
        let state = if before < 3 { "TESTING" } else { "FINISHED" };
        async move { axum::Json(json!({"id": id, "status": [{"status_id": state}]})) }
    }))
    .await;
    let hook = json!({"type": "ngrinder", "server": server, "clone": "1", "username": "u", "passwd": "cA==", "pollInterval": "50ms"});
    let (status, text) = street.hook(hook.clone()).await;
    assert_eq!(status, 202, "{text}");
    assert!(text.starts_with("started ngrinder http://"), "{text}");
    let (status, text) = street.hook(hook.clone()).await;
    assert!(status == 202 && text.starts_with("running for"), "{text}");
    until("the test to end", || street.office.tasks.is_idle()).await;
    let (status, text) = street.hook(hook).await;
    assert_eq!(status, 202);
    assert!(text.contains("a clone of test 1: 7 FINISHED"), "{text}");
}

#[tokio::test]
async fn more_workers_than_are_free_wait_for_the_next_time() {
    let street = street(limits(), Access::default()).await;
    let canary = street.canary.clone();
    let load = |c: u32| json!({"cmd": format!("hey -z 1m -q 5 -c {c} {canary}/")});
    assert_eq!(street.hook(load(15)).await.0, 202);
    let (status, text) = street.hook(load(6)).await;
    assert_eq!(
        (status, text.as_str()),
        (503, "6 workers are asked for and 5 of 20 are free")
    );
    assert_eq!(street.hook(load(5)).await.0, 202);
    street.office.tasks.finish(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn only_hosts_that_are_allowed_are_asked() {
    let limits = Limits {
        allowed_hosts: vec!["*.test".into(), "127.0.0.1".into()],
        ..limits()
    };
    let street = street(limits, Access::default()).await;
    let (status, text) = street
        .hook(json!({"cmd": "hey http://bank.internal/"}))
        .await;
    assert_eq!(
        (status, text.as_str()),
        (
            403,
            "host \"bank.internal\" may not be asked; allowed are *.test, 127.0.0.1"
        )
    );
    assert_eq!(
        street
            .hook(json!({"cmd": "hey -n 1 http://127.0.0.1/ && ghz --insecure bank.internal:80"}))
            .await
            .0,
        403
    );
    let fine = json!({"type": "bash", "cmd": format!("curl -s {}/", street.canary)});
    assert_eq!(street.hook(fine).await.0, 200);
}

#[tokio::test]
async fn namespaces_and_tokens_are_looked_at_on_every_path_that_does_something() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("test"), "sesame").unwrap();
    let access = Access {
        namespaces: Some(regex::Regex::new("^test$|^shop$").unwrap()),
        tokens: Some(folder.path().to_owned()),
    };
    let street = street(limits(), access).await;
    let body = |namespace: &str, token: &str| {
        json!({"name": "app", "namespace": namespace, "metadata": {"token": token, "type": "bash", "cmd": format!("curl -s {}/", street.canary)}}).to_string()
    };
    for (path, done) in [
        ("/", 200),
        ("/gate/open", 202),
        ("/gate/check", 200),
        ("/gate/close", 202),
        ("/rollback/open", 202),
        ("/rollback/check", 200),
        ("/rollback/close", 202),
    ] {
        for (body, status, text) in [
            (body("test", "sesame"), done, None),
            (body("test", "guess"), 401, Some("Unauthorized")),
            (body("shop", "sesame"), 401, Some("Unauthorized")),
            (body("bank", "sesame"), 403, Some("Forbidden")),
        ] {
            let (found, said) = street.post(path, body.clone()).await;
            assert_eq!(found, status, "{path} {body}: {said}");
            assert!(text.is_none_or(|text| text == said), "{path}: {said}");
        }
    }
    let answer = reqwest::Client::new()
        .post(format!("{}/gate/open", street.base))
        .bearer_auth("sesame")
        .body(r#"{"name": "app", "namespace": "test"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    assert_eq!(street.get("/healthz").await.0, 200);
}
