//! How the requests on one card slow each other down: pure arithmetic, without a clock.
//!
//! **The model.** A job first reads its prompt, then writes its answer. Each prompt that is being read
//! is one share of the card, and so are all answers of one model together, for they are written in one
//! batch: `E` shares, each at `1/E` of the card's speed. A batch of `d` answers takes `1 + 0.25 (d − 1)`
//! times the step of one, so the card does more in all, but each answer comes later.
//!
//! **Exactness.** Time moves from event to event: however late [`Sharing::advance`] is called, what
//! happened in between happened at its exact moment. Times are seconds since the card was made.

/// What each further answer adds to the step of a batch.
const BATCH_COST: f64 = 0.25;

/// Less work than this is none: what rounding leaves.
const NOTHING: f64 = 1e-9;

/// One request's work.
#[derive(Clone, Debug)]
struct Job {
    id: u64,
    /// The loaded model it runs on.
    runner: u64,
    /// Seconds of prompt left, on a card of its own.
    prefill: f64,
    /// Seconds of answer left, on a card of its own.
    decode: f64,
    /// Seconds of answer in all.
    answer: f64,
    times: Times,
}

/// When a job came and went on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Times {
    pub(super) entered: f64,
    /// The prompt had been read.
    pub(super) first: Option<f64>,
    /// The answer had been written.
    pub(super) done: Option<f64>,
}

/// The jobs of one card.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    jobs: Vec<Job>,
    now: f64,
    entered: u64,
}

impl Sharing {
    /// A job comes, with its work in seconds on a card of its own. Returns its number.
    pub(super) fn enter(&mut self, now: f64, runner: u64, prefill: f64, decode: f64) -> u64 {
        self.advance(now);
        self.entered += 1;
        // Even a cached prompt takes a moment; so its end is an event like any other.
        let prefill = prefill.max(2.0 * NOTHING);
        let times = Times { entered: self.now, first: None, done: None };
        self.jobs.push(Job { id: self.entered, runner, prefill, decode, answer: decode, times });
        self.entered
    }

    /// A job goes, finished or not.
    pub(super) fn leave(&mut self, now: f64, id: u64) {
        self.advance(now);
        self.jobs.retain(|job| job.id != id);
    }

    /// Lets time pass. Earlier times than the last are taken for it.
    pub(super) fn advance(&mut self, now: f64) {
        while let Some(wait) = self.next_event()
            && self.now + wait <= now
        {
            self.pass(wait);
        }
        self.pass((now - self.now).max(0.0));
    }

    /// Seconds until the next job has read its prompt or written its answer, as things are.
    pub(super) fn next_event(&self) -> Option<f64> {
        let left = |job: &Job| if job.times.first.is_none() { job.prefill } else { job.decode };
        self.running().map(|job| left(job) * self.slowdown(job)).min_by(f64::total_cmp)
    }

    /// Seconds until a job has written this share of its answer, as things are; at least zero.
    /// None if the prompt has not been read yet, or if there is no such job.
    pub(super) fn until_share(&self, id: u64, share: f64) -> Option<f64> {
        let job = self.job(id).filter(|job| job.times.first.is_some())?;
        let wanted = job.decode - job.answer * (1.0 - share);
        Some((wanted * self.slowdown(job)).max(0.0))
    }

    /// The share of its answer that a job has written; None while it reads its prompt.
    pub(super) fn share(&self, id: u64) -> Option<f64> {
        let job = self.job(id).filter(|job| job.times.first.is_some())?;
        Some(if job.times.done.is_some() { 1.0 } else { 1.0 - job.decode / job.answer })
    }

    /// When a job came and went on.
    pub(super) fn times(&self, id: u64) -> Option<Times> {
        self.job(id).map(|job| job.times)
    }

