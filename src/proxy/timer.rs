//! A timer that is cheap to keep.
//!
//! A request has several time limits that follow each other, and most of them never run out. So the timer of a
//! connection is armed late, stays armed over many requests and is moved only when it fires too early: a busy
//! connection touches the timer wheel about once per time limit, not per request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::clock;

/// A timer that is armed late and moved rarely.
#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: Option<(Instant, Pin<Box<tokio::time::Sleep>>)>,
}

impl LazyTimer {
    /// Ready when `deadline` has passed; otherwise the task is woken at that time or earlier.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let (armed, sleep) =
            self.sleep.get_or_insert_with(|| (deadline, Box::pin(tokio::time::sleep_until(deadline.into()))));
        if *armed > deadline {
            *armed = deadline;
            sleep.as_mut().reset(deadline.into());
        }
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if clock::now() >= deadline {
                return Poll::Ready(());
            }
            *armed = deadline;
            sleep.as_mut().reset(deadline.into());
        }
    }

    /// Waits for `work` until `deadline`; `None` when that passed first.
    pub async fn limit<T>(
        &mut self,
        deadline: Option<Instant>,
        mut work: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = work(cx) {
                return Poll::Ready(Some(done));
            }
            match deadline {
                Some(deadline) => self.poll(cx, deadline).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_fires_at_the_deadline_that_is_asked_for_last() {
        let mut timer = LazyTimer::default();
        let start = clock::now();
        for seconds in [500, 50, 200] {
            let after = start + Duration::from_secs(seconds);
            let late = std::future::poll_fn(|cx| Poll::Ready(timer.poll(cx, after).is_ready())).await;
            assert!(!late, "{seconds}");
        }
        assert_eq!(timer.limit(Some(start), |_| Poll::Ready(7)).await, Some(7), "work comes first");
        assert_eq!(timer.limit(Some(start), |_| Poll::<()>::Pending).await, None);
    }
}
