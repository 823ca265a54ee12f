//! Queues, cards and placement.

use std::sync::Arc;

use super::{CompileError, error};
use crate::config::types::{self, Kind, ModelAffinity, ModelRule, Plan, Priority, Switch, Upstream};
use crate::config::{ServerUrl, WebhookUrl};
use crate::fleet::gpu::{GpuPlan, GpuSource};
use crate::fleet::placement::Placement;
use crate::fleet::snapshot::Member;
use crate::ollama::ModelPattern;
use crate::policy::gpu::reading::{CardChoice, uuid};
use crate::policy::gpu::source::{Field, Mapping};
use crate::policy::queue::Class;
use crate::policy::schedule::Settings;

/// `OLLAMA_MAX_LOADED_MODELS` of a server with one card.
pub(super) const MAX_LOADED: u32 = 3;

pub(super) const fn class(priority: Priority) -> Class {
    match priority {
        Priority::High => Class::High,
        Priority::Normal => Class::Normal,
        Priority::Low => Class::Low,
    }
}

pub(super) fn schedule(upstream: &Upstream) -> Settings {
    Settings {
        max_pending: upstream.queue.max_pending as usize,
        aging: upstream.queue.aging.0.as_secs_f64(),
        patience: upstream.queue.timeout.0.as_secs_f64() / 2.0,
        loads: upstream.kind == Kind::Ollama,
        only_loaded: upstream.balance.model_affinity == ModelAffinity::RequireLoaded,
        plan: upstream.balance.plan == Plan::Learned,
        ..Settings::default()
    }
}

/// The cards of a server; a key of the block and what is wrong with it otherwise.
pub(super) fn gpu(written: &types::Gpu) -> Result<GpuPlan, (String, String)> {
    let mapping = |metrics: &types::GpuMetrics| {
        let fields = metrics.fields.iter().map(|(name, metric)| {
            let field = name.parse::<Field>().map_err(|why| (format!("metrics.fields.{name}"), why.to_string()))?;
            Ok((field, metric.metric.clone(), metric.factor as f64))
        });
        let fields = fields.collect::<Result<Vec<_>, (String, String)>>()?;
        Ok::<_, (String, String)>(Mapping { card_label: metrics.card_label.clone(), fields })
    };
    let source = if written.nvml == Switch::On {
        Some(GpuSource::Nvml)
    } else if let Some(url) = &written.agent {
        let url = ServerUrl::parse(url).map_err(|why| ("agent".to_owned(), why))?;
        Some(GpuSource::Agent { url, token_file: written.token_file.clone() })
    } else if let Some(url) = &written.exporter {
        let mapping = written.metrics.as_ref().map(mapping).transpose()?;
        let url = WebhookUrl::parse(url).map_err(|why| ("exporter".to_owned(), why))?;
        Some(GpuSource::Exporter { url, mapping })
    } else {
        None
    };
    Ok(GpuPlan {
        source,
        cards: CardChoice {
            uuids: written.uuid.as_slice().iter().map(|text| uuid(text)).collect(),
            indices: written.index.as_slice().to_vec(),
        },
        interval: written.interval.0,
        margin: written.margin.0,
    })
}

pub(super) fn placements(
    name: &str,
    upstream: &Upstream,
    servers: &[Member],
) -> Result<Arc<[Placement]>, CompileError> {
    let rules = upstream.models.iter().enumerate().map(|(number, rule)| {
        let path = format!("upstreams.{name}.models[{number}]");
        placement(&path, rule, servers)
    });
    let warm = upstream.warm.iter().enumerate().map(|(number, written)| {
        let path = format!("upstreams.{name}.warm[{number}]");
        let (model, server) = written.rsplit_once('@').ok_or_else(|| error(&path, "write MODEL@SERVER"))?;
        Ok(Placement { warm: indexes(&path, &[server.to_owned()], servers)?, ..nothing(&path, model)? })
    });
    rules.chain(warm).collect::<Result<Vec<_>, CompileError>>().map(Into::into)
}

fn placement(path: &str, rule: &ModelRule, servers: &[Member]) -> Result<Placement, CompileError> {
    Ok(Placement {
        pinned: indexes(path, &rule.pin, servers)?,
        only: rule.only.as_ref().map(|only| indexes(path, only, servers)).transpose()?,
        never: indexes(path, &rule.never, servers)?,
        min_warm: rule.min_warm,
        max_warm: rule.max_warm,
        min_residency: rule.min_residency.map(|duration| duration.0.as_secs_f64()),
        idle_unload: rule.idle_unload.map(|duration| duration.0.as_secs_f64()),
        priority: rule.priority.map(class),
        ..nothing(path, &rule.matches)?
    })
}

/// A rule that says nothing yet about these models.
fn nothing(path: &str, models: &str) -> Result<Placement, CompileError> {
    Ok(Placement {
        models: ModelPattern::parse(models).ok_or_else(|| error(path, "not a model name"))?,
        pinned: Vec::new(),
        warm: Vec::new(),
        only: None,
        never: Vec::new(),
        min_warm: None,
        max_warm: None,
        min_residency: None,
        idle_unload: None,
        priority: None,
    })
}

fn indexes(path: &str, names: &[String], servers: &[Member]) -> Result<Vec<usize>, CompileError> {
    let find = |name: &String| {
        let index = servers.iter().position(|member| member.state.name() == name);
        index.ok_or_else(|| error(path, format!("no server `{name}` in this upstream")))
    };
    names.iter().map(find).collect()
}
