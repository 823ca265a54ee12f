//! A kept answer as bytes: versioned, with a checksum over all of it, the same in each process.
//!
//! | bytes | what |
//! |---|---|
//! | 2 | `AK` |
//! | 1 | version of the form, 1 |
//! | 8 | XXH3 of all that follows |
//! | 1 | 1 where the body is compressed with zstd |
//! | 1, 5 × 8 | marks; received, age, fresh, while_revalidate, if_error |
//! | 2 | status |
//! | 8 | length of the body as it is sent |
//! | text | URI |
//! | list | tags |
//! | list | names of fields by which it varies |
//! | text | the phrase behind the status, empty for the usual one |
//! | list | fields: name and value in turn |
//! | the rest | body |
//!
//! Numbers are little-endian. A text is its length in 4 bytes and its bytes; a list is its length in 4 bytes and its texts.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use xxhash_rust::xxh3::xxh3_64;

use super::{Life, Marks};

const MAGIC: &[u8; 2] = b"AK";
const VERSION: u8 = 1;
const ZSTD: u8 = 1;
/// Where what the checksum is of begins.
const SUMMED: usize = 11;
/// Bytes before the URI.
const FIXED: usize = SUMMED + 2 + 5 * 8 + 2 + 8;
/// Members of a list at most.
const MOST: usize = 4096;

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where clients find it.
    pub uri: String,
    /// How long it may be used.
    pub life: Life,
    /// What its server calls it, for a purge.
    pub tags: Vec<String>,
    /// Fields of requests by which it varies.
    pub vary: Vec<HeaderName>,
    /// Its status.
    pub status: StatusCode,
    /// The phrase behind the status, where it is not the usual one.
    pub phrase: Option<Bytes>,
    /// Its fields.
    pub headers: HeaderMap,
    /// Bytes of its body as it is sent.
    pub length: u64,
    /// Whether the body is compressed with zstd, beyond what its fields say.
    pub is_compressed: bool,
    /// Its body.
    pub body: Bytes,
}

/// The bytes are not those that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kept answer is damaged, or of another version")]
pub struct Damaged;

