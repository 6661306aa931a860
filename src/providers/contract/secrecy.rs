//! No credential in what a measurement says, whatever a backend repeats.

use super::backends::BACKENDS;
use super::server::{Behaviour, Server};
use super::{Credentials, Measurement, providers};

/// Keys that hold names.
const NAMES: [&str; 4] = ["username", "org", "project", "newrelic_account_id"];

#[tokio::test]
async fn what_a_backend_repeats_of_its_credentials_is_hidden() {
    // Alone, among signs that JSON and URLs write differently, and so long that a quote of it is cut off.
    let long = "z9".repeat(200);
    let secrets = ["s3cretS3cret", "a\"b c+d/e%f=g", long.as_str()];
    for backend in &BACKENDS {
        for secret in secrets {
            for (status, json) in [
                (400, true),
                (400, false),
                (500, true),
                (200, false),
                (200, true),
            ] {
                let server = Server::start(Behaviour::Echo { status, json }, backend.beside).await;
                let mut request = (backend.request)(&server.address());
                if let Some(credentials) = &request.credentials {
                    let entries: Vec<(String, String)> = credentials
                        .keys()
                        .into_iter()
                        .map(|key| {
                            let is_name = NAMES.contains(&key) || key == "serviceAccountKey";
                            let text = if is_name {
                                credentials.get(key).unwrap()
                            } else {
                                secret
                            };
                            (key.to_owned(), text.to_owned())
                        })
                        .collect();
                    request.credentials = Some(Credentials::from_entries(entries));
                }
                let header = format!("Bearer {secret}");
                request
                    .config
                    .headers
                    .insert("X-Api-Token".to_owned(), vec![header]);
                let asked = providers(&server.address());
                let measured = asked.ask(&request).await;
                let probed = asked.probe(&request).await;
                let told = format!("{measured:?} {probed:?} {:?}", request.credentials);
                // What the controller's surroundings give, and tokens that were made of a key.
                assert!(
                    !told.contains("s3cret-"),
                    "{}, {status}, {json}: {told}",
                    backend.kind
                );
                // Not even a beginning that is long enough to help.
                for part in [secret, &secret[..8]] {
                    assert!(
                        !told.contains(part) && !told.contains(&part.escape_debug().to_string()),
                        "{}, {status}, {json}: {told}",
                        backend.kind
                    );
                }
                if status == 400 {
                    assert!(
                        matches!(measured, Measurement::Error(_)),
                        "{}: {measured:?}",
                        backend.kind
                    );
                }
            }
        }
    }
}
