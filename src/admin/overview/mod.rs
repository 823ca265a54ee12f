//! Everything that a live view needs, in one object: once, or once a second as Server-Sent Events.
//!
//! # Shape
//! [`Live`] samples the totals of the process each second, which takes microseconds, so that the numbers of the last minute
//! are there for whoever comes. The overview itself ([`picture`]) is made once a second for all listeners together, and not
//! at all while nobody listens.
//!
//! # Invariants
//! - A listener that is slow gets the latest overview and misses those between: nothing piles up.
//! - There are at most [`LISTENERS`] of them.
//! - Streams end when another process answers here or this one has ended.

mod picture;
mod view;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::Extension;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;

use super::State;
use super::access::is_foreign;
use super::openapi::{Events, about};
use super::problem::Problem;
use super::time::Present;
use crate::clock;
use crate::telemetry::recent::{Recent, Window};

pub use view::{Overview, Point, Trend};

/// Most streams of events at a time.
const LISTENERS: usize = 64;

/// Time between two overviews.
const PERIOD: Duration = Duration::from_secs(1);

/// Points of the trend: ten minutes.
const POINTS: usize = 600;

/// What is known of the last minutes, and who listens.
pub struct Live {
    state: Arc<State>,
    past: Mutex<Past>,
    /// The latest overview in JSON; old when nobody listens.
    latest: watch::Sender<Arc<str>>,
    seats: Arc<Semaphore>,
}

#[derive(Default)]
struct Past {
    window: Window,
    points: VecDeque<Moment>,
}

/// The numbers of a second.
struct Moment {
    at: Instant,
    recent: Recent,
    in_flight: u64,
    queued: usize,
}

/// The paths of this topic.
pub fn routes(live: Arc<Live>) -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/overview", get_with(overview, about("getOverview", "All that a live view needs")))
        .api_route("/overview/trend", get_with(trend, about("getTrendOfMinutes", "The last ten minutes by the second")))
        .api_route("/events", get_with(events, about("followOverview", "The same each second")))
        .layer(Extension(live))
}

impl Live {
    /// Nothing is known yet.
    pub fn new(state: Arc<State>) -> Arc<Self> {
        let (latest, _) = watch::channel(Arc::from(""));
        Arc::new(Self { state, past: Mutex::default(), latest, seats: Arc::new(Semaphore::new(LISTENERS)) })
    }

    /// Samples, and tells whoever listens, until the task is ended.
    pub async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            self.sample(clock::now());
            if self.latest.receiver_count() > 0 {
                self.latest.send_replace(self.text());
            }
        }
    }

    fn sample(&self, now: Instant) {
        let snapshot = self.state.store.load();
        let in_flight = snapshot.upstreams.iter().map(|upstream| upstream.in_flight()).sum();
        let queued = snapshot.upstreams.iter().map(|upstream| upstream.waiting()).sum();
        let mut past = self.past.lock();
        past.window.tick(&self.state.metrics.totals, now);
        let recent = past.window.recent();
        if past.points.len() == POINTS {
            past.points.pop_front();
        }
        past.points.push_back(Moment { at: now, recent, in_flight, queued });
    }

    fn overview(&self) -> Overview {
        let recent = self.past.lock().window.recent();
        picture::of(&self.state, &recent, Present::read())
    }

    fn text(&self) -> Arc<str> {
        // Nothing in it can fail to be written: maps have keys that are strings, and there is no number beyond JSON's.
        serde_json::to_string(&self.overview()).unwrap_or_default().into()
    }

    /// A listener, and the overview to begin with.
    fn listen(self: &Arc<Self>, seat: OwnedSemaphorePermit) -> Listener {
        let alone = self.latest.receiver_count() == 0;
        let mut news = self.latest.subscribe();
        if alone {
            self.latest.send_replace(self.text());
        }
        news.mark_changed();
        Listener { news, closing: self.state.closing.clone(), _seat: seat }
    }
}

/// Somebody who listens.
struct Listener {
    news: watch::Receiver<Arc<str>>,
    closing: watch::Receiver<bool>,
    _seat: OwnedSemaphorePermit,
}

impl Listener {
    /// The next overview; `None` when there will be none.
    async fn next(&mut self) -> Option<Arc<str>> {
        tokio::select! {
            biased;
            _ = self.closing.wait_for(|closing| *closing) => None,
            changed = self.news.changed() => changed.ok().map(|()| Arc::clone(&self.news.borrow_and_update())),
        }
    }
}

async fn overview(Extension(live): Extension<Arc<Live>>) -> Json<Overview> {
    Json(live.overview())
}

/// The numbers of the last ten minutes, second by second.
async fn trend(Extension(live): Extension<Arc<Live>>) -> Json<Trend> {
    let present = Present::read();
    let past = live.past.lock();
    let points: Vec<Point> = past.points.iter().map(|moment| picture::point(moment, present)).collect();
    Json(Trend { success: true, count: points.len(), points })
}

/// The overview each second, as events of the name `overview`.
async fn events(
    Extension(live): Extension<Arc<Live>>,
    headers: HeaderMap,
) -> Result<Events<impl IntoResponse>, Problem> {
    // It could not read them, but take all the seats.
    if is_foreign(&headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "events are not for pages of other sites"));
    }
    let seat = Arc::clone(&live.seats).try_acquire_owned().map_err(|_| {
        let many = format!("{LISTENERS} listen already, which is as many as may");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, many)
    })?;
    let events = stream::unfold(live.listen(seat), |mut listener| async move {
        let text = listener.next().await?;
        Some((Ok::<_, Infallible>(Event::default().event("overview").data(&*text)), listener))
    });
    // A proxy between is not to hold events back.
    Ok(Events(([(HeaderName::from_static("x-accel-buffering"), "no")], Sse::new(events))))
}