    fn job(&self, id: u64) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }

    fn running(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(|job| job.times.done.is_none())
    }

    /// How many prompts and batches share the card.
    fn shares(&self) -> usize {
        let mut batches: Vec<u64> =
            self.running().filter(|job| job.times.first.is_some()).map(|job| job.runner).collect();
        let prompts = self.running().count() - batches.len();
        batches.sort_unstable();
        batches.dedup();
        prompts + batches.len()
    }

    /// How many times longer than alone a running job takes for its present phase.
    fn slowdown(&self, job: &Job) -> f64 {
        let shares = self.shares().max(1) as f64;
        if job.times.first.is_none() {
            return shares;
        }
        let batch = self.running().filter(|other| other.times.first.is_some() && other.runner == job.runner).count();
        shares * (1.0 + BATCH_COST * batch.saturating_sub(1) as f64)
    }

    /// Lets so much time pass that at most one event is due, at its end.
    fn pass(&mut self, seconds: f64) {
        let slowdowns: Vec<f64> = self.jobs.iter().map(|job| self.slowdown(job)).collect();
        self.now += seconds;
        for (job, slowdown) in self.jobs.iter_mut().zip(slowdowns) {
            if job.times.done.is_some() {
                continue;
            }
            let work = seconds / slowdown;
            let left = if job.times.first.is_none() { &mut job.prefill } else { &mut job.decode };
            *left -= work;
            if *left > NOTHING {
                continue;
            }
            if job.times.first.is_none() {
                job.times.first = Some(self.now);
            }
            if job.decode <= NOTHING {
                job.times.done = Some(self.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(value: Option<f64>, wanted: f64) {
        assert!(value.is_some_and(|value| (value - wanted).abs() < 1e-6), "{value:?}, not {wanted}");
    }

    #[test]
    fn alone_a_job_takes_its_own_time() {
        let mut card = Sharing::default();
        let job = card.enter(10.0, 1, 2.0, 3.0);
        near(card.next_event(), 2.0);
        card.advance(11.0);
        assert_eq!((card.share(job), card.until_share(job, 1.0)), (None, None));
        card.advance(13.5);
        near(card.share(job), 0.5);
        near(card.until_share(job, 1.0), 1.5);
        card.advance(99.0);
        let times = card.times(job).unwrap();
        near(times.first, 12.0);
        near(times.done, 15.0);
        assert_eq!(card.next_event(), None);
    }

    #[test]
    fn prompts_share_the_card_evenly() {
        let mut card = Sharing::default();
        let (long, short) = (card.enter(0.0, 1, 3.0, 1.0), card.enter(0.0, 1, 1.0, 0.0));
        card.advance(100.0);
        // Two shares until the short prompt is read at 2; then the long one has 2 left, alone.
        near(card.times(short).unwrap().first, 2.0);
        near(card.times(short).unwrap().done, 2.0);
        near(card.times(long).unwrap().first, 4.0);
        near(card.times(long).unwrap().done, 5.0);
    }

    #[test]
    fn answers_of_one_model_are_a_batch_and_those_of_two_are_not() {
        let ends = |runners: [u64; 2]| {
            let mut card = Sharing::default();
            let jobs = runners.map(|runner| card.enter(0.0, runner, 0.0, 4.0));
            card.advance(100.0);
            jobs.map(|job| card.times(job).unwrap().done)
        };
        ends([1, 1]).into_iter().for_each(|end| near(end, 5.0));
        ends([1, 2]).into_iter().for_each(|end| near(end, 8.0));
    }

    #[test]
    fn a_prompt_slows_the_answers_beside_it() {
        let mut card = Sharing::default();
        let answer = card.enter(0.0, 1, 0.0, 4.0);
        let prompt = card.enter(1.0, 1, 2.0, 1.0);
        card.advance(100.0);
        // Until 1 alone; until 5 by halves, so 1 is left; then both in a batch at 1.25, ending together.
        near(card.times(prompt).unwrap().first, 5.0);
        near(card.times(answer).unwrap().done, 6.25);
        near(card.times(prompt).unwrap().done, 6.25);
    }

    #[test]
    fn who_leaves_frees_its_share() {
        let mut card = Sharing::default();
        let (gone, stays) = (card.enter(0.0, 1, 5.0, 5.0), card.enter(0.0, 2, 2.0, 1.0));
        card.leave(2.0, gone);
        near(card.next_event(), 1.0);
        card.advance(100.0);
        near(card.times(stays).unwrap().done, 4.0);
        assert_eq!(card.times(gone), None);
    }

    #[test]
    fn it_does_not_matter_how_often_time_is_looked_at() {
        let run = |step: f64| {
            let mut card = Sharing::default();
            let jobs: Vec<u64> =
                (0..6_u32).map(|job| card.enter(f64::from(job), u64::from(job % 3), 1.5, 2.5)).collect();
            let mut now = 5.0;
            while now < 60.0 {
                now += step;
                card.advance(now);
            }
            jobs.iter().map(|job| card.times(*job).unwrap().done.unwrap()).collect::<Vec<_>>()
        };
        for (often, rarely) in run(0.01).into_iter().zip(run(55.0)) {
            near(Some(often), rarely);
        }
    }
}
