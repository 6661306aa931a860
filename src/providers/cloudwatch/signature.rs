//! Signature version 4 of AWS (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>), for requests
//! as this program makes them: every header is signed, and the path has nothing to encode.

use super::identity::Identity;
use crate::providers::http::Call;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use ring::{digest, hmac};
use std::fmt::Write as _;

/// Signs a call as of `at`: adds its date, the session token and the signature.
pub(super) fn sign(
    call: &mut Call,
    identity: &Identity,
    region: &str,
    service: &str,
    at: Timestamp,
) -> Result<(), String> {
    let time = at.strftime("%Y%m%dT%H%M%SZ").to_string();
    let odd = |what: &str| {
        format!("the {what} of the AWS identity holds characters that a header can't carry")
    };
    call.headers.insert(
        "x-amz-date",
        HeaderValue::from_str(&time).map_err(|_| odd("date"))?,
    );
    if let Some(token) = &identity.session_token {
        let mut token = HeaderValue::from_str(token).map_err(|_| odd("session token"))?;
        token.set_sensitive(true);
        call.headers.insert("x-amz-security-token", token);
    }
    let (signed, canonical) = canonical_request(call);
    let date = &time[..8];
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
    );
    let mut key = mac(
        format!("AWS4{}", identity.secret_key).as_bytes(),
        date.as_bytes(),
    );
    for part in [region, service, "aws4_request"] {
        key = mac(&key, part.as_bytes());
    }
    let signature = hex(&mac(&key, to_sign.as_bytes()));
    let text = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
        identity.access_key
    );
    let mut value = HeaderValue::from_str(&text).map_err(|_| odd("access key"))?;
    value.set_sensitive(true);
    call.headers.insert(AUTHORIZATION, value);
    Ok(())
}

/// The names of the signed headers, and the request as it is signed.
fn canonical_request(call: &Call) -> (String, String) {
    let host = call.url.host_str().unwrap_or_default();
    let host = match call.url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut headers: Vec<(String, String)> = call
        .headers
        .iter()
        .map(|(name, value)| {
            let text = String::from_utf8_lossy(value.as_bytes());
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            (name.as_str().to_owned(), text)
        })
        .chain([("host".to_owned(), host)])
        .collect();
    headers.sort();
    let signed = headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(";");
    let mut lines = String::new();
    for (name, value) in &headers {
        let _ = writeln!(lines, "{name}:{value}");
    }
    let mut pairs: Vec<String> = call
        .url
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            if pair.contains('=') {
                pair.to_owned()
            } else {
                format!("{pair}=")
            }
        })
        .collect();
    pairs.sort();
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{signed}\n{}",
        call.method,
        call.url.path(),
        pairs.join("&"),
        hex(digest::digest(&digest::SHA256, &call.body).as_ref())
    );
    (signed, canonical)
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
        .as_ref()
        .to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use reqwest::header::{CONTENT_TYPE, HeaderMap};
    use reqwest::{Method, Url};

    /// Requests of AWS's own test suite for signature version 4, with the signatures that it gives.
    #[test]
    fn requests_of_the_test_suite_are_signed_as_it_says() {
        let cases = [
            (
                "get-vanilla",
                Method::GET,
                "https://example.amazonaws.com/",
                None,
                "",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-vanilla-query-order-key-case",
                Method::GET,
                "https://example.amazonaws.com/?Param2=value2&Param1=value1",
                None,
                "",
                "host;x-amz-date",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "post-vanilla",
                Method::POST,
                "https://example.amazonaws.com/",
                None,
                "",
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                Method::POST,
                "https://example.amazonaws.com/",
                Some("application/x-www-form-urlencoded"),
                "Param1=value1",
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ];
        let identity = Identity {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            expires: None,
        };
        for (name, method, url, content_type, body, signed, signature) in cases {
            let mut headers = HeaderMap::new();
            if let Some(content_type) = content_type {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            let mut call = Call {
                method,
                url: Url::parse(url).unwrap(),
                headers,
                body: body.as_bytes().to_vec(),
                confidential: true,
                insecure_skip_verify: false,
            };
            let at: Timestamp = "2015-08-30T12:36:00Z".parse().unwrap();
            sign(&mut call, &identity, "us-east-1", "service", at).unwrap();
            assert_eq!(
                call.headers[AUTHORIZATION].to_str().unwrap(),
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={signed}, Signature={signature}"
                ),
                "{name}"
            );
        }
    }
}
