//! The rows of the contract: what each vendor's documentation shows, case by case.

use super::server::Reply;
use super::{Backend, Case, Cell, Expect, NOW, request, with_keys};
use crate::api::MetricProviderType as Kind;
use serde_json::{Value, json};
use std::fmt::Write as _;

const NO_VALUES: Expect = Expect::NoData("no values found");
const TOO_OLD: Expect = Expect::NoData("old; with an interval of 1m0s it may be 5m0s old");

const NO_JSON_NAN: &str = "JSON has no NaN, and the vendor documents no other form of it";
const NO_NULL: &str = "the answer has no form for null";
const NO_LISTS: &str = "the answer has no arrays that could be too short";

fn says(body: &Value, expected: Expect) -> Cell {
    Cell::Says(Reply::json(&body.to_string()), expected)
}

fn refuses(status: u16, body: &Value, part: &'static str) -> Cell {
    Cell::Says(
        Reply::json(&body.to_string()).status(status),
        Expect::Error(part),
    )
}

fn nothing_beside(_: &str) -> Option<Reply> {
    None
}

pub(super) static BACKENDS: [Backend; 7] = [
    Backend {
        kind: Kind::Prometheus,
        source: "https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries",
        request: |address| {
            let mut asked = with_keys(
                request(Kind::Prometheus, address, "sum(\n  up\n)"),
                &[("token", "s3cret-token")],
            );
            asked
                .config
                .headers
                .insert("X-Scope-OrgID".to_owned(), vec!["shop".to_owned()]);
            asked
        },
        beside: nothing_beside,
        cell: prometheus,
        probe: || {
            Reply::json(
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1764417600,"1"]}]}}"#,
            )
        },
        arrives: &[
            "GET /api/v1/query?query=sum%28+up+%29",
            "authorization: Bearer s3cret-token",
            "x-scope-orgid: shop",
        ],
    },
    Backend {
        kind: Kind::Influxdb,
        source: "https://docs.influxdata.com/influxdb/v2/api/ (POST /api/v2/query), https://docs.influxdata.com/influxdb/v2/reference/syntax/annotated-csv/",
        request: |address| {
            with_keys(
                request(
                    Kind::Influxdb,
                    address,
                    "from(bucket: \"shop\") |> range(start: -1m) |> mean()",
                ),
                &[("token", "s3cret-token"), ("org", "acme inc")],
            )
        },
        beside: nothing_beside,
        cell: influxdb,
        probe: || Reply::json("\r\n").typed("text/csv"),
        arrives: &[
            "POST /api/v2/query?org=acme+inc",
            "authorization: Token s3cret-token",
            "accept: application/csv",
            r#""type":"flux""#,
        ],
    },
    Backend {
        kind: Kind::Datadog,
        source: "https://docs.datadoghq.com/api/latest/metrics/#query-timeseries-points",
        request: |address| {
            with_keys(
                request(Kind::Datadog, address, "avg:trace.errors{service:web}"),
                &[
                    ("datadog_api_key", "s3cret-api-key"),
                    ("datadog_application_key", "s3cret-application-key"),
                ],
            )
        },
        beside: nothing_beside,
        cell: datadog,
        probe: || Reply::json(r#"{"valid": true}"#),
        arrives: &[
            "GET /api/v1/query?query=avg%3Atrace.errors%7Bservice%3Aweb%7D&from=1764417000&to=1764417600",
            "dd-api-key: s3cret-api-key",
            "dd-application-key: s3cret-application-key",
        ],
    },
    Backend {
        kind: Kind::Newrelic,
        source: "https://docs.newrelic.com/docs/apis/insights-apis/query-insights-event-data-api/",
        request: |address| {
            with_keys(
                request(
                    Kind::Newrelic,
                    address,
                    "SELECT percentage(count(*), WHERE error IS FALSE) FROM Transaction",
                ),
                &[
                    ("newrelic_account_id", "51312"),
                    ("newrelic_query_key", "s3cret-query-key"),
                ],
            )
        },
        beside: nothing_beside,
        cell: newrelic,
        probe: || Reply::json("{}"),
        arrives: &[
            "GET /v1/accounts/51312/query?nrql=SELECT",
            "SINCE+60+seconds+ago",
            "x-query-key: s3cret-query-key",
        ],
    },
    Backend {
        kind: Kind::Graphite,
        source: "https://graphite.readthedocs.io/en/latest/render_api.html#json",
        request: |address| {
            with_keys(
                request(
                    Kind::Graphite,
                    address,
                    "target=summarize(\n  app.errors,'1min')&from=-5min",
                ),
                &[("username", "reader"), ("password", "s3cret-password")],
            )
        },
        beside: nothing_beside,
        cell: graphite,
        probe: || Reply::json("[]"),
        arrives: &[
            "GET /render?target=summarize%28+app.errors%2C%271min%27%29&from=-5min&format=json",
            "authorization: Basic cmVhZGVyOnMzY3JldC1wYXNzd29yZA==",
        ],
    },
    Backend {
        kind: Kind::Dynatrace,
        source: "https://docs.dynatrace.com/docs/dynatrace-api/environment-api/metric-v2/get-data-points",
        request: |address| {
            with_keys(
                request(
                    Kind::Dynatrace,
                    address,
                    "builtin:service.errors.total.rate:filter(eq(\"dt.entity.service\",\"SERVICE-1\"))",
                ),
                &[("dynatrace_token", "s3cret-token")],
            )
        },
        beside: nothing_beside,
        cell: dynatrace,
        probe: || Reply::json("{}"),
        arrives: &[
            "GET /api/v2/metrics/query?metricSelector=builtin%3Aservice",
            "&resolution=Inf&from=1764417000000&to=1764417600000",
            "authorization: Api-Token s3cret-token",
        ],
    },
    Backend {
        kind: Kind::Splunk,
        source: "https://dev.splunk.com/observability/reference/api/signalflow/latest (POST /execute), https://dev.splunk.com/observability/docs/signalflow/messages/stream_messages_specification",
        request: |address| {
            with_keys(
                request(
                    Kind::Splunk,
                    address,
                    "data('service.errors', filter=filter('service', 'web')).sum().publish()",
                ),
                &[("sf_token_key", "s3cret-token")],
            )
        },
        beside: nothing_beside,
        cell: splunk,
        probe: || Reply::json("{}"),
        arrives: &[
            "POST /v2/signalflow/execute?start=1764417000000&stop=1764417600000&immediate=true",
            "x-sf-token: s3cret-token",
            "content-type: text/plain",
            "data('service.errors'",
        ],
    },
];

