//! Looks at the files of certificates, so that renewed ones are in force without anybody asking.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::fleet::events::Events;
use crate::fleet::store::Store;
use crate::policy::notification::Kind;
use crate::telemetry::metrics::Metrics;

/// Time between two looks. A renewed certificate is in force within this time.
const INTERVAL: Duration = Duration::from_secs(2);

/// A certificate that ends within this time should have been renewed: certificates are, with a third of their time left,
/// which is 30 days where they have 90.
const SOON: Duration = Duration::from_hours(14 * 24);
/// Time between two words about the same certificate.
const AGAIN: Duration = Duration::from_hours(24);

/// When it was told that a certificate ends, by its name and its end.
type Told = HashMap<(String, i64), Instant>;

/// Looks at the files of the snapshot in force, again and again, until the process ends.
pub async fn watch(store: Arc<Store>, metrics: Arc<Metrics>) {
    let mut told = Told::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (snapshot, metrics) = (store.pin(), Arc::clone(&metrics));
        let look = tokio::task::spawn_blocking(move || {
            snapshot.refresh_certificates(clock::unix_seconds(), &metrics);
        });
        if let Err(error) = look.await {
            tracing::error!(%error, "the files of certificates could not be looked at");
        }
        let snapshot = store.load();
        let ends = snapshot.certificate_expiries().into_iter().collect();
        tell_ends(ends, &mut told, &snapshot.lasting.telling.events, clock::unix_seconds(), clock::now());
    }
}

/// Tells of certificates that end soon, of each once a day.
fn tell_ends(ends: Vec<(String, i64)>, told: &mut Told, events: &Events, unix_now: i64, now: Instant) {
    let is_soon = |end: i64| end.saturating_sub(unix_now) <= i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX);
    let soon: Vec<_> = ends.into_iter().filter(|(_, end)| is_soon(*end)).collect();
    // A renewed one has another end.
    told.retain(|known, at| soon.contains(known) && now.saturating_duration_since(*at) < AGAIN);
    for (name, end) in soon {
        let left = end.saturating_sub(unix_now);
        let when = match left {
            ..0 => "has ended".to_owned(),
            0..86_400 => format!("ends in {} hours", left / 3600),
            _ => format!("ends in {} days", left / 86_400),
        };
        if let std::collections::hash_map::Entry::Vacant(place) = told.entry((name, end)) {
            events.tell(Kind::CertificateExpiring, &*place.key().0, &format!("certificate `{}` {when}", place.key().0));
            place.insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[tokio::test]
    async fn each_certificate_that_ends_soon_is_told_once_a_day_and_a_renewed_one_no_more() {
        let (events, now, day) = (Events::new(Counter::default()), clock::now(), 86_400);
        let (mut told, mut heard) = (Told::new(), events.listen());
        let ends = |a: i64| vec![("a".to_owned(), a * day), ("b".to_owned(), 15 * day + 1)];
        tell_ends(ends(14), &mut told, &events, 0, now);
        tell_ends(ends(14), &mut told, &events, 0, now + Duration::from_hours(23));
        tell_ends(ends(14), &mut told, &events, day, now + AGAIN);
        tell_ends(ends(104), &mut told, &events, day + 1, now + AGAIN);
        tell_ends(ends(14), &mut told, &events, 20 * day, now + AGAIN * 2);
        drop(events);
        let mut messages = Vec::new();
        while let Some(event) = heard.next().await {
            messages.push(event.message.clone());
        }
        let expected = [
            "certificate `a` ends in 14 days",
            "certificate `a` ends in 13 days",
            "certificate `b` ends in 14 days",
            "certificate `a` has ended",
            "certificate `b` has ended",
        ];
        assert_eq!(messages, expected);
    }
}
