//! What an operator's order may not do by mistake: take away a model that is used, or reach what is not the operator's.

use std::sync::Arc;

use crate::fleet::server::ServerState;
use crate::fleet::snapshot::Upstream;
use crate::ollama::name;

/// Why a model must stay as it is on a server, unless that is forced: requests run or wait for it, or a rule keeps it
/// there.
#[must_use]
pub fn in_use(upstream: &Upstream, server: &ServerState, model: &str) -> Option<&'static str> {
    if server.requests.requests().iter().any(|one| one.model.as_deref() == Some(model)) {
        return Some("requests for the model run there");
    }
    if upstream.queues().get(model).is_some_and(|waiting| *waiting > 0) {
        return Some("requests wait for the model");
    }
    kept(upstream, server, model)
}

/// Whether a rule of the configuration keeps a model on a server, in words.
#[must_use]
pub fn kept(upstream: &Upstream, server: &ServerState, model: &str) -> Option<&'static str> {
    let index = upstream.servers.iter().position(|member| std::ptr::eq(Arc::as_ptr(&member.state), server))?;
    let mut rules = upstream.placements.iter().filter(|rule| rule.models.matches(model));
    rules.find_map(|rule| {
        if rule.pinned.contains(&index) {
            Some("the model is pinned there")
        } else if rule.warm.contains(&index) {
            Some("the model stands in `warm` for that server")
        } else {
            rule.min_warm.is_some_and(|least| least > 0).then_some("`min_warm` keeps the model in memory")
        }
    })
}

/// Why a name may not be given to a server that would fetch it from somewhere, or store it for others to ask for.
/// `remote` allows models that run elsewhere and registries that are not Ollama's own.
#[must_use]
pub fn refuses_name(written: &str, remote: bool) -> Option<&'static str> {
    let Some(canonical) = name::parse_canonical(written) else { return Some("this is no name of a model") };
    if written.contains("://") || canonical.contains("://") {
        // The server would be asked to connect without TLS.
        return Some("a name with a scheme is not taken");
    }
    if remote {
        return None;
    }
    if name::has_cloud_tag(&canonical) {
        return Some("the model runs elsewhere; `allowRemote` takes it all the same");
    }
    name::names_host(written).then_some(
        "the name holds the host of a registry that is not Ollama's own; `allowRemote` takes it all the same",
    )
}

/// Whether a model of a server runs elsewhere: its name says so, or the server does.
#[must_use]
pub fn runs_elsewhere(server: &ServerState, model: &str) -> bool {
    name::has_cloud_tag(model)
        || server
            .inventory()
            .available
            .iter()
            .flatten()
            .any(|row| row.name.as_str() == model && row.remote_host.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_reach_elsewhere_need_a_word() {
        for (written, remote, refused) in [
            ("llama3.2", false, false),
            ("library/llama3.2:3b", false, false),
            ("registry.ollama.ai/library/llama3.2", false, false),
            ("me/mine:7b", false, false),
            ("gpt-oss:120b-cloud", false, true),
            ("gpt-oss:120b:cloud", false, true),
            ("gpt-oss:120b-cloud", true, false),
            ("hf.co/ns/model-GGUF:Q4_K_M", false, true),
            ("hf.co/ns/model-GGUF:Q4_K_M", true, false),
            ("http://10.0.0.1/ns/m", true, true),
            ("https://ollama.com/library/m", true, true),
            ("", true, true),
            (":7b", true, true),
            ("m\nn", true, true),
        ] {
            assert_eq!(refuses_name(written, remote).is_some(), refused, "{written:?} {remote}");
        }
    }
}
