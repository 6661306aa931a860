//! `ghz`: load by unary calls of a gRPC method. Without `--call`, and as `grpc.health.v1.Health/Check`, it is the standard health check;
//! any other method is called with an empty message, or with data that server reflection says how to write.

use super::options::{Known, Meaning, Style, count, duration, rate, read as read_options, seconds};
use super::{Action, USER_AGENT, default_header, headers, only};
use crate::loadtester::generator::{GrpcPlan, Pace, Plan, Tls, health_message};
use serde_json::Value;
use std::time::Duration;

pub(super) const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

struct Draft {
    requests: u64,
    workers: usize,
    rate: Option<f64>,
    time: Option<Duration>,
    longest: Option<Duration>,
    timeout: Duration,
    call: String,
    data: Value,
    metadata: Vec<(String, String)>,
    plain: bool,
    verify: bool,
    server_name: Option<String>,
    authority: Option<String>,
}

const OPTIONS: &[Known<Draft>] = &[
    Known(
        &["z", "duration"],
        Meaning::Value(|draft, text| {
            draft.time = Some(duration(text)?);
            Ok(())
        }),
    ),
    Known(
        &["x", "max-duration"],
        Meaning::Value(|draft, text| {
            draft.longest = Some(duration(text)?);
            Ok(())
        }),
    ),
    Known(
        &["n", "total"],
        Meaning::Value(|draft, text| {
            draft.requests = count(text)?;
            Ok(())
        }),
    ),
    Known(
        &["c", "concurrency"],
        Meaning::Value(|draft, text| {
            draft.workers = count(text)?;
            Ok(())
        }),
    ),
    Known(
        &["q", "qps", "r", "rps"],
        Meaning::Value(|draft, text| {
            draft.rate = rate(text)?;
            Ok(())
        }),
    ),
    Known(
        &["t", "timeout"],
        Meaning::Value(|draft, text| {
            draft.timeout = seconds(text)?;
            Ok(())
        }),
    ),
    Known(
        &["call"],
        Meaning::Value(|draft, text| {
            draft.call = method(text)?;
            Ok(())
        }),
    ),
    Known(
        &["d", "data"],
        Meaning::Value(|draft, text| {
            draft.data = serde_json::from_str(text)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| "a message as a JSON object".to_owned())?;
            Ok(())
        }),
    ),
    Known(
        &["m", "metadata"],
        Meaning::Value(|draft, text| {
            let metadata: std::collections::BTreeMap<String, String> =
                serde_json::from_str(text).map_err(|_| "a JSON object of texts".to_owned())?;
            draft.metadata.extend(metadata);
            Ok(())
        }),
    ),
    Known(&["insecure"], Meaning::Switch(|draft| draft.plain = true)),
    Known(&["skipTLS"], Meaning::Switch(|draft| draft.verify = false)),
    Known(
        &["cname"],
        Meaning::Value(|draft, text| {
            draft.server_name = Some(text.to_owned());
            Ok(())
        }),
    ),
    Known(
        &["authority"],
        Meaning::Value(|draft, text| {
            draft.authority = Some(text.to_owned());
            Ok(())
        }),
    ),
    // What a message looks like is known for the health check, and an empty one needs no description.
    Known(
        &["proto", "protoset", "i", "import-paths"],
        Meaning::IdleValue,
    ),
    Known(
        &[
            "connections",
            "cpus",
            "name",
            "tags",
            "L",
            "keepalive",
            "T",
            "dial-timeout",
            "connect-timeout",
            "duration-stop",
        ],
        Meaning::IdleValue,
    ),
    Known(
        &[
            "e",
            "enable-compression",
            "disable-template-functions",
            "disable-template-data",
        ],
        Meaning::IdleSwitch,
    ),
    Known(
        &[
            "D",
            "data-file",
            "b",
            "binary",
            "B",
            "binary-file",
            "M",
            "metadata-file",
        ],
        Meaning::Refused("no files are read"),
    ),
    Known(
        &["cacert", "cert", "key"],
        Meaning::Refused("no files are read; --skipTLS does not verify"),
    ),
    Known(
        &["o", "output", "O", "format"],
        Meaning::Refused("the summary is the only output"),
    ),
    Known(
        &["config"],
        Meaning::Refused("no files are read; give the options themselves"),
    ),
    Known(
        &[
            "load-schedule",
            "concurrency-schedule",
            "async",
            "stream-interval",
            "stream-call-duration",
            "stream-call-count",
            "rmd",
            "reflect-metadata",
        ],
        Meaning::Refused("load is constant, and calls are unary"),
    ),
];

/// `pkg.Service/Method` or `pkg.Service.Method` as a path.
fn method(text: &str) -> Result<String, String> {
    text.trim_start_matches('/')
        .rsplit_once(['/', '.'])
        .filter(|(service, method)| !service.is_empty() && !method.is_empty())
        .map(|(service, method)| format!("/{service}/{method}"))
        .ok_or_else(|| "a method such as package.Service/Method".to_owned())
}

/// Host and port; `dns:///` before them is what a client of gRPC may have.
pub(super) fn address(text: &str) -> Result<(String, u16), String> {
    let bare = text
        .trim_start_matches("dns:///")
        .trim_start_matches("passthrough:///");
    bare.rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .filter(|(host, _): &(&str, u16)| {
            let plain = host.trim_matches(['[', ']']);
            !plain.is_empty()
                && !host.contains(['/', '@'])
                && (!plain.contains(':') || plain != *host)
        })
        .map(|(host, port)| (host.to_owned(), port))
        .ok_or_else(|| "expected host:port, such as app.test:9898".to_owned())
}

#[cfg(test)]
pub(super) fn known() -> Vec<(String, bool)> {
    super::options::names(OPTIONS)
}

pub(super) fn read(words: &[String]) -> Result<Action, String> {
    let mut draft = Draft {
        requests: 200,
        workers: 50,
        rate: None,
        time: None,
        longest: None,
        timeout: Duration::from_secs(20),
        call: HEALTH_CHECK.to_owned(),
        data: Value::Null,
        metadata: Vec::new(),
        plain: false,
        verify: true,
        server_name: None,
        authority: None,
    };
    let rest = read_options(OPTIONS, Style::Joined, words, &mut draft)?;
    let (host, port) = address(&only(rest, "host:port")?)?;
    let empty = draft.data.as_object().is_none_or(serde_json::Map::is_empty);
    let (message, data) = if draft.call == HEALTH_CHECK {
        let service = draft.data["service"].as_str().unwrap_or_default();
        (health_message(service), None)
    } else {
        (health_message(""), (!empty).then_some(draft.data))
    };
    default_header(&mut draft.metadata, "user-agent", USER_AGENT);
    let (headers, _) = headers(draft.metadata)?;
    Ok(Action::Load {
        plan: Plan::Grpc(GrpcPlan {
            host,
            port,
            tls: (!draft.plain).then_some(Tls {
                verify: draft.verify,
                server_name: draft.server_name,
                protocols: &["h2"],
            }),
            authority: draft.authority,
            path: draft.call,
            message,
            data,
            headers,
        }),
        pace: Pace {
            workers: draft.workers,
            rate: draft.rate,
            requests: draft.time.is_none().then_some(draft.requests),
            time: draft.time.or(draft.longest),
            timeout: (!draft.timeout.is_zero()).then_some(draft.timeout),
        },
    })
}
