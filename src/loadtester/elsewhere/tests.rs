//! Against servers on this machine that answer as nGrinder's and Concord's interfaces do.

use super::*;
use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::{Mutex, PoisonError};

/// What a server was asked: method, path with query, authorization, body.
type Asked = (String, String, String, String);

/// A server that answers with these, one after the other, the last for ever.
#[derive(Clone)]
struct Runner {
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Vec<(u16, Value)>>,
}

async fn answer(
    Shared(runner): Shared<Runner>,
    method: axum::http::Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let mut asked = runner.asked.lock().unwrap_or_else(PoisonError::into_inner);
    let header = |name: &str| {
        let value = headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or_default().to_owned()
    };
    let (status, answer) = &runner.answers[asked.len().min(runner.answers.len() - 1)];
    let body = format!("{}{body}", header("content-type"));
    let path = uri.path_and_query().unwrap().to_string();
    asked.push((method.to_string(), path, header("authorization"), body));
    let status = StatusCode::from_u16(*status).unwrap();
    if let Some(place) = answer["location"].as_str() {
        return (status, [("location", place.to_owned())]).into_response();
    }
    (status, axum::Json(answer.clone())).into_response()
}

async fn runner(answers: &[(u16, Value)]) -> (String, Runner) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runner = Runner {
        asked: Arc::default(),
        answers: Arc::new(answers.to_vec()),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(runner.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, runner)
}

impl Runner {
    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<String> {
        let asked = self.asked().into_iter();
        asked
            .map(|(method, path, ..)| format!("{method} {path}"))
            .collect()
    }
}

fn payload(metadata: &Value) -> Payload {
    let body = json!({"name": "app", "namespace": "test", "metadata": metadata});
    Payload::read(body.to_string().as_bytes()).unwrap()
}

/// `metadata` as Flagger's documentation shows them for nGrinder.
fn ngrinder(server: &str) -> Value {
    json!({"type": "ngrinder", "server": server, "clone": "100", "username": "admin", "passwd": "czNjcmV0", "pollInterval": "10ms"})
}

fn concord(server: &str, key: &Path) -> Value {
    json!({"type": "concord", "server": server, "org": "shop", "project": "tests", "repo": "main", "entrypoint": "smoke",
        "apiKeyPath": key.display().to_string(), "endpoint": "https://canary.shop/", "arguments.depth": "2", "pollInterval": "10ms"})
}

/// A folder of keys with one for the servers on this machine.
fn keys() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("127.0.0.1")).unwrap();
    std::fs::create_dir(folder.path().join("other.example")).unwrap();
    let key = folder.path().join("127.0.0.1/key");
    std::fs::write(&key, "s3cret\n").unwrap();
    std::fs::write(folder.path().join("other.example/key"), "0ther").unwrap();
    (folder, key)
}

async fn run(test: &Test) -> Outcome {
    let anywhere = Arc::new(Destinations::new(&[]));
    test.run(&anywhere, &CancellationToken::new()).await
}

fn status(word: &str) -> (u16, Value) {
    (200, json!({"status": [{"status_id": word}]}))
}

#[tokio::test]
async fn ngrinder_clones_a_test_and_is_asked_until_it_ended() {
    for (last, passed) in [
        ("FINISHED", true),
        ("STOP_BY_ERROR", false),
        ("CANCELED", false),
        ("UNKNOWN", false),
    ] {
        let (address, server) = runner(&[
            (200, json!({"id": 12, "success": true})),
            status("READY"),
            (502, json!({})),
            status("TESTING"),
            status(last),
        ])
        .await;
        let test = Test::of_ngrinder(&payload(&ngrinder(&address))).unwrap();
        let outcome = run(&test).await;
        assert_eq!(outcome.passed, passed, "{outcome:?}");
        assert_eq!(
            outcome.output,
            format!("ngrinder {address}, a clone of test 100: 12 {last}\n")
        );
        let asked = server.lines();
        assert_eq!(asked[0], "POST /perftest/api/100/clone_and_start");
        assert_eq!(asked.len(), 5);
        assert!(
            asked[1..]
                .iter()
                .all(|line| line == "GET /perftest/api/12/status")
        );
        let basic = format!("Basic {}", STANDARD.encode("admin:s3cret"));
        assert!(
            server
                .asked()
                .iter()
                .all(|(_, _, shown, _)| *shown == basic)
        );
    }
}

