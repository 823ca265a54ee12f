//! The token quotas.

use std::sync::Arc;

use super::{CompileError, error, limits};
use crate::config::types::{self, QuotaBeyond, QuotaTokens, QuotaWindow};
use crate::fleet::quotas::{Quota, RouteQuota};
use crate::ollama::ModelPattern;
use crate::policy::quota::{Counted, Window};
use crate::telemetry::metrics::Metrics;

pub(super) fn compile(quotas: &[types::Quota]) -> Result<Vec<Arc<Quota>>, CompileError> {
    let compiled = quotas.iter().enumerate().map(|(number, quota)| {
        let path = format!("quotas[{number}]");
        let models = quota.models.as_slice().iter().map(|pattern| {
            ModelPattern::parse(pattern).ok_or_else(|| error(format!("{path}.models"), "not a model name"))
        });
        let everything = quota.key.as_slice() == ["all"];
        Ok(Arc::new(Quota {
            name: quota.name.clone(),
            key: if everything { Vec::new() } else { limits::key(&path, &quota.key)?.0 },
            counted: match quota.tokens {
                QuotaTokens::Total => Counted::Total,
                QuotaTokens::Prompt => Counted::Prompt,
                QuotaTokens::Output => Counted::Output,
            },
            limit: quota.limit.map(|limit| limit.0),
            window: match quota.every {
                QuotaWindow::Minute => Window::Minute,
                QuotaWindow::Hour => Window::Hour,
                QuotaWindow::Day => Window::Day,
                QuotaWindow::Month => Window::Month,
            },
            warn_at: quota.warn_at.hundredths(),
            only_warns: quota.beyond == QuotaBeyond::Warn,
            models: models.collect::<Result<_, CompileError>>()?,
            routes: (!quota.routes.is_empty()).then(|| quota.routes.as_slice().to_vec()),
        }))
    });
    compiled.collect()
}

/// Those that hold for a route; its requests are counted only where servers with models answer.
pub(super) fn of_route(route: &str, has_models: bool, quotas: &[Arc<Quota>], metrics: &Metrics) -> Vec<RouteQuota> {
    let holds = |quota: &&Arc<Quota>| {
        has_models && quota.routes.as_ref().is_none_or(|routes| routes.iter().any(|name| name == route))
    };
    quotas
        .iter()
        .filter(holds)
        .map(|quota| RouteQuota {
            quota: Arc::clone(quota),
            refused: metrics.quotas.refused(route, &quota.name),
            charged: metrics.quotas.tokens(&quota.name),
            untold: metrics.quotas.untold(route),
        })
        .collect()
}