fn prometheus(case: Case) -> Cell {
    let vector = |values: &[Value]| {
        let result: Vec<Value> = values
            .iter()
            .map(|value| json!({"metric": {"job": "web"}, "value": value}))
            .collect();
        json!({"status": "success", "data": {"resultType": "vector", "result": result}})
    };
    let at = |value: &str| json!([NOW, value]);
    match case {
        Case::Value => says(&vector(&[at("99.5")]), Expect::Value(99.5)),
        Case::Several => says(&vector(&[at("1"), at("2")]), Expect::LastOf(2.0, 2)),
        Case::None => says(&vector(&[]), NO_VALUES),
        Case::NotANumber => says(&vector(&[at("NaN")]), NO_VALUES),
        Case::Null => Cell::No(NO_NULL),
        Case::Stale => says(&vector(&[json!([NOW - 3600, "1"])]), TOO_OLD),
        Case::Short => says(
            &vector(&[json!([NOW])]),
            Expect::Error("expected [time, \"number\"]"),
        ),
        Case::Refused => refuses(
            400,
            &json!({"status": "error", "errorType": "bad_data", "error": "invalid parameter \"query\": parse error"}),
            "status 400: bad_data: invalid parameter",
        ),
        Case::WrongCredentials => Cell::Says(
            Reply::json("Unauthorized\n")
                .typed("text/plain")
                .status(401),
            Expect::Error(
                "status 401 (are the credentials in spec.provider.secretRef right?): Unauthorized",
            ),
        ),
        _ => Cell::AsAll,
    }
}

