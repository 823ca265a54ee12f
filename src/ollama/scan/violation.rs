//! What a request body may not be.

use super::fields::Key;

/// Why a body is refused: each is answered 400 with the reason `bad_request`. The sentence names no byte of the
/// client's, so that it can go into a log.
///
/// Some of these Go would take ([`Violation::Repeated`], [`Violation::Trailing`], [`Violation::NotUtf8`], depths up
/// to 10,000) and read in a way that another reader does not. The rule is one: what two readers could read
/// differently reaches neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// There is no body, or only white space.
    #[error("the request body is empty")]
    Empty,
    /// A byte order mark, or the first byte of UTF-16.
    #[error("the request body begins with a byte order mark")]
    ByteOrderMark,
    /// An array, a text, a form, anything but `{`.
    #[error("the request body is not a JSON object")]
    NotAnObject,
    /// Not JSON: a comment, a quote of the wrong kind, a comma too many, brackets that do not pair, `01`, `NaN`.
    #[error("the request body is not valid JSON")]
    Malformed,
    /// A raw control character inside a string.
    #[error("the request body has a control character inside a JSON string")]
    ControlCharacter,
    /// An escape that JSON does not have.
    #[error("the request body has an unknown escape inside a JSON string")]
    BadEscape,
    /// Bytes that are not UTF-8, in a key or a value at any depth.
    #[error("the request body is not valid UTF-8")]
    NotUtf8,
    /// A number that Go's `float64` cannot hold.
    #[error("the request body has a number that is too large")]
    HugeNumber,
    /// Nested deeper than [`super::MAX_DEPTH`].
    #[error("the request body is nested deeper than 64 levels")]
    TooDeep,
    /// Something other than white space behind the object.
    #[error("the request body goes on behind its JSON object")]
    Trailing,
    /// The body ended inside the object.
    #[error("the request body ends inside its JSON object")]
    Truncated,
    /// A second key with this name, in whatever letter case and however it is escaped.
    #[error("the request body has the key `{0}` twice")]
    Repeated(Key),
    /// A value that must be a string and is not.
    #[error("`{0}` in the request body is not a string")]
    NotText(Key),
    /// A control character, NUL, U+FFFD or half a surrogate pair in a name.
    #[error("`{0}` in the request body has a character that no model has in its name")]
    Unprintable(Key),
    /// A name longer than [`super::MAX_VALUE_BYTES`].
    #[error("`{0}` in the request body is too long")]
    TooLong(Key),
}
