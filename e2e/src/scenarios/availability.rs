//! Stories of several replicas, and of an API server that is away, forgetful, crowded or slow: one writer at any time, no request lost,
//! and rollouts that go on.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use super::shop::{self, PATIENCE, Plan, Shop, flawless};
use crate::bed::audit::{AuditMark, Request};
use crate::bed::parts::Part;
use crate::bed::process::{Process, exit_code};
use crate::bed::weather::{Sky, Weather};
use crate::bed::{Bed, client_of};

/// How long the lease holds for those who wait.
const TERM: Duration = Duration::from_secs(6);
/// What a take-over may take beyond that.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// How long the API server is away.
const AWAY: Duration = Duration::from_mins(2);
/// By when silence is noticed: 130 s without a byte, and a busy machine.
const NOTICED: Duration = Duration::from_secs(150);

fn arguments() -> Vec<&'static str> {
    vec![
        "--enable-leader-election",
        "--leader-election-lease-duration",
        "6s",
        "--leader-election-renew-deadline",
        "4s",
        "--leader-election-retry-period",
        "1s",
    ]
}

/// The user agent's part that tells replicas apart: the bed names them `serin-1`, `serin-2`, ….
fn by(request: &Request, replica: &Process) -> bool {
    request
        .user_agent
        .contains(&format!("({})", replica.name()))
}

/// Whether a request changes something that a canary is about.
fn is_write(request: &Request) -> bool {
    ["create", "update", "patch", "delete"].contains(&request.verb.as_str())
        && request.resource != "leases"
}

async fn wait_leading(bed: &Bed, replica: &Process) -> Result<()> {
    wait_log(bed, replica, "holding the lease").await
}

async fn wait_log(bed: &Bed, replica: &Process, text: &str) -> Result<()> {
    bed.wait(
        &format!("{} to say {text:?}", replica.name()),
        PATIENCE,
        async || {
            Ok(std::fs::read_to_string(replica.log())?
                .contains(text)
                .then_some(()))
        },
    )
    .await
}

/// Between the last write of `old` and the first of `new`; an error if they were at work at the same time.
fn one_after_the_other(
    bed: &Bed,
    mark: AuditMark,
    old: &Process,
    new: &Process,
) -> Result<(Timestamp, Timestamp)> {
    let audit = bed.audit_since(mark)?;
    let writes = |replica: &Process| -> Vec<Timestamp> {
        audit
            .requests
            .iter()
            .filter(|request| is_write(request) && by(request, replica))
            .map(|request| request.at)
            .collect()
    };
    let (before, after) = (writes(old), writes(new));
    let last = before
        .into_iter()
        .max()
        .context("the first leader wrote nothing")?;
    let first = after
        .into_iter()
        .min()
        .context("the second leader wrote nothing")?;
    ensure!(
        last < first,
        "{} wrote at {last}, after {} had begun at {first}",
        old.name(),
        new.name()
    );
    Ok((last, first))
}

/// The leader is killed, the next one is asked to stop: the others go on where it was.
pub async fn leader_killed(bed: &Bed) -> Result<()> {
    let mark = bed.audit_mark()?;
    let first = shop::start_serin_with(bed, &arguments())?;
    wait_leading(bed, &first).await?;
    let second = shop::start_serin_with(bed, &arguments())?;
    wait_log(bed, &second, "waiting for the lease").await?;
    let shop = Shop::open(bed, "leader-killed", Plan::default()).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    let name = first.name().to_owned();
    let killed = Instant::now();
    let log = first.log().to_owned();
    first.kill9().await?;
    wait_leading(bed, &second).await?;
    let took = killed.elapsed();
    ensure!(
        took <= TERM + TAKE_OVER,
        "{name} was followed after {took:?}"
    );
    let third = shop::start_serin_with(bed, &arguments())?;
    wait_log(bed, &third, "waiting for the lease").await?;
    shop.wait_weight(40).await?;
    let asked = Instant::now();
    let second_name = second.name().to_owned();
    let status = second.stop().await?;
    ensure!(status.success(), "{second_name} ended with {status}");
    wait_leading(bed, &third).await?;
    let stopped = asked.elapsed();
    let handed = handed_over(bed, mark, &second_name, third.name())?;
    ensure!(
        handed <= Duration::from_secs(2),
        "a lease that was given back was taken {handed:?} later"
    );
    shop.wait_phase("Succeeded").await?;
    println!(
        "        killed: the next one leads after {took:.1?} (lease of {TERM:?}); asked to stop: after {stopped:.1?}, {handed:.1?} after it was given back"
    );
    let audit = bed.audit_since(mark)?;
    let order: Vec<String> = audit
        .requests
        .iter()
        .filter(|request| is_write(request) && request.user == "serin")
        .map(|request| request.user_agent.clone())
        .collect();
    let mut runs = order.clone();
    runs.dedup();
    ensure!(
        runs.len() == 3,
        "writers took turns: {runs:?}; see {}",
        log.display()
    );
    third.stop().await?;
    flawless(&shop.close().await?)
}

