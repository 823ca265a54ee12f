//! Rules about TLS. The files are read: a certificate that cannot be served is found before a client
//! finds it.

use tokio_rustls::rustls::pki_types::ServerName;

use super::Rules;
use crate::clock;
use crate::config::address::ServerUrl;
use crate::config::codes;
use crate::config::credentials::{self, Identity, Leaf, Part, Problem, Staple};
use crate::config::tree::Path;
use crate::config::types::{CertificateFiles, ClientAuth, Listener, ListenerTls, Upstream, UpstreamTls};

/// The rules about one listener.
pub(super) fn listener(path: &Path<'_>, listener: &Listener, rules: &mut Rules<'_, '_, '_>) {
    rules.not_zero(&path.key("timeouts").key("tls"), listener.timeouts.tls, "leave it out for the default");
    let Some(tls) = &listener.tls else { return };
    if listener.h2c {
        let hint = "remove it: HTTP/2 is spoken over TLS anyway";
        rules.key(codes::NOT_HERE, &path.key("h2c"), "`h2c` is HTTP/2 without TLS, and this listener has TLS", hint);
    }
    let path = path.key("tls");
    certificates(&path.key("certificates"), tls, rules);
    client_auth(&path, tls, rules);
}

fn certificates(path: &Path<'_>, tls: &ListenerTls, rules: &mut Rules<'_, '_, '_>) {
    if tls.certificates.is_empty() {
        let hint = "add one: `- { cert: /path/fullchain.pem, key: /path/privkey.pem }`";
        rules.key(codes::EMPTY_LIST, path, "a listener with TLS needs at least one certificate", hint);
    }
    for (index, files) in tls.certificates.iter().enumerate() {
        let path = path.index(index);
        let Some(leaf) = identity(&path, ("cert", &files.cert), ("key", &files.key), rules) else { continue };
        staple(&path, files, &leaf, rules);
        if index > 0 && leaf.names.is_empty() {
            let message = "this certificate has no DNS name, so no client's name picks it";
            let hint = "issue it with the names in `subjectAltName`, or put it first";
            rules.value(codes::NEVER_CHOSEN, &path.key("cert"), message, hint);
        }
    }
}

fn staple(path: &Path<'_>, files: &CertificateFiles, leaf: &Leaf, rules: &mut Rules<'_, '_, '_>) {
    let Some(file) = &files.ocsp else { return };
    let path = path.key("ocsp");
    let read = credentials::read(Part::Staple, file).and_then(|bytes| Staple::parse(&bytes));
    match read {
        Err(problem) => refuse(&path, file, &problem, rules),
        Ok(staple) => {
            if let Err(fault) = staple.fits(leaf, clock::unix_seconds()) {
                let message = format!("{} {}, so it is not sent", rules.shown(&path, file), fault.what());
                rules.value(
                    codes::STAPLE_HELD_BACK,
                    &path,
                    message,
                    "fetch a new one with `openssl ocsp -respout FILE`",
                );
            }
        }
    }
}

fn client_auth(path: &Path<'_>, tls: &ListenerTls, rules: &mut Rules<'_, '_, '_>) {
    let auth_path = path.key("client_auth");
    match (&tls.client_ca, tls.client_auth()) {
        (None, ClientAuth::Off) => {}
        (None, _) => {
            let message = "client certificates cannot be checked without an authority";
            rules.value(codes::CONTRADICTION, &auth_path, message, "add `client_ca: /path/to/ca.pem`");
        }
        (Some(_), ClientAuth::Off) => {
            let message = "`client_ca` has no effect with `client_auth: off`";
            rules.value(codes::CONTRADICTION, &auth_path, message, "remove `client_ca`, or write `optional`");
        }
        (Some(file), _) => bundle(&path.key("client_ca"), file, rules),
    }
}

