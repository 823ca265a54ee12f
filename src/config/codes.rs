//! Every code that a diagnostic can carry, with its meaning.
//!
//! People search for these codes and scripts compare them: a code never changes its meaning and is
//! never given to another rule. The reference of the documentation is generated from [`ALL`].

use super::diagnostic::Severity;

/// A stable code and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `E…` for an error, `W…` for a warning.
    pub id: &'static str,
    /// What is wrong, in one sentence.
    pub meaning: &'static str,
}

impl Code {
    /// Whether this is an error or a warning.
    #[must_use]
    pub fn severity(&self) -> Severity {
        if self.id.starts_with('W') { Severity::Warning } else { Severity::Error }
    }
}

macro_rules! codes {
    ($($name:ident $id:literal $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $name: Code = Code { id: $id, meaning: $meaning };
        )*

        /// All codes, in order.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    UNREADABLE "E001" "The file cannot be read.";
    NOT_A_FILE "E002" "The path is not a regular file.";
    TOO_LARGE "E003" "The file is larger than 8 MiB.";
    NOT_TEXT "E004" "The file is not UTF-8 text.";
    SYNTAX "E005" "The file is not valid YAML.";
    EMPTY "E006" "The file holds no settings.";
    YAML_FEATURE "E007" "The file uses a part of YAML that Arriero does not accept.";
    DUPLICATE_KEY "E008" "A key stands twice in one mapping.";
    TOO_COMPLEX "E009" "The file is nested too deeply or expands to too many values.";
    UNKNOWN_KEY "E010" "There is no such key.";
    MISSING_KEY "E011" "A key that is required is missing.";
    WRONG_TYPE "E012" "A value is not of the kind that its key takes.";
    INVALID_VALUE "E013" "A value is of the right kind and still not possible.";
    VARIABLE_NOT_SET "E014" "A variable has no value and no default.";
    BAD_REFERENCE "E015" "A reference to a variable is not written correctly.";
    VERSION "E020" "The version of the format is not known.";
    EMPTY_LIST "E021" "A list needs at least one entry.";
    ADDRESS "E022" "An address is not correct.";
    ADDRESS_TWICE "E023" "Two listeners have the same address.";
    NAME "E024" "A name has characters that names may not have.";
    NAME_TWICE "E025" "A name stands twice.";
    UNKNOWN_UPSTREAM "E026" "A route names an upstream that does not exist.";
    PATH "E027" "A path is not correct.";
    METHOD "E028" "A method is not correct.";
    HOST "E029" "A host pattern is not correct.";
    HEADER "E030" "A header condition is not correct.";
    MODEL "E031" "A model pattern is not correct.";
    URL "E032" "The URL of a server is not correct.";
    URL_TWICE "E033" "Two servers of an upstream have the same URL.";
    RANGE "E034" "A number is out of its range.";
    ZERO "E035" "A duration or size of zero has no meaning here.";
    NOT_HERE "E036" "A key or value does not apply to this kind or policy.";
    HASH_ON "E037" "What `consistent_hash` should hash is not correct.";
    CONTRADICTION "E038" "Two values contradict each other.";
    OPEN_ADMIN "E039" "The admin listener can be reached from outside and has no token.";
    OUT_OF_REACH "E041" "A server that was added at run time may not be at its address.";
    UNKNOWN_SERVER "E040" "A rule names a server that does not exist.";
    TLS_FILE "E050" "A certificate, key or OCSP file cannot be read.";
    CERTIFICATE "E051" "A file does not hold the certificate that it should.";
    PRIVATE_KEY "E052" "A file does not hold a private key that can be used.";
    KEY_MISMATCH "E053" "A certificate and a private key do not belong together.";
    STAPLE "E054" "A file does not hold an OCSP response.";
    LIMIT_KEY "E070" "What a limit counts by is not correct.";
    NETWORK "E060" "A network is not correct.";
    ORIGIN "E061" "An origin is not correct.";
    NO_KEYS "E062" "A route asks for API keys and there is no file with them.";
    KEY "E063" "An entry of a keys file is not correct.";
    TARGET "E080" "A route has more than one target.";
    TEMPLATE "E081" "A value with variables is not correct.";
    UNTOUCHABLE "E082" "A header field that no rule may change.";
    FIELD "E083" "A header field of a rule is not correct.";
    ERROR_PAGE "E084" "An error page is not correct.";
    COOKIE "E085" "A cookie is not correct.";
    WEBHOOK "E095" "The URL of a webhook is not correct.";
    SECRET_FILE "E096" "A file with a secret cannot be used.";
    RECOVERY_ACTION "E097" "A recovery action is not correct.";
    GPU_SOURCE "E098" "A source of GPU readings is not correct.";
    NEVER_MATCHES "W001" "A route can never match.";
    UNUSED_UPSTREAM "W002" "No route uses this upstream.";
    SLOW_CHECK "W003" "A health check may take longer than the time between two checks.";
    NO_REPLAY "W004" "`replay_post` has no effect.";
    NOT_EXPANDED "W005" "A `$NAME` without braces is not expanded.";
    NO_ROUTES "W006" "There is no route.";
    NOT_VALID "W020" "A certificate is not valid now.";
    NOT_VERIFIED "W021" "The certificates of servers are not checked.";
    STAPLE_HELD_BACK "W022" "An OCSP response does not fit its certificate and is not sent.";
    NEVER_CHOSEN "W023" "A certificate can never be chosen.";
    TRUSTS_ALL "W060" "Everybody is trusted as a proxy, so anybody can choose an address.";
    NO_KEYS_FILE "W061" "The keys file does not exist.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ALL {
            assert!(seen.insert(code.id), "{} twice", code.id);
            assert!(code.id.len() == 4 && code.id.starts_with(['E', 'W']), "{}", code.id);
            assert!(code.meaning.ends_with('.'), "{}", code.id);
        }
    }
}
