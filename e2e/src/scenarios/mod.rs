//! The stories that are told on a bed, and the table of them.
mod admission;
mod admission_by_chart;
mod alerts;
mod ask;
mod availability;
mod built_in_queries;
mod custom_resources;
mod demos;
mod economy;
mod everything;
mod examples;
mod flaggers_queries;
mod from_flagger;
mod gates;
mod gateway_routes;
mod gateway_splits;
mod handover;
mod ingresses;
mod installed;
mod istio;
mod istio_mesh;
mod loadtester;
mod metrics_backends;
mod own_route;
mod pages;
mod planes;
mod provider_pages;
mod renewed_credentials;
mod rollouts;
mod router_budget;
mod router_pages;
mod serin_starts;
pub mod shop;
mod stays;
mod strategies;
mod turns;
mod tutorial;
mod without_plane;
mod workloads;

use anyhow::Result;
use futures::future::LocalBoxFuture;

use crate::bed::Bed;
use crate::tools;

/// Whom a scenario shares its bed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// Stays in namespaces of its own, so that others may run beside it on the same bed.
    Shared,
    /// Stops parts, or looks at the whole cluster: gets a bed of its own.
    Alone,
}

/// Which runs tell a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Each.
    Daily,
    /// Those that name it, or all: it needs Flagger itself, takes minutes, holds times against a limit, or was not yet seen to pass often
    /// enough on a busy machine to judge a change by.
    Seldom,
}

/// Builds something, or finds it built.
pub type Build = fn() -> Result<()>;

/// One story.
pub struct Scenario {
    /// What `serin-e2e run NAME` calls it.
    pub name: &'static str,
    /// What holds when it passes.
    pub title: &'static str,
    pub company: Company,
    pub when: When,
    /// What it needs beside the bed.
    pub needs: &'static [Build],
    pub run: for<'a> fn(&'a Bed) -> LocalBoxFuture<'a, Result<()>>,
}

macro_rules! scenario {
    ($company:ident, $when:ident, [$($need:ident),*], $name:literal, $run:path, $title:literal) => {
        Scenario {
            name: $name,
            title: $title,
            company: Company::$company,
            when: When::$when,
            needs: &[$($need),*],
            run: |bed| Box::pin($run(bed)),
        }
    };
}

const FLAGGER: Build = || tools::flagger().map(drop);
const CONTOUR: Build = || tools::contour().map(drop);
const ENVOY_GATEWAY: Build = || tools::envoy_gateway().map(drop);
const TRAEFIK_DEFINITIONS: Build = || tools::traefik_definitions().map(drop);
const ISTIO: Build = || tools::istio().map(drop);
const METRICS_BACKENDS: Build = || tools::metrics_backends().map(drop);
const FLAGGERS_QUERIES: Build = || tools::flaggers_queries().map(drop);

/// Builds what these stories need beside the bed, before the bed is there, since it has no way out.
pub fn prepare(chosen: &[&Scenario]) -> Result<()> {
    let needs = chosen.iter().flat_map(|scenario| scenario.needs);
    needs.copied().try_for_each(|build| build())
}