/// The rules about one upstream.
pub(super) fn upstream(path: &Path<'_>, upstream: &Upstream, rules: &mut Rules<'_, '_, '_>) {
    let Some(tls) = &upstream.tls else { return };
    let path = path.key("tls");
    let urls = upstream.servers.iter().map(|server| ServerUrl::parse(&server.url));
    if !upstream.servers.is_empty() && urls.flatten().all(|url| !url.tls) {
        let message = "no server of this upstream has a URL with `https://`, so nothing is encrypted";
        rules.key(codes::NOT_HERE, &path, message, "write `https://HOST:PORT`, or remove `tls`");
    }
    trust(&path, tls, "the servers' certificates are", rules);
}

/// The rules about whom we trust and what we show; `whose` begins the sentence that is said when nothing is checked.
pub(super) fn trust(path: &Path<'_>, tls: &UpstreamTls, whose: &str, rules: &mut Rules<'_, '_, '_>) {
    if let Some(file) = &tls.ca {
        bundle(&path.key("ca"), file, rules);
    }
    if let Some(name) = &tls.server_name
        && ServerName::try_from(name.as_str()).is_err()
    {
        let path = path.key("server_name");
        let message = format!("{} is neither a host name nor an IP address", rules.shown(&path, name));
        rules.value(codes::INVALID_VALUE, &path, message, "write the name that the certificate has, without a port");
    }
    if !tls.verify {
        let message = format!("{whose} not checked: anybody on the way can read and change everything");
        let hint = "name the authority that signed them instead: `ca: /path/to/ca.pem`";
        rules.value(codes::NOT_VERIFIED, &path.key("verify"), message, hint);
    }
    match (&tls.client_cert, &tls.client_key) {
        (Some(cert), Some(key)) => {
            identity(path, ("client_cert", cert), ("client_key", key), rules);
        }
        (None, None) => {}
        (given, _) => {
            let (there, missing) =
                if given.is_some() { ("client_cert", "client_key") } else { ("client_key", "client_cert") };
            let message = format!("`{there}` is of no use without `{missing}`");
            rules.key(codes::CONTRADICTION, &path.key(there), message, format!("add `{missing}: /path/to/file.pem`"));
        }
    }
}

fn bundle(path: &Path<'_>, file: &str, rules: &mut Rules<'_, '_, '_>) {
    let read = credentials::read(Part::Authority, file).and_then(|bytes| credentials::authorities(&bytes));
    if let Err(problem) = read {
        refuse(path, file, &problem, rules);
    }
}

/// A certificate with its key, each a key of the file and the path that it holds.
fn identity(
    path: &Path<'_>,
    (cert_key, cert): (&str, &str),
    (key_key, key): (&str, &str),
    rules: &mut Rules<'_, '_, '_>,
) -> Option<Leaf> {
    let (cert_path, key_path) = (path.key(cert_key), path.key(key_key));
    let mut readable = |path: &Path<'_>, part, file| match credentials::read(part, file) {
        Ok(bytes) => Some(bytes),
        Err(problem) => {
            refuse(path, file, &problem, rules);
            None
        }
    };
    let (cert_bytes, key_bytes) = (readable(&cert_path, Part::Certificate, cert), readable(&key_path, Part::Key, key));
    match Identity::parse(&cert_bytes?, &key_bytes?) {
        Ok(identity) => {
            if let Some(why) = identity.leaf.invalid_at(clock::unix_seconds()) {
                let message = format!("the certificate in {} {why}", rules.shown(&cert_path, cert));
                rules.value(codes::NOT_VALID, &cert_path, message, "renew it; the new file is taken without a reload");
            }
            Some(identity.leaf)
        }
        Err(problem) => {
            let (path, file) = if problem.part == Part::Key { (key_path, key) } else { (cert_path, cert) };
            refuse(&path, file, &problem, rules);
            None
        }
    }
}

fn refuse(path: &Path<'_>, file: &str, problem: &Problem, rules: &mut Rules<'_, '_, '_>) {
    let message = format!("the file {} {}", rules.shown(path, file), problem.what);
    rules.value(problem.code, path, message, problem.hint.clone());
}
