//! HTTP/2 written frame by frame, so that a test can send what no library would (RFC 9113, HPACK of RFC 7541 without
//! Huffman codes and without a table of our own).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::wire::LIMIT;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER_TABLE_SIZE: u16 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame of any kind. The length is that of the payload.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let pairs = values.iter().flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, pairs.collect::<Vec<u8>>())
}

/// A WINDOW_UPDATE frame.
pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

/// A RST_STREAM frame with CANCEL.
pub fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, 8_u32.to_be_bytes())
}

/// A header block of literals that are not indexed.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name.as_ref());
        text(&mut out, value.as_ref());
    }
    out
}

/// A string without Huffman codes (RFC 7541 5.2).
pub fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < 127 {
        out.push(u8::try_from(bytes.len()).expect("short"));
    } else {
        out.push(127);
        let mut rest = bytes.len() - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).expect("small") | 128);
            rest /= 128;
        }
        out.push(u8::try_from(rest).expect("small"));
    }
    out.extend_from_slice(bytes);
}

/// The header block of a request.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "a.test"), (":path", path)];
    block(&[&pseudo, more].concat())
}

/// A HEADERS frame that opens a stream; `end` when no body follows.
pub fn headers(stream: u32, end: bool, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | u8::from(end), stream, block)
}

/// A GET that is complete.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, true, &request("GET", path, &[]))
}

/// How a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The code of the last GOAWAY.
    pub goaway: Option<u32>,
    /// Streams that were reset, each with its code.
    pub resets: Vec<(u32, u32)>,
    /// Streams that were answered, each with its status.
    pub answers: Vec<(u32, u16)>,
}

/// A connection on which frames are written and read one by one.
pub struct Raw {
    pub reader: OwnedReadHalf,
    pub writer: OwnedWriteHalf,
    buffer: Vec<u8>,
}

impl Raw {
    /// A connection on which nothing was said.
    pub async fn silent(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("connected"))
    }

    /// With kernel buffers as small as can be.
    pub async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        Self::over(socket.connect(address).await.expect("connected"))
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("set");
        let (reader, writer) = stream.into_split();
        Self { reader, writer, buffer: Vec::new() }
    }

    /// A connection after the preface and SETTINGS without a header table, so that [`status`] can read answers.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with_window(address, 65_535).await
    }

    /// The same with this window for each stream.
    pub async fn with_window(address: SocketAddr, window: u32) -> Self {
        let mut raw = Self::silent(address).await;
        raw.greet(window).await;
        raw
    }

    /// Sends the preface and SETTINGS.
    pub async fn greet(&mut self, window: u32) {
        let greeting = settings(&[(HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, window)]);
        self.send([PREFACE, &greeting, &frame(SETTINGS, ACK, 0, [])].concat()).await;
    }

    /// Sends bytes; false when the other side has closed.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        timeout(LIMIT, self.writer.write_all(bytes.as_ref())).await.expect("the other side reads").is_ok()
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes).await, "closed by the other side");
    }

    /// The next frame; None at the end of the connection, however it came.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, flags, w, x, y, z, ..] = self.buffer[..] {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    return Some(Frame { kind, flags, stream: u32::from_be_bytes([w, x, y, z]), payload });
                }
            }
            let read = timeout(LIMIT, self.reader.read_buf(&mut self.buffer)).await;
            if !read.expect("a frame or the end").is_ok_and(|count| count > 0) {
                return None;
            }
        }
    }

    /// The next frame of a kind; None at the end of the connection.
    pub async fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// The status of the next answer, or None when its stream is reset or the connection ends.
    pub async fn answer(&mut self, stream: u32) -> Option<u16> {
        loop {
            let frame = self.frame().await?;
            match frame.kind {
                HEADERS if frame.stream == stream => return Some(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return None,
                _ => {}
            }
        }
    }

    /// Reads until the connection ends.
    pub async fn ended(&mut self) -> Ended {
        let mut ended = Ended::default();
        while let Some(frame) = self.frame().await {
            note(&mut ended, &frame);
        }
        ended
    }

    /// What became of a stream: its answer or its reset, or the end of the whole connection.
    pub async fn verdict(&mut self, stream: u32) -> Ended {
        let mut ended = Ended::default();
        while let Some(frame) = self.frame().await {
            note(&mut ended, &frame);
            if frame.kind == GOAWAY || frame.stream == stream && [HEADERS, RST_STREAM].contains(&frame.kind) {
                break;
            }
        }
        ended
    }
}

fn note(ended: &mut Ended, frame: &Frame) {
    let code = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"));
    match frame.kind {
        GOAWAY => ended.goaway = Some(code(&frame.payload[4..])),
        RST_STREAM => ended.resets.push((frame.stream, code(&frame.payload))),
        HEADERS => ended.answers.push((frame.stream, status(&frame.payload))),
        _ => {}
    }
}

/// The status at the beginning of a header block. It is the first field; the other side has been told to use no table.
pub fn status(block: &[u8]) -> u16 {
    let mut block = block;
    // Changes of the table's size.
    while let [0x20..=0x3f, rest @ ..] = block {
        block = rest;
    }
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        [0x08 | 0x18 | 0x48, 3, digits @ ..] => {
            std::str::from_utf8(&digits[..3]).ok().and_then(|text| text.parse().ok()).expect("a number")
        }
        [0x08 | 0x18 | 0x48, 0x82 | 0x83, coded @ ..] => huffman_number(coded),
        _ => panic!("a status in another form: {:02x?}", &block[..block.len().min(8)]),
    }
}

/// Three digits in the code of RFC 7541, appendix B: 0 to 2 have five bits, 3 to 9 six.
fn huffman_number(coded: &[u8]) -> u16 {
    let bits: u32 =
        (0..24).fold(0, |bits, at| bits << 1 | u32::from(coded.get(at / 8).map_or(1, |byte| byte >> (7 - at % 8) & 1)));
    let (mut at, mut number) = (24, 0);
    for _ in 0..3 {
        let five = bits >> (at - 5) & 31;
        let (digit, size) = if five < 3 { (five, 5) } else { ((bits >> (at - 6) & 63) - 0x19 + 3, 6) };
        at -= size;
        number = number * 10 + digit;
    }
    u16::try_from(number).expect("three digits")
}
