//! Gates that people open and close, and hooks ask at. They are entries of a `ConfigMap`, so that a restart keeps them and replicas agree:
//! each is read from the API server when somebody asks, and written by a merge patch of its own key, which leaves the others alone
//! whoever writes at the same time. Without a cluster they are kept in memory.

use super::payload::Payload;
use crate::controller::{ApiError, KubeApi, PatchType};
use crate::object::{ObjectRef, kinds};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The value of an entry whose gate is open. Anything else is closed.
const OPEN: &str = "open";
/// Longest key that a `ConfigMap` may have.
const LONGEST_KEY: usize = 253;

/// What a gate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    /// Lets a run go on.
    Gate,
    /// Takes a run back.
    Rollback,
}

impl GateKind {
    /// In a key, and to people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Rollback => "rollback",
        }
    }
}

/// One gate of one canary. All are closed at first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gate(String);

impl Gate {
    /// The gate of the canary that a request names.
    ///
    /// # Errors
    /// If it names none.
    pub fn of(kind: GateKind, payload: &Payload) -> Result<Self, String> {
        let sound = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        };
        // A namespace has no dot, so the key can be read in one way alone.
        if !sound(&payload.name) || !sound(&payload.namespace) || payload.namespace.contains('.') {
            return Err(format!(
                "expected name and namespace of a canary, found {:?} and {:?}",
                payload.name, payload.namespace
            ));
        }
        let key = format!("{}.{}.{}", kind.word(), payload.name, payload.namespace);
        if key.len() > LONGEST_KEY {
            return Err("name and namespace are too long".to_owned());
        }
        Ok(Self(key))
    }
}

/// Where gates are kept.
pub enum Gates {
    /// In this process.
    Memory(Mutex<BTreeSet<Gate>>),
    /// In a `ConfigMap`.
    ConfigMap(Box<KubeApi>, ObjectRef),
}

impl Gates {
    /// In memory, all closed.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    /// In this `ConfigMap`, which is made when the first gate is opened, if it is not there.
    #[must_use]
    pub fn in_config_map(api: KubeApi, namespace: &str, name: &str) -> Self {
        Self::ConfigMap(Box::new(api), kinds::CONFIG_MAP.named(namespace, name))
    }

