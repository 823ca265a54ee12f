//! Fairness: one key floods a model with a thousand requests at once, another asks it every ten seconds, and a second
//! model on a server of its own is asked now and then. After that ten equal keys flood at once.
//!
//! Asked: the quiet key waits two services at most, the other model is as quick as without the flood, and of the ten
//! keys each gets its tenth (Jain's index over what each got while all were waiting).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arriero::clock;
use arriero::demo::{DemoModel, Fleet, HostConfig};
use arriero::policy::api_key;
use tokio::task::JoinSet;

use crate::arriero_yaml::Wanted;
use crate::client::{self, Answer};
use crate::figures::{jain, mark, percentile, short};
use crate::proxies::Proxy;
use crate::random::Random;
use crate::simple::{self, Simple};
use crate::{Options, ready};

/// Servers of the first model, one slot each; one more has the second.
const SERVERS: usize = 2;
/// Seconds of a request.
const SERVICE: f64 = 2.0;
/// Requests of the flood.
const FLOOD: usize = 1000;
/// Requests of the quiet key and to the other model: how many, and seconds between them.
const QUIET: (usize, f64) = (15, 10.0);
/// Equal keys, requests of each, and seconds for which they are watched.
const EQUAL: (usize, usize, f64) = (10, 40, 120.0);

/// The scene as it runs.
struct Stage {
    proxy: Proxy,
    keys: Vec<String>,
    scale: f64,
    timeout: Duration,
}

/// Plays it.
pub async fn play(options: &Options) -> Result<bool, String> {
    let scale = options.scale;
    let requests = 2 * QUIET.0 + FLOOD + QUIET.0 + EQUAL.0 * EQUAL.1;
    let plan = simple::plan(requests, 1);
    let service = Duration::from_secs_f64(SERVICE / scale);
    let simple = Simple { servers: SERVERS, parallel: 1, service, tokens: (1, Duration::ZERO), models: &["loud:1b"] };
    let mut fleet = simple.start(&plan).await?;
    let mut behind = simple.behind(&fleet);
    let mut aside = HostConfig::new("aside").tokens(1).model(DemoModel::new("calm:1b", 1_000_000_000));
    aside.prompt_delay = service;
    let aside = Fleet::start(vec![aside]).await.map_err(|error| error.to_string())?;
    let calm = Simple { models: &["calm:1b"], ..simple };
    behind.extend(calm.behind(&aside));
    fleet.hosts.extend(aside.hosts);

    let (file, keys) = keys(EQUAL.0)?;
    let mut wanted = Wanted::new(options.scene_policy(), scale);
    wanted.top = "auth: { keys_file: keys.yaml }\n".to_owned();
    let yaml = wanted.yaml(&behind).replace("match: { path: / }", "match: { path: / }, auth: optional");
    let proxy = Proxy::arriero(&options.arriero(), &yaml, &[("keys.yaml", file)])?;
    ready::wait(&proxy, 2).await?;
    let stage = Stage { proxy, keys, scale, timeout: Duration::from_secs_f64(options.timeout) };

    let alone = stage.now_and_then(1, "calm:1b", 0).await;
    let mut flood = stage.flood(0, FLOOD, 2 * QUIET.0);
    stage.admitted(FLOOD).await?;
    let (quiet, beside) =
        tokio::join!(stage.now_and_then(1, "loud:1b", QUIET.0), stage.now_and_then(2, "calm:1b", 2 * QUIET.0 + FLOOD));
    flood.shutdown().await;
    let shares = stage.equal(3 * QUIET.0 + FLOOD).await;

    let worst = |answers: &[Answer]| percentile(&stage.times(answers), 1.0);
    let (wait, alone_p99, beside_p99) = (worst(&quiet) - SERVICE, worst(&alone), worst(&beside));
    let failed = [&alone, &quiet, &beside].iter().flat_map(|answers| answers.iter()).filter(|one| !one.good()).count();
    println!("fairness, {}: a request takes {SERVICE} s", wanted.policy);
    let middle = percentile(&stage.times(&quiet), 0.5) - SERVICE;
    println!("  the quiet key waits {} s at most, half of the time less than {} s", short(wait), short(middle));
    println!("  the other model answers within {} s, without the flood {} s", short(beside_p99), short(alone_p99));
    println!("  ten equal keys got {shares:?} answers, Jain {}", short(jain(&shares)));
    let good = [
        mark("the quiet key waits at most two services", wait <= 2.0 * SERVICE),
        mark("the other model at most 1.2 times slower", beside_p99 <= 1.2 * alone_p99),
        mark("Jain's index of ten equal keys at least 0.9", jain(&shares) >= 0.9),
        mark(&format!("none of these failed ({failed})"), failed == 0),
    ];
    Ok(good.iter().all(|good| *good))
}

