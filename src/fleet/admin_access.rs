//! The tokens of the admin listener and what callers without one may do, as the configuration in force has it.
//!
//! Of a token only its SHA-256 is kept. Files are read when the configuration is, and again at each reload, so that a token
//! is changed by changing its file; one that cannot be read then keeps its last token.

use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::types::{self, AdminScope, Permission, WithoutToken};
use crate::policy::admin_access::{self, Scope};

/// The name of the token of `admin.token_file`.
const ADMIN: &str = "admin";
/// The name of a caller that needs no token.
const LOCAL: &str = "local";

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token, or `local`.
    pub name: String,
    /// What they may do.
    pub scope: Scope,
}

struct Source {
    name: String,
    path: PathBuf,
    scope: Scope,
}

#[derive(Clone)]
struct Token {
    hash: [u8; 32],
    /// Place in the list of sources.
    source: usize,
}

/// Who may do what.
pub struct AdminAccess {
    sources: Vec<Source>,
    tokens: ArcSwap<Vec<Token>>,
    without: Option<Scope>,
    debug: bool,
}

impl AdminAccess {
    /// Reads the files.
    ///
    /// # Errors
    /// The place in the configuration of a file that cannot be used, and why.
    pub fn open(admin: &types::Admin) -> Result<Self, (String, String)> {
        let whole = admin.token_file.iter().map(|path| Source {
            name: ADMIN.to_owned(),
            path: path.into(),
            scope: Scope::Admin,
        });
        let named = admin.tokens.iter().map(|token| Source {
            name: token.name.clone(),
            path: PathBuf::from(&token.token_file),
            scope: match token.scope {
                AdminScope::Read => Scope::Read,
                AdminScope::Operate => Scope::Operate,
                AdminScope::Admin => Scope::Admin,
            },
        });
        let sources: Vec<Source> = whole.chain(named).collect();
        let first_named = usize::from(admin.token_file.is_some());
        let mut tokens = Vec::with_capacity(sources.len());
        for (number, source) in sources.iter().enumerate() {
            let place = match number.checked_sub(first_named) {
                None => "admin.token_file".to_owned(),
                Some(index) => format!("admin.tokens[{index}].token_file"),
            };
            let hash = read(&source.path).map_err(|why| (place, why))?;
            tokens.push(Token { hash, source: number });
        }
        let without = admin.without_token.map(|may| match may {
            WithoutToken::Read => Scope::Read,
            WithoutToken::Health => Scope::Health,
        });
        let debug = admin.debug == Permission::Allow;
        Ok(Self { sources, tokens: ArcSwap::from_pointee(tokens), without, debug })
    }

    /// Reads the files again.
    pub fn refresh(&self) {
        let mut tokens = Vec::clone(&self.tokens.load());
        for token in &mut tokens {
            let source = &self.sources[token.source];
            match read(&source.path) {
                Ok(hash) => token.hash = hash,
                Err(why) => tracing::error!(token = source.name, why, "a token of the admin listener stays as it was"),
            }
        }
        self.tokens.store(tokens.into());
    }

    /// Whether calls for developers are served.
    #[must_use]
    pub const fn allows_debug(&self) -> bool {
        self.debug
    }

    /// Whether there is any token.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Who calls with this token, or without one; `is_local` says that the listener is on loopback or a unix socket.
    /// `None` for a token that is none of ours.
    #[must_use]
    pub fn caller(&self, token: Option<&[u8]>, is_local: bool) -> Option<Caller> {
        let Some(given) = token else {
            let scope = admin_access::without_token(self.has_tokens(), is_local, self.without);
            return Some(Caller { name: LOCAL.to_owned(), scope });
        };
        let hash: [u8; 32] = Sha256::digest(given).into();
        let tokens = self.tokens.load();
        let found = tokens.iter().find(|token| bool::from(token.hash.ct_eq(&hash)))?;
        let source = &self.sources[found.source];
        Some(Caller { name: source.name.clone(), scope: source.scope })
    }
}

fn read(path: &Path) -> Result<[u8; 32], String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() {
        return Err(format!("`{}` holds no token", path.display()));
    }
    Ok(Sha256::digest(token).into())
}
