//! What keeping a request costs: the request itself, and the thread that writes.
//!
//! `cargo bench --bench history`. The facts are as long as those of a usual request. Handing over is timed while the writer has
//! room; what a request costs the writer is its processor time for very many, sums and the rows of its budget included.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arriero::clock;
use arriero::history::History;
use arriero::history::settings::Settings;
use arriero::telemetry::access_log::{Entry, field};
use arriero::telemetry::metrics::Metrics;
use criterion::{Criterion, criterion_group, criterion_main};

/// Requests that are handed over at a time, fewer than the queue takes.
const BATCH: u64 = 4000;

criterion_group!(benches, handing_over, writing);
criterion_main!(benches);

/// As the end of a request makes it.
fn entry(number: u64) -> Entry {
    Entry {
        ts: clock::unix_time().as_secs_f64(),
        request_id: field(b"0190a6f5c7d27b1e8f4b9d3c2a1e5f60"),
        client_ip: field(b"192.0.2.123"),
        key: "a11ce0a0".to_owned(),
        method: field(b"POST"),
        host: field(b"ollama.example.com"),
        path: field(b"/api/chat"),
        protocol: "HTTP/1.1",
        status: 200,
        reason: "ok",
        duration_ms: 1234.5,
        ttfb_ms: Some(250.0),
        bytes_in: 2345,
        bytes_out: 6789,
        route: "ollama".to_owned(),
        upstream: "fleet".to_owned(),
        server: ["a100-1", "a100-2", "t4-1"][usize::try_from(number % 3).unwrap_or(0)].to_owned(),
        model: field(b"llama3.1:8b"),
        attempts: 1,
        prompt_tokens: Some(512),
        output_tokens: Some(256),
        user_agent: field(b"ollama/0.33.1 (amd64 linux) Go/go1.24.1"),
        ..Entry::default()
    }
}

fn store() -> (tempfile::TempDir, History, Arc<Metrics>) {
    let (folder, metrics) = (tempfile::tempdir().expect("a folder"), Arc::new(Metrics::default()));
    let history = History::open(Some(folder.path()), Settings::default(), Arc::clone(&metrics)).expect("a store");
    (folder, history, metrics)
}

fn handing_over(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a request");
    group.bench_function("its facts", |bencher| bencher.iter(|| black_box(entry(1))));
    let (_folder, history, metrics) = store();
    group.sample_size(10);
    group.bench_function("handed over", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds.div_ceil(BATCH) {
                let entries: Vec<Arc<Entry>> = (0..BATCH).map(|number| Arc::new(entry(number))).collect();
                let began = clock::now();
                entries.into_iter().for_each(|entry| history.request(entry));
                took += clock::now() - began;
                // The queue is to have room: that is what is timed.
                std::thread::sleep(Duration::from_millis(100));
            }
            took.mul_f64(rounds as f64 / (rounds.div_ceil(BATCH) * BATCH) as f64)
        });
    });
    assert_eq!(metrics.history.busy.get(), 0, "the queue was full");
}

fn writing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("the writer");
    group.sample_size(10);
    for (name, pause) in [("a request of very many", 0), ("a request of a few hundred a second", 400)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let (_folder, history, _) = store();
                let entries: Vec<Arc<Entry>> = (0..rounds.min(8000)).map(|number| Arc::new(entry(number))).collect();
                let count = entries.len();
                let before = clock::process_time();
                for (number, entry) in entries.into_iter().enumerate() {
                    history.request(entry);
                    if pause > 0 && number % pause == pause - 1 {
                        std::thread::sleep(Duration::from_millis(600));
                    }
                }
                history.close(Duration::from_secs(60));
                (clock::process_time() - before).mul_f64(rounds as f64 / count as f64)
            });
        });
    }
}
