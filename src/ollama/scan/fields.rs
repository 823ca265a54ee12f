//! The keys that decide something, and what stood behind them.

use std::fmt;

use super::string::is_key;
use super::{MAX_VALUE_BYTES, Want};

/// The longest text kept of `keep_alive`, in decoded bytes; nobody needs more for a duration.
const MAX_SETTING_BYTES: usize = 64;

macro_rules! keys {
    ($($variant:ident $word:literal $description:literal;)*) => {
        /// A key whose value decides something: where a request goes, or whether it may.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Key {
            $(#[doc = $description] $variant,)*
        }

        impl Key {
            /// The key as Ollama has it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Key::$variant => $word,)*
                }
            }
        }
    };
}

keys! {
    Model "model" "The model.";
    Name "name" "The model, in older forms of a request.";
    Source "source" "The model that is copied.";
    Destination "destination" "The name that a copy gets.";
    From "from" "The model that a new one is made from.";
    Modelfile "modelfile" "A text that names models in its own way, for older servers.";
    Stream "stream" "Whether the answer comes in pieces.";
    Options "options" "The object that holds the `num_` keys.";
    KeepAlive "keep_alive" "How long the model stays in memory afterwards.";
    NumCtx "num_ctx" "`options.num_ctx`: tokens of context.";
    NumPredict "num_predict" "`options.num_predict`: tokens of the answer.";
    NumGpu "num_gpu" "`options.num_gpu`: layers on the GPU.";
    MaxTokens "max_tokens" "OpenAI's and Anthropic's word for `num_predict`.";
    MaxCompletionTokens "max_completion_tokens" "OpenAI's newer word for `num_predict`.";
    MaxOutputTokens "max_output_tokens" "The word of OpenAI's `/v1/responses` for `num_predict`.";
}

/// What may be a key of ours at the top of the object.
const TOP: [Key; 12] = [
    Key::Model,
    Key::Name,
    Key::Source,
    Key::Destination,
    Key::From,
    Key::Modelfile,
    Key::Stream,
    Key::Options,
    Key::KeepAlive,
    Key::MaxTokens,
    Key::MaxCompletionTokens,
    Key::MaxOutputTokens,
];

/// What may be a key of ours inside `options`.
const IN_OPTIONS: [Key; 3] = [Key::NumCtx, Key::NumPredict, Key::NumGpu];

/// What is done with the value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A string that names a model.
    Name,
    /// `true` or `false`.
    Flag,
    /// A number or text that a cap may be about.
    Setting,
    /// An object to look into.
    Options,
}

impl Key {
    pub(super) const fn role(self) -> Role {
        match self {
            Key::Model | Key::Name | Key::Source | Key::Destination | Key::From => Role::Name,
            Key::Stream => Role::Flag,
            Key::Options => Role::Options,
            _ => Role::Setting,
        }
    }

    /// Decoded bytes kept of a text behind this key.
    pub(super) const fn kept(self) -> usize {
        match self.role() {
            Role::Name => MAX_VALUE_BYTES,
            Role::Setting => MAX_SETTING_BYTES,
            Role::Flag | Role::Options => 0,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What a client wrote behind a key that a cap may be about. `null` is as good as nothing, in Go too.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A number, rounded to a `float64` as Go rounds it.
    Number(f64),
    /// A string, decoded.
    Text(Box<str>),
    /// A boolean, a list, an object, a string of more than 64 bytes or a number of more than 40.
    Other,
}

/// What a scan has read so far.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    want: Want,
    /// One bit for each [`Key`] that has been there.
    seen: u16,
    pub(super) model: Option<String>,
    pub(super) name: Option<String>,
    /// Names of other models that the request is about.
    pub(super) others: Vec<String>,
    pub(super) stream: Option<bool>,
    /// At most one for each key, since none may stand twice.
    settings: Vec<(Key, Setting)>,
}

impl Fields {
    pub(super) fn new(want: Want) -> Fields {
        Fields { want, seen: 0, model: None, name: None, others: Vec::new(), stream: None, settings: Vec::new() }
    }

    /// Which key of ours a client's key is, at the top of the object or in its `options`.
    pub(super) fn find(&self, written: &[u8], in_options: bool) -> Option<Key> {
        // None of ours is shorter than `name`, or begins with another letter.
        let first = written.first().filter(|_| written.len() >= 4)?.to_ascii_lowercase();
        if first.is_ascii() && !matches!(first, b'm' | b'n' | b's' | b'o' | b'k' | b'd' | b'f') {
            return None;
        }
        let known: &[Key] = if in_options { &IN_OPTIONS } else { &TOP };
        let found = known.iter().copied().find(|key| is_key(written, key.as_str()))?;
        let wanted = match found {
            Key::Model => self.want != Want::Source,
            Key::Name => matches!(self.want, Want::Model | Want::Create),
            Key::Source | Key::Destination => self.want == Want::Source,
            Key::From | Key::Modelfile => self.want == Want::Create,
            _ => true,
        };
        wanted.then_some(found)
    }

    /// Notes that a key is there; false if it was before.
    pub(super) fn see(&mut self, key: Key) -> bool {
        let bit = 1 << key as u16;
        let fresh = self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }

    pub(super) fn keep_name(&mut self, key: Key, name: String) {
        if name.is_empty() {
            return;
        }
        match key {
            Key::Name => self.name = Some(name),
            Key::Destination | Key::From => self.others.push(name),
            _ => self.model = Some(name),
        }
    }

    pub(super) fn keep_setting(&mut self, key: Key, setting: Setting) {
        self.settings.push((key, setting));
    }

    pub(super) fn setting(&self, key: Key) -> Option<&Setting> {
        self.settings().find(|(found, _)| *found == key).map(|(_, setting)| setting)
    }

    /// Settings in the order in which they stand in the body.
    pub(super) fn settings(&self) -> impl Iterator<Item = (Key, &Setting)> {
        self.settings.iter().map(|(key, setting)| (*key, setting))
    }
}
