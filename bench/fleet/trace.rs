//! When requests come and how long they are: from a file, or made up from a seed.
//!
//! The file has the form of the public Azure LLM inference traces: a header, then lines of
//! `TIMESTAMP,ContextTokens,GeneratedTokens` with times such as `2023-11-16 18:17:03.9799600`. What is made up
//! has bursts and lengths like the code trace of 2023: most prompts of one to five thousand tokens, most answers
//! of less than thirty, tens of requests within seconds and then a long pause.

use std::fs;
use std::path::Path;

use time::{Date, Month};

use crate::random::Random;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Seconds since the first.
    pub at: f64,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the answer, at least one.
    pub answer: usize,
}

/// How many requests are made up.
const MADE_UP: usize = 10_000;
/// Mean and deviation of the logarithm of prompt lengths, from the code trace; and the longest.
const PROMPT: (f64, f64, f64) = (7.0, 1.36, 7_500.0);
/// The same of answers.
const ANSWER: (f64, f64, f64) = (2.79, 0.85, 2_000.0);
/// Requests of a burst, seconds between them, and seconds between bursts, on average.
const BURST: (f64, f64, f64) = (40.0, 0.08, 15.0);

/// Reads a file.
pub fn read(path: &Path) -> Result<Vec<Arrival>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads the text of a file.
pub fn parse(text: &str) -> Result<Vec<Arrival>, String> {
    let mut arrivals = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let arrival = parse_line(line).ok_or_else(|| format!("line {}: cannot read `{line}`", number + 1))?;
        arrivals.push(arrival);
    }
    let first = arrivals.first().map(|arrival| arrival.at).ok_or("there are no requests")?;
    arrivals.iter_mut().for_each(|arrival| arrival.at -= first);
    Ok(arrivals)
}

fn parse_line(line: &str) -> Option<Arrival> {
    let mut fields = line.trim().split(',');
    let at = parse_time(fields.next()?)?;
    let prompt = fields.next()?.trim().parse::<usize>().ok()?;
    let answer = fields.next()?.trim().parse::<usize>().ok()?.max(1);
    Some(Arrival { at, prompt, answer })
}

/// Seconds since some day. A zone behind the time is the same in all lines, and is left out.
fn parse_time(text: &str) -> Option<f64> {
    let (date, time) = text.trim().split_once([' ', 'T'])?;
    let mut date = date.split('-');
    let year = date.next()?.parse().ok()?;
    let month = Month::try_from(date.next()?.parse::<u8>().ok()?).ok()?;
    let day = Date::from_calendar_date(year, month, date.next()?.parse().ok()?).ok()?;
    let time = time.split(['+', 'Z']).next()?;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some(f64::from(day.to_julian_day()) * 86_400.0 + hours * 3_600.0 + minutes * 60.0 + seconds)
}

/// Makes requests up.
pub fn made_up(seed: u64) -> Vec<Arrival> {
    let mut random = Random::new(seed ^ 0x7261_6365);
    let length = |random: &mut Random, (mean, deviation, most): (f64, f64, f64)| {
        random.log_normal(mean, deviation).clamp(1.0, most) as usize
    };
    let (size, gap, pause) = BURST;
    let (mut at, mut left) = (0.0, 1_usize);
    (0..MADE_UP)
        .map(|_| {
            left -= 1;
            if left == 0 {
                left = 1 + random.exponential(size) as usize;
                at += random.exponential(pause);
            } else {
                at += random.exponential(gap);
            }
            Arrival { at, prompt: length(&mut random, PROMPT), answer: length(&mut random, ANSWER) }
        })
        .collect()
}

/// Mean lengths of prompts and answers.
pub fn means(arrivals: &[Arrival]) -> (f64, f64) {
    let count = arrivals.len().max(1) as f64;
    let sum = |length: fn(&Arrival) -> usize| arrivals.iter().map(length).sum::<usize>() as f64 / count;
    (sum(|arrival| arrival.prompt), sum(|arrival| arrival.answer))
}
