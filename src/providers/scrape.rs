//! Metrics without a Prometheus: reads the pages of the canary's own pods while a run is under way, keeps what they counted for as long as the
//! metrics look back, and answers the built-in checks from it.
//!
//! ```text
//!   follow(canary, metrics) ─▶ Subject ─ every fifth of the shortest interval ─▶ endpoints of the canary's Service ─▶ pages ─▶ windows
//!   measure(canary, query) ──▶ one more look, then growth over the interval ─▶ Measurement
//! ```
//!
//! Which pods there are comes from what is watched already, so nothing here asks the API server. A page has two seconds, so many are read at the same
//! time, and of each only sums stay. What a pod counted before it was first seen counts only if the pod is known to be newer than the look before.

use super::http::{Call, Http, HttpError, Timing};
use super::{Provider, QueryRequest};
use crate::analysis::sampling::{
    Check, Reader, ScrapeQuery, Source, Window, duration, success_rate,
};
use crate::analysis::{Measurement, MetricQuery};
use crate::api::{GoDuration, MetricProviderType};
use crate::object::Object;
use futures::StreamExt;
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What one page may take.
const PAGE: Timing = Timing {
    attempt: Duration::from_secs(2),
    overall: Duration::from_secs(2),
    first_wait: Duration::from_millis(100),
    retries: 0,
};
/// Pods of one canary whose pages are read; more would say the same.
const MOST_PODS: usize = 50;
/// Pages that are read at the same time, of one canary and of all.
const PAGES_OF_ONE: usize = 16;
const PAGES_OF_ALL: usize = 64;
/// The shortest and the longest time between two looks.
const PERIODS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Two looks within this time are one.
const SAME_LOOK: Duration = Duration::from_millis(300);
/// Pods that came and went within the time that is looked back over.
const MOST_WINDOWS: usize = 4 * MOST_PODS;
/// Sentences of pods that could not be read are cut to so many characters.
const MAX_QUOTE: usize = 300;

/// Reads pages.
pub trait Pages: Send + Sync {
    /// The text of a page; the error says what is wrong.
    fn get(&self, url: Url, insecure: bool) -> BoxFuture<'_, Result<String, String>>;
}

/// Knows the `EndpointSlice`s of Services from what is watched.
pub trait Endpoints: Send + Sync {
    /// The slices of a Service; the error says why they are not known.
    fn of(&self, namespace: &str, service: &str) -> Result<Vec<Arc<Object>>, String>;
}

/// Pages over HTTP.
struct Web(Http);

impl Pages for Web {
    fn get(&self, url: Url, insecure: bool) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async move {
            let shown = shown(&url);
            let mut headers = HeaderMap::new();
            headers.insert(
                ACCEPT,
                HeaderValue::from_static(
                    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4",
                ),
            );
            let call = Call {
                method: Method::GET,
                url,
                headers,
                body: Vec::new(),
                // A pod has no business in sending the controller elsewhere.
                confidential: true,
                insecure_skip_verify: insecure,
            };
            let answer = self
                .0
                .send(&call)
                .await
                .map_err(|error| error.to_string())?;
            if !answer.status.is_success() {
                return Err(format!("{shown} answers {}", answer.status.as_u16()));
            }
            String::from_utf8(answer.body).map_err(|_| format!("{shown} is not text"))
        })
    }
}

fn shown(url: &Url) -> String {
    format!(
        "{}:{}{}",
        url.host_str().unwrap_or("?"),
        url.port_or_known_default().unwrap_or_default(),
        url.path()
    )
}

/// A pod whose page is read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    name: String,
    url: Url,
}

/// The pods behind a Service, sorted by name; those that are not ready too, since they may just have answered.
fn pods_of(slices: &[Arc<Object>], source: &Source) -> Vec<Pod> {
    let mut pods: BTreeMap<String, Url> = BTreeMap::new();
    for slice in slices {
        if slice.text("/addressType") == "FQDN" {
            continue;
        }
        let Some(port) = source.port.or_else(|| port_of(slice)) else {
            continue;
        };
        for endpoint in slice.at("/endpoints").as_array().into_iter().flatten() {
            let Some(address) = endpoint["addresses"][0].as_str() else {
                continue;
            };
            let name = endpoint["targetRef"]["name"].as_str().unwrap_or(address);
            if pods.contains_key(name) {
                // The same pod in the slice of the other address family.
                continue;
            }
            if let Some(url) = page(address, port, source) {
                pods.insert(name.to_owned(), url);
            }
        }
    }
    let pods = pods.into_iter().map(|(name, url)| Pod { name, url });
    pods.take(MOST_PODS).collect()
}

