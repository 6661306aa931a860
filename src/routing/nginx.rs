//! Provider `nginx`: an Ingress `<ingress>-canary` beside the user's own, which `spec.ingressRef` names. It has the same hosts and paths, leads to
//! the canary's Service, and its `canary-*` annotations tell ingress-nginx (and controllers that read the same ones) who goes there.
//!
//! Rules, labels and annotations follow the user's Ingress at all times, not only when the companion is made.

use super::session_cookie::literal;
use super::{
    Applied, Capabilities, Condition, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, Split, Weight, capabilities, companion, refuse_errors,
};
use crate::api::{Canary, HeaderMatch};
use crate::object::{Expect, Object, ObjectRef, Patch, Reading, Write, kinds};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The router for ingress-nginx.
pub struct Nginx;

impl Router for Nginx {
    fn provider(&self) -> &'static str {
        "nginx"
    }

    fn capabilities(&self) -> Capabilities {
        use Condition::{Cookie, HeaderExact, HeaderPrefix, HeaderRegex, HeaderSuffix};
        Capabilities {
            conditions: &[HeaderExact, HeaderPrefix, HeaderSuffix, HeaderRegex, Cookie],
            ..Capabilities::WEIGHTED
        }
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut found = capabilities::refusals(self.provider(), &self.capabilities(), canary);
        found.extend(of_ingress_ref(canary));
        found.extend(of_combinations(canary));
        found
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        names(canary)
            .map(|(source, target)| vec![source, target])
            .unwrap_or_default()
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        refuse_errors(self.refusals(canary))?;
        let (name, target) = names(canary)?;
        let reading = live(&target);
        let steering = Steering::of(request.settings);
        let says = steering.annotations(canary, request.split);
        let source = match companion::ingress(canary, &name, live) {
            Ok(source) => source,
            Err(why) => {
                return companion::without_source(
                    canary,
                    (&target, &reading),
                    request.split,
                    |object| steering.split(canary, object),
                    |object| Some(steering.patch(object, &says)),
                    why,
                );
            }
        };
        // What others wrote can't be taken away by an apply: it comes with the next pass.
        if let Some(object) = companion::own(canary, &target, &reading)?
            && let Some(write) = steering.take_away(&target, object, &says)
        {
            return Ok(vec![write]);
        }
        let mut annotations = companion::annotations(&source, |key| steering.is_ours(key));
        annotations.extend(says);
        let service = canary.canary_service_name();
        let mut spec = source.at("/spec").clone();
        spec["rules"] = companion::rules(canary, &name, &source, |path| {
            vec![companion::leading_to(path, &service)]
        })?;
        if let Some(spec) = spec.as_object_mut() {
            // Requests that fit no path are none of the canary's.
            spec.remove("defaultBackend");
        }
        let whole = (&reading, ["rules"].as_slice());
        let write = companion::apply(canary, &target, &source, annotations, &spec, whole)?;
        Ok(write.into_iter().collect())
    }

    fn observed(
        &self,
        canary: &Canary,
        settings: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let (name, target) = names(canary)?;
        let source = companion::ingress(canary, &name, live).err();
        // Nothing in an Ingress tells how far it is; the drain time covers what a controller needs to read it.
        let split = |object: &Object| Steering::of(settings).split(canary, object);
        companion::observed((&target, &live(&target)), source.as_ref(), split, |_| {
            Applied::Yes
        })
    }

    fn unfit(&self, canary: &Canary, live: &Lookup<'_>) -> Vec<RouteError> {
        unfit(canary, live)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let (_, target) = names(canary)?;
        let reading: Reading = live(&target);
        Ok(companion::remove(canary, target, &reading))
    }
}

/// The user's Ingress and the companion.
pub fn names(canary: &Canary) -> Result<(ObjectRef, ObjectRef), RouteError> {
    let name = canary
        .spec
        .ingress_ref
        .as_ref()
        .map(|reference| reference.name.as_str())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| RouteError::Invalid {
            field: "spec.ingressRef".to_owned(),
            found: "missing".to_owned(),
            expected: INGRESS_REF_EXPECTED.to_owned(),
        })?;
    let namespace = &canary.metadata.namespace;
    Ok((
        kinds::INGRESS.named(namespace, name),
        kinds::INGRESS.named(namespace, &format!("{name}-canary")),
    ))
}

/// Why no companion can be made of the user's Ingress; nothing where there is one.
pub fn unfit(canary: &Canary, live: &Lookup<'_>) -> Vec<RouteError> {
    names(canary).map_or_else(
        |_| Vec::new(),
        |(name, target)| {
            let source = companion::ingress(canary, &name, live).err();
            companion::unfit(&live(&target), source)
        },
    )
}

const INGRESS_REF_EXPECTED: &str = "name the Ingress whose traffic shall be divided: `ingressRef: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: my-ingress}`";

/// A canary without the Ingress to build on.
pub fn of_ingress_ref(canary: &Canary) -> Option<Refusal> {
    names(canary).is_err().then(|| {
        Refusal::error(
            "spec.ingressRef",
            format!("missing; {INGRESS_REF_EXPECTED}"),
        )
    })
}

fn is_cookie(name: &str) -> bool {
    name.eq_ignore_ascii_case("cookie")
}

