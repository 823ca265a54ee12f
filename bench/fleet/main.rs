//! The fleet bench: traces and scenes against a simulated fleet of GPU servers, through real sockets, with Arriero,
//! nginx or haproxy in front. `README.md` beside this file says what is measured and how to read it.

mod abort;
mod arriero_yaml;
mod capacity;
mod client;
mod fairness;
mod figures;
mod flap;
mod overload;
mod proxies;
mod random;
mod ready;
mod replay;
mod report;
mod setup;
mod simple;
mod simulate;
mod simulation;
mod trace;
mod virtual_fleet;
mod workload;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use arriero::demo::Plan;
use clap::Parser;

use replay::Replay;

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scene {
    /// A trace, for each policy and seed.
    Replay,
    /// Ten times what the servers can do, for two minutes.
    Overload,
    /// One client floods, another asks now and then; ten equal clients.
    Fairness,
    /// Clients that break off, ten thousand times.
    Abort,
    /// A server that comes and goes; then all servers busy.
    Flap,
    /// A trace in virtual time, without sockets: hundreds of seeds in a second.
    Simulate,
    /// Only the fleet, and a configuration for it on standard output.
    Serve,
}

/// Replays traffic against a simulated fleet of Ollama servers.
#[derive(Debug, Parser)]
#[command(name = "fleet")]
pub struct Options {
    /// What is played.
    #[arg(value_enum, default_value = "replay")]
    scene: Scene,
    /// Trace: lines of TIMESTAMP,ContextTokens,GeneratedTokens. Without it one is made up from the seed.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Load, as a share of what the best fixed placement of the models can do.
    #[arg(long, default_value_t = 0.7)]
    util: f64,
    /// Seeds: each is a run for every policy.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1")]
    seed: Vec<u64>,
    /// Requests of a run.
    #[arg(long, default_value_t = 300)]
    n: usize,
    /// How many times faster than real time the fleet is.
    #[arg(long, default_value_t = 20.0)]
    scale: f64,
    /// The servers, and where models are.
    #[arg(long, value_enum, default_value = "hetero")]
    fleet: setup::Kind,
    /// Models of the catalogue that are in use.
    #[arg(long, default_value_t = 8)]
    models: usize,
    /// Exponent of the models' popularity.
    #[arg(long, default_value_t = 0.9)]
    zipf: f64,
    /// Requests that a loaded model answers at once.
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// nginx_rr, nginx_lc, haproxy_lc, static (nginx before the best fixed placement, loaded beforehand), proxy
    /// (what runs at --proxy), or a `balance.policy` of Arriero.
    #[arg(long, value_name = "POLICY,POLICY", value_delimiter = ',')]
    policy: Vec<String>,
    /// Instances of Arriero before the fleet, which requests come to in turn; more than one are a cluster over a
    /// `redis-server` of the bench's own.
    #[arg(long, default_value_t = 1)]
    instances: usize,
    /// A proxy that runs already, for the policy `proxy`; needs --port.
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    proxy: Option<SocketAddr>,
    /// First port of the fleet; free ports by default.
    #[arg(long)]
    port: Option<u16>,
    /// Arriero's binary; by default the one that was built for this bench.
    #[arg(long, value_name = "PATH")]
    arriero: Option<PathBuf>,
    /// Wall seconds after which a client gives up.
    #[arg(long, default_value_t = 90.0)]
    timeout: f64,
    /// Aborts of the scene `abort`.
    #[arg(long, default_value_t = 10_000)]
    aborts: usize,
    /// Print JSON, one line a run, instead of tables.
    #[arg(long)]
    json: bool,
    /// What cargo adds when it runs a bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim_start_matches("http://").trim_end_matches('/');
    text.parse().map_err(|_| "write an address such as 127.0.0.1:8080".to_owned())
}

impl Options {
    /// Arriero's binary.
    fn arriero(&self) -> PathBuf {
        self.arriero.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_arriero")))
    }

    /// The policies of a replay: those asked for, else all that can run here.
    fn policies(&self) -> Vec<String> {
        if !self.policy.is_empty() {
            return self.policy.clone();
        }
        if self.proxy.is_some() {
            return vec!["proxy".to_owned()];
        }
        let there = |program: &str| {
            std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
        };
        let mut policies: Vec<&str> = Vec::new();
        policies.extend(["nginx_rr", "nginx_lc", "static"].iter().filter(|_| there("nginx")));
        policies.extend(["haproxy_lc"].iter().filter(|_| there("haproxy")));
        policies.extend(["round_robin", "least_requests", "expected_wait"].iter());
        policies.into_iter().map(|policy| (*policy).to_owned()).collect()
    }

    /// The policy of a scene in which Arriero stands in front.
    fn scene_policy(&self) -> &str {
        self.policy.first().map_or("expected_wait", String::as_str)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // The fleet and the clients; the proxy has its own process.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let played = match runtime {
        Ok(runtime) => runtime.block_on(play(&options)),
        Err(error) => Err(format!("cannot start: {error}")),
    };
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Plays a scene. False: a mark was missed.
async fn play(options: &Options) -> Result<bool, String> {
    match options.scene {
        Scene::Replay => replay(options).await,
        Scene::Overload => overload::play(options).await,
        Scene::Fairness => fairness::play(options).await,
        Scene::Abort => abort::play(options).await,
        Scene::Flap => flap::play(options).await,
        Scene::Simulate => simulation::play(options),
        Scene::Serve => serve(options).await,
    }
}

async fn replay(options: &Options) -> Result<bool, String> {
    let replay = Replay::new(options)?;
    let mut runs = Vec::new();
    for seed in &options.seed {
        for policy in options.policies() {
            let figures = replay.run(options, &policy, *seed).await.map_err(|error| format!("{policy}: {error}"))?;
            if options.json {
                println!("{}", serde_json::to_string(&figures).map_err(|error| error.to_string())?);
            } else {
                eprintln!("seed {seed}, {policy}: p99 {:.1} s, {} loads", figures.p99, figures.loads);
            }
            runs.push(figures);
        }
    }
    if !options.json {
        report::print(&runs);
    }
    Ok(true)
}

async fn serve(options: &Options) -> Result<bool, String> {
    let replay = Replay::new(options)?;
    let fleet = replay.start(options, &Plan::new(Vec::new()), false).await?;
    let behind = replay::behind(replay.setup(), &fleet, None);
    let mut wanted = arriero_yaml::Wanted::new(options.scene_policy(), options.scale);
    wanted.listen = SocketAddr::from(([127, 0, 0, 1], 8080));
    print!("{}", wanted.yaml(&behind));
    tokio::signal::ctrl_c().await.map_err(|error| error.to_string())?;
    Ok(true)
}