    /// Whether a gate is open.
    ///
    /// # Errors
    /// If the API server does not say.
    pub async fn is_open(&self, gate: &Gate) -> Result<bool, ApiError> {
        match self {
            Self::Memory(open) => Ok(open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(gate)),
            Self::ConfigMap(api, name) => match api.get(name).await {
                Ok(object) => Ok(object.value()["data"][&gate.0] == OPEN),
                Err(ApiError::NotFound(_)) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// Opens or closes a gate.
    ///
    /// # Errors
    /// If the API server does not take it.
    pub async fn set(&self, gate: &Gate, open: bool) -> Result<(), ApiError> {
        let (api, name) = match self {
            Self::Memory(gates) => {
                let mut gates = gates.lock().unwrap_or_else(PoisonError::into_inner);
                if open {
                    gates.insert(gate.clone());
                } else {
                    gates.remove(gate);
                }
                return Ok(());
            }
            Self::ConfigMap(api, name) => (api, name),
        };
        let value = if open { json!(OPEN) } else { Value::Null };
        let entry = json!({"data": {&gate.0: value}});
        match api.patch(name, None, PatchType::Merge, &entry).await {
            Err(ApiError::NotFound(_)) if !open => return Ok(()),
            Err(ApiError::NotFound(_)) => {}
            other => return other.map(drop),
        }
        let new = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name.name, "namespace": name.namespace},
            "data": {&gate.0: OPEN},
        });
        match api.create(&kinds::CONFIG_MAP, &name.namespace, &new).await {
            // Another replica was first.
            Err(ApiError::Conflict(_)) => api
                .patch(name, None, PatchType::Merge, &entry)
                .await
                .map(drop),
            other => other.map(drop),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn payload(name: &str, namespace: &str) -> Payload {
        Payload {
            name: name.into(),
            namespace: namespace.into(),
            metadata: None,
        }
    }

    #[test]
    fn each_canary_has_gates_of_its_own() {
        let key =
            |kind, name, namespace| Gate::of(kind, &payload(name, namespace)).map(|gate| gate.0);
        assert_eq!(key(GateKind::Gate, "app", "test").unwrap(), "gate.app.test");
        assert_eq!(
            key(GateKind::Rollback, "app.v2", "test").unwrap(),
            "rollback.app.v2.test"
        );
        for (name, namespace) in [
            ("", "test"),
            ("app", ""),
            ("app", "a.b"),
            ("a/b", "test"),
            ("app", "te st"),
        ] {
            assert!(
                key(GateKind::Gate, name, namespace).is_err(),
                "{name} {namespace}"
            );
        }
        assert!(key(GateKind::Gate, &"a".repeat(250), "test").is_err());
    }

    #[tokio::test]
    async fn in_memory_a_gate_is_closed_until_it_is_opened() {
        let gates = Gates::in_memory();
        let gate = Gate::of(GateKind::Gate, &payload("app", "test")).unwrap();
        let other = Gate::of(GateKind::Rollback, &payload("app", "test")).unwrap();
        assert!(!gates.is_open(&gate).await.unwrap());
        gates.set(&gate, true).await.unwrap();
        gates.set(&gate, true).await.unwrap();
        assert!(gates.is_open(&gate).await.unwrap() && !gates.is_open(&other).await.unwrap());
        gates.set(&gate, false).await.unwrap();
        assert!(!gates.is_open(&gate).await.unwrap());
    }

    /// An API server that has `ConfigMap`s of one namespace and nothing else.
    #[derive(Default)]
    struct Cluster {
        data: Mutex<Option<serde_json::Map<String, Value>>>,
        creations: std::sync::atomic::AtomicUsize,
    }

    impl Cluster {
        fn answer(&self, method: &axum::http::Method, body: &[u8]) -> (u16, Value) {
            use std::sync::atomic::Ordering;
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            let mut data = self.data.lock().unwrap();
            let shown = |data: &serde_json::Map<String, Value>| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gates"}, "data": data});
            let new = body["data"].as_object().cloned().unwrap_or_default();
            match (method.as_str(), data.as_mut()) {
                ("POST", None) => {
                    self.creations.fetch_add(1, Ordering::SeqCst);
                    *data = Some(new.clone());
                    (201, shown(&new))
                }
                ("POST", Some(_)) => (
                    409,
                    json!({"message": "configmaps \"gates\" already exists"}),
                ),
                (_, None) => (
                    404,
                    json!({"message": "not found", "details": {"name": "gates"}}),
                ),
                ("PATCH", Some(data)) => {
                    for (key, value) in new {
                        if value.is_null() {
                            data.remove(&key);
                        } else {
                            data.insert(key, value);
                        }
                    }
                    (200, shown(data))
                }
                (_, Some(data)) => (200, shown(data)),
            }
        }
    }

    async fn cluster() -> (std::sync::Arc<Cluster>, impl Fn() -> Gates) {
        use axum::http::{Method, StatusCode};
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = std::sync::Arc::new(Cluster::default());
        let serving = std::sync::Arc::clone(&cluster);
        let router =
            axum::Router::new().fallback(move |method: Method, body: axum::body::Bytes| {
                let (status, answer) = serving.answer(&method, &body);
                async move { (StatusCode::from_u16(status).unwrap(), axum::Json(answer)) }
            });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let replica = move || {
            let config = kube::Config::new(url.parse().unwrap());
            let (_, configs) = tokio::sync::watch::channel(config);
            let api = crate::controller::api_server(configs, "test").unwrap();
            Gates::in_config_map(api, "home", "gates")
        };
        (cluster, replica)
    }

    #[tokio::test]
    async fn replicas_agree_and_a_restart_keeps_what_was_opened() {
        let (cluster, replica) = cluster().await;
        let (one, other) = (replica(), replica());
        let gate = |name: &str| Gate::of(GateKind::Gate, &payload(name, "test")).unwrap();
        assert!(
            !one.is_open(&gate("app")).await.unwrap(),
            "no ConfigMap yet"
        );
        other.set(&gate("app"), false).await.unwrap();
        one.set(&gate("app"), true).await.unwrap();
        assert!(other.is_open(&gate("app")).await.unwrap());
        drop((one, other));
        let again = replica();
        assert!(again.is_open(&gate("app")).await.unwrap());
        again.set(&gate("app"), false).await.unwrap();
        assert!(!replica().is_open(&gate("app")).await.unwrap());
        // What a person wrote by hand, and nonsense.
        *cluster.data.lock().unwrap() =
            serde_json::from_value(json!({"gate.app.test": "open", "gate.web.test": "yes"}))
                .unwrap();
        assert!(again.is_open(&gate("app")).await.unwrap());
        assert!(!again.is_open(&gate("web")).await.unwrap());
    }

    #[tokio::test]
    async fn those_who_write_at_the_same_time_lose_nothing() {
        let (cluster, replica) = cluster().await;
        let replicas: Vec<Gates> = (0..4).map(|_| replica()).collect();
        let gates: Vec<Gate> = (0..40)
            .map(|number| {
                Gate::of(GateKind::Gate, &payload(&format!("app-{number}"), "test")).unwrap()
            })
            .collect();
        let writes = gates
            .iter()
            .enumerate()
            .map(|(number, gate)| replicas[number % 4].set(gate, true));
        for written in futures::future::join_all(writes).await {
            written.unwrap();
        }
        assert_eq!(
            cluster.creations.load(std::sync::atomic::Ordering::SeqCst),
            1
        );
        for gate in &gates {
            assert!(replicas[0].is_open(gate).await.unwrap(), "{gate:?}");
        }
    }
}
