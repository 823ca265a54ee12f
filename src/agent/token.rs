//! The token without which nothing but the agent's own health is told.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Longest file that is read, in bytes.
const LONGEST: u64 = 4096;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("the token file `{path}` cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// There is nothing in it.
    #[error("{0} holds no token: write one line of 16 or more random characters, as by `openssl rand -hex 32`")]
    TooShort(String),
}

/// A token. Of its text only the SHA-256 is kept.
pub struct Token([u8; 32]);

impl Token {
    /// The variable that holds it where there is no file.
    pub const VARIABLE: &'static str = "ARRIERO_GPU_AGENT_TOKEN";
    /// Fewest bytes: what is shorter can be guessed.
    const SHORTEST: usize = 16;

    /// Reads the token from a file, else from the variable; `None` where there is neither.
    ///
    /// # Errors
    /// When what is there cannot be read or is too short.
    pub fn find(file: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, TokenError> {
        let Some(path) = file else {
            return env(Self::VARIABLE).map(|text| Self::new(&text, Self::VARIABLE)).transpose();
        };
        let name = path.display().to_string();
        let text = read(path).map_err(|error| TokenError::Unreadable { path: name.clone(), error })?;
        Self::new(&text, &format!("the token file `{name}`")).map(Some)
    }

    fn new(text: &str, place: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() < Self::SHORTEST {
            return Err(TokenError::TooShort(place.to_owned()));
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Whether a request has it. How long that takes says nothing about the token.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let hash: [u8; 32] = Sha256::digest(given.unwrap_or_default()).into();
        bool::from(self.0.ct_eq(&hash))
    }
}

/// Reads a file; a FIFO or a device does not hold the start up.
fn read(path: &Path) -> io::Result<String> {
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef";

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, http::HeaderValue::from_static(value))])
    }

    #[test]
    fn only_the_token_itself_opens() {
        let token = Token::new(" 0123456789abcdef\n", "x").expect("a token");
        assert!(token.is_in(&headers("Bearer 0123456789abcdef")));
        for wrong in ["0123456789abcdef", "Bearer 0123456789abcde", "Bearer ", "Basic 0123456789abcdef", ""] {
            assert!(!token.is_in(&headers(wrong)), "{wrong}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
    }

    #[test]
    fn a_file_comes_before_the_variable_and_a_short_one_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let variable = |_: &str| Some("fedcba9876543210".to_owned());
        let found = |file: Option<&Path>| Token::find(file, &variable);
        assert!(matches!(found(Some(&path)), Err(TokenError::Unreadable { .. })));
        assert!(matches!(found(Some(folder.path())), Err(TokenError::Unreadable { .. })));
        std::fs::write(&path, "short\n").expect("written");
        assert!(matches!(found(Some(&path)), Err(TokenError::TooShort(_))));
        std::fs::write(&path, GOOD).expect("written");
        let token = found(Some(&path)).expect("good").expect("a token");
        assert!(token.is_in(&headers("Bearer 0123456789abcdef")));
        let token = found(None).expect("good").expect("a token");
        assert!(token.is_in(&headers("Bearer fedcba9876543210")));
        assert!(Token::find(None, &|_| None).expect("good").is_none());
        assert!(matches!(Token::find(None, &|_| Some(String::new())), Err(TokenError::TooShort(_))));
    }
}
