//! The form of an API key: `ak_ID_SECRET`.
//!
//! The id says which key it is and stands in files, logs and messages; the secret is 256 random bits and is
//! shown once. What is kept is the SHA-256 of the secret: with so much randomness no slow hash is needed, for
//! nobody can go through the possible secrets. Both parts are hexadecimal digits, so that a key survives being
//! copied, quoted and put into a URL by mistake, where [`in_query`] finds it.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// How every key begins.
pub const PREFIX: &str = "ak_";
/// Digits of an id.
pub const ID_DIGITS: usize = 8;
/// Digits of a secret.
pub const SECRET_DIGITS: usize = 64;
/// Random bytes that a key is made of.
pub const RANDOM_BYTES: usize = (ID_DIGITS + SECRET_DIGITS) / 2;

/// What is kept of a secret.
#[derive(Clone, Debug)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a secret, as it stands in the key.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// A digest that no known secret has.
    #[must_use]
    pub const fn of_nothing() -> Self {
        Self([0; 32])
    }

    /// Whether they are the same, in a time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// `sha256:` and 64 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// A text is not `sha256:` and 64 hexadecimal digits in small letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is `sha256:` and 64 hexadecimal digits in small letters")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.strip_prefix("sha256:").ok_or(NotADigest)?.as_bytes();
        if digits.len() != 64 || !are_digits(digits) {
            return Err(NotADigest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value_of(pair[0]) << 4 | value_of(pair[1]);
        }
        Ok(Self(bytes))
    }
}

const fn value_of(digit: u8) -> u8 {
    if digit.is_ascii_digit() { digit - b'0' } else { digit.wrapping_sub(b'a') + 10 }
}

fn are_digits(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `text` is the id of a key.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && are_digits(text.as_bytes())
}

/// A key that was just made: its id, and the whole text that its owner gets.
#[must_use]
pub fn write(random: &[u8; RANDOM_BYTES]) -> (String, String) {
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let (id, secret) = digits.split_at(ID_DIGITS);
    (id.to_owned(), format!("{PREFIX}{id}_{secret}"))
}

/// Id and secret of what somebody presents as a key. What has not the form of one has an id that no key has,
/// and is a secret as a whole, so that it takes the same work.
#[must_use]
pub fn split(presented: &[u8]) -> (&str, &[u8]) {
    let parts = || {
        let (id, rest) = presented.strip_prefix(PREFIX.as_bytes())?.split_at_checked(ID_DIGITS)?;
        Some((std::str::from_utf8(id).ok()?, rest.strip_prefix(b"_")?))
    };
    parts().unwrap_or(("", presented))
}

/// Whether a query has a key in it.
#[must_use]
pub fn in_query(query: &str) -> bool {
    let length = PREFIX.len() + ID_DIGITS + 1 + SECRET_DIGITS;
    query.match_indices(PREFIX).any(|(at, _)| {
        query.as_bytes().get(at..at + length).is_some_and(|text| {
            let (id, secret) = split(text);
            is_id(id) && are_digits(secret)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_split_into_what_it_was_made_of() {
        let (id, key) = write(&[0xab; RANDOM_BYTES]);
        assert_eq!(id, "abababab");
        assert_eq!(key, format!("ak_abababab_{}", "ab".repeat(32)));
        assert_eq!(split(key.as_bytes()), ("abababab", "ab".repeat(32).as_bytes()));
    }

    #[test]
    fn what_is_no_key_has_no_id() {
        for text in [
            "",
            "ak_",
            "ak_abababab",
            "AK_abababab_00",
            "sk_abababab_00",
            "ak_ababababX00",
            "ak_\u{e9}\u{e9}\u{e9}\u{e9}x",
        ] {
            let (id, secret) = split(text.as_bytes());
            assert!(id.is_empty() && secret == text.as_bytes(), "{text}");
        }
        assert_eq!(split(b"ak_abababab_"), ("abababab", &b""[..]));
    }

    #[test]
    fn digests_are_those_of_sha_256_and_are_read_back() {
        let digest = Digest::of(b"abc");
        let known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), known);
        assert!(bool::from(known.parse::<Digest>().unwrap().matches(&digest)));
        assert!(!bool::from(Digest::of(b"abd").matches(&digest)));
        for wrong in ["", "sha256:", &known[7..], &known.to_uppercase(), &known[..70], &format!("{known}0"), "md5:00"] {
            assert_eq!(wrong.parse::<Digest>().err(), Some(NotADigest), "{wrong}");
        }
    }

    #[test]
    fn a_key_in_a_query_is_found() {
        let (_, key) = write(&[7; RANDOM_BYTES]);
        for query in [format!("key={key}"), format!("a=1&api_key={key}&b=2"), format!("x=ak_ak_{}", &key[3..])] {
            assert!(in_query(&query), "{query}");
        }
        for query in ["", "a=ak_", "ak_abababab", &key[..70], "key=break_abababab_x"] {
            assert!(!in_query(query), "{query}");
        }
    }
}
