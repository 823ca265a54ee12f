//! Rules about the entries of a keys file.

use std::collections::HashSet;

use super::Rules;
use crate::config::codes;
use crate::config::keys::KeysFile;
use crate::config::tree::Path;
use crate::ollama::ModelPattern;
use crate::policy::api_key;

pub(super) fn check(file: &KeysFile, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("keys");
    let mut ids = HashSet::new();
    for (index, key) in file.keys.iter().enumerate() {
        let path = root.index(index);
        rules.name(&path.key("name"), &key.name, "a key", false);
        let id = path.key("id");
        if !api_key::is_id(&key.id) {
            let shown = rules.shown(&id, &key.id);
            let hint = format!("an id is {} hexadecimal digits in small letters", api_key::ID_DIGITS);
            rules.value(codes::KEY, &id, format!("{shown} is not the id of a key"), hint);
        } else if !ids.insert(&key.id) {
            let message = format!("another key already has the id `{}`", key.id);
            rules.value(codes::NAME_TWICE, &id, message, "keep one of the two");
        }
        let scopes = path.key("scopes");
        if key.scopes.is_empty() {
            rules.key(codes::EMPTY_LIST, &scopes, "the key may do nothing", "leave `scopes` out for `inference`");
        }
        let quotas = path.key("quotas");
        for (name, amount) in &key.quotas {
            let path = quotas.key(name);
            rules.name(&path, name, "a quota", true);
            if amount.0 == 0 {
                let hint = "revoke the key instead: `arriero key revoke`";
                rules.value(codes::ZERO, &path, "a limit of zero tokens would refuse every request", hint);
            }
        }
        let models = path.key("models");
        for (index, model) in key.models.iter().enumerate() {
            if ModelPattern::parse(model).is_none() {
                let path = models.index(index);
                let shown = rules.shown(&path, model);
                let hint = "write a name such as `llava`, `llava:13b` or `llava*`";
                rules.value(codes::MODEL, &path, format!("{shown} is not a model pattern"), hint);
            }
        }
    }
}
