//! Configs that the target's pods read (chapter 2.13 and the defects 9.2 C): which are copied, which are shared and why, and what becomes
//! of copies that nobody reads any more.

use super::*;
use crate::object::kinds;

/// A target that reads these configs by `envFrom`, each `ConfigMap name` or `Secret name`.
fn given_reading(cluster: &mut Cluster, configs: &[&str]) {
    cluster.given_deployment("podinfo:1");
    read(cluster, configs);
}

/// The target is changed to read these.
fn read(cluster: &mut Cluster, configs: &[&str]) {
    let sources: Vec<serde_json::Value> = configs
        .iter()
        .map(|config| {
            let (kind, name) = config.split_once(' ').unwrap();
            let field = if kind == "Secret" {
                "secretRef"
            } else {
                "configMapRef"
            };
            json!({field: {"name": name}})
        })
        .collect();
    cluster.edit(&deployment("podinfo"), |target| {
        target["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!(sources);
    });
}

fn given_config(cluster: &mut Cluster, name: &str, value: &str) {
    cluster.given(&format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{key: '{value}'}}}}"
    ));
}

fn secret(name: &str) -> crate::object::ObjectRef {
    kinds::SECRET.named(cluster::NAMESPACE, name)
}

#[test]
fn a_secret_that_somebody_rotates_is_shared_told_once_and_never_frozen() {
    let marks = [
        (
            "its controller",
            "ownerReferences: [{apiVersion: external-secrets.io/v1, kind: ExternalSecret, name: db, uid: es, controller: true}]",
        ),
        (
            "cert-manager",
            "annotations: {cert-manager.io/certificate-name: db}",
        ),
        (
            "External Secrets",
            "labels: {reconcile.external-secrets.io/managed: 'true'}",
        ),
    ];
    for (keeper, mark) in marks {
        let mut cluster = Cluster::given_canary(&canary(STEPS));
        cluster.given(&format!(
            "{{apiVersion: v1, kind: Secret, type: Opaque, metadata: {{name: db, {mark}}}, data: {{password: b2xk}}}}"
        ));
        given_reading(&mut cluster, &["Secret db"]);
        cluster.run_until(Phase::Initialized);
        cluster.run_until_calm();
        assert_eq!(
            cluster.times_told("primary and canary share it"),
            1,
            "{keeper}: {:?}",
            cluster.texts()
        );
        assert!(
            cluster
                .texts()
                .iter()
                .any(|text| text.starts_with("Normal ConfigShared Secret db is kept by"))
        );
        assert!(cluster.status().observed["secret/db"].contains("is kept by"));
        assert!(cluster.object(&secret("db-primary")).is_none(), "{keeper}");
        let primary = cluster.object(&deployment("podinfo-primary")).unwrap();
        assert_eq!(
            primary.text("/spec/template/spec/containers/0/envFrom/0/secretRef/name"),
            "db"
        );

        // A rotation reaches the primary's pods with their next start, and starts no run.
        cluster.forget_the_past();
        cluster.edit(&secret("db"), |secret| {
            secret["data"]["password"] = json!("bmV3");
        });
        cluster.advance(60);
        assert_eq!(cluster.phase(), Phase::Initialized, "{keeper}");
        assert_eq!(cluster.told, [], "{keeper}");

        // Whoever wants it copied all the same can say so.
        cluster.edit(&secret("db"), |secret| {
            secret["metadata"]["annotations"]["flagger.app/config-tracking"] = json!("enabled");
        });
        cluster.run_until(Phase::Succeeded);
        assert!(cluster.object(&secret("db-primary")).is_some(), "{keeper}");
        assert!(!cluster.status().observed.contains_key("secret/db"));
    }
}

