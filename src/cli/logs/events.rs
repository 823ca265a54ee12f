//! Server-Sent Events, as far as the admin listener uses them.

use http_body_util::BodyExt;

use crate::cli::admin_client::Opened;

/// No event of ours is longer.
const LONGEST: usize = 1 << 20;

/// Something that happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What it is called.
    pub name: String,
    /// What is told of it.
    pub data: String,
}

/// Events as they come.
pub struct Events {
    opened: Opened,
    lines: Lines,
}

impl Events {
    /// Those of an answer.
    pub fn new(opened: Opened) -> Self {
        Self { opened, lines: Lines::default() }
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// When the stream ends, as it does with the process that sends it.
    pub async fn next(&mut self) -> Result<Event, String> {
        loop {
            if let Some(event) = self.lines.event() {
                return Ok(event);
            }
            if self.lines.rest.len() > LONGEST {
                return Err("an event is too long".to_owned());
            }
            match self.opened.body.frame().await {
                Some(Ok(frame)) => {
                    self.lines.rest.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("it has ended the stream".to_owned()),
            }
        }
    }
}

/// What came and was not read yet.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    begun: Event,
}

impl Lines {
    /// The next event that is complete.
    fn event(&mut self) -> Option<Event> {
        while let Some(end) = memchr::memchr(b'\n', &self.rest) {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    let event = std::mem::take(&mut self.begun);
                    if !event.data.is_empty() {
                        return Some(event);
                    }
                }
                "event" => value.clone_into(&mut self.begun.name),
                "data" => {
                    if !self.begun.data.is_empty() {
                        self.begun.data.push('\n');
                    }
                    self.begun.data.push_str(value);
                }
                // Comments keep the connection alive; ids are of no use here.
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_wherever_their_bytes_are_cut() {
        let text =
            ": alive\n\nevent: request\ndata: {\"a\":1}\n\nid: 7\r\nevent:message\r\ndata: 1\r\ndata:2\r\n\r\ndata: 3";
        let wanted = [("request", "{\"a\":1}"), ("message", "1\n2")];
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.rest.extend_from_slice(part.as_bytes());
                while let Some(event) = lines.event() {
                    found.push(event);
                }
            }
            let found: Vec<_> = found.iter().map(|event| (event.name.as_str(), event.data.as_str())).collect();
            assert_eq!(found, wanted, "cut at {cut}");
        }
    }
}