/// The port that a slice offers for metrics: one that is called so, else the one for requests.
fn port_of(slice: &Object) -> Option<u16> {
    const NAMES: [&str; 3] = ["metrics", "http-metrics", "http"];
    let ports = slice.at("/ports").as_array()?;
    let named = NAMES
        .iter()
        .find_map(|name| ports.iter().find(|port| port["name"] == *name));
    let port = named.or_else(|| ports.first())?["port"].as_u64()?;
    u16::try_from(port).ok()
}

fn page(address: &str, port: u16, source: &Source) -> Option<Url> {
    let scheme = if source.https { "https" } else { "http" };
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    Url::parse(&format!("{scheme}://{host}:{port}{}", source.path)).ok()
}

/// What is sampled for one canary: a Service's pods, read in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    namespace: String,
    service: String,
    source: Source,
    insecure: bool,
}

impl Key {
    /// A scrape query names the Service as the address of its provider, `NAME.NAMESPACE`.
    fn of(config: &crate::analysis::ProviderConfig, query: &ScrapeQuery) -> Result<Self, String> {
        let address = config.address.as_deref().unwrap_or_default();
        let (service, namespace) = address
            .split_once('.')
            .ok_or("the scrape provider reads pods of a canary, and none is named here")?;
        Ok(Self {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            source: query.source.clone(),
            insecure: config.insecure_skip_verify,
        })
    }
}

/// The pages of one canary's pods over time.
struct Subject {
    key: Key,
    reader: Reader,
    state: Mutex<State>,
    /// Only one looks at a time; the others wait and find the look done.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// How far metrics look back, the longest of them.
    keep: Duration,
    last_look: Option<Duration>,
    windows: BTreeMap<String, Window>,
    /// Pods at the last look, and what was wrong with the first that could not be read.
    pods: usize,
    read: usize,
    /// Pages of the last look that have none of the metrics.
    lacking: usize,
    trouble: Option<String>,
}

impl Subject {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Followed {
    subject: Arc<Subject>,
    period: Duration,
    task: AbortHandle,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads the pods' pages.
pub struct Scraper {
    pages: Arc<dyn Pages>,
    endpoints: Arc<dyn Endpoints>,
    places: Semaphore,
    began: Instant,
    /// By canary.
    followed: Mutex<HashMap<String, BTreeMap<Key, Followed>>>,
}

impl Scraper {
    /// A scraper that reads over HTTP.
    pub fn new(endpoints: Arc<dyn Endpoints>) -> Result<Arc<Self>, HttpError> {
        Ok(Self::reading(Arc::new(Web(Http::new(PAGE)?)), endpoints))
    }