fn influxdb(case: Case) -> Cell {
    let csv = |body: &str, expected| {
        Cell::Says(Reply::json(body).typed("text/csv; charset=utf-8"), expected)
    };
    let head = "#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,double,string\r\n#group,false,false,true,true,false,true\r\n#default,_result,,,,,\r\n,result,table,_start,_stop,_value,host\r\n";
    let row = |table: u8, value: &str| {
        format!(",,{table},2025-11-29T11:59:00Z,2025-11-29T12:00:00Z,{value},web-{table}\r\n")
    };
    match case {
        Case::Value => csv(
            &format!("{head}{}\r\n", row(0, "42.5")),
            Expect::Value(42.5),
        ),
        Case::Several => csv(
            &format!("{head}{}{}\r\n", row(0, "1"), row(1, "2")),
            Expect::FirstOf(1.0, 2),
        ),
        // What InfluxDB sends for a query without rows is an empty body.
        Case::None => csv("\r\n", NO_VALUES),
        Case::NotANumber => csv(&format!("{head}{}\r\n", row(0, "NaN")), NO_VALUES),
        Case::Null => csv(&format!("{head}{}\r\n", row(0, "")), NO_VALUES),
        Case::Stale => csv(
            &format!("{head}{}\r\n", row(0, "1").replace("T12:00", "T10:00")),
            TOO_OLD,
        ),
        Case::Short => csv(
            &format!("{head},,0\r\n\r\n"),
            Expect::Error("the rows of the answer have no column _value"),
        ),
        Case::Refused => refuses(
            400,
            &json!({"code": "invalid", "message": "compilation failed: error @1:1-1:5: undefined identifier form"}),
            "status 400: compilation failed",
        ),
        Case::WrongCredentials => refuses(
            401,
            &json!({"code": "unauthorized", "message": "unauthorized access"}),
            "status 401 (are the credentials in spec.provider.secretRef right?): unauthorized access",
        ),
        _ => Cell::AsAll,
    }
}

fn datadog(case: Case) -> Cell {
    let answer = |series: &[Value]| {
        json!({
            "status": "ok", "res_type": "time_series", "resp_version": 1, "query": "avg:trace.errors{service:web}",
            "from_date": (NOW - 600) * 1000, "to_date": NOW * 1000, "series": series, "values": [], "times": [],
            "message": "", "group_by": [],
        })
    };
    let series = |points: Value| {
        json!({
            "metric": "trace.errors", "scope": "service:web", "expression": "avg:trace.errors{service:web}",
            "display_name": "trace.errors", "aggr": "avg", "interval": 20, "length": 3, "start": (NOW - 600) * 1000,
            "end": NOW * 1000 - 1, "pointlist": points, "tag_set": [], "unit": null,
        })
    };
    let ago = |seconds: i64| (NOW - seconds) * 1000;
    match case {
        // The newest span, which is not over, and `null` don't count.
        Case::Value => says(
            &answer(&[series(json!([
                [ago(580), 1.0],
                [ago(60), 7.5],
                [ago(40), null],
                [ago(10), 0.0],
            ]))]),
            Expect::Value(7.5),
        ),
        Case::Several => says(
            &answer(&[series(json!([[ago(60), 1]])), series(json!([[ago(60), 2]]))]),
            Expect::FirstOf(1.0, 2),
        ),
        Case::None => says(&answer(&[]), NO_VALUES),
        Case::NotANumber => Cell::No(NO_JSON_NAN),
        Case::Null => says(&answer(&[series(json!([[ago(60), null]]))]), NO_VALUES),
        Case::Stale => says(&answer(&[series(json!([[ago(580), 1.0]]))]), TOO_OLD),
        Case::Short => says(
            &answer(&[series(json!([[ago(60)]]))]),
            Expect::Error("expected [time, value]"),
        ),
        Case::Refused => says(
            &json!({"status": "error", "error": "Error parsing query: unable to parse avg:"}),
            Expect::Error("Datadog can't answer the query: Error parsing query"),
        ),
        Case::WrongCredentials => refuses(
            403,
            &json!({"errors": ["Forbidden"]}),
            "status 403 (are the credentials in spec.provider.secretRef right?): Forbidden",
        ),
        _ => Cell::AsAll,
    }
}

