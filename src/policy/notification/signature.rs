//! How a receiver knows that a message is ours, whole, and not an old one sent again.
//!
//! The signature is HMAC-SHA256, keyed with a secret that both sides have, over the time of sending in seconds since 1970,
//! a full stop, and the bytes of the body. Because the time is signed, a receiver can refuse what is older than a few
//! minutes.

use std::fmt::Write;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The field that has the signature.
pub const SIGNATURE: &str = "x-arriero-signature";
/// The field that has the time of sending.
pub const TIMESTAMP: &str = "x-arriero-timestamp";

/// The value of the field: `sha256=` and hexadecimal digits.
#[must_use]
pub fn sign(secret: &[u8], timestamp: u64, body: &[u8]) -> String {
    let mut text = "sha256=".to_owned();
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return text };
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    for byte in mac.finalize().into_bytes() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_other_programs_compute() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            sign(b"secret", 1_700_000_000, br#"{"a":1}"#),
            "sha256=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
    }

    #[test]
    fn time_body_and_secret_all_count() {
        let one = sign(b"s", 1, b"b");
        assert!([sign(b"t", 1, b"b"), sign(b"s", 2, b"b"), sign(b"s", 1, b"c")].iter().all(|other| *other != one));
    }
}