/// From the last write to the lease of one replica to the first of another.
fn handed_over(bed: &Bed, mark: AuditMark, old: &str, new: &str) -> Result<Duration> {
    let audit = bed.audit_since(mark)?;
    let of = |name: &str| {
        let name = format!("({name})");
        audit
            .requests
            .iter()
            .filter(move |request| {
                request.resource == "leases"
                    && request.verb == "update"
                    && request.code == 200
                    && request.user_agent.contains(&name)
            })
            .map(|request| request.at)
            .collect::<Vec<_>>()
    };
    let last = of(old).into_iter().max().context("no write of the lease")?;
    let first = of(new).into_iter().min().context("no write of the lease")?;
    Ok(Duration::try_from(first.duration_since(last)).unwrap_or_default())
}

/// The leader is stopped (SIGSTOP) for longer than its lease, and wakes up when another one leads: it ends without a write.
pub async fn leader_frozen(bed: &Bed) -> Result<()> {
    let mark = bed.audit_mark()?;
    let mut first = shop::start_serin_with(bed, &arguments())?;
    wait_leading(bed, &first).await?;
    let second = shop::start_serin_with(bed, &arguments())?;
    wait_log(bed, &second, "waiting for the lease").await?;
    let shop = Shop::open(bed, "leader-frozen", Plan::default()).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    let frozen = Instant::now();
    first.freeze()?;
    wait_leading(bed, &second).await?;
    let took = frozen.elapsed();
    ensure!(took <= TERM + TAKE_OVER, "it was followed after {took:?}");
    shop.wait_weight(40).await?;
    first.resume()?;
    let status = first.wait().await?;
    ensure!(
        exit_code(status) == 1,
        "a leader that lost its lease ends with 1, not {status}"
    );
    shop.wait_phase("Succeeded").await?;
    let (last, begin) = one_after_the_other(bed, mark, &first, &second)?;
    println!(
        "        frozen: the next one leads after {took:.1?}; last write of the first {last}, first of the second {begin}"
    );
    second.stop().await?;
    flawless(&shop.close().await?)
}

/// The leader can't reach the API server for longer than its lease.
pub async fn leader_cut(bed: &Bed) -> Result<()> {
    let weather = Weather::start(client_of(bed.state(), "serin").await?).await?;
    let mark = bed.audit_mark()?;
    let url = weather.url();
    let mut with_weather = arguments();
    with_weather.extend(["--master", &url]);
    let mut first = shop::start_serin_with(bed, &with_weather)?;
    wait_leading(bed, &first).await?;
    let second = shop::start_serin_with(bed, &arguments())?;
    wait_log(bed, &second, "waiting for the lease").await?;
    let shop = Shop::open(bed, "leader-cut", Plan::default()).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    let cut = Instant::now();
    weather.set(Sky::Silent);
    let status = first.wait().await?;
    let ended = cut.elapsed();
    ensure!(
        exit_code(status) == 1,
        "a leader that lost its lease ends with 1, not {status}"
    );
    ensure!(
        ended < TERM,
        "it noticed after {ended:?}, when another one may have begun"
    );
    wait_leading(bed, &second).await?;
    let took = cut.elapsed();
    ensure!(took <= TERM + TAKE_OVER, "it was followed after {took:?}");
    // Whatever was on its way arrives now.
    weather.set(Sky::Clear);
    shop.wait_phase("Succeeded").await?;
    let (last, begin) = one_after_the_other(bed, mark, &first, &second)?;
    println!(
        "        cut off: ended itself after {ended:.1?}, the next one leads after {took:.1?}; last write of the first {last}, first of the second {begin}"
    );
    second.stop().await?;
    flawless(&shop.close().await?)
}

