//! Cookies of session affinity as texts: what a side sets, what takes a cookie from browsers, and the expression that tells a cookie's
//! bearers. The routers put them into their own objects.

use crate::api::SessionAffinity;
use std::fmt::{Display, Write};

/// The value of a `Set-Cookie` header that sets `cookie` (`name=value`) for `max_age` seconds.
pub fn set(affinity: &SessionAffinity, cookie: &str, max_age: impl Display) -> String {
    format!("{cookie}; Max-Age={max_age}{}", attributes(affinity))
}

/// The value of a `Set-Cookie` header with which browsers drop `cookie`.
pub fn removal(affinity: &SessionAffinity, cookie: &str) -> String {
    set(affinity, cookie, -1)
}

/// The attributes after `Max-Age`, in Flagger's order. Browsers drop a cookie only if they are those that it was set with.
fn attributes(affinity: &SessionAffinity) -> String {
    let mut text = String::new();
    let named = |name: &str, value: &Option<String>| -> String {
        match value.as_deref() {
            None | Some("") => String::new(),
            Some(value) => format!("; {name}={value}"),
        }
    };
    let flag = |name: &str, set: Option<bool>| {
        if set == Some(true) {
            format!("; {name}")
        } else {
            String::new()
        }
    };
    let _ = write!(
        text,
        "{}{}{}{}{}{}",
        named("Domain", &affinity.domain),
        flag("HttpOnly", affinity.http_only),
        flag("Partitioned", affinity.partitioned),
        named("Path", &affinity.path),
        named(
            "SameSite",
            &affinity.same_site.map(|value| value.to_string())
        ),
        flag("Secure", affinity.secure),
    );
    text
}

/// An expression that a whole `Cookie` header matches if it carries `cookie`: Flagger's form, with the parts taken literally.
pub fn pattern(cookie: &str) -> String {
    let (name, value) = cookie.split_once('=').unwrap_or((cookie, ""));
    format!(".*{}.*{}.*", literal(name), literal(value))
}

/// The names of the cookies that a canary asks for, as [`pattern`] has them.
pub fn names(affinity: &SessionAffinity) -> Vec<String> {
    std::iter::once(&affinity.cookie_name)
        .chain(&affinity.primary_cookie_name)
        .filter(|name| !name.is_empty())
        .map(|name| literal(name))
        .collect()
}

/// Escapes what has a meaning in the regular expressions of any data plane (RE2, PCRE, ECMAScript). The `regex` crate's own
/// escaping also touches `-`, `&` and `~`, which not all of them take.
pub fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
