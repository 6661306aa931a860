//! Where the controller's AWS identity comes from, and where it goes.

use super::*;
use crate::analysis::ProviderConfig;
use crate::api::MetricProviderType;
use crate::providers::http::Timing;
use crate::providers::{Providers, Surroundings};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap as Headers, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

/// AWS on this machine: `CloudWatch`, STS, the container service and the instance metadata behind one address.
#[derive(Clone, Default)]
struct Aws {
    /// Path and, of `CloudWatch`, who signed.
    seen: Arc<Mutex<Vec<String>>>,
    /// When identities end; RFC 3339.
    expiration: &'static str,
    /// How often `CloudWatch` first says that it is too much.
    throttles: usize,
}

async fn answer(State(aws): State<Aws>, uri: Uri, headers: Headers, body: Bytes) -> Response {
    let text = |name: &str| {
        let value = headers.get(name);
        value.map_or(String::new(), |value| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        })
    };
    let end = aws.expiration;
    let json = |token: &str| {
        format!(
            r#"{{"Code": "Success", "AccessKeyId": "AKIA-{token}", "SecretAccessKey": "s3cret-key", "Token": "s3cret-{token}", "Expiration": "{end}"}}"#
        )
    };
    let (told, reply): (String, Response) = match uri.path() {
        "/latest/api/token" if text("x-aws-ec2-metadata-token-ttl-seconds") == "300" => {
            ("IMDS token".to_owned(), "imds-token".into_response())
        }
        "/latest/meta-data/iam/security-credentials/"
            if text("x-aws-ec2-metadata-token") == "imds-token" =>
        {
            ("IMDS roles".to_owned(), "node-role\n".into_response())
        }
        "/latest/meta-data/iam/security-credentials/node-role"
            if text("x-aws-ec2-metadata-token") == "imds-token" =>
        {
            ("IMDS role".to_owned(), json("instance").into_response())
        }
        "/container" if text("authorization") == "container-token" => {
            ("container".to_owned(), json("container").into_response())
        }
        "/sts" => {
            let form = String::from_utf8_lossy(&body).into_owned();
            let right = form.contains("Action=AssumeRoleWithWebIdentity")
                && form.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fserin")
                && form.contains("WebIdentityToken=s3cret-web-token");
            let reply = if right {
                format!("<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKIA-web</AccessKeyId><SecretAccessKey>s3cret-key</SecretAccessKey><SessionToken>s3cret&amp;web</SessionToken><Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>").into_response()
            } else {
                (StatusCode::BAD_REQUEST, "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>No OpenIDConnect provider found for s3cret-other-token</Message></Error></ErrorResponse>").into_response()
            };
            ("STS".to_owned(), reply)
        }
        "/" => {
            let signer = text("authorization");
            let signer = signer
                .split_once("Credential=")
                .map_or("", |(_, rest)| rest);
            let signer = signer.split('/').next().unwrap_or_default();
            let told = format!("CloudWatch for {signer} {}", text("x-amz-security-token"));
            let asked = aws
                .seen
                .lock()
                .unwrap()
                .iter()
                .filter(|seen| seen.starts_with("CloudWatch"))
                .count();
            let reply = if asked < aws.throttles {
                (
                    StatusCode::BAD_REQUEST,
                    r#"{"__type": "Throttling", "message": "Rate exceeded"}"#,
                )
                    .into_response()
            } else {
                let now = Timestamp::now().as_second();
                json!({"MetricDataResults": [{"Id": "a", "Timestamps": [now], "Values": [4]}]})
                    .to_string()
                    .into_response()
            };
            (told.trim_end().to_owned(), reply)
        }
        other => (
            format!("unexpected {other}"),
            StatusCode::NOT_FOUND.into_response(),
        ),
    };
    aws.seen.lock().unwrap().push(told);
    reply
}

impl Aws {
    async fn start(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(any(answer)).with_state(self);
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn providers(variables: &[(&str, &str)]) -> Providers {
    static HTTP: LazyLock<Http> = LazyLock::new(|| {
        Http::new(Timing {
            attempt: Duration::from_secs(2),
            overall: Duration::from_secs(5),
            first_wait: Duration::from_millis(5),
            retries: 1,
        })
        .unwrap()
    });
    let variables: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Providers::over(HTTP.clone(), Surroundings::of_variables(variables))
}

fn request() -> QueryRequest {
    QueryRequest {
        config: ProviderConfig {
            provider_type: MetricProviderType::Cloudwatch,
            region: Some("eu-central-1".to_owned()),
            // Not the endpoint: nobody listens there, and nobody is asked.
            address: Some("http://127.0.0.1:9".to_owned()),
            ..ProviderConfig::default()
        },
        credentials: None,
        query: r#"[{"Id": "a", "MetricStat": {"Metric": {"MetricName": "Errors"}, "Period": 60, "Stat": "Sum"}}]"#.to_owned(),
        interval: Duration::from_mins(1),
        now: Timestamp::now(),
    }
}

const LATER: &str = "2099-01-01T00:00:00Z";

#[tokio::test]
async fn each_source_of_an_identity_is_used_in_turn_and_kept_while_it_lasts() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret-web-token\n").unwrap();
    let other = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(other.path(), "container-token").unwrap();
    let (web, container) = (
        token.path().to_str().unwrap(),
        other.path().to_str().unwrap(),
    );
    // Each source with those that come after it, so that the order shows.
    let variables = |address: &str, first: usize| -> Vec<(String, String)> {
        let all = [
            ("AWS_ACCESS_KEY_ID", "AKIA-environment".to_owned(), 0),
            ("AWS_SECRET_ACCESS_KEY", "s3cret-key".to_owned(), 0),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", web.to_owned(), 1),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/serin".to_owned(), 1),
            ("AWS_ENDPOINT_URL_STS", format!("{address}/sts"), 1),
            (
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                format!("{address}/container"),
                2,
            ),
            (
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                container.to_owned(),
                2,
            ),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", address.to_owned(), 3),
            ("AWS_ENDPOINT_URL_CLOUDWATCH", address.to_owned(), 4),
        ];
        all.into_iter()
            .filter(|(.., source)| *source >= first)
            .map(|(name, value, _)| (name.to_owned(), value))
            .collect()
    };
    let asks = |signer: &str| format!("CloudWatch for {signer}");
    let cases: [(usize, Vec<String>, String); 4] = [
        (0, vec![], asks("AKIA-environment")),
        (1, vec!["STS".to_owned()], asks("AKIA-web s3cret&web")),
        (
            2,
            vec!["container".to_owned()],
            asks("AKIA-container s3cret-container"),
        ),
        (
            3,
            ["IMDS token", "IMDS roles", "IMDS role"]
                .map(str::to_owned)
                .to_vec(),
            asks("AKIA-instance s3cret-instance"),
        ),
    ];
    for (source, found_by, asked) in cases {
        let aws = Aws {
            expiration: LATER,
            ..Aws::default()
        };
        let address = aws.clone().start().await;
        let variables = variables(&address, source);
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let providers = providers(&variables);
        for _ in 0..2 {
            assert_eq!(
                providers.ask(&request()).await,
                Measurement::Value(4.0),
                "{:?}",
                aws.seen()
            );
        }
        let expected: Vec<String> = found_by.into_iter().chain([asked.clone(), asked]).collect();
        assert_eq!(aws.seen(), expected);
    }
}