    fn reading(pages: Arc<dyn Pages>, endpoints: Arc<dyn Endpoints>) -> Arc<Self> {
        Arc::new(Self {
            pages,
            endpoints,
            places: Semaphore::new(PAGES_OF_ALL),
            began: Instant::now(),
            followed: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<Key, Followed>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these metrics of a canary are sampled and no others; those of other backends are left out.
    pub fn follow(self: &Arc<Self>, canary: &str, metrics: &[MetricQuery]) {
        let mut wanted: BTreeMap<Key, (Duration, Duration)> = BTreeMap::new();
        for metric in metrics {
            if metric.provider.provider_type != MetricProviderType::Scrape {
                continue;
            }
            let Some(key) = ScrapeQuery::parse(&metric.query)
                .ok()
                .and_then(|query| Key::of(&metric.provider, &query).ok())
            else {
                continue;
            };
            wanted
                .entry(key)
                .and_modify(|(shortest, longest)| {
                    *shortest = metric.interval.min(*shortest);
                    *longest = metric.interval.max(*longest);
                })
                .or_insert((metric.interval, metric.interval));
        }
        let mut followed = self.lock();
        if wanted.is_empty() {
            followed.remove(canary);
            return;
        }
        let mine = followed.entry(canary.to_owned()).or_default();
        mine.retain(|key, _| wanted.contains_key(key));
        for (key, (shortest, longest)) in wanted {
            self.start(mine, key, shortest, longest);
        }
    }

    /// The subject of a key, sampled from now on at least so often and kept at least so long.
    fn start(
        self: &Arc<Self>,
        mine: &mut BTreeMap<Key, Followed>,
        key: Key,
        shortest: Duration,
        longest: Duration,
    ) -> Arc<Subject> {
        let period = (shortest / 5).clamp(PERIODS.0, PERIODS.1);
        let known = mine.get(&key);
        let subject = known.map_or_else(
            || {
                Arc::new(Subject {
                    reader: Reader::new(&key.source),
                    key: key.clone(),
                    state: Mutex::default(),
                    looking: tokio::sync::Mutex::default(),
                })
            },
            |known| Arc::clone(&known.subject),
        );
        {
            let mut state = subject.lock();
            state.keep = state.keep.max(longest);
        }
        if known.is_none_or(|known| known.period > period) {
            let scraper = Arc::clone(self);
            let sampled = Arc::clone(&subject);
            let task = tokio::spawn(async move {
                loop {
                    scraper.look(&sampled).await;
                    tokio::time::sleep(period).await;
                }
            });
            let followed = Followed {
                subject: Arc::clone(&subject),
                period,
                task: task.abort_handle(),
            };
            mine.insert(key, followed);
        }
        subject
    }

    /// Answers a metric of a canary.
    pub async fn measure(self: &Arc<Self>, canary: &str, request: &QueryRequest) -> Measurement {
        let asked = ScrapeQuery::parse(&request.query)
            .and_then(|query| Ok((Key::of(&request.config, &query)?, query.check)));
        let (key, check) = match asked {
            Ok(asked) => asked,
            Err(why) => return Measurement::Error(why),
        };
        let interval = request.interval;
        let subject = {
            let mut followed = self.lock();
            let mine = followed.entry(canary.to_owned()).or_default();
            self.start(mine, key, interval, interval)
        };
        self.look(&subject).await;
        if self.windows_of_two(&subject, interval) == 0 && subject.lock().read > 0 {
            // It has just begun, after a restart of the controller for example.
            tokio::time::sleep(PERIODS.0).await;
            self.look(&subject).await;
        }
        self.answer(&subject, check, interval)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn windows_of_two(&self, subject: &Subject, interval: Duration) -> usize {
        let from = self.now().saturating_sub(interval);
        let state = subject.lock();
        let grown = state
            .windows
            .values()
            .filter(|window| window.growth(from).is_some());
        grown.count()
    }

    /// Reads the pages of all pods, unless somebody has just done so.
    async fn look(&self, subject: &Subject) {
        let _looking = subject.looking.lock().await;
        let before = subject.lock().last_look;
        if before.is_some_and(|before| self.now().saturating_sub(before) < SAME_LOOK) {
            return;
        }
        let key = &subject.key;
        let began = self.now();
        let pods = match self.endpoints.of(&key.namespace, &key.service) {
            Ok(slices) => pods_of(&slices, &key.source),
            Err(why) => {
                let mut state = subject.lock();
                (state.pods, state.read, state.trouble) = (0, 0, Some(why));
                return;
            }
        };
        let count = pods.len();
        let pages: Vec<_> = futures::stream::iter(pods)
            .map(|pod| async move {
                let page = self.page(subject, &pod).await;
                (pod.name, page, self.now())
            })
            .buffer_unordered(PAGES_OF_ONE)
            .collect()
            .await;
        let mut state = subject.lock();
        state.pods = count;
        (state.read, state.lacking) = (0, 0);
        state.trouble = None;
        for (pod, page, at) in pages {
            match page {
                Ok(page) => {
                    state.read += 1;
                    state.lacking += usize::from(page.lacks_metric);
                    let is_new = !state.windows.contains_key(&pod);
                    let window = state.windows.entry(pod).or_default();
                    window.push(at, page);
                    if let (true, Some(before)) = (is_new, before) {
                        window.begin_at_zero(before);
                    }
                }
                Err(why) => {
                    state
                        .trouble
                        .get_or_insert_with(|| format!("pod {pod}: {why}"));
                }
            }
        }
        let from = began.saturating_sub(state.keep);
        state.windows.retain(|_, window| {
            window.forget_before(from);
            !window.is_empty()
        });
        while state.windows.len() > MOST_WINDOWS {
            let oldest = state
                .windows
                .iter()
                .min_by_key(|(_, window)| window.last())
                .map(|(pod, _)| pod.clone());
            if let Some(oldest) = oldest {
                state.windows.remove(&oldest);
            }
        }
        state.last_look = Some(began);
    }

    async fn page(
        &self,
        subject: &Subject,
        pod: &Pod,
    ) -> Result<crate::analysis::sampling::Page, String> {
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let text = self
            .pages
            .get(pod.url.clone(), subject.key.insecure)
            .await?;
        subject.reader.read(&text)
    }

    fn answer(&self, subject: &Subject, check: Check, interval: Duration) -> Measurement {
        let from = self.now().saturating_sub(interval);
        let state = subject.lock();
        let growths: Vec<_> = state
            .windows
            .values()
            .filter_map(|window| window.growth(from))
            .collect();
        let value = match check {
            Check::SuccessRate => success_rate(&growths),
            Check::Duration(part) => duration(part, &growths),
        };
        match value {
            Some(value) if !value.is_nan() => Measurement::Value(value),
            value => {
                let asked = Asked {
                    subject,
                    check,
                    interval,
                    pods: growths.len(),
                    counted: value.is_some(),
                };
                state.why_not(&asked)
            }
        }
    }
}

/// A question that has no value.
struct Asked<'a> {
    subject: &'a Subject,
    check: Check,
    interval: Duration,
    /// Pods that were read twice within the interval, and whether they measure what was asked for.
    pods: usize,
    counted: bool,
}

impl State {
    /// Why there is no value: one sentence, bounded.
    fn why_not(&self, asked: &Asked<'_>) -> Measurement {
        let service = &asked.subject.key.service;
        let span = GoDuration(asked.interval);
        if self.read == 0
            && let Some(why) = &self.trouble
        {
            let why: String = why.chars().take(MAX_QUOTE).collect();
            return Measurement::Error(if self.pods == 0 {
                format!("the endpoints of Service {service} are not known: {why}")
            } else {
                format!(
                    "none of the {} pods of Service {service} gives its metrics: {why}",
                    self.pods
                )
            });
        }
        Measurement::NoData(if self.pods == 0 {
            format!("Service {service} has no endpoints, so there is no pod to read metrics of")
        } else if asked.pods == 0 {
            format!("no pod of Service {service} was read twice within {span} yet")
        } else if self.read > 0 && self.lacking == self.read {
            format!(
                "the pods of Service {service} have none of the metrics {}: there was no traffic yet, or the option metric must name theirs",
                asked.subject.reader.metrics()
            )
        } else if asked.counted {
            format!(
                "there was no traffic: {} pods of Service {service} counted no request within {span}",
                asked.pods
            )
        } else if asked.check == Check::SuccessRate {
            format!(
                "the pods of Service {service} count requests without their status; name its label with the option status"
            )
        } else {
            format!(
                "the pods of Service {service} count requests but have no histogram of their duration; name one with the option metric"
            )
        })
    }
}

/// The scrape provider where there is no canary whose pods could be read.
pub(super) struct WithoutCanary;

impl Provider for WithoutCanary {
    fn query<'a>(
        &'a self,
        _http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async {
            Measurement::Error(match ScrapeQuery::parse(&request.query) {
                Ok(_) => {
                    "the scrape provider reads the pods of a canary; only the controller can ask it"
                        .to_owned()
                }
                Err(why) => why,
            })
        })
    }

    fn probe<'a>(
        &'a self,
        _http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        // Pods are asked when there are some; until then the question can be read, or can't.
        Box::pin(async { ScrapeQuery::parse(&request.query).map(drop) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::analysis::{Limits, MetricKind, Origin, ProviderConfig};
    use jiff::Timestamp;
    use serde_json::{Value, json};

    /// Pods that answer so many requests each second, some of them badly, since they started.
    #[derive(Default)]
    struct Cluster {
        pods: Mutex<BTreeMap<String, Instance>>,
        looks: Mutex<Vec<(String, Duration)>>,
        began: Mutex<Option<Instant>>,
        broken: Mutex<Option<String>>,
    }

    #[derive(Clone)]
    struct Instance {
        started: Instant,
        per_second: f64,
        failing: f64,
        up: bool,
        hangs: bool,
    }

    impl Cluster {
        fn new() -> Arc<Self> {
            let cluster = Self::default();
            *cluster.began.lock().unwrap() = Some(Instant::now());
            Arc::new(cluster)
        }

        fn add(&self, pod: &str, per_second: f64, failing: f64) {
            let instance = Instance {
                started: Instant::now(),
                per_second,
                failing,
                up: true,
                hangs: false,
            };
            self.pods.lock().unwrap().insert(pod.to_owned(), instance);
        }

        fn change(&self, pod: &str, change: impl FnOnce(&mut Instance)) {
            change(self.pods.lock().unwrap().get_mut(pod).unwrap());
        }

        fn remove(&self, pod: &str) {
            self.pods.lock().unwrap().remove(pod);
        }

        fn looks(&self) -> usize {
            self.looks.lock().unwrap().len()
        }
    }

    impl Pages for Cluster {
        fn get(&self, url: Url, _: bool) -> BoxFuture<'_, Result<String, String>> {
            Box::pin(async move {
                let pod = url.host_str().unwrap().to_owned();
                let since = self.began.lock().unwrap().unwrap().elapsed();
                self.looks.lock().unwrap().push((url.to_string(), since));
                let instance = self.pods.lock().unwrap()[&pod].clone();
                if instance.hangs {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    return Err(format!("{pod} did not answer within 2s"));
                }
                if !instance.up {
                    return Err(format!("{pod} can't be reached: refused"));
                }
                let all = (instance.started.elapsed().as_secs_f64() * instance.per_second).floor();
                let failed = (all * instance.failing).floor();
                let good = all - failed;
                Ok(format!(
                    "http_request_duration_seconds_count{{status=\"200\"}} {good}\n\
                     http_request_duration_seconds_count{{status=\"500\"}} {failed}\n\
                     http_request_duration_seconds_bucket{{status=\"200\",le=\"0.1\"}} {good}\n\
                     http_request_duration_seconds_bucket{{status=\"200\",le=\"+Inf\"}} {good}\n"
                ))
            })
        }
    }

    impl Endpoints for Cluster {
        fn of(&self, namespace: &str, service: &str) -> Result<Vec<Arc<Object>>, String> {
            assert_eq!((namespace, service), ("test", "web-canary"));
            if let Some(why) = self.broken.lock().unwrap().clone() {
                return Err(why);
            }
            let pods = self.pods.lock().unwrap();
            // Host names stand in for addresses.
            let endpoints: Vec<Value> = pods
                .keys()
                .map(|pod| json!({"addresses": [pod], "targetRef": {"kind": "Pod", "name": pod}}))
                .collect();
            Ok(vec![slice(
                &json!([{"name": "http", "port": 8080}]),
                &endpoints,
            )])
        }
    }

    fn slice(ports: &Value, endpoints: &[Value]) -> Arc<Object> {
        Arc::new(Object::new(json!({
            "metadata": {"name": "web-canary-1", "namespace": "test"},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        })))
    }

    fn config() -> ProviderConfig {
        ProviderConfig {
            provider_type: MetricProviderType::Scrape,
            address: Some("web-canary.test".to_owned()),
            ..ProviderConfig::default()
        }
    }

    fn metric(query: &str, interval: u64) -> MetricQuery {
        MetricQuery {
            name: query.to_owned(),
            kind: MetricKind::SuccessRate,
            origin: Origin::Inline,
            provider: config(),
            query: query.to_owned(),
            interval: Duration::from_secs(interval),
            limits: Limits::default(),
        }
    }

    fn request(query: &str, interval: u64) -> QueryRequest {
        QueryRequest {
            config: config(),
            credentials: None,
            query: query.to_owned(),
            interval: Duration::from_secs(interval),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn scraper(cluster: &Arc<Cluster>) -> Arc<Scraper> {
        Scraper::reading(
            Arc::<Cluster>::clone(cluster),
            Arc::<Cluster>::clone(cluster),
        )
    }

    async fn pass(seconds: u64) {
        // Step by step, so that what sleeps meanwhile has its turns.
        for _ in 0..seconds * 10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn percent(measurement: &Measurement) -> f64 {
        match measurement {
            Measurement::Value(value) => *value,
            other => panic!("expected a value, found {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn given_a_run_when_it_is_measured_then_what_was_counted_within_the_interval_counts() {
        let cluster = Cluster::new();
        cluster.add("web-1", 100.0, 0.0);
        cluster.add("web-2", 100.0, 0.1);
        let scraper = scraper(&cluster);
        scraper.follow("test/web", &[metric("request-success-rate", 10)]);
        pass(20).await;
        let rate = scraper
            .measure("test/web", &request("request-success-rate", 10))
            .await;
        assert!((percent(&rate) - 95.0).abs() < 0.2, "{rate:?}");
        let slow = scraper
            .measure("test/web", &request("request-duration", 10))
            .await;
        assert!((percent(&slow) - 99.0).abs() < 0.1, "{slow:?}");
        // The second answer needed no further look; in all there was one every two seconds.
        assert!((20..=24).contains(&cluster.looks()), "{}", cluster.looks());
        assert!(
            cluster.looks.lock().unwrap()[0]
                .0
                .ends_with(":8080/metrics")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn given_pods_that_come_go_and_restart_then_what_they_counted_is_not_lost() {
        let cluster = Cluster::new();
        cluster.add("web-1", 100.0, 0.0);
        let scraper = scraper(&cluster);
        let ask = request("request-success-rate", 30);
        scraper.follow("test/web", &[metric("request-success-rate", 30)]);
        pass(13).await;
        // A new one: all that it counted is newer than the look before.
        cluster.add("web-2", 100.0, 1.0);
        pass(6).await;
        // A restart begins at zero.
        cluster.change("web-1", |pod| pod.started = Instant::now());
        pass(6).await;
        cluster.remove("web-2");
        pass(3).await;
        let rate = percent(&scraper.measure("test/web", &ask).await);
        // There was a look every six seconds: web-1 was seen to answer for 18 s and, after its restart, for 9 s; web-2 to fail for 11 s.
        let expected = 100.0 * 27.0 / 38.0;
        assert!((rate - expected).abs() < 0.5, "{rate}, expected {expected}");
        // Later nothing of that is left.
        pass(40).await;
        assert_eq!(
            scraper.measure("test/web", &ask).await,
            Measurement::Value(100.0)
        );
        let followed = scraper.lock();
        let subject = &followed["test/web"].values().next().unwrap().subject;
        assert_eq!(subject.lock().windows.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn given_a_controller_that_has_just_started_when_asked_then_a_second_is_enough() {
        let cluster = Cluster::new();
        cluster.add("web-1", 100.0, 0.5);
        pass(5).await;
        let scraper = scraper(&cluster);
        let begun = Instant::now();
        let rate = scraper
            .measure("test/web", &request("request-success-rate", 60))
            .await;
        assert!((percent(&rate) - 50.0).abs() < 1.0, "{rate:?}");
        assert!(begun.elapsed() < Duration::from_millis(1100));
    }

    #[tokio::test(start_paused = true)]
    async fn when_nothing_comes_back_it_is_said_why() {
        let ask = request("request-success-rate", 5);
        let cluster = Cluster::new();
        let scraper = scraper(&cluster);
        assert_eq!(
            scraper.measure("test/web", &ask).await,
            Measurement::NoData(
                "Service web-canary has no endpoints, so there is no pod to read metrics of".into()
            )
        );
        cluster.add("web-1", 0.0, 0.0);
        pass(3).await;
        assert_eq!(
            scraper.measure("test/web", &ask).await,
            Measurement::NoData(
                "there was no traffic: 1 pods of Service web-canary counted no request within 5s"
                    .into()
            )
        );
        cluster.change("web-1", |pod| pod.up = false);
        pass(10).await;
        assert_eq!(
            scraper.measure("test/web", &ask).await,
            Measurement::Error("none of the 1 pods of Service web-canary gives its metrics: pod web-1: web-1 can't be reached: refused".into())
        );
        *cluster.broken.lock().unwrap() = Some("not watched yet".into());
        pass(3).await;
        assert_eq!(
            scraper.measure("test/web", &ask).await,
            Measurement::Error(
                "the endpoints of Service web-canary are not known: not watched yet".into()
            )
        );
        assert!(matches!(
            scraper.measure("test/web", &request("sum(up)", 5)).await,
            Measurement::Error(why) if why.contains("is not a check of the scrape provider")
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn pods_that_hang_cost_two_seconds_and_those_that_answer_count() {
        let cluster = Cluster::new();
        for pod in 0..MOST_PODS + 20 {
            cluster.add(&format!("web-{pod:03}"), 10.0, 0.0);
            cluster.change(&format!("web-{pod:03}"), |instance| {
                instance.hangs = pod % 2 == 1;
            });
        }
        let scraper = scraper(&cluster);
        scraper.follow("test/web", &[metric("request-success-rate", 30)]);
        pass(20).await;
        let begun = Instant::now();
        let rate = scraper
            .measure("test/web", &request("request-success-rate", 30))
            .await;
        assert_eq!(rate, Measurement::Value(100.0));
        // Fifty pods in lines of sixteen, of which every other one hangs.
        assert!(
            begun.elapsed() <= Duration::from_secs(9),
            "{:?}",
            begun.elapsed()
        );
        let asked = cluster.looks.lock().unwrap();
        assert!(asked.iter().all(|(url, _)| !url.contains("web-050")));
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_run_is_over_nobody_is_asked_any_more() {
        let cluster = Cluster::new();
        cluster.add("web-1", 1.0, 0.0);
        let scraper = scraper(&cluster);
        scraper.follow("test/web", &[metric("request-success-rate", 5)]);
        pass(3).await;
        assert!(cluster.looks() > 0);
        scraper.follow("test/web", &[]);
        pass(1).await;
        let looks = cluster.looks();
        pass(60).await;
        assert_eq!(cluster.looks(), looks);
        assert!(scraper.lock().is_empty());
    }

    #[test]
    fn the_port_is_the_one_that_was_said_or_that_is_called_so_or_the_first() {
        let source = |port| Source {
            port,
            path: "/m".into(),
            ..Source::default()
        };
        let endpoint = json!({"addresses": ["10.0.0.1"], "targetRef": {"name": "web-1"}});
        let cases = [
            (
                None,
                json!([{"name": "web", "port": 80}, {"name": "metrics", "port": 9090}]),
                "http://10.0.0.1:9090/m",
            ),
            (
                None,
                json!([{"name": "grpc", "port": 50}, {"name": "http", "port": 8080}]),
                "http://10.0.0.1:8080/m",
            ),
            (
                None,
                json!([{"port": 7000}, {"port": 8080}]),
                "http://10.0.0.1:7000/m",
            ),
            (Some(1), json!([{"port": 7000}]), "http://10.0.0.1:1/m"),
        ];
        for (port, ports, expected) in cases {
            let pods = pods_of(
                &[slice(&ports, std::slice::from_ref(&endpoint))],
                &source(port),
            );
            assert_eq!(pods[0].url.as_str(), expected);
        }
        let six = json!({"addresses": ["fd00::1"], "conditions": {"ready": false}, "targetRef": {"name": "web-1"}});
        let both = [
            slice(&json!([{"port": 80}]), &[six]),
            slice(&json!([{"port": 80}]), &[endpoint]),
        ];
        let secure = Source {
            https: true,
            ..source(None)
        };
        let pods = pods_of(&both, &secure);
        assert_eq!(pods.len(), 1, "one pod with two addresses is one pod");
        assert_eq!(pods[0].url.as_str(), "https://[fd00::1]:80/m");
        assert!(pods_of(&[slice(&json!([]), &[json!({})])], &source(None)).is_empty());
    }
}