#[tokio::test]
async fn a_test_that_nobody_waits_for_any_more_is_stopped() {
    let (address, server) = runner(&[(200, json!({"id": 12})), status("TESTING")]).await;
    let test = Test::of_ngrinder(&payload(&ngrinder(&address))).unwrap();
    let stop = CancellationToken::new();
    let anywhere = Arc::new(Destinations::new(&[]));
    let (outcome, ()) = tokio::join!(test.run(&anywhere, &stop), async {
        while server.asked().len() < 2 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    });
    assert!(!outcome.passed);
    assert!(
        outcome.output.contains("12 was told to stop"),
        "{outcome:?}"
    );
    assert_eq!(
        server.lines().last().unwrap(),
        "PUT /perftest/api/12?action=stop"
    );
}

#[tokio::test]
async fn concord_starts_a_process_and_is_asked_until_it_ended() {
    let (folder, key) = keys();
    let id = "aaaa-1111";
    for (last, passed) in [
        ("FINISHED", true),
        ("FAILED", false),
        ("CANCELLED", false),
        ("TIMED_OUT", false),
    ] {
        let (address, server) = runner(&[
            (200, json!({"instanceId": id, "ok": true})),
            (200, json!({"status": "RUNNING"})),
            (200, json!({"status": last})),
        ])
        .await;
        let metadata = payload(&concord(&address, &key));
        let test = Test::of_concord(&metadata, Some(folder.path())).unwrap();
        let outcome = run(&test).await;
        assert_eq!(outcome.passed, passed, "{outcome:?}");
        assert_eq!(
            outcome.output,
            format!("concord {address}, shop/tests/main/smoke: {id} {last}\n")
        );
        let path = format!("GET /api/v1/process/{id}");
        assert_eq!(server.lines(), ["POST /api/v1/process", &path, &path]);
        let (_, _, shown, body) = &server.asked()[0];
        assert_eq!(shown, "s3cret");
        assert!(
            body.starts_with("multipart/form-data; boundary=serin-"),
            "{body}"
        );
        for (name, given) in [
            ("org", "shop"),
            ("project", "tests"),
            ("repo", "main"),
            ("entryPoint", "smoke"),
            ("arguments.endpoint", "https://canary.shop/"),
            ("arguments.depth", "2"),
        ] {
            let part = format!("form-data; name=\"{name}\"\r\n\r\n{given}\r\n--serin-");
            assert!(body.contains(&part), "{name}: {body}");
        }
    }
}

