//! The generator against real servers on loopback: HTTP/1.1, HTTP/2, TLS and gRPC.
#![allow(clippy::unwrap_used)]
use super::message::{bytes_field, tests as message_tests};
use super::*;
use crate::demo::access::Certificates;
use crate::loadtester::commands::{self, Action};
use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, Infallible>;

/// What a server saw of one request.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    second: bool,
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Serves HTTP/1.1 or, with `second`, HTTP/2 from the first byte.
    async fn start(second: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let server = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| server.clone().answer(request));
                    let stream = TokioIo::new(stream);
                    if second {
                        let builder =
                            hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = builder.serve_connection(stream, service).await;
                    } else {
                        let builder = hyper::server::conn::http1::Builder::new();
                        let _ = builder.serve_connection(stream, service).await;
                    }
                });
            }
        });
        server
    }

    /// A server that reads one request, answers it and closes without having said so.
    async fn start_rude() -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let connections = Arc::clone(&server.connections);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK")
                        .await;
                });
            }
        });
        server
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let path = head.uri.path().to_owned();
        self.seen.lock().unwrap().push(Seen {
            method: head.method.to_string(),
            path: path.clone(),
            headers: head.headers,
            second: head.version == ::http::Version::HTTP_2,
            body: body.clone(),
        });
        let text = |status: u16, text: &'static str| {
            let mut response =
                Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        };
        let moved = |status: u16, to: &str| {
            let mut response = text(status, "");
            response
                .headers_mut()
                .insert("location", HeaderValue::from_str(to).unwrap());
            response
        };
        Ok(match path.as_str() {
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                text(200, "late")
            }
            "/never" => std::future::pending().await,
            "/error" => text(503, "no"),
            "/old" => moved(302, "/new"),
            "/kept" => moved(307, "/new"),
            "/round" => moved(301, "/round"),
            "/away" => moved(
                302,
                &format!("http://localhost:{}/new", self.address.port()),
            ),
            "/grpc.health.v1.Health/Check" if body.as_ref() == b"\0\0\0\0\x04\x0a\x02no" => {
                grpc(&b"\0\0\0\0\x02\x08\x02"[..], 0)
            }
            "/grpc.health.v1.Health/Check" => grpc(&b"\0\0\0\0\x02\x08\x01"[..], 0),
            "/pkg.Service/Method" => grpc("", 14),
            // Only the older version is there, as with many servers.
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
                grpc(described(&body), 0)
            }
            path if path.starts_with("/grpc.reflection.") => grpc("", 12),
            "/shop.v1.Orders/Place" => grpc(&b"\0\0\0\0\0"[..], 0),
            "/token" if body.as_ref() == b"test" => text(200, "{\n  \"token\": \"x\"\n}"),
            _ => text(200, "OK"),
        })
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// The answer of server reflection: one file, or the error that there is none.
fn described(question: &[u8]) -> Vec<u8> {
    let known = question.ends_with(b"shop.v1.Orders");
    let mut answer = Vec::new();
    if known {
        let mut files = Vec::new();
        bytes_field(1, &message_tests::file(), &mut files);
        bytes_field(4, &files, &mut answer);
    } else {
        bytes_field(7, b"\x08\x05", &mut answer);
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(answer.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&answer);
    framed
}

fn grpc(message: impl Into<Bytes>, status: u32) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    let body = Full::new(message.into()).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// Runs a command line to its end.
async fn load(line: &str) -> Arc<Tally> {
    load_to(line, &[], &CancellationToken::new()).await
}

async fn load_to(line: &str, allowed: &[&str], stop: &CancellationToken) -> Arc<Tally> {
    let steps = commands::parse(line).unwrap();
    let Action::Load { plan, pace } = &steps[0].action else {
        panic!("{line} is no load")
    };
    let allowed: Vec<String> = allowed.iter().map(|host| (*host).to_owned()).collect();
    let destinations = Arc::new(Destinations::new(&allowed));
    let tally = Arc::new(Tally::new(None));
    run(plan, pace, &destinations, &tally, stop).await;
    tally
}

#[tokio::test]
async fn as_many_requests_as_asked_for_on_kept_connections() {
    let server = Server::start(false).await;
    let at = server.address;
    let tally = load(&format!(
        "hey -n 101 -c 4 -m PUT -H 'X-Team: shop' -host app.example -d body http://{at}/put"
    ))
    .await;
    assert_eq!(
        (tally.answers_with(Code::Http(200)), tally.unanswered()),
        (101, 0)
    );
    let seen = server.seen();
    assert_eq!((seen.len(), server.connections()), (101, 4));
    let one = &seen[0];
    assert_eq!(
        (one.method.as_str(), one.path.as_str(), one.body.as_ref()),
        ("PUT", "/put", &b"body"[..])
    );
    assert_eq!(
        (
            &one.headers["host"],
            &one.headers["x-team"],
            &one.headers["content-type"]
        ),
        (
            &"app.example".parse().unwrap(),
            &"shop".parse().unwrap(),
            &"text/html".parse().unwrap()
        )
    );
    assert!(!one.second);
}

#[tokio::test]
async fn a_connection_for_each_request_where_keeping_is_off() {
    let server = Server::start(false).await;
    let tally = load(&format!(
        "hey -n 10 -c 2 -disable-keepalive http://{}/",
        server.address
    ))
    .await;
    assert_eq!((tally.answered(), server.connections()), (10, 10));
    assert_eq!(server.seen()[0].headers["connection"], "close");
}

#[tokio::test]
async fn every_status_is_counted() {
    let server = Server::start(false).await;
    let tally = load(&format!("hey -n 6 -c 1 http://{}/error", server.address)).await;
    assert_eq!(
        (tally.answers_with(Code::Http(503)), tally.answered()),
        (6, 6)
    );
    let report = tally.report("hey");
    assert!(
        report.contains("503                          6   100.00 %"),
        "{report}"
    );
}

#[tokio::test]
async fn a_rate_is_kept_for_as_long_as_asked() {
    let server = Server::start(false).await;
    let begun = Instant::now();
    let tally = load(&format!("hey -z 1s -q 20 -c 2 http://{}/", server.address)).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    // A busy machine may leave turns out; none is made up for.
    assert_eq!(tally.answered() + tally.left_out(), 40);
    assert!(tally.answered() > 20, "{}", tally.report(""));
}

#[tokio::test]
async fn what_no_worker_was_free_for_is_left_out_and_said() {
    let server = Server::start(false).await;
    let tally = load(&format!(
        "hey -z 1s -q 100 -c 1 http://{}/slow",
        server.address
    ))
    .await;
    assert!(tally.answered() <= 6, "{}", tally.report(""));
    assert!(tally.left_out() >= 70, "{}", tally.report(""));
    assert!(tally.report("").contains("were left out"));
}

#[tokio::test]
async fn redirects_are_followed_and_secrets_stay_behind() {
    let server = Server::start(false).await;
    let at = server.address;
    let tally = load(&format!("hey -n 1 -c 1 -m POST -d body http://{at}/old")).await;
    assert_eq!(tally.answers_with(Code::Http(200)), 1);
    let last = server.seen().pop().unwrap();
    assert_eq!(
        (last.method.as_str(), last.path.as_str(), last.body.len()),
        ("GET", "/new", 0)
    );
    load(&format!("hey -n 1 -c 1 -m POST -d body http://{at}/kept")).await;
    let last = server.seen().pop().unwrap();
    assert_eq!(
        (last.method.as_str(), last.body.as_ref()),
        ("POST", &b"body"[..])
    );
    load(&format!(
        "hey -n 1 -c 1 -a user:password -host app.example http://{at}/away"
    ))
    .await;
    let last = server.seen().pop().unwrap();
    assert_eq!(last.path, "/new");
    assert!(!last.headers.contains_key("authorization"), "{last:?}");
    assert_eq!(last.headers["host"], format!("localhost:{}", at.port()));
    let tally = load(&format!("hey -n 1 -c 1 http://{at}/round")).await;
    assert_eq!(tally.failures(), [(Failure::Redirects, 1)]);
    let tally = load(&format!("hey -n 1 -c 1 -disable-redirects http://{at}/old")).await;
    assert_eq!(tally.answers_with(Code::Http(302)), 1);
}

#[tokio::test]
async fn http_2_over_one_connection_for_each_worker() {
    let server = Server::start(true).await;
    let tally = load(&format!(
        "hey -h2c -n 20 -c 2 -host app.example http://{}/",
        server.address
    ))
    .await;
    assert_eq!(
        (tally.answers_with(Code::Http(200)), tally.unanswered()),
        (20, 0)
    );
    assert!(server.seen().iter().all(|seen| seen.second));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_grpc_method_is_called_and_its_status_counted() {
    let server = Server::start(true).await;
    let at = server.address;
    let tally = load(&format!(
        "ghz --insecure -n 10 -c 2 -m '{{\"x-team\":\"shop\"}}' {at}"
    ))
    .await;
    assert_eq!(
        (tally.answers_with(Code::Grpc(0)), tally.answered()),
        (10, 10)
    );
    let one = &server.seen()[0];
    assert_eq!(
        (one.method.as_str(), one.path.as_str(), one.body.as_ref()),
        ("POST", "/grpc.health.v1.Health/Check", &b"\0\0\0\0\0"[..])
    );
    assert_eq!(
        (&one.headers["te"], &one.headers["x-team"]),
        (&"trailers".parse().unwrap(), &"shop".parse().unwrap())
    );
    let tally = load(&format!(
        "ghz --insecure -n 3 -c 1 --call pkg.Service.Method {at}"
    ))
    .await;
    assert_eq!(tally.answers_with(Code::Grpc(14)), 3);
    assert!(tally.report("").contains("Unavailable"));
    // An HTTP server that knows nothing of gRPC.
    let tally = load(&format!("ghz --insecure -n 1 -c 1 --call a.B/C {at}")).await;
    assert_eq!(tally.answers_with(Code::Grpc(2)), 1);
}

#[tokio::test]
async fn a_grpc_service_is_asked_for_its_health() {
    let server = Server::start(true).await;
    let ask = async |line: String| {
        let steps = commands::parse(&line).unwrap();
        let Action::Health { plan, timeout } = &steps[0].action else {
            panic!()
        };
        check_health(plan, &Arc::default(), *timeout).await
    };
    let at = server.address;
    assert_eq!(ask(format!("grpc_health_probe -addr={at}")).await, Ok(()));
    assert_eq!(
        ask(format!("grpc_health_probe -addr={at} -service=no")).await,
        Err("the service says NOT_SERVING".into())
    );
    assert_eq!(
        ask("grpc_health_probe -addr=127.0.0.1:1".into()).await,
        Err("connection refused".into())
    );
}

#[tokio::test]
async fn no_answer_is_counted_by_its_reason() {
    let server = Server::start(false).await;
    let at = server.address;
    for (line, allowed, failure) in [
        (
            "hey -n 2 -c 1 http://127.0.0.1:1/".to_owned(),
            &[][..],
            Failure::Refused,
        ),
        (
            format!("hey -n 2 -c 1 http://{at}/"),
            &["app.test"],
            Failure::NotAllowed,
        ),
        (
            "hey -n 2 -c 1 http://169.254.169.254/".to_owned(),
            &[],
            Failure::NotAllowed,
        ),
        (
            format!("hey -n 2 -c 1 -t 0.05 http://{at}/never"),
            &[],
            Failure::Timeout,
        ),
        (format!("hey -n 2 -c 1 https://{at}/"), &[], Failure::Tls),
        (
            "hey -n 2 -c 1 http://no-such-host.invalid/".to_owned(),
            &[],
            Failure::Name,
        ),
    ] {
        let tally = load_to(&line, allowed, &CancellationToken::new()).await;
        assert_eq!(
            (tally.failures(), tally.answered()),
            (vec![(failure, 2)], 0),
            "{line}"
        );
    }
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_is_nobodys_failure() {
    let server = Server::start_rude().await;
    let tally = load(&format!("hey -n 20 -c 2 http://{}/", server.address)).await;
    assert_eq!(
        (tally.answered(), tally.failures()),
        (20, Vec::new()),
        "{}",
        tally.report("")
    );
    assert!(server.connections() >= 20);
}

#[tokio::test]
async fn certificates_are_verified_as_each_program_does() {
    let certificates = Certificates::make().unwrap();
    let listener = certificates.listen(0).await.unwrap();
    let port = listener.address().port();
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "OK" }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    for line in [
        format!("hey -n 2 -c 1 https://localhost:{port}/"),
        format!("hey -h2 -n 2 -c 1 https://localhost:{port}/"),
    ] {
        let tally = load(&line).await;
        assert_eq!(
            tally.answers_with(Code::Http(200)),
            2,
            "{line}: {}",
            tally.report("")
        );
    }
    let tally = load(&format!("ghz -n 1 -c 1 localhost:{port}")).await;
    assert_eq!(tally.failures(), [(Failure::Tls, 1)]);
}

#[tokio::test]
async fn a_load_that_is_stopped_ends_with_its_last_answers() {
    let server = Server::start(false).await;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stopping.cancel();
    });
    let begun = Instant::now();
    let tally = load_to(
        &format!("hey -z 1h -c 2 -q 10 http://{}/slow", server.address),
        &[],
        &stop,
    )
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(
        tally.answered() >= 2 && tally.unanswered() == 0,
        "{}",
        tally.report("")
    );
}

