//! Who may ask: a pattern that the canary's namespace must match, and a token for each namespace.
//!
//! Tokens are files named after their namespace, as a Secret mounted as a volume has them, and are read at each request, so that they can
//! be changed while the load tester runs. They come in the header `Authorization: Bearer …` or, since webhooks of a Canary have no
//! headers, as `metadata.token`.

use super::payload::Payload;
use axum::http::{HeaderMap, StatusCode, header};
use regex::Regex;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Longest file that is read.
const LONGEST_TOKEN: u64 = 4096;

/// Who may ask.
#[derive(Debug, Default)]
pub struct Access {
    /// Namespaces whose canaries may ask; any if there is none. Not anchored, as with Flagger.
    pub namespaces: Option<Regex>,
    /// The folder of tokens; none for no tokens.
    pub tokens: Option<PathBuf>,
}

impl Access {
    /// Whether a request for this canary may be honoured.
    ///
    /// # Errors
    /// The status to answer with.
    pub async fn check(&self, headers: &HeaderMap, payload: &Payload) -> Result<(), StatusCode> {
        if let Some(namespaces) = &self.namespaces
            && !namespaces.is_match(&payload.namespace)
        {
            return Err(StatusCode::FORBIDDEN);
        }
        let Some(folder) = &self.tokens else {
            return Ok(());
        };
        let given = bearer(headers).unwrap_or_else(|| payload.text("token"));
        let Some(expected) = token_of(folder.clone(), &payload.namespace).await else {
            return Err(StatusCode::UNAUTHORIZED);
        };
        if given.is_empty() || !same(given.as_bytes(), expected.as_bytes()) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        Ok(())
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The token of a namespace, if there is one that is not empty.
async fn token_of(folder: PathBuf, namespace: &str) -> Option<String> {
    // Only what can be a namespace's name becomes a part of a path.
    let sound = !namespace.is_empty()
        && namespace.len() <= 63
        && namespace
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !sound {
        return None;
    }
    let path = folder.join(namespace);
    let length = tokio::fs::metadata(&path).await.ok()?.len();
    if length > LONGEST_TOKEN {
        tracing::error!(
            namespace,
            "the token of this namespace is too long to be one"
        );
        return None;
    }
    let token = tokio::fs::read_to_string(&path).await.ok()?;
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

/// Compares digests, byte by byte to the end: how long it takes says nothing about the token.
fn same(one: &[u8], other: &[u8]) -> bool {
    let (one, other) = (Sha256::digest(one), Sha256::digest(other));
    one.iter()
        .zip(other.iter())
        .fold(0, |difference, (one, other)| difference | (one ^ other))
        == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn payload(namespace: &str, token: &str) -> Payload {
        let metadata = [("token".to_owned(), token.to_owned())].into();
        Payload {
            name: "app".into(),
            namespace: namespace.into(),
            metadata: Some(metadata),
        }
    }

    fn with_header(text: &str) -> HeaderMap {
        [(header::AUTHORIZATION, text.parse().unwrap())]
            .into_iter()
            .collect()
    }

    #[tokio::test]
    async fn a_namespace_has_its_own_token() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("shop"), "one\n").unwrap();
        std::fs::write(folder.path().join("bank"), "two").unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        let tokens = folder.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        std::fs::write(tokens.join("shop"), "one").unwrap();
        let access = Access {
            namespaces: None,
            tokens: Some(folder.path().to_owned()),
        };
        let none = HeaderMap::new();
        for (headers, namespace, token, allowed) in [
            (&none, "shop", "one", true),
            (&none, "shop", "two", false),
            (&none, "shop", "", false),
            (&none, "bank", "one", false),
            (&none, "empty", "", false),
            (&none, "unknown", "one", false),
            (&none, "", "one", false),
            (&none, "tokens/shop", "one", false),
            (&none, "../shop", "one", false),
            (&with_header("Bearer one"), "shop", "", true),
            (&with_header("bearer  one "), "shop", "", true),
            (&with_header("Bearer two"), "shop", "one", false),
            (&with_header("Basic one"), "shop", "one", true),
        ] {
            let answer = access.check(headers, &payload(namespace, token)).await;
            assert_eq!(answer.is_ok(), allowed, "{namespace} {token} {headers:?}");
        }
        std::fs::write(folder.path().join("shop"), "three").unwrap();
        assert!(
            access.check(&none, &payload("shop", "three")).await.is_ok(),
            "a changed token counts at once"
        );
    }

    #[tokio::test]
    async fn the_pattern_of_namespaces_is_not_anchored() {
        let access = Access {
            namespaces: Some(Regex::new("shop").unwrap()),
            tokens: None,
        };
        for (namespace, allowed) in [
            ("shop", true),
            ("my-shop-1", true),
            ("bank", false),
            ("", false),
        ] {
            let answer = access
                .check(&HeaderMap::new(), &payload(namespace, ""))
                .await;
            assert_eq!(
                answer,
                if allowed {
                    Ok(())
                } else {
                    Err(StatusCode::FORBIDDEN)
                },
                "{namespace}"
            );
        }
    }

    #[test]
    fn a_payload_never_shows_its_metadata() {
        assert_eq!(format!("{:?}", payload("shop", "secret")), "shop/app");
    }
}