#[tokio::test]
async fn a_process_that_takes_too_long_has_failed() {
    let (folder, key) = keys();
    let (address, _server) = runner(&[
        (200, json!({"instanceId": "a"})),
        (200, json!({"status": "RUNNING"})),
    ])
    .await;
    let mut metadata = concord(&address, &key);
    metadata["pollTimeout"] = json!("50ms");
    let test = Test::of_concord(&payload(&metadata), Some(folder.path())).unwrap();
    let outcome = run(&test).await;
    assert!(!outcome.passed);
    assert!(
        outcome.output.ends_with("a was not done within 50ms\n"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_server_that_refuses_is_quoted_without_what_opens_it() {
    for (answer, told) in [
        (
            (403, json!({"message": "no, admin:s3cret"})),
            "403 {\"message\":\"no, admin:…\"}",
        ),
        ((200, json!({"success": false, "message": "gone"})), "200 {"),
        (
            (200, json!({"no": "id"})),
            "the answer names no id of a test",
        ),
        // What opens this server is for no other one.
        (
            (307, json!({"location": "http://127.0.0.2:1/"})),
            "not started: ",
        ),
    ] {
        let (address, server) = runner(&[answer]).await;
        let test = Test::of_ngrinder(&payload(&ngrinder(&address))).unwrap();
        let outcome = run(&test).await;
        assert!(!outcome.passed);
        assert!(outcome.output.contains(told), "{outcome:?}");
        assert!(!outcome.output.contains("s3cret"), "{outcome:?}");
        assert_eq!(server.asked().len(), 1);
    }
    let (address, server) = runner(&[(200, json!({"id": 1})), (500, json!({}))]).await;
    let test = Test::of_ngrinder(&payload(&ngrinder(&address))).unwrap();
    let outcome = run(&test).await;
    assert!(
        outcome.output.contains("the state of 1 can't be had: GET"),
        "{outcome:?}"
    );
    assert_eq!(server.asked().len(), 1 + MISSES);
    assert!(!format!("{test:?}").contains("s3cret"));
}

#[test]
fn a_key_is_read_for_its_own_server_alone() {
    let (folder, key) = keys();
    let root = folder.path();
    std::fs::write(root.join("elsewhere"), "s3cret").unwrap();
    std::os::unix::fs::symlink(root.join("elsewhere"), root.join("127.0.0.1/link")).unwrap();
    std::fs::write(root.join("127.0.0.1/empty"), " \n").unwrap();
    let read = |server: &str, path: PathBuf, keys: Option<&Path>| {
        Test::of_concord(&payload(&concord(server, &path)), keys)
    };
    assert!(read("http://127.0.0.1:1", key.clone(), Some(root)).is_ok());
    for (server, path) in [
        ("http://127.0.0.1", "other.example/key"),
        ("http://127.0.0.1", "127.0.0.1/../other.example/key"),
        ("http://127.0.0.1", "127.0.0.1/link"),
        ("http://127.0.0.1", "127.0.0.1/empty"),
        ("http://127.0.0.1", "127.0.0.1/none"),
        ("http://127.0.0.1", "127.0.0.1"),
        ("http://127.0.0.1", "elsewhere"),
        ("http://nobody.example", "127.0.0.1/key"),
    ] {
        let refused = read(server, root.join(path), Some(root)).unwrap_err();
        assert!(
            matches!(refused, Refused::NotAllowed(_)),
            "{path}: {refused}"
        );
        let told = refused.to_string();
        assert!(told.contains("the folder of the keys of"), "{path}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
    let told = read("http://127.0.0.1", key, None).unwrap_err().to_string();
    assert!(told.ends_with("started without --api-key-dir"), "{told}");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let (folder, key) = keys();
    let change = |mut metadata: Value, field: &str, given: Option<&str>| {
        match given {
            Some(given) => metadata[field] = json!(given),
            None => drop(metadata.as_object_mut().unwrap().remove(field)),
        }
        payload(&metadata)
    };
    for (field, given, told) in [
        ("server", None, "expected the URL of the server"),
        ("server", Some("ftp://a"), "found something else"),
        (
            "server",
            Some("http://u:s3cret@a"),
            "without user and password",
        ),
        (
            "clone",
            Some("first"),
            "expected the number of the test to clone, found \"first\"",
        ),
        ("username", None, "expected the user's name, found none"),
        (
            "passwd",
            Some("s3cret!"),
            "expected the password in base64, found something else",
        ),
        ("pollInterval", Some("0s"), "expected more than no time"),
        ("pollInterval", Some("soon"), "found \"soon\""),
    ] {
        let metadata = change(ngrinder("http://a"), field, given);
        let refused = Test::of_ngrinder(&metadata).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("metadata.{field}: ")),
            "{refused}"
        );
        assert!(
            refused.contains(told) && !refused.contains("s3cret"),
            "{refused}"
        );
    }
    for (field, given, told) in [
        ("org", None, "expected the organisation, found none"),
        (
            "entrypoint",
            Some(" "),
            "expected the entry point, found none",
        ),
        ("endpoint", None, "expected the URL of what is tested"),
        ("arguments.endpoint", Some("x"), "in metadata.endpoint"),
        ("apiKeyPath", None, "expected the path of a file"),
        ("pollTimeout", Some("-1"), "expected more than no time"),
    ] {
        let metadata = change(concord("http://127.0.0.1", &key), field, given);
        let refused = Test::of_concord(&metadata, Some(folder.path()));
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("metadata.{field}: ")),
            "{refused}"
        );
        assert!(refused.contains(told), "{refused}");
    }
}

#[test]
fn seconds_are_what_flagger_means_by_a_number() {
    for (given, expected) in [("5", 5000), ("250ms", 250), ("2m", 120_000)] {
        let mut metadata = ngrinder("http://a");
        metadata["pollInterval"] = json!(given);
        let test = Test::of_ngrinder(&payload(&metadata)).unwrap();
        assert_eq!(test.period, Duration::from_millis(expected), "{given}");
    }
}
