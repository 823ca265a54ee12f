//! What a running Arriero cannot change without a restart.
//!
//! A reload is all or nothing: when this names anything, the whole new file is refused. The admin
//! socket is opened, threads started and the folder for bodies chosen once; everything else is in the snapshot.

use std::fmt::Display;

use super::types::Config;

/// What of `new` needs a restart, such as `admin.address: 127.0.0.1:5100 → 127.0.0.1:5101`.
#[must_use]
pub fn restart_reasons(old: &Config, new: &Config) -> Vec<String> {
    let mut reasons = Vec::new();
    compare(&mut reasons, "admin.address", Some(&old.admin.address), Some(&new.admin.address));
    compare(&mut reasons, "server.threads", old.server.threads, new.server.threads);
    compare(&mut reasons, "server.data_dir", old.server.data_dir.as_ref(), new.server.data_dir.as_ref());
    compare(&mut reasons, "server.temp_dir", old.server.temp_dir.as_ref(), new.server.temp_dir.as_ref());
    reasons
}

fn compare<T: Display + PartialEq>(reasons: &mut Vec<String>, name: &str, before: Option<T>, after: Option<T>) {
    if before != after {
        let text = |value: Option<T>| value.map_or_else(|| "not set".to_owned(), |value| value.to_string());
        reasons.push(format!("{name}: {} → {}", text(before), text(after)));
    }
}
