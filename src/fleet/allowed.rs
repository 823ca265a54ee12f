//! What a route allows a request for a model: where the route's settings meet what was read of the request.

use super::keys::Key as ApiKey;
use super::snapshot::Route;
use crate::config::types::Kind;
use crate::ollama::endpoint::Endpoint;
use crate::ollama::name;
use crate::ollama::scan::{Key, ModelScan, Setting};
use crate::policy::caps::{Asked, Capped, Caps};

impl Route {
    /// Whether a call may be passed on as far as `management` is concerned. A key's scope may still forbid it.
    #[must_use]
    pub fn allows_endpoint(&self, endpoint: &Endpoint<'_>) -> bool {
        self.management || !self.is_ollama() || !matches!(endpoint, Endpoint::Management(_))
    }

    /// Whether a model may be asked for as far as `cloud_models` is concerned. A model that a server of the fleet has
    /// on disk under the name of its host (`hf.co/ns/m`) runs there: `held` says that, from the inventory.
    #[must_use]
    pub fn allows_model(&self, model: &str, held: bool) -> bool {
        self.cloud || !self.is_ollama() || !leaves(model, held)
    }

    fn is_ollama(&self) -> bool {
        self.upstream().is_some_and(|upstream| upstream.kind == Kind::Ollama)
    }
}

fn leaves(model: &str, held: bool) -> bool {
    let is_local = || held && name::names_host(model) && !name::has_cloud_tag(&name::canonical(model));
    name::is_cloud(model) && !is_local()
}

/// What a scan has read so far, against the models that an API key is for: to be asked after each piece of a body, before
/// it is sent on. The model that a request is decided by is not among these; whoever knows it asks the key itself.
///
/// Under another name a model would be out of the key's reach no longer, so the name that a copy gets must be one of the
/// key's too, and so must the one that a new model is made from.
///
/// # Errors
/// A sentence for the client, to be answered 403.
pub fn check_names(key: &ApiKey, scan: &ModelScan) -> Result<(), String> {
    if !key.is_limited() {
        return Ok(());
    }
    let may = |written: &str| name::parse_canonical(written).is_some_and(|canonical| key.allows_model(&canonical));
    if let Some(other) = scan.others().find(|other| !may(other)) {
        return Err(format!("this key may not use the model '{other}'"));
    }
    if scan.has_modelfile() {
        return Err("this key is for some models only, and a `modelfile` may name any: use `from`".to_owned());
    }
    Ok(())
}

/// What a scan has read so far, against models that run elsewhere: a new model must not be made from one, or it would be
/// asked for by a name that does not tell. To be asked like [`check_names`].
///
/// # Errors
/// A sentence for the client, to be answered 403.
pub fn check_places(scan: &ModelScan) -> Result<(), String> {
    match scan.others().find(|other| name::has_cloud_tag(&name::canonical(other))) {
        Some(other) => Err(format!("models that run elsewhere are not allowed here: '{other}'")),
        None => Ok(()),
    }
}

/// What a scan has read so far, against caps: to be asked after each piece of a body, before it is sent on.
///
/// # Errors
/// A sentence for the client, to be answered 400.
pub fn check_caps(caps: &Caps, scan: &ModelScan) -> Result<(), String> {
    if caps.is_empty() {
        return Ok(());
    }
    for (key, setting) in scan.settings() {
        let capped = match key {
            Key::KeepAlive => Capped::KeepAlive,
            Key::NumCtx => Capped::NumCtx,
            Key::NumPredict | Key::MaxTokens | Key::MaxCompletionTokens | Key::MaxOutputTokens => Capped::NumPredict,
            Key::NumGpu => Capped::NumGpu,
            Key::Model
            | Key::Name
            | Key::Source
            | Key::Destination
            | Key::From
            | Key::Modelfile
            | Key::Stream
            | Key::Options => continue,
        };
        let asked = match setting {
            Setting::Number(number) => Asked::Number(*number),
            Setting::Text(text) => Asked::Text(text),
            Setting::Other => Asked::Other,
        };
        caps.check(capped, key.as_str(), asked)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ollama::scan::Want;

    const CAPS: Caps = Caps {
        keep_alive: Some(Duration::from_secs(3600)),
        num_ctx: Some(32_768),
        num_predict: Some(4096),
        num_gpu: Some(99),
    };

    /// The refusal, and after how many bytes it came.
    fn refused(caps: &Caps, body: &str) -> Option<(String, usize)> {
        let mut scan = ModelScan::new(Want::ModelOnly);
        body.as_bytes().iter().enumerate().find_map(|(at, byte)| {
            scan.push(std::slice::from_ref(byte));
            check_caps(caps, &scan).err().map(|why| (why, at + 1))
        })
    }

    #[test]
    fn what_asks_for_too_much_is_refused_before_its_last_byte() {
        for (body, why) in [
            (r#"{"model":"m","keep_alive":-1 }"#, "`keep_alive` is negative"),
            (r#"{"model":"m","keep_alive":"24h"}"#, "`keep_alive` is 1d"),
            ("{\"model\":\"m\",\"\u{212a}eep_alive\":-1 }", "`keep_alive` is negative"),
            (r#"{"model":"m","options":{"num_ctx":10000000}}"#, "`num_ctx` is 10000000"),
            (r#"{"model":"m","options":{"num_gpu":0}}"#, "`num_gpu` is 0"),
            (r#"{"model":"m","options":{"num_predict":-1}}"#, "`num_predict` is -1"),
            (r#"{"model":"m","max_tokens":1e9,"stream":true}"#, "`max_tokens` is 1000000000"),
            (r#"{"model":"m","max_completion_tokens":4097,"stream":true}"#, "`max_completion_tokens` is 4097"),
            (r#"{"model":"m","max_output_tokens":-1,"stream":true}"#, "`max_output_tokens` is -1"),
            (r#"{"model":"m","options":{"num_ctx":true}}"#, "`num_ctx` is not a number"),
        ] {
            let (said, at) = refused(&CAPS, body).expect(body);
            assert!(said.starts_with(why) && at < body.len(), "{said} at {at}: {body}");
            assert_eq!(refused(&Caps::default(), body), None, "{body}");
        }
    }

    #[test]
    fn what_asks_for_no_more_than_allowed_passes() {
        for body in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","keep_alive":"1h","options":{"num_ctx":32768,"num_predict":4096,"num_gpu":-1}}"#,
            r#"{"model":"m","keep_alive":null,"options":null,"max_tokens":1}"#,
            r#"{"model":"m","a":{"keep_alive":-1,"options":{"num_ctx":1e9}},"num_ctx":1e9}"#,
        ] {
            assert_eq!(refused(&CAPS, body), None, "{body}");
        }
    }

    #[test]
    fn a_model_on_disk_stays_though_it_has_the_name_of_a_host() {
        for (model, held, away) in [
            ("m", false, false),
            ("m:cloud", true, true),
            ("m:120b-cloud", true, true),
            ("hf.co/ns/m", false, true),
            ("hf.co/ns/m", true, false),
            ("hf.co/ns/m:cloud", true, true),
            ("http://169.254.169.254/x/y", false, true),
        ] {
            assert_eq!(leaves(model, held), away, "{model} {held}");
        }
    }
}