fn newrelic(case: Case) -> Cell {
    let answer = |results: Value, end: i64| {
        json!({
            "results": results,
            "performanceStats": {"inspectedCount": 3120, "wallClockTime": 14},
            "metadata": {
                "eventTypes": ["Transaction"], "eventType": "Transaction", "openEnded": true,
                "beginTimeMillis": (end - 60) * 1000, "endTimeMillis": end * 1000, "rawSince": "60 SECONDS AGO",
                "contents": [{"function": "percentage", "simple": true}],
            },
        })
    };
    match case {
        Case::Value => says(
            &answer(json!([{"result": 99.25}]), NOW),
            Expect::Value(99.25),
        ),
        Case::Several => says(
            &answer(json!([{"average": 0.5}, {"count": 3}]), NOW),
            Expect::Error("the query selects 2 values; expected one"),
        ),
        Case::None => says(&answer(json!([]), NOW), NO_VALUES),
        Case::NotANumber => Cell::No(NO_JSON_NAN),
        Case::Null => says(&answer(json!([{"average": null}]), NOW), NO_VALUES),
        Case::Stale => says(&answer(json!([{"result": 1}]), NOW - 3600), TOO_OLD),
        Case::Short => Cell::No(NO_LISTS),
        Case::Refused => refuses(
            400,
            &json!({"error": "NRQL Syntax Error: Error at line 1 position 8, unexpected 'FORM'"}),
            "status 400: NRQL Syntax Error",
        ),
        Case::WrongCredentials => refuses(
            403,
            &json!({"error": "Invalid query key"}),
            "status 403 (are the credentials in spec.provider.secretRef right?): Invalid query key",
        ),
        _ => Cell::AsAll,
    }
}

fn graphite(case: Case) -> Cell {
    let series = |points: Value| json!({"target": "app.errors", "tags": {"name": "app.errors"}, "datapoints": points});
    match case {
        Case::Value => says(
            &json!([series(json!([
                [1.0, NOW - 120],
                [6.5, NOW - 60],
                [null, NOW]
            ]))]),
            Expect::Value(6.5),
        ),
        Case::Several => says(
            &json!([
                series(json!([[1.0, NOW]])),
                series(json!([[2.0, NOW]])),
                series(json!([[null, NOW]])),
            ]),
            Expect::LastOf(2.0, 2),
        ),
        Case::None => says(&json!([]), NO_VALUES),
        // Releases before 1.1 write a bare `NaN`; later ones `null`.
        Case::NotANumber => Cell::Says(
            Reply::json(&format!(
                r#"[{{"target": "app.errors", "datapoints": [[NaN, {NOW}]]}}]"#
            )),
            NO_VALUES,
        ),
        Case::Null => says(
            &json!([series(json!([[null, NOW - 60], [null, NOW]]))]),
            NO_VALUES,
        ),
        Case::Stale => says(&json!([series(json!([[1.0, NOW - 3600]]))]), TOO_OLD),
        Case::Short => says(
            &json!([series(json!([[1.0]]))]),
            Expect::Error("expected [value, time]"),
        ),
        Case::Refused => Cell::Says(
            Reply::json("Invalid target: no such function sumSeris")
                .typed("text/plain")
                .status(400),
            Expect::Error("status 400: Invalid target"),
        ),
        Case::WrongCredentials => Cell::Says(
            Reply::json("<h1>401 Authorization Required</h1>")
                .typed("text/html")
                .status(401),
            Expect::Error("status 401 (are the credentials in spec.provider.secretRef right?)"),
        ),
        _ => Cell::AsAll,
    }
}

