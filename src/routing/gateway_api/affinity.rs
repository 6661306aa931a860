//! Session affinity: users who have met a side stay on it by a cookie. While the canary has weight, its answers set a cookie and a
//! rule before the weighted one sends that cookie's bearers back to it; at weight 0 the cookie of the run before is taken from
//! browsers. Every rule is a copy of its own, so a cookie never gets into the headers that the user asked for.

use super::{Subject, matches, rules};
use crate::routing::{RouteRequest, Split, Weight, session_cookie};
use serde_json::{Value, json};

/// The rules of a weighted rollout: sticky ones first, then `weighted`; just `weighted` where no affinity is asked for or the cookie
/// to pin by is not known.
pub fn rules(
    subject: &Subject<'_>,
    request: &RouteRequest<'_>,
    mut weighted: Value,
    service_matches: &[Value],
) -> Vec<Value> {
    let analysis = &subject.canary.spec.analysis;
    let Some(affinity) = &analysis.session_affinity else {
        return vec![weighted];
    };
    let bearing = |base: &Value, cookie: &str| -> Value {
        let mut rule = base.clone();
        rule["matches"] = json!(matches::narrowed(service_matches, &cookie_match(cookie)));
        rule
    };
    if request.split.canary.percent() == 0 {
        return match &request.cookies.previous {
            Some(previous) => {
                let mut removal = bearing(&weighted, previous);
                add_response_header(&mut removal, &session_cookie::removal(affinity, previous));
                vec![removal, weighted]
            }
            None => vec![weighted],
        };
    }

    let Some(cookie) = &request.cookies.canary else {
        return vec![weighted];
    };
    let mut all = Vec::new();
    let mut sticky = bearing(&weighted, cookie);
    sticky["backendRefs"] = json!(rules::backends(subject, Split::CANARY));
    all.push(sticky);
    let max_age = affinity.max_age();
    set_cookie(
        &mut weighted["backendRefs"][1],
        &session_cookie::set(affinity, cookie, max_age),
    );

    let named = affinity
        .primary_cookie_name
        .as_deref()
        .is_some_and(|name| !name.is_empty());
    // Where all traffic goes to the canary the primary may have no pods, so nobody is held on it.
    let some_stay = request.split.primary() > Weight::NONE;
    if subject.flavour.primary_affinity
        && named
        && some_stay
        && let Some(cookie) = &request.cookies.primary
    {
        let mut sticky = bearing(&weighted, cookie);
        sticky["backendRefs"] = json!(rules::backends(subject, Split::PRIMARY));
        all.push(sticky);
        // A user may meet the canary at the next step, so this pin lasts one interval.
        let max_age = analysis.interval().as_secs();
        set_cookie(
            &mut weighted["backendRefs"][0],
            &session_cookie::set(affinity, cookie, max_age),
        );
    }
    all.push(weighted);
    all
}

fn set_cookie(backend: &mut Value, set_cookie: &str) {
    backend["filters"] = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {
        "add": [{"name": "Set-Cookie", "value": set_cookie}],
    }}]);
}

/// Adds a `Set-Cookie` to the answers of a rule. The API allows one response filter in a rule and one entry for a name in it: a
/// filter that is there gets the entry, one that sets a cookie itself is left alone and the backends get a filter instead.
fn add_response_header(rule: &mut Value, set_cookie: &str) {
    let entry = json!({"name": "Set-Cookie", "value": set_cookie});
    if !rule["filters"].is_array() {
        rule["filters"] = json!([]);
    }
    let Some(filters) = rule["filters"].as_array_mut() else {
        return;
    };
    let existing = filters
        .iter_mut()
        .find(|filter| filter["type"] == "ResponseHeaderModifier")
        .map(|filter| &mut filter["responseHeaderModifier"]["add"]);
    match existing {
        None => filters.push(
            json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [entry]}}),
        ),
        Some(add) => {
            let mut entries = add.as_array().cloned().unwrap_or_default();
            let taken = entries.iter().any(|entry| {
                entry["name"]
                    .as_str()
                    .is_some_and(|name| name.eq_ignore_ascii_case("Set-Cookie"))
            });
            if taken {
                for backend in rule["backendRefs"].as_array_mut().into_iter().flatten() {
                    backend["filters"] = json!([{"type": "ResponseHeaderModifier",
                        "responseHeaderModifier": {"add": [entry.clone()]}}]);
                }
            } else {
                entries.push(entry);
                *add = entries.into();
            }
        }
    }
}

/// A condition on the `Cookie` header.
fn cookie_match(cookie: &str) -> Value {
    json!({
        "type": "RegularExpression",
        "name": "Cookie",
        "value": session_cookie::pattern(cookie),
    })
}
