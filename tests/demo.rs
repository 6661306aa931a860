//! `serin demo`: the program tells its story and ends as it promises, and its API server does what clients of a real one rely on.
#![allow(clippy::unwrap_used)]
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use serin::demo::Stage;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a machine that is busy with other builds.
const PATIENCE: Duration = Duration::from_mins(1);

fn serin(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_serin"));
    command.args(arguments).env_remove("KUBECONFIG");
    command
}

/// A demo that runs, and its first line's kubeconfig.
struct Demo {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    kubeconfig: PathBuf,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut process = serin(&[&["demo", "--plain"], arguments].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains("This cluster is simulated"), "{first}");
        let kubeconfig = first.split_once("KUBECONFIG=").unwrap().1.into();
        Self {
            process,
            lines,
            kubeconfig,
        }
    }

    /// What `serin` says about the demo's cluster.
    fn ask(&self, arguments: &[&str]) -> String {
        let kubeconfig = self.kubeconfig.to_str().unwrap();
        let Output {
            status,
            stdout,
            stderr,
        } = serin(&[arguments, &["--kubeconfig", kubeconfig]].concat())
            .output()
            .unwrap();
        let text = String::from_utf8(stdout).unwrap();
        assert!(
            status.success(),
            "{arguments:?}: {text}{}",
            String::from_utf8_lossy(&stderr)
        );
        text
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, signal).unwrap();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_good_release_is_promoted_the_bad_one_taken_back_and_nothing_is_lost() {
    let begun = Instant::now();
    let mut demo = Demo::start(&[]);
    assert_eq!(mode(&demo.kubeconfig), 0o600);
    let mut told = String::new();
    let mut asked = false;
    while let Some(line) = demo.lines.next() {
        let line = line.unwrap();
        told.push_str(&line);
        told.push('\n');
        if line.contains("== 1.1.0 is promoted") {
            asked = true;
            assert_eq!(
                demo.ask(&["get", "-o", "name"]),
                "canary.flagger.app/shop\n"
            );
            let screen = demo.ask(&["get", "shop"]);
            assert!(
                screen.contains("shop-primary-") && screen.contains("Running, ready"),
                "{screen}"
            );
            let why = demo.ask(&["explain", "shop"]);
            assert!(why.contains("demo/shop is Succeeded"), "{why}");
        }
    }
    let status = demo.process.wait().unwrap();
    assert!(status.success() && asked, "{status}\n{told}");
    for expected in [
        "event Promotion completed! Scaling down shop.demo",
        "check ✓ request-success-rate 100.00%, limit ≥ 99%",
        "check ✗ request-success-rate 9",
        "warning Rolling back shop.demo failed checks threshold reached 2",
        "== 1.2.0 is taken back, 1.1.0 serves everyone",
        "requests served, none was lost",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    // Half of it on a calm machine.
    assert!(
        begun.elapsed() < PATIENCE,
        "took {:?}\n{told}",
        begun.elapsed()
    );
    assert!(!demo.kubeconfig.exists() && !demo.kubeconfig.parent().unwrap().exists());
}

#[test]
fn a_demo_that_is_told_to_end_leaves_nothing_behind() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut demo = Demo::start(&["--keep"]);
        assert!(demo.kubeconfig.exists());
        // It listens to signals from its first time line on.
        assert!(
            demo.lines
                .by_ref()
                .any(|line| line.unwrap().contains("== 1.0.0"))
        );
        demo.signal(signal);
        let status = demo.process.wait().unwrap();
        assert_eq!(status.code(), Some(1), "the story was not told to its end");
        assert!(!demo.kubeconfig.parent().unwrap().exists());
    }
}

/// A simulated cluster without controller, and a client for it.
async fn stage() -> (Stage, Client, Config) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stage = Stage::start(0).await.unwrap();
    let kubeconfig = Kubeconfig::read_from(stage.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    let client = Client::try_from(config.clone()).unwrap();
    (stage, client, config)
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"kind": value}}, "data": {"key": value}}),
    )
    .unwrap()
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

/// Waits until it is so.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn shop(image: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "cart"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "cart"}},
            "template": {"metadata": {"labels": {"app": "cart"}}, "spec": {"containers": [{"name": "cart", "image": image, "ports": [{"containerPort": 8080}]}]}},
        },
    })
}

