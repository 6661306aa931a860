//! Session affinity: users who have met a side stay on it by a cookie. While the canary has weight, its answers set a cookie and a
//! route before the weighted one sends that cookie's bearers back to it; at weight 0 the cookie of the run before is taken from
//! browsers. Every route is a copy of its own, so a cookie never gets into the headers that the user asked for.

use super::{Subject, matches, rules};
use crate::routing::{RouteRequest, Split, Weight, session_cookie};
use serde_json::{Value, json};

/// The routes of a weighted rollout: sticky ones first, then `weighted`; just `weighted` where no affinity is asked for or the cookie
/// to pin by is not known.
pub fn rules(
    subject: &Subject<'_>,
    request: &RouteRequest<'_>,
    mut weighted: Value,
    service: &[Value],
) -> Vec<Value> {
    let analysis = &subject.canary.spec.analysis;
    let Some(affinity) = &analysis.session_affinity else {
        return vec![weighted];
    };
    let bearing = |cookie: &str, base: &Value| -> Value {
        let mut rule = base.clone();
        rule["match"] = matches::bearing(service, &session_cookie::pattern(cookie)).into();
        rule
    };

    if request.split.canary == Weight::NONE {
        let Some(previous) = &request.cookies.previous else {
            return vec![weighted];
        };
        let mut removal = bearing(previous, &weighted);
        add_to_answers(&mut removal, &session_cookie::removal(affinity, previous));
        return vec![removal, weighted];
    }

    let Some(cookie) = &request.cookies.canary else {
        return vec![weighted];
    };
    let mut sticky = bearing(cookie, &weighted);
    sticky["route"] = rules::destinations(subject, Split::CANARY);
    let mut all = vec![sticky];
    // Where all traffic goes to the canary the primary may have no pods, so nobody is held on it.
    if rules::filled(affinity.primary_cookie_name.as_ref()).is_some()
        && request.split.primary() > Weight::NONE
        && let Some(cookie) = &request.cookies.primary
    {
        let mut sticky = bearing(cookie, &weighted);
        sticky["route"] = rules::destinations(subject, Split::PRIMARY);
        all.push(sticky);
        // A user may meet the canary at the next step, so this pin lasts one interval.
        let max_age = analysis.interval().as_secs();
        let cookie = session_cookie::set(affinity, cookie, max_age);
        weighted["route"][0]["headers"] = set_cookie(&cookie);
    }
    let cookie = session_cookie::set(affinity, cookie, affinity.max_age());
    weighted["route"][1]["headers"] = set_cookie(&cookie);
    all.push(weighted);
    all
}

fn set_cookie(cookie: &str) -> Value {
    json!({"response": {"add": {"Set-Cookie": cookie}}})
}

/// Adds a `Set-Cookie` to the answers of a route. One that sets a cookie of the user's itself is left as it is, and the destinations
/// get ours.
fn add_to_answers(rule: &mut Value, cookie: &str) {
    let taken = rule["headers"]["response"]["add"]
        .as_object()
        .is_some_and(|add| {
            add.keys()
                .any(|name| name.eq_ignore_ascii_case("set-cookie"))
        });
    if taken {
        for destination in rule["route"].as_array_mut().into_iter().flatten() {
            destination["headers"] = set_cookie(cookie);
        }
    } else {
        rule["headers"]["response"]["add"]["Set-Cookie"] = json!(cookie);
    }
}