/// One cookie and one header can be asked for, and either of them is enough; all else would let others in than the test says.
fn of_combinations(canary: &Canary) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let (mut headers, mut cookies) = (0, 0);
    for (index, entry) in canary.spec.analysis.matches.iter().enumerate() {
        let field = format!("spec.analysis.match[{index}].headers");
        if entry.headers.len() > 1 {
            let names: Vec<&str> = entry.headers.keys().map(String::as_str).collect();
            refusals.push(Refusal::error(
                field.clone(),
                format!(
                    "{}; nginx can't ask for several at once: leave one, or write a cookie and a header as two entries, either of \
                     which is enough",
                    names.join(", ")
                ),
            ));
            continue;
        }
        for (name, value) in &entry.headers {
            if is_cookie(name) && value.exact.as_ref().is_none_or(String::is_empty) {
                refusals.push(Refusal::error(
                    format!("{field}.{name}"),
                    "not by `exact`; nginx tells a cookie by its name alone, and users in the test send it with the value `always`: \
                     write `exact: NAME`",
                ));
            }
            let (count, what) = if is_cookie(name) {
                (&mut cookies, "cookie")
            } else {
                (&mut headers, "header")
            };
            *count += 1;
            if *count > 1 {
                refusals.push(Refusal::error(
                    format!("{field}.{name}"),
                    format!(
                        "a second {what}; nginx knows one cookie and one header: leave one of each"
                    ),
                ));
            }
        }
    }
    refusals
}

/// The annotations by which requests are steered, under their prefix.
struct Steering<'a> {
    prefix: &'a str,
}

impl<'a> Steering<'a> {
    fn of(settings: &'a RoutingSettings) -> Self {
        Self {
            prefix: &settings.ingress_annotations_prefix,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Whether an annotation steers: `canary` and all that begin with it.
    fn is_ours(&self, key: &str) -> bool {
        key.strip_prefix(self.prefix)
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|name| name == "canary" || name.starts_with("canary-"))
    }

    /// All that the companion says of who goes to the canary. The weight always stands there: one that somebody else writes would count
    /// beside a header.
    fn annotations(&self, canary: &Canary, split: Split) -> BTreeMap<String, String> {
        let matches = &canary.spec.analysis.matches;
        let weight = if matches.is_empty() {
            split.canary
        } else {
            Weight::NONE
        };
        let mut annotations = BTreeMap::from([
            (self.key("canary"), "true".to_owned()),
            (self.key("canary-weight"), weight.percent().to_string()),
        ]);
        if split.canary > Weight::NONE {
            for (name, value) in matches.iter().flat_map(|entry| &entry.headers) {
                annotations.extend(
                    condition(name, value)
                        .into_iter()
                        .map(|(key, value)| (self.key(key), value)),
                );
            }
        }
        annotations
    }

    /// The merge patch by which an object steers as desired and no other way.
    fn patch(&self, object: &Object, desired: &BTreeMap<String, String>) -> Value {
        let mut annotations: Map<String, Value> = object
            .annotations()
            .into_keys()
            .filter(|key| self.is_ours(key))
            .map(|key| (key, Value::Null))
            .collect();
        annotations.extend(
            desired
                .iter()
                .map(|(key, value)| (key.clone(), json!(value))),
        );
        json!({"metadata": {"annotations": annotations}})
    }

    /// The patch that takes away steering annotations that are not desired, whoever wrote them.
    fn take_away(
        &self,
        target: &ObjectRef,
        object: &Object,
        desired: &BTreeMap<String, String>,
    ) -> Option<Write> {
        let operations: Vec<Value> = object
            .annotations()
            .keys()
            .filter(|key| self.is_ours(key) && !desired.contains_key(*key))
            .map(|key| {
                let path = key.replace('~', "~0").replace('/', "~1");
                json!({"op": "remove", "path": format!("/metadata/annotations/{path}")})
            })
            .collect();
        (!operations.is_empty()).then(|| Write::Patch {
            target: target.clone(),
            patch: Patch::Json(operations),
            expect: Expect::unchanged(object),
        })
    }

    fn split(&self, canary: &Canary, object: &Object) -> Option<Split> {
        let says = |name: &str| object.annotation(&self.key(name));
        if says("canary") != Some("true") || says("canary-weight-total").is_some() {
            return None;
        }
        let by_request = ["canary-by-header", "canary-by-cookie"]
            .iter()
            .any(|name| says(name).is_some());
        let testing = !canary.spec.analysis.matches.is_empty();
        match (by_request, says("canary-weight")) {
            (true, _) => testing.then_some(Split::CANARY),
            (false, None) => Some(Split::PRIMARY),
            (false, Some(weight)) => weight
                .parse()
                .ok()
                .filter(|weight| (0..=100).contains(weight))
                .map(Split::canary),
        }
    }
}

/// One condition as annotations. A pattern is looked for anywhere in the value, so what stands for a prefix or suffix is anchored; one
/// that the user wrote is left as it is.
fn condition(name: &str, value: &HeaderMatch) -> Vec<(&'static str, String)> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if is_cookie(name) {
        return filled(&value.exact)
            .map(|cookie| ("canary-by-cookie", cookie))
            .into_iter()
            .collect();
    }
    let exact = filled(&value.exact).map(|text| ("canary-by-header-value", text));
    let pattern = || {
        filled(&value.prefix)
            .map(|text| format!("^{}", literal(&text)))
            .or_else(|| filled(&value.suffix).map(|text| format!("{}$", literal(&text))))
            .or_else(|| filled(&value.regex))
            .map(|text| ("canary-by-header-pattern", text))
    };
    // Without a value any request with `name: always` would go to the canary.
    exact
        .or_else(pattern)
        .map(|found| vec![("canary-by-header", name.to_owned()), found])
        .unwrap_or_default()
}
