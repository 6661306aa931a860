//! Keeps credentials out of texts. Backends repeat what they were sent in their errors, and those end in status, events and logs; so what a
//! backend says passes through here before anybody sees it.

use super::QueryRequest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;

/// Keys of Secrets that hold names, not secrets.
const NAMES: [&str; 4] = ["username", "org", "project", "newrelic_account_id"];
/// Parts of the names of headers that carry secrets.
const SECRET_HEADERS: [&str; 6] = ["auth", "key", "token", "secret", "password", "cookie"];
/// What is shorter can't be told from ordinary words.
const LEAST: usize = 4;
/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// The texts that a request carries and nobody may see.
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Those of a request: its Secret, headers of the template that look like keys, and the password in its address.
    pub fn of(request: &QueryRequest) -> Self {
        let mut secrets = Vec::new();
        if let Some(credentials) = &request.credentials {
            for key in credentials.keys() {
                let Some(text) = credentials.get(key).filter(|_| !NAMES.contains(&key)) else {
                    continue;
                };
                secrets.push(text.to_owned());
                if let Some(username) = credentials.get("username") {
                    secrets.push(STANDARD.encode(format!("{username}:{text}")));
                }
            }
        }
        for (name, values) in &request.config.headers {
            let name = name.to_ascii_lowercase();
            if SECRET_HEADERS.iter().any(|part| name.contains(part)) {
                secrets.extend(values.iter().flat_map(|value| {
                    // `Bearer …` and the like: the scheme is no secret, what follows it is one.
                    let bare = value.split_once(' ').map(|(_, rest)| rest.to_owned());
                    [Some(value.clone()), bare].into_iter().flatten()
                }));
            }
        }
        let address = request.config.address.as_deref().unwrap_or_default();
        if let Ok(url) = Url::parse(address)
            && let Some(password) = url.password()
        {
            secrets.push(password.to_owned());
            let decoded = |text: &str| {
                let mut pairs = Url::parse("http://x").ok()?;
                pairs.set_query(Some(&format!("x={}", text.replace('+', "%2B"))));
                pairs
                    .query_pairs()
                    .next()
                    .map(|(_, value)| value.into_owned())
            };
            if let (Some(username), Some(password)) = (decoded(url.username()), decoded(password)) {
                secrets.push(STANDARD.encode(format!("{username}:{password}")));
                secrets.push(password);
            }
        }
        Self::texts(secrets)
    }

    /// Hides these texts, also as they look in JSON, in a URL and on one line.
    pub fn texts(secrets: Vec<String>) -> Self {
        let mut forms: Vec<String> = Vec::new();
        for secret in secrets {
            let quoted = serde_json::Value::from(secret.as_str()).to_string();
            let mut url = Url::parse("http://x").ok();
            if let Some(url) = &mut url {
                url.query_pairs_mut().append_pair("x", &secret);
            }
            let encoded = url.as_ref().and_then(Url::query).unwrap_or_default();
            forms.push(quoted.trim_matches('"').to_owned());
            forms.push(encoded.trim_start_matches("x=").to_owned());
            forms.push(encoded.trim_start_matches("x=").replace('+', "%20"));
            forms.push(super::exchange::one_line(&secret));
            forms.push(secret);
        }
        forms.retain(|form| form.len() >= LEAST);
        forms.sort();
        forms.dedup();
        // The longest first: a secret may be part of another.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        Self(forms)
    }

    /// The text without secrets.
    pub fn hide(&self, text: String) -> String {
        let mut text = text;
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), HIDDEN);
            }
            text = Self::hide_cut(secret, text);
        }
        text
    }

    /// A quote that was cut off may end within a secret.
    fn hide_cut(secret: &str, mut text: String) -> String {
        let mut from = 0;
        while let Some(at) = text[from..].find('…').map(|at| from + at) {
            let cut = secret
                .char_indices()
                .map(|(end, _)| end)
                .filter(|end| *end >= LEAST)
                .rev()
                .find(|end| text[..at].ends_with(&secret[..*end]));
            from = match cut {
                Some(length) => {
                    text.replace_range(at - length..at, HIDDEN);
                    at - length + HIDDEN.len() + '…'.len_utf8()
                }
                None => at + '…'.len_utf8(),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_however_it_is_written() {
        let secrets = Secrets::texts(vec!["s3c ret/\"x".to_owned(), "abc".to_owned()]);
        let cases = [
            ("key s3c ret/\"x is wrong", "key *** is wrong"),
            (r#"{"key":"s3c ret/\"x"}"#, r#"{"key":"***"}"#),
            ("?q=s3c+ret%2F%22x&", "?q=***&"),
            (
                "the answer begins with s3c ret…",
                "the answer begins with ***…",
            ),
            ("s3c… and s3c r…", "s3c… and ***…"),
            // Too short to be told from a word.
            ("abc", "abc"),
        ];
        for (text, expected) in cases {
            assert_eq!(secrets.hide(text.to_owned()), expected);
        }
    }
}