impl Kept {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.write().freeze()
    }

    /// Whether what is written of it can be read again: no list of it is longer than one that is read.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.tags.len() <= MOST && self.vary.len() <= MOST && 2 * self.headers.len() <= MOST
    }

    /// How many bytes that are. What is kept holds all that was taken for it, so this has to be exact.
    fn size(&self) -> usize {
        let text = |length: usize| 4 + length;
        let tags: usize = self.tags.iter().map(|tag| text(tag.len())).sum();
        let vary: usize = self.vary.iter().map(|name| text(name.as_str().len())).sum();
        let phrase = text(self.phrase.as_ref().map_or(0, Bytes::len));
        let fields: usize =
            self.headers.iter().map(|(name, value)| text(name.as_str().len()) + text(value.len())).sum();
        // Each list begins with its length.
        FIXED + text(self.uri.len()) + text(tags) + text(vary) + phrase + text(fields) + self.body.len()
    }

    fn write(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(self.size());
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        out.put_u64_le(0);
        out.put_u8(if self.is_compressed { ZSTD } else { 0 });
        let Life { received, age, fresh, while_revalidate, if_error, marks } = self.life;
        out.put_u8(marks.bits());
        for number in [received, age, fresh, while_revalidate, if_error] {
            out.put_u64_le(number);
        }
        out.put_u16_le(self.status.as_u16());
        out.put_u64_le(self.length);
        put(&mut out, self.uri.as_bytes());
        put_list(&mut out, self.tags.len(), self.tags.iter().map(String::as_bytes));
        put_list(&mut out, self.vary.len(), self.vary.iter().map(|name| name.as_str().as_bytes()));
        put(&mut out, self.phrase.as_deref().unwrap_or_default());
        let fields = self.headers.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        put_list(&mut out, 2 * self.headers.len(), fields);
        out.put_slice(&self.body);
        let sum = xxh3_64(&out[SUMMED..]);
        out[SUMMED - 8..SUMMED].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// What was written. Nothing of it is copied but the names.
    ///
    /// # Errors
    /// When the bytes are others than those that were written.
    pub fn decode(bytes: &Bytes) -> Result<Self, Damaged> {
        let mut reader = open(bytes)?;
        let sum = u64::from_le_bytes(bytes[SUMMED - 8..SUMMED].try_into().map_err(|_| Damaged)?);
        if xxh3_64(&bytes[SUMMED..]) != sum {
            return Err(Damaged);
        }
        let is_compressed = reader.take(1)?[0] == ZSTD;
        let marks = Marks::from_bits(reader.take(1)?[0]);
        let mut numbers = [0; 5];
        for number in &mut numbers {
            *number = reader.number()?;
        }
        let [received, age, fresh, while_revalidate, if_error] = numbers;
        let status = u16::from_le_bytes(reader.take(2)?[..].try_into().map_err(|_| Damaged)?);
        let length = reader.number()?;
        let uri = reader.string()?;
        let tags = (0..reader.count()?).map(|_| reader.string()).collect::<Result<_, _>>()?;
        let vary = (0..reader.count()?).map(|_| reader.name()).collect::<Result<_, _>>()?;
        let phrase = Some(reader.text()?).filter(|phrase| !phrase.is_empty());
        let fields = reader.count()? / 2;
        let mut headers = HeaderMap::with_capacity(fields + 6);
        for _ in 0..fields {
            let name = reader.name()?;
            headers.append(name, HeaderValue::from_maybe_shared(reader.text()?).map_err(|_| Damaged)?);
        }
        Ok(Self {
            uri,
            life: Life { received, age, fresh, while_revalidate, if_error, marks },
            tags,
            vary,
            status: StatusCode::from_u16(status).map_err(|_| Damaged)?,
            phrase,
            headers,
            length,
            is_compressed,
            body: reader.rest,
        })
    }

    /// The tags of an answer, without a look at the rest of it.
    #[must_use]
    pub fn tags_of(bytes: &Bytes) -> Vec<String> {
        let tags = || {
            let mut reader = open(bytes)?;
            reader.take(2 + 5 * 8 + 2 + 8)?;
            reader.text()?;
            (0..reader.count()?).map(|_| reader.string()).collect::<Result<_, _>>()
        };
        tags().unwrap_or_default()
    }
}

fn put(out: &mut BytesMut, text: &[u8]) {
    out.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text);
}

fn put_list<'t>(out: &mut BytesMut, length: usize, texts: impl Iterator<Item = &'t [u8]>) {
    out.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    texts.for_each(|text| put(out, text));
}

/// What follows the checksum.
fn open(bytes: &Bytes) -> Result<Reader, Damaged> {
    match bytes.get(..SUMMED) {
        Some([b'A', b'K', VERSION, ..]) => Ok(Reader { rest: bytes.slice(SUMMED..) }),
        _ => Err(Damaged),
    }
}

struct Reader {
    rest: Bytes,
}

impl Reader {
    fn take(&mut self, bytes: usize) -> Result<Bytes, Damaged> {
        if bytes > self.rest.len() { Err(Damaged) } else { Ok(self.rest.split_to(bytes)) }
    }

    fn number(&mut self) -> Result<u64, Damaged> {
        self.take(8)?[..].try_into().map(u64::from_le_bytes).map_err(|_| Damaged)
    }

    fn size(&mut self) -> Result<usize, Damaged> {
        let size: [u8; 4] = self.take(4)?[..].try_into().map_err(|_| Damaged)?;
        usize::try_from(u32::from_le_bytes(size)).map_err(|_| Damaged)
    }

    fn count(&mut self) -> Result<usize, Damaged> {
        self.size().and_then(|count| if count > MOST { Err(Damaged) } else { Ok(count) })
    }

