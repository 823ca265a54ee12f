//! `arriero gpu-agent`: tells how the GPUs of this host are.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration as StdDuration;

use tokio::signal::unix::{SignalKind, signal};

use super::{FAILED, output};
use crate::agent::{self, Agent, Token};
use crate::nvml::Settings;
use crate::telemetry::logging;
use crate::telemetry::service_manager::ServiceManager;
use crate::units::Duration;

/// Shortest and longest time between two readings.
const INTERVAL: std::ops::RangeInclusive<StdDuration> = StdDuration::from_millis(100)..=StdDuration::from_secs(3600);

/// Where to serve and how to ask.
#[derive(clap::Args)]
pub struct Arguments {
    /// Address to listen on; one that other hosts reach needs a token.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9845")]
    listen: String,
    /// File with the token that callers need; else the variable `ARRIERO_GPU_AGENT_TOKEN`.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How often the driver is asked, from 100ms to 1h.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// NVIDIA's library, where it is not where the system looks for `libnvidia-ml.so.1`.
    #[arg(long, value_name = "FILE")]
    nvml_library: Option<PathBuf>,
    /// Ask once, print the answer as JSON, and end.
    #[arg(long, conflicts_with_all = ["listen", "token_file", "interval"])]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time: Duration = text.parse().map_err(|error: crate::units::UnitError| error.to_string())?;
    if INTERVAL.contains(&time.0) { Ok(time) } else { Err("it must be from 100ms to 1h".to_owned()) }
}

/// Serves until a signal ends it, or asks once.
pub fn run(arguments: Arguments) -> ExitCode {
    let settings = Settings { interval: arguments.interval.0, library: arguments.nvml_library };
    let done = if arguments.once {
        once(&settings)
    } else {
        Token::find(arguments.token_file.as_deref(), &|name| std::env::var(name).ok())
            .map_err(|error| error.to_string())
            .and_then(|token| serve(&arguments.listen, token, settings))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(FAILED)
        }
    }
}

fn once(settings: &Settings) -> Result<(), String> {
    let report = agent::once(settings).map_err(|absent| absent.to_string())?;
    let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    output::print(&format!("{text}\n")).map_err(|error| error.to_string())?;
    match report.unread {
        None => Ok(()),
        Some(_) => Err("NVIDIA's driver does not answer: `nvidia-smi` and `dmesg` may say why".to_owned()),
    }
}

fn serve(listen: &str, token: Option<Token>, settings: Settings) -> Result<(), String> {
    logging::start("info");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let agent = Agent::start(listen, token, settings).map_err(|error| error.to_string())?;
    let address = agent.address().map_err(|error| error.to_string())?;
    let manager = ServiceManager::new(&|name| std::env::var(name).ok());
    let served = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        eprintln!("listening on http://{address}");
        manager.ready();
        agent
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                manager.stopping();
            })
            .await
    });
    served.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_unit_and_limits() {
        assert_eq!(interval("100ms"), Ok(Duration(StdDuration::from_millis(100))));
        assert_eq!(interval("1h"), Ok(Duration(StdDuration::from_secs(3600))));
        for wrong in ["1", "0s", "99ms", "2h", "soon"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