fn dynatrace(case: Case) -> Cell {
    let answer = |data: &[Value]| {
        json!({
            "totalCount": 1, "nextPageKey": null, "resolution": "Inf",
            "result": [{
                "metricId": "builtin:service.errors.total.rate", "dataPointCountRatio": 2.0e-5, "dimensionCountRatio": 3.0e-5,
                "data": data,
            }],
        })
    };
    let data = |timestamps: Value, values: Value| {
        json!({
            "dimensions": ["SERVICE-1"], "dimensionMap": {"dt.entity.service": "SERVICE-1"},
            "timestamps": timestamps, "values": values,
        })
    };
    let now = json!([NOW * 1000]);
    match case {
        Case::Value => says(&answer(&[data(now, json!([0.75]))]), Expect::Value(0.75)),
        Case::Several => says(
            &answer(&[data(now.clone(), json!([1])), data(now, json!([2]))]),
            Expect::LastOf(2.0, 2),
        ),
        Case::None => says(&answer(&[]), NO_VALUES),
        Case::NotANumber => Cell::No(NO_JSON_NAN),
        Case::Null => says(&answer(&[data(now, json!([null]))]), NO_VALUES),
        Case::Stale => says(
            &answer(&[data(json!([(NOW - 3600) * 1000]), json!([1]))]),
            TOO_OLD,
        ),
        Case::Short => says(&answer(&[data(json!([]), json!([]))]), NO_VALUES),
        Case::Refused => refuses(
            400,
            &json!({"error": {"code": 400, "message": "The metric key builtin:nonsense is unknown"}}),
            "status 400: The metric key builtin:nonsense is unknown",
        ),
        Case::WrongCredentials => refuses(
            401,
            &json!({"error": {"code": 401, "message": "Token Authentication failed"}}),
            "status 401 (are the credentials in spec.provider.secretRef right?): Token Authentication failed",
        ),
        _ => Cell::AsAll,
    }
}

fn splunk(case: Case) -> Cell {
    let stream = |messages: &[(&str, Value)], expected| {
        let begin = json!({"event": "STREAM_START", "timestampMs": NOW * 1000});
        let end = json!({"event": "END_OF_CHANNEL", "timestampMs": NOW * 1000});
        let mut text = String::new();
        for (event, data) in [("control-message", begin)]
            .iter()
            .chain(messages)
            .chain(&[("control-message", end)])
        {
            // As documented: each line of the message is a line of data.
            let lines = format!("{data:#}").replace('\n', "\ndata: ");
            let _ = write!(text, "event: {event}\ndata: {lines}\n\n");
        }
        Cell::Says(Reply::json(&text).typed("text/event-stream"), expected)
    };
    let data = |seconds_ago: i64, values: &[(&str, Value)]| {
        let data: Vec<Value> = values
            .iter()
            .map(|(series, value)| json!({"tsId": series, "value": value}))
            .collect();
        (
            "data",
            json!({"data": data, "logicalTimestampMs": (NOW - seconds_ago) * 1000, "maxDelayMs": 0}),
        )
    };
    let metadata = (
        "metadata",
        json!({"tsId": "AAAA", "properties": {"sf_key": ["service"], "sf_metric": "_SF_COMP_0"}}),
    );
    match case {
        Case::Value => stream(
            &[
                metadata,
                data(120, &[("AAAA", json!(1))]),
                data(60, &[("AAAA", json!(2.5))]),
                data(0, &[("AAAA", Value::Null)]),
            ],
            Expect::Value(2.5),
        ),
        Case::Several => stream(
            &[data(0, &[("AAAA", json!(1)), ("BBBB", json!(2))])],
            Expect::Error("the program publishes 2 time series; expected one"),
        ),
        Case::None => stream(&[], NO_VALUES),
        Case::NotANumber => stream(&[data(0, &[("AAAA", json!("NaN"))])], NO_VALUES),
        Case::Null => stream(&[data(0, &[("AAAA", Value::Null)])], NO_VALUES),
        Case::Stale => stream(&[data(590, &[("AAAA", json!(1))])], TOO_OLD),
        Case::Short => stream(&[("data", json!({"data": [{}]}))], NO_VALUES),
        Case::Refused => refuses(
            400,
            &json!({"code": 400, "message": "Unable to parse program", "errorType": "ANALYTICS_PROGRAM_NAME_ERROR"}),
            "status 400: Unable to parse program",
        ),
        Case::WrongCredentials => refuses(
            401,
            &json!({"code": 401, "message": "Unauthorized"}),
            "status 401 (are the credentials in spec.provider.secretRef right?): Unauthorized",
        ),
        _ => Cell::AsAll,
    }
}