#[tokio::test]
async fn who_has_no_token_learns_nothing() {
    let (stage, _, mut config) = stage().await;
    assert!(stage.api_url().starts_with("https://127.0.0.1:"));
    config.auth_info.token = None;
    for token in [None, Some("wrong")] {
        config.auth_info.token = token.map(|token| token.to_owned().into());
        let stranger = Client::try_from(config.clone()).unwrap();
        let error = stranger.apiserver_version().await.unwrap_err();
        assert_eq!(code(&error), 401);
        let maps: Api<ConfigMap> = Api::default_namespaced(stranger);
        assert_eq!(
            code(&maps.list(&ListParams::default()).await.unwrap_err()),
            401
        );
    }
}

#[tokio::test]
async fn a_watch_tells_what_comes_after_the_list_and_what_enters_and_leaves_its_selector() {
    let (_stage, client, _) = stage().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.create(&PostParams::default(), &config_map("a", "one"))
        .await
        .unwrap();
    let list = maps
        .list(&ListParams::default().labels("kind=one"))
        .await
        .unwrap();
    assert_eq!(list.items.len(), 1);
    let version = list.metadata.resource_version.unwrap();

    let one = WatchParams::default().labels("kind=one").timeout(30);
    let mut events = maps.watch(&one, &version).await.unwrap().boxed();
    let apply = PatchParams::apply("test").force();
    maps.patch("b", &apply, &Patch::Apply(typed("b", "one")))
        .await
        .unwrap();
    maps.patch("b", &apply, &Patch::Apply(typed("b", "two")))
        .await
        .unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let mut told = Vec::new();
    let mut versions = Vec::new();
    while told.len() < 3 {
        let (what, map) = match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(map) => ("added", map),
            WatchEvent::Modified(map) => ("modified", map),
            WatchEvent::Deleted(map) => ("deleted", map),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(error) => panic!("{error}"),
        };
        versions.push(map.resource_version().unwrap().parse::<u64>().unwrap());
        told.push(format!("{what} {}", map.name_any()));
    }
    assert_eq!(told, ["added b", "deleted b", "deleted a"]);
    assert!(versions.is_sorted(), "{versions:?}");

    // What is there already comes first where no version is given.
    let mut events = maps
        .watch(&WatchParams::default().timeout(30), "0")
        .await
        .unwrap()
        .boxed();
    match events.try_next().await.unwrap().unwrap() {
        WatchEvent::Added(map) => assert_eq!(map.name_any(), "b"),
        other => panic!("{other:?}"),
    }
}

fn typed(name: &str, value: &str) -> Value {
    let mut map = json!(config_map(name, value));
    map["apiVersion"] = json!("v1");
    map["kind"] = json!("ConfigMap");
    map
}

#[tokio::test]
async fn an_apply_owns_its_fields_and_leaves_those_of_others() {
    let (_stage, client, _) = stage().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let applied = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let by = |who: &str| PatchParams::apply(who).force();
    maps.patch(
        "a",
        &by("one"),
        &Patch::Apply(applied(json!({"x": "1", "y": "1"}))),
    )
    .await
    .unwrap();
    maps.patch("a", &by("two"), &Patch::Apply(applied(json!({"z": "2"}))))
        .await
        .unwrap();
    let map = maps
        .patch("a", &by("one"), &Patch::Apply(applied(json!({"x": "1"}))))
        .await
        .unwrap();
    let data = json!(map.data);
    assert_eq!(data, json!({"x": "1", "z": "2"}));
    // The same once more changes nothing.
    let again = maps
        .patch("a", &by("one"), &Patch::Apply(applied(json!({"x": "1"}))))
        .await
        .unwrap();
    assert_eq!(map.resource_version(), again.resource_version());
}