impl Stage {
    fn ask(&self, key: usize, model: &str, number: usize, due: Instant) -> impl Future<Output = Answer> + use<> {
        let headers = format!("Authorization: Bearer {}\r\nX-Model: {model}\r\n", self.keys[key]);
        let (address, timeout): (SocketAddr, Duration) = (self.proxy.address, self.timeout);
        client::ask(address, simple::chat(model, number, headers), due, timeout)
    }

    /// Returns once Arriero has so many requests, less those that it has answered meanwhile.
    async fn admitted(&self, count: usize) -> Result<(), String> {
        let admin = simple::admin(&self.proxy)?;
        for _ in 0..600 {
            let page = client::get(admin, "/metrics").await.unwrap_or_default();
            let there = ["arriero_requests_in_flight", "arriero_requests_total"]
                .iter()
                .map(|name| client::metric(&page, name, &[]).unwrap_or(0.0))
                .sum::<f64>();
            if there >= count as f64 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("the flood did not come in".to_owned())
    }

    /// One request after the other, each at its time.
    async fn now_and_then(&self, key: usize, model: &str, first: usize) -> Vec<Answer> {
        let began = clock::now();
        let mut running = JoinSet::new();
        for number in 0..QUIET.0 {
            let due = began + Duration::from_secs_f64(number as f64 * QUIET.1 / self.scale);
            running.spawn(self.ask(key, model, first + number, due));
        }
        running.join_all().await
    }

    /// Many requests of a key at once.
    fn flood(&self, key: usize, count: usize, first: usize) -> JoinSet<Answer> {
        let due = clock::now();
        let mut running = JoinSet::new();
        (0..count).for_each(|number| drop(running.spawn(self.ask(key, "loud:1b", first + number, due))));
        running
    }

    /// How many answers each of the equal keys got while all were waiting.
    async fn equal(&self, first: usize) -> Vec<f64> {
        let mut floods: Vec<JoinSet<Answer>> =
            (0..EQUAL.0).map(|key| self.flood(key, EQUAL.1, first + key * EQUAL.1)).collect();
        tokio::time::sleep(Duration::from_secs_f64(EQUAL.2 / self.scale)).await;
        let mut shares = Vec::new();
        for flood in &mut floods {
            let mut got = 0.0;
            while let Some(done) = flood.try_join_next() {
                got += f64::from(u8::from(done.is_ok_and(|answer| answer.good())));
            }
            shares.push(got);
            flood.shutdown().await;
        }
        shares
    }

    /// Seconds of the fleet until the first line.
    fn times(&self, answers: &[Answer]) -> Vec<f64> {
        answers.iter().filter_map(|answer| Some(answer.first? * self.scale)).collect()
    }
}

/// A keys file, and its keys.
fn keys(count: usize) -> Result<(String, Vec<String>), String> {
    let mut random = Random::new(26);
    let (mut file, mut keys) = ("keys:\n".to_owned(), Vec::new());
    for number in 0..count {
        let mut bytes = [0; api_key::RANDOM_BYTES];
        bytes.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
        let (id, key) = api_key::write(&bytes);
        let secret = key.rsplit('_').next().ok_or("a key has a secret")?;
        let hash = api_key::Digest::of(secret.as_bytes());
        file.push_str(&format!("  - {{ name: key-{number}, id: \"{id}\", hash: \"{hash}\" }}\n"));
        keys.push(key);
    }
    Ok((file, keys))
}