/// Every scenario.
pub const ALL: &[Scenario] = &[
    scenario!(
        Shared,
        Daily,
        [],
        "gateway-splits",
        gateway_splits::run,
        "an HTTPRoute of 80 to 20 splits real traffic like that, and nothing is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "custom-resources",
        custom_resources::run,
        "the API server takes every form of a Canary whole, explains it, and an odd one disturbs no other"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "routers-without-plane",
        without_plane::run,
        "meshes, ingresses and Knative without a plane here: each object carries every split of a release, what others wrote in it stays, an edit is put back"
    ),
    scenario!(
        Shared,
        Daily,
        [CONTOUR, TRAEFIK_DEFINITIONS, ISTIO],
        "examples",
        examples::run,
        "the manifests of examples/ are initialised as they are"
    ),
    // Longer than the others, most of it waiting: first, so that it does not run on by itself in the end.
    scenario!(
        Alone,
        Daily,
        [],
        "api-budget",
        economy::api_budget,
        "an idle canary makes no request, a rollout of five steps at most 30, with alerts 31"
    ),
    scenario!(
        Alone,
        Seldom,
        [CONTOUR, TRAEFIK_DEFINITIONS, ISTIO],
        "router-pages",
        router_pages::run,
        "each example of docs/routers/ is released as its page says, and at the weight that the page shows the objects say what it shows"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "serin-starts",
        serin_starts::run,
        "the controller starts, tells an odd Canary what is wrong with it, and stops with 0 on SIGTERM"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "good-release",
        rollouts::good_release,
        "a good release is promoted with the weights that were asked for, and no request fails"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "own-route",
        own_route::own_route,
        "routes of the user's own: all rules of both split as asked, hands are put back and named, nothing else changes, all is given back"
    ),
    scenario!(
        Shared,
        Seldom,
        [CONTOUR, TRAEFIK_DEFINITIONS, ISTIO],
        "own-routes",
        own_route::planes,
        "routes of each kind of the user's own: split as asked, rolled back, a hand put back, what others add kept; one that is deleted is waited for"
    ),
    scenario!(
        Shared,
        Seldom,
        [ENVOY_GATEWAY, TRAEFIK_DEFINITIONS],
        "own-connections",
        own_route::connections,
        "the same for a TCPRoute, a TLSRoute and an IngressRouteTCP, whose weights lead connections on"
    ),
    scenario!(
        Shared,
        Seldom,
        [CONTOUR, TRAEFIK_DEFINITIONS, ISTIO],
        "everything",
        everything::for_the_canary,
        "weights 0 and 100 on five planes: not one request reaches the primary; a bad release gives everything back"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "own-kind",
        own_route::own_kind,
        "a kind that nobody heard of is shifted by JSONPaths, once the controller has the rule that the condition names"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "bad-release",
        rollouts::bad_release,
        "a release with 5 % errors is rolled back; only the canary's own answers failed"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "never-ready",
        rollouts::never_ready,
        "pods that never become ready fail the run after its deadline, and no request is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "last-words",
        rollouts::last_words,
        "why pods crashed or had no image stays in status and events when they are gone"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "change-of-mind",
        rollouts::change_of_mind,
        "a newer revision in mid-run restarts the analysis and is the one that is promoted"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "edited-route",
        rollouts::edited_route,
        "weights edited by hand are put back within a second, and an event names the editor"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "deleted-primary",
        rollouts::deleted_primary,
        "a deleted primary is rebuilt from the promoted revision, not from the target"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "sudden-death",
        rollouts::sudden_death,
        "pods that die at once lose nothing, since weights, applied and drained come first"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "insiders-first",
        strategies::insiders_first,
        "A/B: a header leads to the new release, and only it does"
    ),
    scenario!(
        Shared,
        Daily,
        [CONTOUR],
        "mirrored",
        gateway_routes::contour_mirrored,
        "Blue/Green with mirroring: copies alone promote a good release and find out a bad one, and no visitor meets it"
    ),
    scenario!(
        Shared,
        Daily,
        [ISTIO],
        "istio-release",
        istio::release,
        "Istio: the split is that of the run, through hand edits and a deleted route; a bad release is found out by Istio's series"
    ),
    scenario!(
        Shared,
        Daily,
        [ISTIO],
        "istio-ab",
        istio::insiders,
        "Istio: header, cookie or query parameter lead to the new release, and nothing else does"
    ),
    scenario!(
        Shared,
        Daily,
        [ISTIO],
        "istio-mirrored",
        istio::mirrored,
        "Istio: a step of copies comes before the first weight, and finds out a bad release before anybody has met it"
    ),
    scenario!(
        Shared,
        Daily,
        [ISTIO],
        "istio-regulars",
        istio::regulars,
        "Istio: with session affinity visitors stay on the side that they met, until the run is over"
    ),
    scenario!(
        Shared,
        Daily,
        [ISTIO],
        "istio-tcp",
        istio::connections,
        "Istio: connections of any protocol are split by weight"
    ),
    scenario!(
        Shared,
        Seldom,
        [ISTIO],
        "istio-by-source",
        istio_mesh::by_source,
        "Istio: in an A/B test by source labels a workload of the mesh meets the new release, and visitors by the gateway the old one"
    ),
    scenario!(
        Shared,
        Seldom,
        [ISTIO],
        "istio-delegated",
        istio_mesh::delegated,
        "Istio: behind a root VirtualService that delegates, the whole story of a release; headers and CORS of the canary are in the answers"
    ),
    scenario!(
        Shared,
        Daily,
        [TRAEFIK_DEFINITIONS],
        "traefik-release",
        ingresses::traefik_release,
        "behind a TraefikService: promoted, rolled back, hands and deletions undone; nothing else is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [TRAEFIK_DEFINITIONS],
        "nginx-release",
        ingresses::nginx_release,
        "behind an Ingress with nginx's annotations: promoted, rolled back, hands and deletions undone, nothing is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [CONTOUR],
        "contour-release",
        ingresses::contour_release,
        "behind an HTTPProxy: promoted, rolled back, hands and deletions undone; nothing else is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [TRAEFIK_DEFINITIONS],
        "nginx-by-header",
        ingresses::nginx_by_header,
        "A/B behind nginx's annotations: a header or a cookie leads to the new release, and nothing else does"
    ),
    scenario!(
        Shared,
        Seldom,
        [TRAEFIK_DEFINITIONS],
        "nginx-by-expression",
        ingresses::nginx_by_expression,
        "A/B behind nginx's annotations: a header whose value fits an expression leads to the new release, and nothing else does"
    ),
    scenario!(
        Shared,
        Seldom,
        [CONTOUR],
        "contour-by-header",
        ingresses::contour_by_header,
        "A/B behind an HTTPProxy: two headers together lead to the new release, and not one of them alone"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "traefik-httproute",
        gateway_routes::traefik_httproute,
        "behind an HTTPRoute by Traefik: promoted, rolled back, hands and deletions undone; nothing else is lost"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "traefik-httproute-v1beta1",
        gateway_routes::traefik_httproute_v1beta1,
        "the same with v1beta1 of the HTTPRoute"
    ),
    scenario!(
        Shared,
        Daily,
        [ISTIO],
        "istio-httproute",
        gateway_routes::istio_httproute,
        "behind an HTTPRoute by Istio: promoted, rolled back, hands and deletions undone; nothing else is lost"
    ),
    scenario!(
        Shared,
        Seldom,
        [ISTIO],
        "istio-httproute-by-header",
        gateway_routes::istio_by_header,
        "A/B behind an HTTPRoute by Istio: either of two headers, or a query parameter, leads to the new release, and nothing else does"
    ),
    scenario!(
        Shared,
        Seldom,
        [ISTIO],
        "mesh-httproute",
        gateway_routes::mesh_httproute,
        "behind an HTTPRoute with a Service as parent, in Istio's mesh: the same, and nothing is lost while the route is deleted"
    ),
    scenario!(
        Shared,
        Seldom,
        [ISTIO],
        "mesh-httproute-by-header",
        gateway_routes::mesh_by_header,
        "A/B in Istio's mesh: either of two headers, or a query parameter, leads to the new release, and nothing else does"
    ),
    scenario!(
        Shared,
        Seldom,
        [CONTOUR],
        "contour-httproute",
        gateway_routes::contour_httproute,
        "behind an HTTPRoute by Contour: promoted, rolled back, hands and deletions undone; nothing else is lost"
    ),
    scenario!(
        Shared,
        Seldom,
        [CONTOUR],
        "contour-httproute-by-header",
        gateway_routes::contour_routes_by_header,
        "A/B behind an HTTPRoute by Contour: either of two headers, or a query parameter, leads to the new release, and nothing else does"
    ),
    scenario!(
        Shared,
        Seldom,
        [ENVOY_GATEWAY],
        "envoy-httproute",
        gateway_routes::envoy_httproute,
        "behind an HTTPRoute by Envoy Gateway: promoted, rolled back, hands and deletions undone; nothing else is lost"
    ),
    scenario!(
        Shared,
        Seldom,
        [ENVOY_GATEWAY],
        "envoy-httproute-by-header",
        gateway_routes::envoy_by_header,
        "A/B behind an HTTPRoute by Envoy Gateway: either of two headers, or a query parameter, leads to the new release, and nothing else does"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "traefik-grpcroute",
        gateway_routes::traefik_grpcroute,
        "behind a GRPCRoute by Traefik, with calls of gRPC: promoted, rolled back, hands and deletions undone"
    ),
    scenario!(
        Shared,
        Seldom,
        [ISTIO],
        "istio-grpcroute",
        gateway_routes::istio_grpcroute,
        "behind a GRPCRoute by Istio, with calls of gRPC: promoted, rolled back, hands and deletions undone"
    ),
    scenario!(
        Shared,
        Seldom,
        [CONTOUR],
        "contour-grpcroute",
        gateway_routes::contour_grpcroute,
        "behind a GRPCRoute by Contour, with calls of gRPC: promoted, rolled back, hands and deletions undone"
    ),
    scenario!(
        Shared,
        Seldom,
        [ENVOY_GATEWAY],
        "envoy-grpcroute",
        gateway_routes::envoy_grpcroute,
        "behind a GRPCRoute by Envoy Gateway, with calls of gRPC: promoted, rolled back, hands and deletions undone"
    ),
    scenario!(
        Shared,
        Seldom,
        [ENVOY_GATEWAY],
        "envoy-grpcroute-by-header",
        gateway_routes::envoy_calls_by_header,
        "A/B behind a GRPCRoute by Envoy Gateway: calls with either of two metadata keys go to the new release, and nothing else does"
    ),
    scenario!(
        Shared,
        Seldom,
        [CONTOUR],
        "contour-grpcroute-mirrored",
        gateway_routes::contour_calls_mirrored,
        "Blue/Green with mirroring behind a GRPCRoute by Contour: copies alone promote a good release and find out a bad one, and no visitor meets it"
    ),
    scenario!(
        Shared,
        Seldom,
        [ENVOY_GATEWAY],
        "envoy-httproute-mirrored",
        gateway_routes::envoy_mirrored,
        "Blue/Green with mirroring behind an HTTPRoute by Envoy Gateway: copies alone promote a good release and find out a bad one, and no visitor meets it"
    ),
    scenario!(
        Shared,
        Seldom,
        [ENVOY_GATEWAY],
        "envoy-grpcroute-mirrored",
        gateway_routes::envoy_calls_mirrored,
        "Blue/Green with mirroring behind a GRPCRoute by Envoy Gateway: copies alone promote a good release and find out a bad one, and no visitor meets it"
    ),
    scenario!(
        Shared,
        Seldom,
        [ISTIO],
        "istio-httproute-mirrored",
        gateway_routes::istio_routes_mirrored,
        "Blue/Green with mirroring behind an HTTPRoute by Istio: copies alone promote a good release and find out a bad one, and no visitor meets it"
    ),
    scenario!(
        Shared,
        Seldom,
        [ISTIO],
        "istio-grpcroute-mirrored",
        gateway_routes::istio_calls_mirrored,
        "Blue/Green with mirroring behind a GRPCRoute by Istio: copies alone promote a good release and find out a bad one, and no visitor meets it"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "all-at-once",
        strategies::all_at_once,
        "Blue/Green: all visitors move at once, and none is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "unjudged",
        strategies::unjudged,
        "skipAnalysis promotes without judging, and no request is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "given-back",
        strategies::given_back,
        "revertOnDeletion gives the target its replicas back before the canary goes"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "ask",
        ask::run,
        "get, explain, history, wait, lint and the words say and do what they promise on a live rollout"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "overtaken",
        handover::overtaken,
        "a newer revision at a weight of 80 % is judged from the first step and promoted; nothing is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "steep-fall",
        handover::steep_fall,
        "a bad revision falls from 80 % of the traffic; only its own answers failed"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "slow-both-ways",
        handover::slow_both_ways,
        "four replicas that start and end slowly are promoted, and nothing is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "failed-promotion",
        handover::failed_promotion,
        "a promotion that fails holds on the healthy side; a fix follows, or the old revision; nothing is lost"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "reverted-in-mid-run",
        handover::reverted_in_mid_run,
        "deleted with revertOnDeletion at a split: everything is the user's again, and nothing is lost"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "left-in-mid-run",
        handover::left_in_mid_run,
        "deleted without it: left alone nothing is lost, collected it is as Flagger leaves it"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "rivals",
        handover::rivals,
        "rivals for a target, an apex or a primary are refused by condition, and nothing is touched"
    ),
    scenario!(
        Alone,
        Seldom,
        [FLAGGER],
        "from-flagger",
        from_flagger::in_mid_run,
        "runs that Flagger left in every phase go on where they stand; no new run, and nothing is lost"
    ),
    scenario!(
        Alone,
        Seldom,
        [FLAGGER],
        "from-flagger-at-rest",
        from_flagger::at_rest,
        "what Flagger left at rest stays at rest, what it never saw is judged; nothing is lost"
    ),
    scenario!(
        Alone,
        Seldom,
        [FLAGGER],
        "back-to-flagger",
        from_flagger::back,
        "Flagger goes on where Serin was stopped, and Serin where Flagger was; nothing is lost"
    ),
    scenario!(
        Alone,
        Seldom,
        [],
        "at-rest",
        handover::at_rest,
        "ten canaries at rest, failed and refused ones among them, make no request in a minute"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "services-only",
        workloads::services_only,
        "without a router: a Service is taken over under load, visitors never meet what is tested"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "each-node",
        workloads::each_node,
        "a DaemonSet with one pod is promoted and rolled back, and no request is lost"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "autoscaled",
        workloads::autoscaled,
        "with an HPA both sides have their minimum before they have visitors, and bounds hold"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "event-driven",
        workloads::event_driven,
        "with KEDA the target's ScaledObject rests with the target, the primary's is never paused"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "regulars",
        workloads::regulars,
        "with session affinity visitors stay on the side that they met, until the run is over"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "whole-life",
        workloads::whole_life,
        "good, bad, back, bad again, fixed, and deleted: one canary's whole life"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "new-settings",
        workloads::new_settings,
        "a changed ConfigMap alone is judged, and reaches the primary only by promotion"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "chart-renders",
        installed::chart_renders,
        "helm lint, and every object that the charts render is one that the API server takes"
    ),
    scenario!(
        Shared,
        Seldom,
        [],
        "kustomize-base",
        installed::kustomize_base,
        "the Kustomize base is the chart with its defaults, and the API server takes it"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "loadtester",
        loadtester::run,
        "the load tester sends a canary's only visitors, refuses what needs a shell, and keeps a gate through restarts"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "installed",
        installed::installed,
        "installed by Helm, run as pods under the restricted profile, with not one right too many or too few"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "quick-start",
        installed::quick_start,
        "installed by the README's command where nothing measures: a good release is promoted and a bad one rolled back by their own pages"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "tutorial",
        tutorial::run,
        "every command of docs/tutorial.md, as a newcomer types them, says what the page says"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "demo-cluster",
        demos::on_the_cluster,
        "the demo's story on a real cluster: the good release is promoted, the bad one taken back, nothing is lost"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "demo-by-kubectl",
        demos::by_kubectl,
        "the simulated cluster of serin demo answers kubectl and serin as its page says, and goes without a trace"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "demo-by-keys",
        demos::by_keys,
        "on a terminal the keys of serin demo release, promote, break and abort, and end it"
    ),
    scenario!(
        Alone,
        Seldom,
        [],
        "installed-in-namespaces",
        installed::in_namespaces,
        "installed for two namespaces: the same with a Role in each, no rights in the cluster, and a third left alone"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "killed-controller",
        rollouts::killed_controller,
        "a controller killed ten times in one rollout takes each step once and loses nothing"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "alerts",
        alerts::run,
        "each alert arrives once through a good and a bad release, a killed and a stopped controller"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "admission",
        admission::run,
        "the webhook denies a bad Canary with field and value, lets a good one in, follows a new certificate, and is open without the controller"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "admission-by-chart",
        admission_by_chart::run,
        "installed by Helm the webhook is called through its Service, under a certificate that an upgrade keeps, and under cert-manager's through a renewal"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "leader-killed",
        availability::leader_killed,
        "a killed leader is followed within 5 s after its lease, one that stops at once; one writes at a time, nothing is lost"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "leader-frozen",
        availability::leader_frozen,
        "a leader that is frozen for longer than its lease wakes up, writes nothing and ends; nothing is lost"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "leader-cut",
        availability::leader_cut,
        "a leader cut off from the API server ends itself before the next one begins; nothing is lost"
    ),
    scenario!(
        Alone,
        Seldom,
        [],
        "api-trouble",
        availability::api_server_trouble,
        "an API server that is crowded, slow, forgetful, away for minutes or restarted is waited for, and rollouts go on"
    ),
    scenario!(
        Alone,
        Seldom,
        [],
        "silent-watches",
        availability::silent_watches,
        "watches that fall silent in mid-run are given up after two missed bookmarks, and the revision that came meanwhile is promoted; nothing is lost"
    ),
    scenario!(
        Alone,
        Seldom,
        [],
        "renewed-credentials",
        renewed_credentials::run,
        "a client certificate, a kubeconfig and a token that are renewed on disk are used without a restart, watches included; nothing is lost"
    ),
    scenario!(
        Alone,
        Seldom,
        [METRICS_BACKENDS],
        "metrics-backends",
        metrics_backends::run,
        "Prometheus, VictoriaMetrics, Graphite, CloudWatch, Keptn and an external metric are asked for real, and one that turns bad ends a run"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "provider-pages",
        provider_pages::run,
        "each template of docs/providers/, with the Secret that its page names, gives a canary a number"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "built-in-queries",
        built_in_queries::run,
        "a real Prometheus answers each mesh's and ingress's built-in queries with the canary's numbers; and an event says why a check has no data"
    ),
    scenario!(
        Shared,
        Seldom,
        [FLAGGERS_QUERIES],
        "flaggers-queries",
        flaggers_queries::run,
        "every metric query of Flagger's documentation and tests is rendered as Flagger renders it, byte for byte"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "no-metrics",
        rollouts::no_metrics,
        "a run waits while Prometheus is gone, and goes on when it is back"
    ),
    scenario!(
        Shared,
        Daily,
        [],
        "gateway-metrics",
        rollouts::gateway_metrics,
        "where nobody scrapes the app, the gateway's series are found, chosen for the run, and judge it"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "without-prometheus",
        rollouts::without_prometheus,
        "without a Prometheus the pages of the canary's pods promote a good release and roll a bad one back"
    ),
    scenario!(
        Alone,
        Seldom,
        [CONTOUR, TRAEFIK_DEFINITIONS, ISTIO],
        "router-budget",
        router_budget::run,
        "behind each router a rollout of five steps keeps to that budget, and each step to three requests"
    ),
    scenario!(
        Alone,
        Daily,
        [],
        "max-runs",
        turns::run,
        "of more releases than may run at once the others wait in their order, through a killed controller; all are promoted"
    ),
    scenario!(
        Alone,
        Seldom,
        [],
        "reaction",
        economy::reaction,
        "a new revision is acted on within a second, 99 times of 100"
    ),
];

/// The scenarios of these names, all if none is named.
pub fn select(names: &[String], all: bool) -> Result<Vec<&'static Scenario>> {
    for name in names {
        let known: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        anyhow::ensure!(
            known.contains(&name.as_str()),
            "no scenario is called {name:?}; there are: {}",
            known.join(", ")
        );
    }
    Ok(ALL
        .iter()
        .filter(|scenario| {
            if names.is_empty() {
                all || scenario.when == When::Daily
            } else {
                names.iter().any(|name| name == scenario.name)
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_can_be_namespaces() {
        let names: std::collections::BTreeSet<&str> =
            ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            assert!(
                name.len() < 50
                    && name
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{name}"
            );
        }
    }
}