#[tokio::test]
async fn an_identity_that_ends_soon_is_asked_for_anew() {
    let soon = Timestamp::now() + jiff::SignedDuration::from_mins(4);
    let aws = Aws {
        expiration: soon.to_string().leak(),
        ..Aws::default()
    };
    let address = aws.clone().start().await;
    let providers = providers(&[
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &address),
        ("AWS_ENDPOINT_URL_CLOUDWATCH", &address),
    ]);
    for _ in 0..2 {
        assert_eq!(providers.ask(&request()).await, Measurement::Value(4.0));
    }
    assert_eq!(
        aws.seen()
            .iter()
            .filter(|seen| *seen == "IMDS role")
            .count(),
        2
    );
}

#[tokio::test]
async fn who_has_no_identity_is_told_which_were_looked_for_and_no_token_shows() {
    let none = providers(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    let Measurement::Error(why) = none.ask(&request()).await else {
        panic!("expected an error")
    };
    for name in [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "container",
        "AWS_EC2_METADATA_DISABLED",
    ] {
        assert!(why.contains(name), "{why}");
    }
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret-other-token").unwrap();
    let aws = Aws {
        expiration: LATER,
        ..Aws::default()
    };
    let address = aws.clone().start().await;
    let refused = providers(&[
        (
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            token.path().to_str().unwrap(),
        ),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/serin"),
        ("AWS_ENDPOINT_URL_STS", &format!("{address}/sts")),
    ]);
    assert_eq!(
        refused.ask(&request()).await,
        Measurement::Error("the controller can't become arn:aws:iam::1:role/serin by its web identity: status 400: InvalidIdentityToken: No OpenIDConnect provider found for ***".to_owned())
    );
    let far = providers(&[(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "http://203.0.113.1/creds",
    )]);
    let Measurement::Error(why) = far.ask(&request()).await else {
        panic!("expected an error")
    };
    assert!(why.contains("203.0.113.1 by plain HTTP"), "{why}");
}

#[tokio::test]
async fn a_request_too_many_is_made_again() {
    let aws = Aws {
        throttles: 2,
        ..Aws::default()
    };
    let address = aws.clone().start().await;
    let keys = |address: &str| {
        providers(&[
            ("AWS_ACCESS_KEY_ID", "AKIA"),
            ("AWS_SECRET_ACCESS_KEY", "s3cret-key"),
            ("AWS_ENDPOINT_URL_CLOUDWATCH", address),
        ])
    };
    assert_eq!(
        keys(&address).ask(&request()).await,
        Measurement::Value(4.0)
    );
    let aws = Aws {
        throttles: 3,
        ..Aws::default()
    };
    let address = aws.clone().start().await;
    assert_eq!(
        keys(&address).ask(&request()).await,
        Measurement::Error("status 400: Throttling: Rate exceeded".to_owned())
    );
}

#[tokio::test]
async fn a_region_or_query_that_is_none_is_refused_before_anybody_is_asked() {
    let aws = Aws::default();
    let address = aws.clone().start().await;
    let providers = providers(&[
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "s3cret-key"),
        ("AWS_ENDPOINT_URL_CLOUDWATCH", &address),
    ]);
    for region in ["", "evil.example/", "eu central"] {
        let mut wrong = request();
        wrong.config.region = Some(region.to_owned());
        assert_eq!(
            providers.ask(&wrong).await,
            Measurement::Error("the cloudwatch provider needs a region; expected for example spec.provider.region: eu-central-1".to_owned())
        );
    }
    for query in ["", "{}", "SELECT 1"] {
        let wrong = QueryRequest {
            query: query.to_owned(),
            ..request()
        };
        let Measurement::Error(why) = providers.ask(&wrong).await else {
            panic!("expected an error")
        };
        assert!(
            why.contains("expected a list of MetricDataQuery objects"),
            "{why}"
        );
    }
    assert_eq!(aws.seen(), Vec::<String>::new());
}