    fn text(&mut self) -> Result<Bytes, Damaged> {
        let size = self.size()?;
        self.take(size)
    }

    fn string(&mut self) -> Result<String, Damaged> {
        String::from_utf8(self.text()?.to_vec()).map_err(|_| Damaged)
    }

    fn name(&mut self) -> Result<HeaderName, Damaged> {
        HeaderName::from_bytes(&self.text()?).map_err(|_| Damaged)
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;

    fn kept() -> Kept {
        let fields =
            [(header::LINK, "a"), (header::CONTENT_TYPE, "text/plain"), (header::LINK, "b"), (header::VIA, "")];
        Kept {
            uri: "https://a.test/x".to_owned(),
            life: Life { received: 1, age: 2, fresh: 3, while_revalidate: 4, if_error: u64::MAX, marks: Marks::OPEN },
            tags: vec!["red".to_owned(), "blå".to_owned()],
            vary: vec![header::ACCEPT],
            status: StatusCode::NOT_FOUND,
            phrase: Some(Bytes::from_static(b"Gone Fishing")),
            headers: fields.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect(),
            length: 4,
            is_compressed: false,
            body: Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let empty = Kept {
            tags: Vec::new(),
            vary: Vec::new(),
            phrase: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            is_compressed: true,
            ..kept()
        };
        for kept in [kept(), empty] {
            let bytes = kept.encode();
            assert_eq!(Kept::decode(&bytes), Ok(kept.clone()));
            assert_eq!(Kept::tags_of(&bytes), kept.tags);
        }
    }

    #[test]
    fn no_more_memory_is_taken_than_there_are_bytes() {
        let long = Kept {
            tags: (0..50).map(|number| format!("a-rather-long-tag-{number}")).collect(),
            vary: vec![header::ACCEPT, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE],
            phrase: Some(Bytes::from(vec![b'a'; 300])),
            ..kept()
        };
        for kept in [kept(), Kept { phrase: None, ..kept() }, long] {
            let out = kept.write();
            assert_eq!((out.len(), out.capacity()), (kept.size(), kept.size()));
        }
    }

    #[test]
    fn what_fits_is_read_again_and_nothing_else_is() {
        let tags = |count: usize| Kept { tags: vec!["a".to_owned(); count], ..kept() };
        let fields = |count: usize| {
            let headers = (0..count).map(|_| (header::LINK, HeaderValue::from_static("a"))).collect();
            Kept { headers, ..kept() }
        };
        for (kept, fits) in
            [(tags(MOST), true), (tags(MOST + 1), false), (fields(MOST / 2), true), (fields(MOST / 2 + 1), false)]
        {
            let read = Kept::decode(&kept.encode());
            assert_eq!((kept.fits(), read == Ok(kept)), (fits, fits));
        }
    }

    #[test]
    fn the_form_is_that_of_version_1() {
        // What another version of Arriero keeps must be read, or told apart by its version.
        let bytes = kept().encode();
        let head: String = bytes[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((bytes.len(), head.as_str()), (207, "414b012af8b032b268d7ab0001010000"));
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_passes() {
        let bytes = kept().encode();
        for place in 0..bytes.len() * 8 {
            let mut other = bytes.to_vec();
            other[place / 8] ^= 1 << (place % 8);
            assert_eq!(Kept::decode(&other.into()), Err(Damaged), "bit {place}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Kept::decode(&bytes.slice(..length)), Err(Damaged), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..300), is_begun in any::<bool>()) {
            let mut all = if is_begun { b"AK\x01".to_vec() } else { Vec::new() };
            all.extend(bytes);
            if is_begun && all.len() >= SUMMED {
                let sum = xxh3_64(&all[SUMMED..]).to_le_bytes();
                all[3..SUMMED].copy_from_slice(&sum);
            }
            let all = Bytes::from(all);
            let _ = (Kept::decode(&all), Kept::tags_of(&all));
        }
    }
}