/// What is open falls silent in mid-run and nobody is told: watches are given up after two missed bookmarks, and what changed is seen.
pub async fn silent_watches(bed: &Bed) -> Result<()> {
    let weather = Weather::start(client_of(bed.state(), "serin").await?).await?;
    let url = weather.url();
    let mut serin = shop::start_serin_with(bed, &["--master", &url])?;
    let shop = Shop::open(bed, "silent-watches", Plan::default()).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    weather.hush_watches();
    let silent = Instant::now();
    // Nobody tells the controller of it.
    shop.release("1.2.0").await?;
    let log = "the watch failed and is started again";
    bed.wait("the silence to be noticed", NOTICED, async || {
        serin.expect_running()?;
        Ok(std::fs::read_to_string(serin.log())?
            .contains(log)
            .then_some(()))
    })
    .await?;
    let took = silent.elapsed();
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.2.0").await?;
    println!("        the watches were silent for {took:.1?} before that was noticed");
    serin.stop().await?;
    flawless(&shop.close().await?)
}

/// The API server is crowded, slow, forgetful, away for minutes, and restarted with an empty watch cache, each during a rollout.
pub async fn api_server_trouble(bed: &Bed) -> Result<()> {
    let weather = Weather::start(client_of(bed.state(), "serin").await?).await?;
    let url = weather.url();
    let mut serin = shop::start_serin_with(bed, &["--master", &url])?;
    let shop = Shop::open(bed, "api-trouble", Plan::default()).await?;
    let skies = [
        ("1.1.0", Sky::Crowded),
        ("1.1.1", Sky::Slow(Duration::from_secs(1))),
        ("1.1.2", Sky::Forgetful),
    ];
    for (version, sky) in skies {
        weather.set(sky);
        shop.release(version).await?;
        shop.wait_weight(20).await?;
        shop.wait_phase("Succeeded").await?;
        weather.set(Sky::Clear);
        shop.note(format!("{version} was promoted under {sky:?}"));
    }
    // Away in the middle of a rollout: nothing moves, readiness tells, and it goes on by itself.
    shop.release("1.1.3").await?;
    shop.wait_weight(20).await?;
    weather.set(Sky::Broken);
    wait_readiness(bed, &serin, 503).await?;
    let away = Instant::now();
    while away.elapsed() < AWAY {
        ensure!(
            shop.route().await?.1 <= 20,
            "the weights moved while the API server was away"
        );
        serin.expect_running()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    weather.set(Sky::Clear);
    wait_readiness(bed, &serin, 200).await?;
    shop.wait_phase("Succeeded").await?;
    // The real one is ended and comes back with an empty watch cache.
    shop.release("1.1.4").await?;
    shop.wait_weight(20).await?;
    bed.kill_part(Part::ApiServer).await?;
    wait_readiness(bed, &serin, 503).await?;
    bed.start_part(Part::ApiServer).await?;
    wait_readiness(bed, &serin, 200).await?;
    shop.wait_phase("Succeeded").await?;
    serin.stop().await?;
    flawless(&shop.close().await?)
}

async fn wait_readiness(bed: &Bed, serin: &Process, wanted: u16) -> Result<()> {
    let port = std::fs::read_to_string(serin.log())?
        .lines()
        .find_map(|line| {
            let listen = line.split("\"listen\":\"").nth(1)?.split('"').next()?;
            listen.rsplit(':').next().map(str::to_owned)
        })
        .context("the controller's log does not say where it listens")?;
    let url = format!("http://127.0.0.1:{port}/readyz");
    bed.wait(
        &format!("/readyz of the controller to answer {wanted}"),
        PATIENCE,
        async || {
            let answer = reqwest::get(&url).await?;
            Ok((answer.status().as_u16() == wanted).then_some(()))
        },
    )
    .await
}
