//! Who may do what on the admin listener.
//!
//! # Rule
//! Each call needs a [`Scope`]; each caller has one. A caller without a token has what is left to such callers: everything where
//! there is no token at all, which is refused off loopback; else looking, or health and metrics only.
//!
//! A call that is not known to need less needs [`Scope::Admin`], so that a new call is never open by oversight.

/// What may be done; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Health and metrics.
    Health,
    /// Look.
    Read,
    /// Act on what runs.
    Operate,
    /// Change the configuration, and what is on disks.
    Admin,
}

impl Scope {
    /// The word for logs, answers and the audit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// Where the calls are that operators make.
const PREFIX: &str = "/api/orchestrator/";
/// What is open to everybody who may see health. The dashboard's page is, because a browser shows no token when it opens one; it
/// holds no data.
const HEALTH: [&str; 8] = [
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/api/orchestrator/metrics",
    "/api/multihost/health/simple",
    "/api/multihost/health/ping",
];
/// Where the calls about the cluster are. What they change is no more than what the instances do by themselves.
const CLUSTER: &str = "/api/multihost/";
/// First parts of the paths below the prefix of calls that act on what runs, whatever their method.
const OPERATE: [&str; 9] = [
    "bans",
    "caches",
    "circuit-breakers",
    "jobs",
    "notifications",
    "queue",
    "quotas",
    "recovery-actions",
    "recovery-failures",
];
/// Last parts of the paths of such calls about servers and models.
const OPERATE_VERBS: [&str; 9] =
    ["drain", "undrain", "maintenance", "recovery-test", "warmup", "unload", "cancel", "reload", "health-check"];

/// What a call needs.
#[must_use]
pub fn needed(is_read: bool, path: &str) -> Scope {
    if is_read {
        return if HEALTH.contains(&path) { Scope::Health } else { Scope::Read };
    }
    if path.starts_with(CLUSTER) {
        return Scope::Operate;
    }
    let Some(path) = path.strip_prefix(PREFIX) else { return Scope::Admin };
    let mut parts = path.trim_end_matches('/').split('/');
    let first = parts.next().unwrap_or_default();
    let last = parts.next_back().unwrap_or_default();
    if OPERATE.contains(&first) || OPERATE_VERBS.contains(&last) { Scope::Operate } else { Scope::Admin }
}

/// What a caller without a token may do.
#[must_use]
pub fn without_token(has_tokens: bool, is_local: bool, wanted: Option<Scope>) -> Scope {
    match (has_tokens, is_local) {
        (false, true) => Scope::Admin,
        // Such a configuration is refused; a name that resolves to another address later is not seen there.
        (false, false) => Scope::Health,
        (true, true) => wanted.unwrap_or(Scope::Read),
        (true, false) => wanted.unwrap_or(Scope::Health),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_need_what_they_do() {
        for (is_read, path, scope) in [
            (true, "/health", Scope::Health),
            (true, "/metrics", Scope::Health),
            (true, "/", Scope::Health),
            (true, "/api/orchestrator/config", Scope::Read),
            (false, "/api/orchestrator/servers/a/drain", Scope::Operate),
            (false, "/api/orchestrator/servers/fleet%2Fa/maintenance", Scope::Operate),
            (false, "/api/orchestrator/bans", Scope::Operate),
            (false, "/api/orchestrator/bans/model/m", Scope::Operate),
            (false, "/api/orchestrator/circuit-breakers/a/m/open", Scope::Operate),
            (false, "/api/orchestrator/queue/pause", Scope::Operate),
            (false, "/api/orchestrator/caches/purge", Scope::Operate),
            (false, "/api/orchestrator/quotas/reset", Scope::Operate),
            (false, "/api/orchestrator/models/m/warmup", Scope::Operate),
            (false, "/api/orchestrator/config/reload", Scope::Operate),
            (false, "/api/orchestrator/config/queue", Scope::Admin),
            (false, "/api/orchestrator/config", Scope::Admin),
            (false, "/api/orchestrator/servers/add", Scope::Admin),
            (false, "/api/orchestrator/servers/a", Scope::Admin),
            (false, "/api/orchestrator/servers/a/models/pull", Scope::Admin),
            (false, "/api/orchestrator/upgrade", Scope::Admin),
            (false, "/api/orchestrator/whatever", Scope::Admin),
            (true, "/api/multihost/health/simple", Scope::Health),
            (true, "/api/multihost/health", Scope::Read),
            (false, "/api/multihost/monitoring/recovery", Scope::Operate),
            (false, "/elsewhere/drain", Scope::Admin),
        ] {
            assert_eq!(needed(is_read, path), scope, "{path}");
        }
    }

    #[test]
    fn without_a_token_nobody_changes_anything_from_outside() {
        assert_eq!(without_token(false, false, Some(Scope::Read)), Scope::Health);
        assert_eq!(without_token(true, false, None), Scope::Health);
        assert_eq!(without_token(true, false, Some(Scope::Read)), Scope::Read);
        assert_eq!(without_token(true, true, None), Scope::Read);
        assert_eq!(without_token(false, true, None), Scope::Admin);
    }
}