#[tokio::test]
async fn one_request_gives_its_body() {
    let server = Server::start(false).await;
    let steps = commands::parse(&format!("curl -sd test http://{}/token", server.address)).unwrap();
    let Action::Fetch(asked) = &steps[0].action else {
        panic!()
    };
    let (status, body) = fetch(&asked.plan, &Arc::default(), None, 8).await.unwrap();
    assert_eq!((status, body.as_slice()), (200, &b"{\n  \"tok"[..]));
}

#[tokio::test]
async fn data_is_written_as_the_server_says() {
    let server = Server::start(true).await;
    let at = server.address;
    let prepare = async |line: String| {
        let steps = commands::parse(&line).unwrap();
        let Action::Load { plan, .. } = &steps[0].action else {
            panic!()
        };
        let allowed = Arc::default();
        let plan = prepared(plan, &allowed, None).await?;
        let tally = Arc::new(Tally::new(None));
        let pace = Pace {
            workers: 1,
            rate: None,
            requests: Some(2),
            time: None,
            timeout: None,
        };
        run(&plan, &pace, &allowed, &tally, &CancellationToken::new()).await;
        Ok::<_, String>(tally)
    };
    let call =
        |method: &str, data: &str| format!("ghz --insecure --call {method} -d '{data}' {at}");
    let tally = prepare(call(
        "shop.v1.Orders/Place",
        r#"{"item_id": "ab", "count": 2}"#,
    ))
    .await
    .unwrap();
    assert_eq!(tally.answers_with(Code::Grpc(0)), 2);
    let sent = server.seen().pop().unwrap();
    assert_eq!(sent.path, "/shop.v1.Orders/Place");
    let both = [
        &b"\0\0\0\0\x06\x0a\x02ab\x10\x02"[..],
        &b"\0\0\0\0\x06\x10\x02\x0a\x02ab"[..],
    ];
    assert!(both.contains(&sent.body.as_ref()), "{sent:?}");
    for (line, told) in [
        (
            call("shop.v1.Orders/Place", r#"{"colour": 1}"#),
            "shop.v1.Order has no field \"colour\"",
        ),
        (
            call("shop.v1.Orders/Cancel", r#"{"count": 1}"#),
            "there is no method shop.v1.Orders/Cancel",
        ),
        (
            call("shop.v1.Orders/Watch", r#"{"count": 1}"#),
            "shop.v1.Orders/Watch is a stream",
        ),
        (
            call("shop.v1.Orders/Place", r#"{"elsewhere": {"a": 1}}"#),
            "the server does not describe other.Thing",
        ),
        (
            call("bank.Accounts/Open", r#"{"a": 1}"#),
            "the server does not describe bank.Accounts",
        ),
    ] {
        let Err(error) = prepare(line.clone()).await else {
            panic!("{line}")
        };
        assert!(error.starts_with(told), "{line}: {error}");
    }
    let plain = Server::start(false).await;
    let line = format!(
        "ghz --insecure --call a.B/C -d '{{\"x\": 1}}' {}",
        plain.address
    );
    assert!(prepare(line).await.is_err());
}
