//! Is a server's GPU well enough for requests?
//!
//! # Problem
//!
//! A card that is hot, lost or broken answers: slowly, wrongly, or once in a while not at all. Health checks do not see it.
//! The driver knows, Ollama's own answers show it, and exporters repeat what the driver says; each of them leaves things
//! out, repeats old news, or falls silent.
//!
//! # Shape
//!
//! [`reading`] is what a source says, in one form. The [`judge`] takes readings, what Ollama lists, and how its answers went,
//! and says ([`verdict`]) in which of four states the server is:
//!
//! | state | what becomes of requests |
//! |---|---|
//! | `healthy` | as always |
//! | `degraded` | a quarter of its weight |
//! | `draining` | no new ones, those that run finish; not followed where it would take more than half of a model's servers |
//! | `failed` | no new ones |
//!
//! The worst signal of any card that the server's models use decides, and each state names its signals.
//!
//! # Signals
//!
//! | signal | state | entered | left |
//! |---|---|---|---|
//! | driver: boot the host, reset the card (at once, or when it is drained) | failed | 1 sample | none of it for 60 s, 2 good probes |
//! | driver: keep it from what uses several cards | models on several cards draining, degraded | 1 sample | the same |
//! | Xid 79 | failed | 1 | the host booted, 2 good probes |
//! | Xid 48, 64, 74, 95, 119, 120, 140 | failed | 1 | reset or boot, 2 good probes |
//! | Xid 46, 62, 110, 136, 143, 156, 158 | draining | 1 | reset or boot, or 30 min without |
//! | Xid 109 | degraded; 3 in 10 min draining | 1 | the same |
//! | Xid 94 | degraded; 2 in 24 h draining | 1 | models loaded anew, 10 min without |
//! | rows that wait for being remapped, after Xid 48 or 94 | draining | 1 | reset |
//! | Xid 13, 31, 43, 45, 68 | degraded: the model, where one alone is in memory | 3 in 10 min | 10 min without |
//! | uncorrected ECC errors; a row not remapped; 512 rows remapped | failed | 1 | none of it |
//! | more than 15 pages out of use | draining | 1 | fewer |
//! | hardware cuts the clocks (0x8, 0x40, 0x80) | degraded | 6 of 10 minutes | 1 of 10 minutes |
//! | driver lowers the clocks (0x20), and answers below 70 % of the usual speed | degraded | 5 min | 5 min |
//! | no °C left to the limit, or the memory above its own | degraded | 3 of 5 samples | 5 °C left for 5 min |
//! | PCIe transfers repeated beyond one wrong bit in 10¹²; NVLink: 100 checksum errors/s, or any other | degraded | 3 samples | 10 min without |
//! | fewer cards than there were | failed | 2 samples | all there |
//! | the driver cannot be used, or does not answer within 5 s | draining | 2 samples | 1 reading |
//! | more than 2 GiB above the usual belong to no model | degraded | 10 min | at most 0.5 GiB |
//! | less than 99 % of a model on the card | model degraded, weight share²; below 50 % 0.01 | 2 polls | 2 polls, or not in memory |
//! | a model that was on the card is on the processor | model draining; the server, when all are | 2 polls | 2 polls, or not in memory for 30 min |
//! | below 50 % of the usual speed; below 25 % | model degraded; draining | 5 of 10 answers | 10 answers from 80 % |
//! | first token after more than 5 times the usual time | model degraded | 5 of 10 answers | 10 good answers |
//! | the source is silent | as it was, then without the signals above that it tells | 3 intervals | 1 reading |
//!
//! A server that gets nothing can show nothing. So one that is draining because a model is slow is degraded again when no
//! answer came for 10 minutes, and one that lost its card in silence may try again after half an hour without a model.
//!
//! A server none of whose models ever was on a card computes on its processor by intention: shares of the card say nothing
//! there.
//!
//! # Invariants
//!
//! - What is not known never makes a server worse.
//! - A state is held for 60 s at least before it becomes better, and before it becomes worse unless by a signal that needs one
//!   sample alone, or that makes it failed. Where it came back within ten minutes it is held until nothing spoke against the
//!   server for two minutes, then four, up to ten.
//! - Whatever is told, memory is bounded: 64 cards, 64 errors of each, 256 models, 768 samples of each of two kinds.
//! - All times are given from outside.

mod card;
pub mod cards;
mod decode;
mod hysteresis;
pub mod judge;
mod model;
pub mod reading;
pub mod report;
pub mod source;
pub mod verdict;
mod xid;

#[cfg(test)]
mod judge_tests;
#[cfg(test)]
mod judge_tests_models;
#[cfg(test)]
mod judge_tests_noise;
#[cfg(test)]
mod judge_tests_properties;
#[cfg(test)]
mod judge_tests_rows;
#[cfg(test)]
mod judge_tests_xids;
