//! Where tokens for Google come from, how long they are kept, and where they go.

use super::*;
use crate::analysis::ProviderConfig;
use crate::api::MetricProviderType;
use crate::providers::http::Timing;
use crate::providers::{Credentials, Providers};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap as Headers, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use std::sync::{Arc, LazyLock, Mutex};

const KEY: &str = include_str!("../contract/key-for-tests.pem");

/// Google on this machine: tokens, metadata and the API behind one address.
#[derive(Clone)]
struct Google {
    seen: Arc<Mutex<Vec<String>>>,
    lasts: u64,
    /// The API takes no token.
    refuses: bool,
}

async fn answer(State(google): State<Google>, uri: Uri, headers: Headers, body: Bytes) -> Response {
    let text = |name: &str| {
        headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
            .to_owned()
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    let count = google.seen.lock().unwrap().len();
    let token = format!(
        r#"{{"access_token": "s3cret-{count}", "expires_in": {}, "token_type": "Bearer"}}"#,
        google.lasts
    );
    let (told, reply) = match uri.path() {
        "/token" => (format!("token {body}"), token.into_response()),
        "/computeMetadata/v1/instance/service-accounts/default/token"
            if text("metadata-flavor") == "Google" =>
        {
            ("metadata".to_owned(), token.into_response())
        }
        "/v3/projects/shop-1/timeSeries:query" => {
            let told = format!("query {}", text("authorization"));
            let reply = if google.refuses {
                (
                    StatusCode::UNAUTHORIZED,
                    r#"{"error": {"message": "Request had invalid authentication credentials."}}"#,
                )
                    .into_response()
            } else {
                r#"{"timeSeriesData": [{"pointData": [{"values": [{"doubleValue": 3}]}]}]}"#
                    .into_response()
            };
            (told, reply)
        }
        other => (
            format!("unexpected {other}"),
            StatusCode::NOT_FOUND.into_response(),
        ),
    };
    google.seen.lock().unwrap().push(told);
    reply
}

async fn start(lasts: u64, refuses: bool) -> (Google, String) {
    let google = Google {
        seen: Arc::default(),
        lasts,
        refuses,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let app = Router::new().fallback(answer).with_state(google.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (google, host)
}

fn key(host: &str) -> String {
    json!({
        "type": "service_account", "private_key_id": "key-1", "private_key": KEY,
        "client_email": "serin@shop-1.iam.gserviceaccount.com", "token_uri": format!("http://{host}/token"),
    })
    .to_string()
}

fn providers(host: &str, more: &[(&str, &str)]) -> Providers {
    static HTTP: LazyLock<Http> = LazyLock::new(|| Http::new(Timing::default()).unwrap());
    let api = format!("http://{host}");
    let variables = [
        ("CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING", api.as_str()),
        ("GCE_METADATA_HOST", host),
    ];
    let variables = variables
        .iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Providers::over(HTTP.clone(), Surroundings::of_variables(variables))
}

fn request(keys: &[(&str, &str)]) -> QueryRequest {
    QueryRequest {
        config: ProviderConfig {
            provider_type: MetricProviderType::Stackdriver,
            // Not the endpoint: nobody listens there, and nobody is asked.
            address: Some("http://127.0.0.1:9".to_owned()),
            ..ProviderConfig::default()
        },
        credentials: Some(Credentials::from_entries(keys.iter().copied())),
        query: "fetch gce_instance".to_owned(),
        interval: Duration::from_mins(1),
        now: Timestamp::from_second(1_764_417_600).unwrap(),
    }
}

#[tokio::test]
async fn a_key_is_exchanged_by_a_claim_that_it_signs() {
    let (google, host) = start(3600, false).await;
    let key = key(&host);
    let asked = request(&[("project", "shop-1"), ("serviceAccountKey", &key)]);
    let providers = providers(&host, &[]);
    for _ in 0..3 {
        assert_eq!(providers.ask(&asked).await, Measurement::Value(3.0));
    }
    let seen = google.seen.lock().unwrap().clone();
    // One token for all three.
    assert_eq!(
        seen[1..],
        [
            "query Bearer s3cret-0",
            "query Bearer s3cret-0",
            "query Bearer s3cret-0"
        ]
    );
    let form = Url::parse(&format!(
        "http://x/?{}",
        seen[0].trim_start_matches("token ")
    ))
    .unwrap();
    let pairs: HashMap<String, String> = form.query_pairs().into_owned().collect();
    assert_eq!(
        pairs["grant_type"],
        "urn:ietf:params:oauth:grant-type:jwt-bearer"
    );
    let (signed, signature) = pairs["assertion"].rsplit_once('.').unwrap();
    let (head, claims) = signed.split_once('.').unwrap();
    let read = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    assert_eq!(
        read(head),
        json!({"alg": "RS256", "typ": "JWT", "kid": "key-1"})
    );
    assert_eq!(
        read(claims),
        json!({
            "iss": "serin@shop-1.iam.gserviceaccount.com", "scope": SCOPE, "aud": format!("http://{host}/token"),
            "iat": 1_764_417_600, "exp": 1_764_421_200,
        })
    );
    let own = account(&key).unwrap().key;
    ring::signature::UnparsedPublicKey::new(
        &ring::signature::RSA_PKCS1_2048_8192_SHA256,
        own.public().as_ref(),
    )
    .verify(
        signed.as_bytes(),
        &URL_SAFE_NO_PAD.decode(signature).unwrap(),
    )
    .unwrap();
}

#[tokio::test]
async fn without_a_key_the_controllers_own_identity_asks() {
    let (google, host) = start(3600, false).await;
    let asked = request(&[("project", "shop-1")]);
    assert_eq!(
        providers(&host, &[]).ask(&asked).await,
        Measurement::Value(3.0)
    );
    assert_eq!(
        *google.seen.lock().unwrap(),
        ["metadata", "query Bearer s3cret-0"]
    );

    let (google, host) = start(3600, false).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key(&host)).unwrap();
    let named = [(
        "GOOGLE_APPLICATION_CREDENTIALS",
        file.path().to_str().unwrap(),
    )];
    assert_eq!(
        providers(&host, &named).ask(&asked).await,
        Measurement::Value(3.0)
    );
    assert!(google.seen.lock().unwrap()[0].starts_with("token "));
}

#[tokio::test]
async fn a_token_that_ends_soon_or_was_refused_is_not_kept() {
    for (lasts, refuses) in [(60, false), (3600, true)] {
        let (google, host) = start(lasts, refuses).await;
        let providers = providers(&host, &[]);
        for _ in 0..2 {
            let found = providers.ask(&request(&[("project", "shop-1")])).await;
            assert_eq!(matches!(found, Measurement::Error(_)), refuses, "{found:?}");
        }
        let seen = google.seen.lock().unwrap().clone();
        assert_eq!(
            seen.iter().filter(|seen| *seen == "metadata").count(),
            2,
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn a_key_that_is_none_says_what_is_wrong_and_nothing_of_itself() {
    let (google, host) = start(3600, false).await;
    let with = |change: fn(&mut Value)| {
        let mut document: Value = serde_json::from_str(&key(&host)).unwrap();
        change(&mut document);
        document.to_string()
    };
    let cases = [
        (
            "s3cret-nonsense".to_owned(),
            "serviceAccountKey in the Secret is not JSON; expected the key of a service account",
        ),
        (
            with(|key| key["type"] = json!("authorized_user")),
            "serviceAccountKey in the Secret is of type authorized_user; expected service_account",
        ),
        (
            with(|key| key["private_key"] = json!("s3cret-nonsense")),
            "serviceAccountKey in the Secret has a private_key that can't be used; expected an RSA key as PKCS #8 in PEM",
        ),
        (
            with(|key| key["client_email"] = json!("")),
            "serviceAccountKey in the Secret has no client_email; expected the key of a service account",
        ),
    ];
    for (key, expected) in cases {
        let asked = request(&[("project", "shop-1"), ("serviceAccountKey", &key)]);
        assert_eq!(
            providers(&host, &[]).ask(&asked).await,
            Measurement::Error(expected.to_owned())
        );
    }
    assert_eq!(*google.seen.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_signed_claim_follows_no_redirect_to_another_host() {
    let (elsewhere, other) = start(3600, false).await;
    let (google, api) = start(3600, false).await;
    for status in [301, 302, 307, 308] {
        let target = format!("http://{other}/token");
        let app = Router::new().fallback(move || {
            let target = target.clone();
            let status = StatusCode::from_u16(status).unwrap();
            async move { (status, [("location", target)]) }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tokens = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let asked = request(&[("project", "shop-1"), ("serviceAccountKey", &key(&tokens))]);
        let Measurement::Error(why) = providers(&api, &[]).ask(&asked).await else {
            panic!("{status} was taken for a token")
        };
        assert!(
            why.contains("the service account's key can't be exchanged for a token")
                && why.contains(&format!(
                    "{tokens} redirects to {other}, and credentials are not sent to another host"
                )),
            "{status}: {why}"
        );
    }
    assert!(elsewhere.seen.lock().unwrap().is_empty());
    assert!(google.seen.lock().unwrap().is_empty());
}
