//! A stand-in for Prometheus: every check passes, until a canary is at the weight where it is to be looked at. From then on there is no
//! data for it, which holds the step, until it is let go.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::bed::Bed;

/// Where canaries are held, by namespace.
type Holds = Arc<Mutex<BTreeMap<String, Hold>>>;

#[derive(Clone)]
struct Hold {
    canaries: Api<DynamicObject>,
    name: String,
    weight: i64,
}

/// The stand-in; it ends with the bed.
pub struct Prometheus {
    address: String,
    holds: Holds,
    client: Client,
}

impl Prometheus {
    pub async fn start(bed: &Bed) -> Result<Self> {
        let holds = Holds::default();
        let router = Router::new()
            .route("/api/v1/query", get(answer))
            .with_state(Arc::clone(&holds));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .context("the stand-in for Prometheus needs a port")?;
        let address = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            address,
            holds,
            client: bed.client(),
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// From this weight on a canary has no data.
    pub fn hold(&self, namespace: &str, name: &str, weight: i64) {
        let canaries = ApiResource {
            group: "flagger.app".to_owned(),
            version: "v1beta1".to_owned(),
            api_version: "flagger.app/v1beta1".to_owned(),
            kind: "Canary".to_owned(),
            plural: "canaries".to_owned(),
        };
        let hold = Hold {
            canaries: Api::namespaced_with(self.client.clone(), namespace, &canaries),
            name: name.to_owned(),
            weight,
        };
        locked(&self.holds).insert(namespace.to_owned(), hold);
    }

    /// All its checks pass again.
    pub fn let_go(&self, namespace: &str) {
        locked(&self.holds).remove(namespace);
    }
}

fn locked(holds: &Holds) -> MutexGuard<'_, BTreeMap<String, Hold>> {
    holds.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some meshes write their names without dashes.
fn plain(text: &str) -> String {
    text.replace('-', "_")
}

async fn answer(
    State(holds): State<Holds>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Json<Value> {
    let query = asked.get("query").map(String::as_str).unwrap_or_default();
    let hold = {
        let asked = plain(query);
        let holds = locked(&holds);
        let found = holds.iter().find(|(name, _)| asked.contains(&plain(name)));
        found.map(|(_, hold)| hold.clone())
    };
    let silent = match hold {
        Some(hold) => hold.is_there().await,
        None => false,
    };
    let now = jiff::Timestamp::now().as_second();
    let result = if silent {
        json!([])
    } else {
        json!([{"metric": {}, "value": [now, value(query).to_string()]}])
    };
    Json(json!({"status": "success", "data": {"resultType": "vector", "result": result}}))
}

impl Hold {
    /// Whether the canary is at the weight by now.
    async fn is_there(&self) -> bool {
        let canary = self.canaries.get(&self.name).await;
        canary.is_ok_and(|canary| {
            canary.data["status"]["canaryWeight"]
                .as_i64()
                .is_some_and(|weight| weight >= self.weight)
        })
    }
}

/// 100 % and 100 ms are well; the question for which series there are wants a bit for each check and row: those of the first row.
fn value(query: &str) -> u64 {
    if query.trim() == "vector(1)" {
        return 1;
    }
    let bits: Vec<u64> = query
        .split(" * 0 + ")
        .skip(1)
        .filter_map(|rest| rest.split(',').next()?.parse().ok())
        .collect();
    match bits[..] {
        [] => 100,
        [first, second, ..] if second > 2 * first => first + second,
        [first, ..] => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_has_all_series() {
        let part = |bit: u64| format!("label_replace(count(x) * 0 + {bit}, \"source\")");
        let asked = |bits: &[u64]| {
            let parts: Vec<String> = bits.iter().map(|bit| part(*bit)).collect();
            format!("sum({} or vector(0))", parts.join(" or "))
        };
        assert_eq!(value(&asked(&[1, 8, 2, 16, 4, 32])), 9);
        assert_eq!(value(&asked(&[1, 2, 4])), 1);
        assert_eq!(value("sum(rate(x[1m]))"), 100);
    }
}