#[test]
fn copies_that_the_promoted_revision_does_not_read_are_removed() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    given_config(&mut cluster, "one", "1");
    given_config(&mut cluster, "two", "2");
    given_reading(&mut cluster, &["ConfigMap one", "ConfigMap two"]);
    cluster.run_until(Phase::Initialized);
    assert!(cluster.object(&config_map("one-primary")).is_some());

    read(&mut cluster, &["ConfigMap two"]);
    cluster.run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
    assert!(
        cluster.object(&config_map("one-primary")).is_some(),
        "the primary still reads it"
    );
    cluster.run_until(Phase::Succeeded);
    cluster.run_until_calm();
    assert!(cluster.object(&config_map("one-primary")).is_none());
    assert!(cluster.object(&config_map("two-primary")).is_some());
    assert!(
        cluster.object(&config_map("one")).is_some(),
        "the user's own stays"
    );
    assert!(cluster.status().promoted.unwrap().stale_configs.is_empty());
}

#[test]
fn a_copy_that_another_canary_reads_too_or_that_is_not_ours_stays() {
    for owners in [
        json!([{"kind": "Canary", "name": "podinfo", "uid": "self"}, {"kind": "Canary", "name": "other", "uid": "b"}]),
        json!([{"kind": "Canary", "name": "other", "uid": "b", "controller": true}]),
        json!([]),
    ] {
        let mut cluster = Cluster::given_canary(&canary(STEPS));
        given_config(&mut cluster, "one", "1");
        given_reading(&mut cluster, &["ConfigMap one"]);
        cluster.run_until(Phase::Initialized);
        read(&mut cluster, &[]);
        cluster.run_until_calm();
        cluster.edit(&config_map("one-primary"), |copy| {
            copy["metadata"]["ownerReferences"] = owners.clone();
        });
        cluster.run_until(Phase::Succeeded);
        cluster.run_until_calm();
        assert!(
            cluster.object(&config_map("one-primary")).is_some(),
            "{owners}"
        );
        assert!(cluster.status().promoted.unwrap().stale_configs.is_empty());
    }
}

#[test]
fn a_config_of_a_run_that_failed_leaves_no_copy() {
    let mut cluster = Cluster::given_canary(&canary(MEASURED));
    given_config(&mut cluster, "new", "1");
    given_reading(&mut cluster, &[]);
    cluster.run_until(Phase::Initialized);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    read(&mut cluster, &["ConfigMap new"]);
    cluster.run_until_calm();
    assert!(
        cluster.object(&config_map("new-primary")).is_some(),
        "what is judged is kept from the start"
    );
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    assert!(cluster.object(&config_map("new-primary")).is_none());
}

#[test]
fn a_new_config_that_changes_while_it_is_promoted_does_not_keep_the_primary_waiting() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    given_config(&mut cluster, "new", "1");
    given_reading(&mut cluster, &[]);
    cluster.run_until(Phase::Initialized);
    cluster.pods("podinfo-primary", Pods::Stuck);
    read(&mut cluster, &["ConfigMap new"]);
    cluster.run_until(Phase::Promoting);
    cluster.edit(&config_map("new"), |config| {
        config["data"]["key"] = json!("2");
    });
    cluster.run_until_calm();
    let copy = cluster.object(&config_map("new-primary")).unwrap();
    assert_eq!(copy.text("/data/key"), "1", "what was judged is promoted");
    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Succeeded);
    assert_eq!(cluster.outcomes(), ["Promoted", "Promoted"]);
    let copy = cluster.object(&config_map("new-primary")).unwrap();
    assert_eq!(
        copy.text("/data/key"),
        "2",
        "and the change is the next run"
    );
}

#[test]
fn a_config_that_can_not_be_read_is_no_change() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    given_config(&mut cluster, "one", "1");
    given_reading(&mut cluster, &["ConfigMap one"]);
    cluster.run_until(Phase::Initialized);
    cluster.forget_the_past();
    cluster
        .unreadable(config_map("one"), "the API server is away")
        .advance(300);
    assert_eq!(cluster.writes, []);
    assert_eq!(cluster.phase(), Phase::Initialized);
    cluster.readable_again().advance(60);
    assert_eq!(cluster.phase(), Phase::Initialized);
    assert_eq!(cluster.told, []);
}