#[tokio::test]
async fn writes_are_guarded_as_clients_rely_on() {
    let (_stage, client, _) = stage().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let post = PostParams::default();
    let old = maps.create(&post, &config_map("a", "one")).await.unwrap();
    assert_eq!(
        code(
            &maps
                .create(&post, &config_map("a", "one"))
                .await
                .unwrap_err()
        ),
        409
    );
    let merge = PatchParams::default();
    maps.patch(
        "a",
        &merge,
        &Patch::Merge(json!({"data": {"key": "two", "more": "x"}})),
    )
    .await
    .unwrap();
    // A replacement of what it no longer is.
    assert_eq!(
        code(&maps.replace("a", &post, &old).await.unwrap_err()),
        409
    );
    // A merge patch of another version, and one that takes a field away.
    let stale =
        json!({"metadata": {"resourceVersion": old.resource_version()}, "data": {"key": "three"}});
    assert_eq!(
        code(
            &maps
                .patch("a", &merge, &Patch::Merge(stale))
                .await
                .unwrap_err()
        ),
        409
    );
    let map = maps
        .patch("a", &merge, &Patch::Merge(json!({"data": {"more": null}})))
        .await
        .unwrap();
    assert_eq!(json!(map.data), json!({"key": "two"}));
    // A JSON patch whose test fails.
    let operations = serde_json::from_value(json!([
        {"op": "test", "path": "/data/key", "value": "one"}, {"op": "remove", "path": "/data/key"},
    ]))
    .unwrap();
    let error = maps
        .patch("a", &merge, &Patch::Json::<()>(operations))
        .await
        .unwrap_err();
    assert_eq!(code(&error), 422);
    assert!(error.to_string().contains("test failed"), "{error}");
    // Nobody changes uid and time of creation.
    let forged =
        json!({"metadata": {"creationTimestamp": "2000-01-01T00:00:00Z", "generation": 77}});
    let map = maps
        .patch("a", &merge, &Patch::Merge(forged))
        .await
        .unwrap();
    assert_eq!(
        (map.uid(), map.creation_timestamp()),
        (old.uid(), old.creation_timestamp())
    );

    let elsewhere: Api<ConfigMap> = Api::namespaced(client, "nowhere");
    assert_eq!(
        code(
            &elsewhere
                .create(&post, &config_map("a", "x"))
                .await
                .unwrap_err()
        ),
        404
    );
    assert!(elsewhere.get_opt("a").await.unwrap().is_none());
}

/// A Deployment with a Service, and what becomes of them.
struct Cart {
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    services: Api<Service>,
    slices: Api<EndpointSlice>,
}

