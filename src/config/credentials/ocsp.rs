//! What a stored OCSP response says (RFC 6960 4.2): about which certificates, and until when.
//!
//! A browser refuses a connection whose staple is about another certificate or is too old, but not one
//! without a staple. So a staple that does not fit is worse than none, and is held back. Its signature
//! is the client's business.

use x509_parser::der_parser::asn1_rs::{Any, Class, FromDer, GeneralizedTime, Tag};

use super::{Leaf, Part, Problem};
use crate::config::codes;

/// A stored OCSP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    /// The response as it is sent.
    pub der: Vec<u8>,
    about: Vec<Answer>,
}

/// What it says about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    serial: Vec<u8>,
    /// Seconds since 1970.
    until: Option<i64>,
}

/// Why a staple is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StapleFault {
    /// It is about another certificate.
    Foreign,
    /// There should be a newer one since.
    TooOld,
}

impl StapleFault {
    /// What is wrong; follows the name of the file.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Foreign => "is about another certificate",
            Self::TooOld => "is too old",
        }
    }
}

impl Staple {
    /// Takes a response apart.
    ///
    /// # Errors
    /// When it is not an OCSP response in DER, or says only that there is no answer.
    pub fn parse(der: &[u8]) -> Result<Self, Problem> {
        let about = answers(der).ok_or_else(|| {
            let hint = "`openssl ocsp -respout FILE` writes one; `ocsp` is in DER, not PEM";
            Problem::new(Part::Staple, codes::STAPLE, "is not a successful OCSP response", hint)
        })?;
        Ok(Self { der: der.to_vec(), about })
    }

    /// Whether it may be sent with this certificate at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// Why not.
    pub fn fits(&self, leaf: &Leaf, now: i64) -> Result<(), StapleFault> {
        let answer = self.about.iter().find(|answer| answer.serial == leaf.serial).ok_or(StapleFault::Foreign)?;
        match answer.until {
            Some(until) if now > until => Err(StapleFault::TooOld),
            _ => Ok(()),
        }
    }
}

/// The parts of a constructed value.
fn parts(mut content: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut parts = Vec::new();
    while !content.is_empty() {
        let (rest, part) = Any::from_der(content).ok()?;
        parts.push(part);
        content = rest;
    }
    Some(parts)
}

fn is(any: &Any<'_>, tag: Tag) -> bool {
    any.class() == Class::Universal && any.tag() == tag
}

fn is_context(any: &Any<'_>, number: u32) -> bool {
    any.class() == Class::ContextSpecific && any.tag() == Tag(number)
}

fn answers(der: &[u8]) -> Option<Vec<Answer>> {
    let [response] = parts(der)?.try_into().ok()?;
    let [status, bytes] = parts(response.data)?.try_into().ok()?;
    if !is(&status, Tag::Enumerated) || status.data != [0] || !is_context(&bytes, 0) {
        return None;
    }
    let [typed] = parts(bytes.data)?.try_into().ok()?;
    let [_, basic] = parts(typed.data)?.try_into().ok()?;
    let [basic] = parts(basic.data)?.try_into().ok()?;
    let signed = parts(basic.data)?.into_iter().next()?;
    // Before the answers: version, responder (both tagged), time.
    let list = parts(signed.data)?.into_iter().find(|part| is(part, Tag::Sequence))?;
    parts(list.data)?.iter().map(|answer| single(answer.data)).collect()
}

fn single(content: &[u8]) -> Option<Answer> {
    let parts_of = parts(content)?;
    let serial = parts(parts_of.first()?.data)?.into_iter().find(|part| is(part, Tag::Integer))?;
    // The certificate's state may be tagged 0 as well; it comes before the time.
    let after = parts_of.iter().skip_while(|part| !is(part, Tag::GeneralizedTime)).skip(1);
    let until = match after.into_iter().find(|part| is_context(part, 0)) {
        None => None,
        Some(next) => {
            let (_, time) = GeneralizedTime::from_der(next.data).ok()?;
            Some(time.utc_datetime().ok()?.unix_timestamp())
        }
    };
    Some(Answer { serial: serial.data.to_vec(), until })
}
