//! Whether bytes are UTF-8, byte by byte, so that it does not matter where a body is cut.

/// A check of UTF-8 (RFC 3629, section 4) that can stop inside a character.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    /// Continuation bytes that must still come.
    missing: u8,
    /// What the next one may be, where that is narrower than 0x80..=0xbf: overlong forms, surrogates, beyond U+10FFFF.
    next: Option<(u8, u8)>,
}

impl Utf8 {
    /// Whether no character is open.
    pub(super) fn is_whole(self) -> bool {
        self.missing == 0
    }

    /// Reads bytes as long as they are not ASCII outside a character; says how many. `None`: not UTF-8.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.missing == 0 {
                if byte < 0x80 {
                    return Some(at);
                }
                self.begin(byte)?;
                continue;
            }
            let (low, high) = self.next.take().unwrap_or((0x80, 0xbf));
            if !(low..=high).contains(&byte) {
                return None;
            }
            self.missing -= 1;
        }
        Some(bytes.len())
    }

    fn begin(&mut self, byte: u8) -> Option<()> {
        (self.missing, self.next) = match byte {
            0xc2..=0xdf => (1, None),
            0xe0 => (2, Some((0xa0, 0xbf))),
            0xe1..=0xec | 0xee..=0xef => (2, None),
            0xed => (2, Some((0x80, 0x9f))),
            0xf0 => (3, Some((0x90, 0xbf))),
            0xf1..=0xf3 => (3, None),
            0xf4 => (3, Some((0x80, 0x8f))),
            _ => return None,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether bytes are UTF-8, in the given pieces.
    fn valid(pieces: &[&[u8]]) -> bool {
        let mut check = Utf8::default();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                match check.read(rest) {
                    None => return false,
                    Some(0) => rest = &rest[1..],
                    Some(taken) => rest = &rest[taken..],
                }
            }
        }
        check.is_whole()
    }

    #[test]
    fn it_agrees_with_the_standard_library_on_every_short_sequence() {
        for first in 0x80..=0xff_u8 {
            for second in 0..=0xff_u8 {
                for tail in [&[][..], &[0x80], &[0xbf, 0x80], &[0x80, 0x41]] {
                    let bytes = [&[first, second], tail].concat();
                    assert_eq!(valid(&[&bytes]), std::str::from_utf8(&bytes).is_ok(), "{bytes:x?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_standard_library_at_every_cut(
            bytes in prop_oneof![
                "\\PC{0,12}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..12),
            ],
            cut in 0usize..13,
        ) {
            let cut = cut.min(bytes.len());
            prop_assert_eq!(valid(&[&bytes[..cut], &bytes[cut..]]), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
