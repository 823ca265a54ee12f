//! Arriero's configuration for a run.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::proxies::Behind;

/// What differs between runs.
pub struct Wanted<'a> {
    /// `balance.policy`.
    pub policy: &'a str,
    /// Time of the fleet by time of the wall: intervals are shortened by it.
    pub scale: f64,
    /// `queue.max_pending` and `queue.timeout` in seconds of the fleet.
    pub queue: (usize, f64),
    /// Further lines of the upstream, each indented by four.
    pub upstream: String,
    /// Further lines at the top level.
    pub top: String,
    /// Where to listen.
    pub listen: SocketAddr,
}

impl<'a> Wanted<'a> {
    /// A free port, a queue that refuses nobody, nothing else.
    pub fn new(policy: &'a str, scale: f64) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { policy, scale, queue: (10_000, 12_000.0), upstream: String::new(), top: String::new(), listen }
    }

    /// Only this policy lets requests wait for a slot; with the others a limit would refuse them, so the queue is
    /// the servers' own.
    pub fn queues(&self) -> bool {
        self.policy == "expected_wait"
    }

    /// The file. Ollama's state is asked for every two seconds of the fleet. All clients have one address, so what an
    /// address may have is not limited.
    pub fn yaml(&self, servers: &[Behind]) -> String {
        let milliseconds = |seconds: f64| ((seconds * 1000.0 / self.scale).round() as u64).max(1);
        let mut text = format!(
            "version: 1\nlisteners: [{{ address: \"{}\", limits: {{ connections_per_ip: 0 }} }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\n\
             server: {{ threads: 1 }}\ntelemetry: {{ access_log: off, log_level: error }}\n{}\
             routes: [{{ name: all, match: {{ path: / }}, upstream: fleet }}]\nupstreams:\n  fleet:\n    \
             kind: ollama\n    inventory: {{ interval: {}ms }}\n    balance: {{ policy: {} }}\n{}",
            self.listen,
            self.top,
            milliseconds(2.0),
            self.policy,
            self.upstream,
        );
        if self.queues() {
            let (pending, timeout) = (self.queue.0, milliseconds(self.queue.1));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    queue: {{ max_pending: {pending}, timeout: {timeout}ms }}");
        }
        text.push_str("    servers:\n");
        for server in servers {
            let _ = write!(text, "      - {{ name: {}, url: \"http://{}\"", server.name, server.address);
            if self.queues() {
                let _ = write!(text, ", max_in_flight: {}, gpu: {{ memory: {}GiB }}", server.slots, server.memory);
            }
            text.push_str(" }\n");
        }
        text
    }
}
