//! Overload: four servers with one slot each and two seconds a request get ten times what they can do, for two
//! minutes; then one request a second.
//!
//! Asked: the servers stay busy with work that is delivered (goodput), refusals come at once or when the queue's
//! time is over, nobody waits longer than that, and no server gets more than its slots. What the machine itself
//! takes is not the fleet's time, so waits may be 50 ms of the wall longer, refusals after the queue's time 500 ms.

use std::time::Duration;

use arriero::clock;
use tokio::task::JoinSet;

use crate::arriero_yaml::Wanted;
use crate::client::{self, Answer};
use crate::figures::{mark, percentile, short};
use crate::proxies::Proxy;
use crate::random::Random;
use crate::simple::{self, Simple};
use crate::{Options, ready};

/// Servers, and seconds of a request.
const SERVERS: usize = 4;
const SERVICE: f64 = 2.0;
/// Times the capacity, and for how many seconds.
const FACTOR: f64 = 10.0;
const LOAD: f64 = 120.0;
/// Seconds after that, and requests a second in them.
const AFTER: (f64, f64) = (40.0, 1.0);
/// The goodput is that of the load without its first seconds, in which queues fill.
const FILL: f64 = 10.0;
/// `queue.max_pending` and seconds of `queue.timeout`.
const QUEUE: (usize, f64) = (100, 30.0);
/// Seconds of the wall by which waits, and refusals after the queue's time, may be longer than that.
const SLACK: (f64, f64) = (0.05, 0.5);

/// Plays it.
pub async fn play(options: &Options) -> Result<bool, String> {
    let scale = options.scale;
    let capacity = SERVERS as f64 / SERVICE;
    let due = arrivals(options.seed.first().copied().unwrap_or(1), capacity);
    let plan = simple::plan(due.len(), 1);
    let service = Duration::from_secs_f64(SERVICE / scale);
    let simple = Simple { servers: SERVERS, parallel: 1, service, tokens: (1, Duration::ZERO), models: &["m:1b"] };
    let fleet = simple.start(&plan).await?;
    let mut wanted = Wanted::new(options.scene_policy(), scale);
    wanted.queue = QUEUE;
    let proxy = Proxy::arriero(&options.arriero(), &wanted.yaml(&simple.behind(&fleet)), &[])?;
    ready::wait(&proxy, 1).await?;

    let began = clock::now() + Duration::from_millis(300);
    let mut running = JoinSet::new();
    for (number, due) in due.iter().copied().enumerate() {
        let (address, timeout) = (proxy.address, Duration::from_secs_f64(options.timeout));
        let moment = began + Duration::from_secs_f64(due / scale);
        running.spawn(async move {
            (number, client::ask(address, simple::chat("m:1b", number, String::new()), moment, timeout).await)
        });
    }
    let mut answers = vec![Answer::default(); due.len()];
    while let Some(done) = running.join_next().await {
        let (number, answer) = done.expect("a client does not panic");
        answers[number] = answer;
    }

    let all = || due.iter().copied().zip(&answers);
    let ended = |due: f64, answer: &Answer| due + answer.end * scale;
    let served = all().filter(|(due, answer)| answer.good() && (FILL..LOAD).contains(&ended(*due, answer))).count();
    let goodput = served as f64 / (capacity * (LOAD - FILL));
    let refused: Vec<&Answer> = answers.iter().filter(|answer| matches!(answer.status, Some(429 | 503))).collect();
    let times = |late: bool| -> Vec<f64> {
        let of_queue = |answer: &&&Answer| (answer.end * scale > QUEUE.1 / 2.0) == late;
        refused.iter().filter(of_queue).map(|answer| answer.end * 1000.0).collect()
    };
    let (at_once, in_time) = (times(false), times(true));
    let told = refused.iter().filter(|answer| answer.retry_after).count();
    let other = answers.iter().filter(|answer| !answer.good() && !matches!(answer.status, Some(429 | 503))).count();
    let observed = plan.observed();
    let waits = due
        .iter()
        .zip(&observed)
        .filter_map(|(due, seen)| Some(seen.slot?.saturating_duration_since(began).as_secs_f64() * scale - due));
    let wait = percentile(&waits.collect::<Vec<_>>(), 0.99);
    let slow = |(due, answer): &(f64, &Answer)| *due >= LOAD && (!answer.good() || answer.end * scale > 2.0 * SERVICE);
    let recovery = all().filter(slow).map(|(due, _)| due - LOAD).fold(0.0, f64::max);
    let most = simple::most_in_flight(&fleet);
    let late = answers.iter().map(|answer| answer.sent * 1000.0).collect::<Vec<_>>();

    println!("overload, {}: {} requests, capacity {capacity} a second", wanted.policy, due.len());
    println!("  goodput {:.1} % of the capacity", goodput * 100.0);
    println!(
        "  refused {}: at once {} (p99 {} ms of the wall), after waiting {} (p99 {} s of the fleet)",
        refused.len(),
        at_once.len(),
        short(percentile(&at_once, 0.99)),
        in_time.len(),
        short(percentile(&in_time, 0.99) * scale / 1000.0),
    );
    println!("  p99 wait of those served {} s", short(wait));
    println!("  last request that was slow or failed: {} s after the load (of {})", short(recovery), AFTER.0);
    println!("  clients late by {} ms (p99)", short(percentile(&late, 0.99)));
    let good = [
        mark("goodput at least 95 % of the capacity", goodput >= 0.95),
        mark("refusals at once within 50 ms", at_once.is_empty() || percentile(&at_once, 0.99) <= 50.0),
        mark("others within the queue's time", in_time.iter().all(|ms| ms / 1000.0 <= QUEUE.1 / scale + SLACK.1)),
        mark("every refusal says when to come again", told == refused.len()),
        mark("p99 wait of those served at most 30 s", wait <= QUEUE.1 + SLACK.0 * scale),
        mark(&format!("never more on a server than its slot ({most})"), most <= 1),
        mark(&format!("nothing fails in another way ({other})"), other == 0),
    ];
    Ok(good.iter().all(|good| *good))
}

/// When requests are due, in seconds.
fn arrivals(seed: u64, capacity: f64) -> Vec<f64> {
    let mut random = Random::new(seed);
    let (mut due, mut at) = (Vec::new(), 0.0);
    while at < LOAD + AFTER.0 {
        due.push(at);
        at += random.exponential(1.0 / if at < LOAD { FACTOR * capacity } else { AFTER.1 });
    }
    due
}