impl Cart {
    async fn set_up(client: &Client, replicas: i32) -> Self {
        let cart = Self {
            deployments: Api::default_namespaced(client.clone()),
            pods: Api::default_namespaced(client.clone()),
            services: Api::default_namespaced(client.clone()),
            slices: Api::default_namespaced(client.clone()),
        };
        let apply = PatchParams::apply("test");
        let workload = Patch::Apply(shop("cart:1", replicas));
        cart.deployments
            .patch("cart", &apply, &workload)
            .await
            .unwrap();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"},
            "spec": {"selector": {"app": "cart"}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        cart.services
            .patch("cart", &apply, &Patch::Apply(service))
            .await
            .unwrap();
        cart.until_running(replicas).await;
        cart
    }

    async fn until_running(&self, wanted: i32) {
        until("the Deployment to be complete", || async {
            let status = self.deployments.get_status("cart").await.unwrap().status?;
            let counts = [
                status.replicas,
                status.updated_replicas,
                status.available_replicas,
            ];
            counts
                .iter()
                .all(|count| count.unwrap_or(0) == wanted)
                .then_some(())
        })
        .await;
    }

    async fn pods(&self) -> Vec<Pod> {
        let labels = ListParams::default().labels("app=cart");
        self.pods.list(&labels).await.unwrap().items
    }

    /// Addresses that are ready.
    async fn endpoints(&self) -> Vec<String> {
        let labels = ListParams::default().labels("kubernetes.io/service-name=cart");
        let slices = self.slices.list(&labels).await.unwrap().items;
        let endpoints = slices
            .into_iter()
            .flat_map(|slice| slice.endpoints.unwrap_or_default());
        endpoints
            .filter(|endpoint| {
                endpoint
                    .conditions
                    .as_ref()
                    .and_then(|conditions| conditions.ready)
                    == Some(true)
            })
            .flat_map(|endpoint| endpoint.addresses)
            .collect()
    }
}

#[tokio::test]
async fn a_deployment_gets_pods_that_serve_and_its_service_their_addresses() {
    let (_stage, client, _) = stage().await;
    let cart = Cart::set_up(&client, 2).await;
    let addresses = until("two endpoints", || async {
        let found = cart.endpoints().await;
        (found.len() == 2).then_some(found)
    })
    .await;
    let of_pods: Vec<String> = cart
        .pods()
        .await
        .into_iter()
        .filter_map(|pod| pod.status?.pod_ip)
        .collect();
    assert!(
        addresses.iter().all(|address| of_pods.contains(address)),
        "{addresses:?} {of_pods:?}"
    );
    // A pod that is deleted is replaced.
    let victim = cart.pods().await[0].name_any();
    cart.pods
        .delete(&victim, &DeleteParams::default())
        .await
        .unwrap();
    until("another pod in its place", || async {
        let names: Vec<String> = cart
            .pods()
            .await
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        (names.len() == 2 && !names.contains(&victim) && cart.endpoints().await.len() == 2)
            .then_some(())
    })
    .await;
    // What belongs to the Deployment and the Service goes with them.
    cart.deployments
        .delete("cart", &DeleteParams::default())
        .await
        .unwrap();
    cart.services
        .delete("cart", &DeleteParams::default())
        .await
        .unwrap();
    until("nothing to be left", || async {
        let slices = cart
            .slices
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        (cart.pods().await.is_empty() && slices.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_deployment_is_scaled_and_rolled_by_the_parts_that_kubectl_changes() {
    let (_stage, client, _) = stage().await;
    let cart = Cart::set_up(&client, 2).await;
    let parameters = PatchParams::default();
    let selector_of_others = json!({"spec": {"template": {"metadata": {"labels": {"app": "x"}}}}});
    let refused = cart
        .deployments
        .patch("cart", &parameters, &Patch::Merge(selector_of_others))
        .await;
    assert_eq!(code(&refused.unwrap_err()), 422);

    // The scale is a resource of its own, and the status is nobody's to write by the way.
    let one = Patch::Merge(json!({"spec": {"replicas": 1}}));
    let scale = cart
        .deployments
        .patch_scale("cart", &parameters, &one)
        .await
        .unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(1));
    let merge = Patch::Merge(
        json!({"status": {"availableReplicas": 9}, "metadata": {"labels": {"a": "b"}}}),
    );
    let changed = cart
        .deployments
        .patch("cart", &parameters, &merge)
        .await
        .unwrap();
    assert_ne!(changed.status.unwrap().available_replicas, Some(9));
    cart.until_running(1).await;

    // A strategic patch, as kubectl set image sends it, rolls the pods.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "cart", "image": "cart:2"}]}}}});
    let changed = cart
        .deployments
        .patch("cart", &parameters, &Patch::Strategic(image))
        .await
        .unwrap();
    assert_eq!(changed.metadata.generation, Some(3));
    let container = &changed.spec.unwrap().template.spec.unwrap().containers[0];
    assert_eq!(
        container.ports.as_ref().unwrap()[0].container_port,
        8080,
        "the rest of the container stays"
    );
    until("the pod of the new image alone", || async {
        let images: Vec<String> = cart
            .pods()
            .await
            .into_iter()
            .filter_map(|pod| pod.spec?.containers[0].image.clone())
            .collect();
        (images == ["cart:2"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_canary_that_can_t_be_read_is_refused_and_finalizers_hold_one_that_is_deleted() {
    let (_stage, client, _) = stage().await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("flagger.app", "v1beta1", "Canary"));
    let canaries: Api<DynamicObject> = Api::default_namespaced_with(client, &kind);
    let canary = |threshold: Value| -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "cart", "finalizers": ["serin.dev/test"]},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "cart"}, "service": {"port": 80},
                "analysis": {"interval": "2s", "threshold": threshold, "stepWeight": 50},
            },
            "status": {"phase": "Succeeded"},
        }))
        .unwrap()
    };
    let post = PostParams::default();
    assert_eq!(
        code(
            &canaries
                .create(&post, &canary(json!("many")))
                .await
                .unwrap_err()
        ),
        422
    );
    let made = canaries.create(&post, &canary(json!(2))).await.unwrap();
    assert!(made.data["status"].is_null(), "a new one has no status");
    let status = json!({"status": {"phase": "Failed"}, "spec": {"suspend": true}});
    let patched = canaries
        .patch_status("cart", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    assert_eq!(patched.data["status"]["phase"], "Failed");
    assert!(
        patched.data["spec"]["suspend"].is_null(),
        "the status alone"
    );
    assert_eq!(patched.metadata.generation, Some(1));
    canaries
        .delete("cart", &DeleteParams::default())
        .await
        .unwrap();
    let held = canaries.get("cart").await.unwrap();
    assert!(held.metadata.deletion_timestamp.is_some());
    canaries
        .patch(
            "cart",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"finalizers": null}})),
        )
        .await
        .unwrap();
    assert!(canaries.get_opt("cart").await.unwrap().is_none());
}

#[tokio::test]
async fn the_metrics_answer_the_built_in_checks_alone() {
    let (stage, ..) = stage().await;
    let ask = async |query: &str| -> (u16, Value) {
        let answer = reqwest::Client::new()
            .get(format!("{}/api/v1/query", stage.metrics_url()))
            .query(&[("query", query)])
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    let (status, one) = ask("vector(1)").await;
    assert_eq!(
        (status, &one["data"]["result"][0]["value"][1]),
        (200, &json!("1"))
    );
    let (status, refused) = ask("sum(up)").await;
    assert_eq!(status, 400);
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("request-success-rate"),
        "{refused}"
    );
}
