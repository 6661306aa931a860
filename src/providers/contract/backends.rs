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

pub(super) static BACKENDS: [Backend; 11] = [
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
    Backend {
        kind: Kind::ExternalMetrics,
        source: "https://github.com/kubernetes/metrics/blob/master/pkg/apis/external_metrics/v1beta1/types.go, https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/",
        request: |address| {
            with_keys(
                request(
                    Kind::ExternalMetrics,
                    address,
                    "shop/queue-length?labelSelector=app%3Dweb",
                ),
                &[("token", "s3cret-token")],
            )
        },
        beside: nothing_beside,
        cell: external_metrics,
        probe: || Reply::json(r#"{"kind": "ExternalMetricValueList", "items": []}"#),
        arrives: &[
            "GET /apis/external.metrics.k8s.io/v1beta1/namespaces/shop/queue-length?labelSelector=app%3Dweb",
            "authorization: Bearer s3cret-token",
        ],
    },
    Backend {
        kind: Kind::Stackdriver,
        source: "https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries/query, https://developers.google.com/identity/protocols/oauth2/service-account#httprest",
        request: |address| {
            let key = json!({
                "type": "service_account", "project_id": "shop-1", "private_key_id": "abc",
                "private_key": TEST_KEY, "client_email": "serin@shop-1.iam.gserviceaccount.com",
                "token_uri": format!("{address}/token"),
            });
            with_keys(
                request(Kind::Stackdriver, "", "fetch k8s_container | within 1m"),
                &[
                    ("project", "shop-1"),
                    ("serviceAccountKey", &key.to_string()),
                ],
            )
        },
        beside: |path| {
            (path == "/token").then(|| {
                Reply::json(r#"{"access_token": "ya29.s3cret-access-token", "expires_in": 3599, "token_type": "Bearer"}"#)
            })
        },
        cell: stackdriver,
        probe: || {
            Reply::json(r#"{"error": {"code": 400, "message": "Request was missing field query.", "status": "INVALID_ARGUMENT"}}"#)
                .status(400)
        },
        arrives: &[
            "POST /v3/projects/shop-1/timeSeries:query",
            "authorization: Bearer ya29.s3cret-access-token",
            r#"{"query":"fetch k8s_container | within 1m"}"#,
        ],
    },
    Backend {
        kind: Kind::Cloudwatch,
        source: "https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html, https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/making-api-requests.html",
        request: |_| {
            let mut asked = request(
                Kind::Cloudwatch,
                "",
                r#"[{"Id": "e1", "Expression": "m1 / m2 * 100"},
                    {"Id": "m1", "MetricStat": {"Metric": {"Namespace": "Shop", "MetricName": "Errors"}, "Period": 60, "Stat": "Sum"}, "ReturnData": false}]"#,
            );
            asked.config.region = Some("eu-central-1".to_owned());
            asked
        },
        beside: nothing_beside,
        cell: cloudwatch,
        probe: || {
            Reply::json(r#"{"__type": "com.amazonaws.cloudwatch#InvalidParameterValueException", "message": "The parameter MetricDataQueries is required."}"#)
                .status(400)
        },
        arrives: &[
            "POST /\n",
            "x-amz-target: GraniteServiceVersion20100801.GetMetricData",
            "x-amz-security-token: s3cret-session-token",
            "authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/",
            "/eu-central-1/monitoring/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature=",
            r#""StartTime":1764417000"#,
        ],
    },
    Backend {
        kind: Kind::Keptn,
        source: "https://keptn.sh/stable/docs/reference/api-reference/metrics/v1beta1/",
        request: |_| request(Kind::Keptn, "", "keptnmetric/shop/response-time"),
        beside: nothing_beside,
        cell: keptn,
        probe: || Reply::json(r#"{"kind": "KeptnMetric", "status": {}}"#),
        arrives: &["GET /apis/metrics.keptn.sh/v1beta1/namespaces/shop/keptnmetrics/response-time"],
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

/// Made for these tests; it opens nothing.
const TEST_KEY: &str = include_str!("key-for-tests.pem");

fn external_metrics(case: Case) -> Cell {
    let answer = |items: &[Value]| json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {}, "items": items});
    let item = |value: Value, time: &str| json!({"metricName": "queue-length", "metricLabels": {"app": "web"}, "timestamp": time, "value": value});
    let now = "2025-11-29T12:00:00Z";
    match case {
        Case::Value => says(&answer(&[item(json!("1500m"), now)]), Expect::Value(1.5)),
        Case::Several => says(
            &answer(&[item(json!("1"), now), item(json!("2k"), now)]),
            Expect::FirstOf(1.0, 2),
        ),
        Case::None => says(&answer(&[]), NO_VALUES),
        Case::NotANumber => Cell::No("a quantity of Kubernetes is always a number"),
        Case::Null => says(&answer(&[item(Value::Null, now)]), NO_VALUES),
        Case::Stale => says(
            &answer(&[item(json!("1"), "2025-11-29T11:00:00Z")]),
            TOO_OLD,
        ),
        Case::Short => Cell::No(NO_LISTS),
        Case::Refused => refuses(
            404,
            &json!({"kind": "Status", "status": "Failure", "message": "the server could not find the metric queue-length", "code": 404}),
            "status 404 (is the address right?): the server could not find the metric queue-length",
        ),
        Case::WrongCredentials => refuses(
            401,
            &json!({"kind": "Status", "status": "Failure", "message": "Unauthorized", "code": 401}),
            "status 401 (are the credentials in spec.provider.secretRef right?): Unauthorized",
        ),
        _ => Cell::AsAll,
    }
}

fn stackdriver(case: Case) -> Cell {
    let answer = |data: &[Value]| {
        json!({
            "timeSeriesDescriptor": {"pointDescriptors": [{"key": "value.ratio", "valueType": "DOUBLE", "metricKind": "GAUGE"}]},
            "timeSeriesData": data,
        })
    };
    let point = |values: Value, end: &str| json!({"values": values, "timeInterval": {"startTime": end, "endTime": end}});
    let data =
        |points: &[Value]| json!({"labelValues": [{"stringValue": "web"}], "pointData": points});
    let (now, before, long_ago) = (
        "2025-11-29T11:59:30.123Z",
        "2025-11-29T11:58:30Z",
        "2025-11-29T11:00:00Z",
    );
    match case {
        // An integer is a text in JSON, as in every API of Google.
        Case::Value => says(
            &answer(&[data(&[
                point(json!([{"int64Value": "42"}]), now),
                point(json!([{"int64Value": "1"}]), before),
            ])]),
            Expect::Value(42.0),
        ),
        Case::Several => says(
            &answer(&[
                data(&[point(json!([{"doubleValue": 0.5}]), now)]),
                data(&[point(json!([{"doubleValue": 2}]), now)]),
            ]),
            Expect::FirstOf(0.5, 2),
        ),
        Case::None => says(&json!({"timeSeriesDescriptor": {}}), NO_VALUES),
        Case::NotANumber => says(
            &answer(&[data(&[point(json!([{"doubleValue": "NaN"}]), now)])]),
            NO_VALUES,
        ),
        Case::Null => says(&answer(&[data(&[point(json!([{}]), now)])]), NO_VALUES),
        Case::Stale => says(
            &answer(&[data(&[point(json!([{"doubleValue": 1}]), long_ago)])]),
            TOO_OLD,
        ),
        Case::Short => says(&answer(&[data(&[point(json!([]), now)])]), NO_VALUES),
        Case::Refused => refuses(
            400,
            &json!({"error": {"code": 400, "message": "Field query had an invalid value", "status": "INVALID_ARGUMENT"}}),
            "status 400: Field query had an invalid value",
        ),
        Case::WrongCredentials => refuses(
            403,
            &json!({"error": {"code": 403, "message": "Permission monitoring.timeSeries.list denied", "status": "PERMISSION_DENIED"}}),
            "status 403 (are the credentials in spec.provider.secretRef right?): Permission monitoring.timeSeries.list denied",
        ),
        _ => Cell::AsAll,
    }
}

fn cloudwatch(case: Case) -> Cell {
    let answer = |results: &[Value]| json!({"MetricDataResults": results, "Messages": []});
    let result = |times: Value, values: Value| json!({"Id": "e1", "Label": "error rate", "Timestamps": times, "Values": values, "StatusCode": "Complete"});
    let at = json!([NOW - 60, NOW - 120]);
    match case {
        Case::Value => says(
            &answer(&[result(at, json!([2.5, 1.0]))]),
            Expect::Value(2.5),
        ),
        Case::Several => says(
            &answer(&[result(at.clone(), json!([1, 1])), result(at, json!([2, 2]))]),
            Expect::FirstOf(1.0, 2),
        ),
        Case::None => says(&answer(&[result(json!([]), json!([]))]), NO_VALUES),
        Case::NotANumber => says(&answer(&[result(at, json!(["NaN", 1]))]), NO_VALUES),
        Case::Null => Cell::No(NO_NULL),
        Case::Stale => says(&answer(&[result(json!([NOW - 590]), json!([1]))]), TOO_OLD),
        Case::Short => says(
            &answer(&[result(json!([]), json!([3]))]),
            Expect::NoData("the newest value has no time, so nothing says how old it is"),
        ),
        Case::Refused => refuses(
            400,
            &json!({"__type": "com.amazonaws.cloudwatch#ValidationError", "message": "Error in expression 'e1': Unknown function"}),
            "status 400: ValidationError: Error in expression 'e1'",
        ),
        Case::WrongCredentials => refuses(
            403,
            &json!({"__type": "com.amazon.coral.service#AccessDeniedException", "Message": "User is not authorized to perform: cloudwatch:GetMetricData"}),
            "status 403 (may the controller's own identity call cloudwatch:GetMetricData?): AccessDeniedException: User is not authorized",
        ),
        _ => Cell::AsAll,
    }
}

fn keptn(case: Case) -> Cell {
    const OWN: &str = "the API server of the own cluster is asked through the controller's client, with its deadlines and tests";
    let metric = |status: Value| json!({"apiVersion": "metrics.keptn.sh/v1beta1", "kind": "KeptnMetric", "metadata": {"name": "response-time", "namespace": "shop"}, "status": status});
    let at = "2025-11-29T11:59:50Z";
    match case {
        Case::Value => says(
            &metric(json!({"value": "3.25", "rawValue": "", "lastUpdated": at})),
            Expect::Value(3.25),
        ),
        Case::Several => Cell::No("a KeptnMetric has one value"),
        Case::None => says(
            &metric(json!({"errMsg": "could not connect to Dynatrace"})),
            Expect::NoData(
                "no values found in the status of KeptnMetric response-time.shop: could not connect",
            ),
        ),
        Case::NotANumber => says(
            &metric(json!({"value": "NaN", "lastUpdated": at})),
            NO_VALUES,
        ),
        Case::Null => says(
            &metric(json!({"value": null, "lastUpdated": at})),
            NO_VALUES,
        ),
        Case::Stale => says(
            &metric(json!({"value": "1", "lastUpdated": "2025-11-29T11:00:00Z"})),
            TOO_OLD,
        ),
        Case::Short => Cell::No(NO_LISTS),
        Case::Malformed => says(
            &metric(json!({"value": "many"})),
            Expect::Error(
                "status.value of KeptnMetric response-time.shop: \"many\" is not a number",
            ),
        ),
        Case::Refused => refuses(
            404,
            &json!({"message": "keptnmetrics.metrics.keptn.sh \"response-time\" not found"}),
            "KeptnMetric response-time.shop can't be had: keptnmetrics.metrics.keptn.sh \"response-time\" not found",
        ),
        Case::WrongCredentials => refuses(
            403,
            &json!({"message": "keptnmetrics.metrics.keptn.sh is forbidden"}),
            "can't be had (grant it with `serin rbac --metrics-providers keptn`",
        ),
        _ => Cell::No(OWN),
    }
}
