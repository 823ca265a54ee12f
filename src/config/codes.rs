//! Every code that a diagnostic can carry, with its meaning.
//!
//! People search for these codes and scripts compare them: a code never changes its meaning and is
//! never given to another rule. `docs/reference/errors.md` is generated from [`ALL`].

use super::diagnostic::Severity;

/// A stable code and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `E…` for an error, `W…` for a warning.
    pub id: &'static str,
    /// What is wrong, in one sentence.
    pub meaning: &'static str,
    /// How to mend it.
    pub mend: &'static str,
}

impl Code {
    /// Whether this is an error or a warning.
    #[must_use]
    pub fn severity(&self) -> Severity {
        if self.id.starts_with('W') { Severity::Warning } else { Severity::Error }
    }
}

macro_rules! codes {
    ($($name:ident $id:literal $meaning:literal $mend:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $name: Code = Code { id: $id, meaning: $meaning, mend: $mend };
        )*

        /// All codes, in order.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    UNREADABLE "E001" "The file cannot be read."
        "Look whether the path is right and whether the process may read the file; `arriero init -o FILE` writes a first one.";
    NOT_A_FILE "E002" "The path is not a regular file."
        "Name the file itself, not a folder, pipe or device.";
    TOO_LARGE "E003" "The file is larger than 8 MiB."
        "Look whether it is the right file. A configuration is a few KiB.";
    NOT_TEXT "E004" "The file is not UTF-8 text."
        "Save it as UTF-8: `iconv -f ENCODING -t UTF-8 OLD > NEW`.";
    SYNTAX "E005" "The file is not valid YAML."
        "Look at the line that is shown and the one before it: a missing space after `:`, a tab, an open quote or bracket.";
    EMPTY "E006" "The file holds no settings."
        "Begin with `arriero init`, or with the whole configuration at the top of the page about configuration.";
    YAML_FEATURE "E007" "The file uses a part of YAML that Arriero does not accept."
        "Write it without tags, second documents and keys that are lists. Anchors, aliases and `<<` are accepted.";
    DUPLICATE_KEY "E008" "A key stands twice in one mapping."
        "Remove one of the two, or put their contents together.";
    TOO_COMPLEX "E009" "The file is nested too deeply or expands to too many values."
        "Write the values out; aliases that repeat each other grow fast.";
    UNKNOWN_KEY "E010" "There is no such key."
        "Take the key that is proposed, or look for its place in the reference.";
    MISSING_KEY "E011" "A key that is required is missing."
        "Add it.";
    WRONG_TYPE "E012" "A value is not of the kind that its key takes."
        "Write a value of the kind that the message names.";
    INVALID_VALUE "E013" "A value is of the right kind and still not possible."
        "Take one of the values, or the form, that the message names.";
    VARIABLE_NOT_SET "E014" "A variable has no value and no default."
        "Set the variable for the process, or give a default: `${NAME:-value}`.";
    BAD_REFERENCE "E015" "A reference to a variable is not written correctly."
        "Write `${NAME}` or `${NAME:-value}`; a dollar sign itself is `$$`.";
    VERSION "E020" "The version of the format is not known."
        "Write `version: 1`.";
    EMPTY_LIST "E021" "A list needs at least one entry."
        "Add an entry, or leave the key out where it has a default.";
    ADDRESS "E022" "An address is not correct."
        "Write `HOST:PORT`, an IPv6 address in brackets: `\"[::1]:8080\"`; for the admin listener also `unix:/path`.";
    ADDRESS_TWICE "E023" "Two listeners have the same address."
        "Give one of the two another port.";
    NAME "E024" "A name has characters that names may not have."
        "Take letters, digits, `_`, `.` and `-`.";
    NAME_TWICE "E025" "A name stands twice."
        "Rename one of the two: names stand in logs, metrics and commands.";
    UNKNOWN_UPSTREAM "E026" "A route names an upstream that does not exist."
        "Correct the name, or add the upstream.";
    PATH "E027" "A path is not correct."
        "Begin it with `/`, without query, `*`, `..` and `%`; one that ends in `/` means everything below it.";
    METHOD "E028" "A method is not correct."
        "Write it in capitals, as in `POST`.";
    HOST "E029" "A host pattern is not correct."
        "Write a name or an address without scheme and port; `*.` may stand in front of a name.";
    HEADER "E030" "A header condition is not correct."
        "Write the name of a header field, and a value on one line.";
    MODEL "E031" "A model pattern is not correct."
        "Write the name of a model; `*` stands for any characters.";
    URL "E032" "The URL of a server is not correct."
        "Write `http://HOST:PORT` or `https://HOST:PORT`, without path, user and password.";
    URL_TWICE "E033" "Two servers of an upstream have the same URL."
        "Remove one of the two; `weight` gives a server a larger share.";
    RANGE "E034" "A number is out of its range."
        "Take a number from the range that the message names.";
    ZERO "E035" "A duration or size of zero has no meaning here."
        "Leave the key out for its default, or for no limit where the help says so.";
    NOT_HERE "E036" "A key or value does not apply to this kind or policy."
        "Remove the key, or change the kind or policy that it needs.";
    HASH_ON "E037" "What `consistent_hash` should hash is not correct."
        "Write `client_ip`, `model`, `header:NAME` or `cookie:NAME`.";
    CONTRADICTION "E038" "Two values contradict each other."
        "Change one of the two; the message names both.";
    OPEN_ADMIN "E039" "The admin listener can be reached from outside and has no token."
        "Give it a token with `admin.token_file`, or an address on loopback or a unix socket.";
    OUT_OF_REACH "E041" "A server that was added at run time may not be at its address."
        "Write the server into the file, or add its network to `admin.server_networks`.";
    UNKNOWN_SERVER "E040" "A rule names a server that does not exist."
        "Correct the name, or add the server to this upstream.";
    UNKNOWN_ROUTE "E042" "A quota names a route that does not exist."
        "Correct the name, or add the route.";
    OWN_ADDRESS "E043" "A server is a listener of Arriero itself."
        "Write the address of the server behind it; where both are on one machine, give one of them another port.";
    TLS_FILE "E050" "A certificate, key or OCSP file cannot be read."
        "Look at the path, and whether Arriero's user may read the file.";
    CERTIFICATE "E051" "A file does not hold the certificate that it should."
        "Name a file in PEM with the server's own certificate first; `cert` and `key` may be exchanged.";
    PRIVATE_KEY "E052" "A file does not hold a private key that can be used."
        "Name a private key in PEM, without a password: PKCS#8, PKCS#1 or SEC1.";
    KEY_MISMATCH "E053" "A certificate and a private key do not belong together."
        "Take both from the same issue, the server's own certificate first in its file.";
    STAPLE "E054" "A file does not hold an OCSP response."
        "Fetch it anew: `openssl ocsp -respout FILE`. It is DER, no PEM.";
    LIMIT_KEY "E070" "What a limit counts by is not correct."
        "Take `client_ip`, `api_key`, `model`, `host`, `route` or `header:NAME`, each once.";
    NETWORK "E060" "A network is not correct."
        "Write an address or `ADDRESS/BITS`, with no bits set behind the prefix.";
    ORIGIN "E061" "An origin is not correct."
        "Write scheme, host and port only, as browsers send it: `https://app.example.com`.";
    NO_KEYS "E062" "A route asks for API keys and there is no file with them."
        "Name a file with keys in `auth.keys_file`; `arriero key new NAME --file FILE` makes one.";
    KEY "E063" "An entry of a keys file is not correct."
        "Let `arriero key` write the file, or correct the entry.";
    TARGET "E080" "A route has more than one target."
        "Keep one; a second route can have the other.";
    TEMPLATE "E081" "A value with variables is not correct."
        "Use the variables that there are; a brace itself is `{{`.";
    UNTOUCHABLE "E082" "A header field that no rule may change."
        "Remove the rule: such fields frame a message or belong to one connection, and Arriero writes them.";
    FIELD "E083" "A header field of a rule is not correct."
        "Write a name of letters, digits and `-`, and a value on one line.";
    ERROR_PAGE "E084" "An error page is not correct."
        "Take a status such as `\"404\"`, or `4xx` or `5xx`, and name a file.";
    COOKIE "E085" "A cookie is not correct."
        "Take letters, digits, `_`, `-` and `.` for its name.";
    WEBHOOK "E095" "The URL of a webhook is not correct."
        "Write `http://` or `https://` with a host, without user and password.";
    SECRET_FILE "E096" "A file with a secret cannot be used."
        "Look at the path and at the rights; the file must not be empty.";
    RECOVERY_ACTION "E097" "A recovery action is not correct."
        "Write exactly one of `exec`, `webhook` and `docker_restart`.";
    GPU_SOURCE "E098" "A source of GPU readings is not correct."
        "Write its URL: `http://10.0.0.11:9845` for `agent`, `http://10.0.0.11:9400/metrics` for `exporter`.";
    COLLECTOR "E099" "The collector of traces is not correct."
        "Write `http://` or `https://` with host and port; a path only with `protocol: http`.";
    REDIS "E100" "The address of Redis or Valkey is not correct."
        "Write `redis://HOST:PORT`, or `rediss://HOST:PORT` for TLS.";
    NEVER_MATCHES "W001" "A route can never match."
        "Put it before the route that takes its requests, or remove it.";
    UNUSED_UPSTREAM "W002" "No route uses this upstream."
        "Add a route that names it, or remove it.";
    SLOW_CHECK "W003" "A health check may take longer than the time between two checks."
        "Make `timeout` shorter than `interval`.";
    NO_REPLAY "W004" "`replay_post` has no effect."
        "Name in `retry.on` what may happen after a request was sent, or remove `replay_post`.";
    NOT_EXPANDED "W005" "A `$NAME` without braces is not expanded."
        "Write `${NAME}` for a variable, `$$NAME` for the text itself.";
    NO_ROUTES "W006" "There is no route."
        "Add a route; until then every request is answered 404.";
    NOT_VALID "W020" "A certificate is not valid now."
        "Renew it; the new file is taken without a reload.";
    NOT_VERIFIED "W021" "The certificates of servers are not checked."
        "Name the authority in `tls.ca` instead: without a check anybody on the way can read and change everything.";
    STAPLE_HELD_BACK "W022" "An OCSP response does not fit its certificate and is not sent."
        "Fetch a new one: `openssl ocsp -respout FILE`.";
    NEVER_CHOSEN "W023" "A certificate can never be chosen."
        "Issue it with names in `subjectAltName`, or put it first.";
    TRUSTS_ALL "W060" "Everybody is trusted as a proxy, so anybody can choose an address."
        "Name the networks of your own proxies.";
    NO_KEYS_FILE "W061" "The keys file does not exist."
        "Make it with `arriero key new NAME --file FILE`; until it is there, no key is good.";
    NO_SUCH_QUOTA "W062" "A key has an amount for a quota that does not exist or does not count by keys."
        "Correct the name in the keys file, or add the quota.";
    NOT_KEPT "W063" "What is used of quotas is not kept over a restart."
        "Set `server.data_dir`.";
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
            assert!(code.meaning.ends_with('.') && code.mend.ends_with('.'), "{}", code.id);
        }
    }
}
