//! Webhooks and recovery actions.

use super::{CompileError, error};
use crate::config::WebhookUrl;
use crate::config::types::{Notification, RecoveryAction};
use crate::fleet::notifications::Hook;
use crate::fleet::recovery_action::{Action, ActionPlan};
use crate::policy::recovery_action::ActionPolicy;

/// Where the Docker Engine listens unless it is told otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

pub(super) fn hooks(notifications: &[Notification]) -> Result<Vec<Hook>, CompileError> {
    let hook = |(number, written): (usize, &Notification)| {
        let path = || format!("notifications[{number}].url");
        Ok(Hook {
            url: WebhookUrl::parse(&written.url).map_err(|problem| error(path(), problem))?,
            secret_file: written.secret_file.clone(),
            events: written.events.clone(),
            window: written.window.0,
            timeout: written.timeout.0,
            attempts: written.attempts,
        })
    };
    notifications.iter().enumerate().map(hook).collect()
}

pub(super) fn action(path: &str, written: &RecoveryAction) -> Result<ActionPlan, CompileError> {
    let action = match (&written.exec, &written.webhook, &written.docker_restart) {
        (Some(arguments), None, None) if !arguments.is_empty() => Action::Exec(arguments.clone()),
        (None, Some(url), None) => {
            let url = WebhookUrl::parse(url).map_err(|problem| error(format!("{path}.webhook"), problem))?;
            Action::Webhook(url, written.secret_file.clone())
        }
        (None, None, Some(container)) => {
            let socket = written.docker_socket.clone().unwrap_or_else(|| DOCKER_SOCKET.to_owned());
            Action::DockerRestart { container: container.clone(), socket }
        }
        _ => return Err(error(path, "exactly one of `exec`, `webhook` and `docker_restart`")),
    };
    Ok(ActionPlan {
        action,
        policy: ActionPolicy {
            after: written.after,
            max_attempts: written.max_attempts,
            backoff: written.backoff.0,
            max_backoff: written.max_backoff.0,
            verify: written.verify.0,
            retry_after: written.retry_after.0,
        },
        timeout: written.timeout.0,
    })
}
