//! Asks each server by itself, past Arriero: its name, its connection, its certificate, its answer, its models.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Version, header};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::exchange;
use crate::cli::diagnose::facts::{Answered, Running, ServerCertificate, ServerFacts, Silence};
use crate::clock;
use crate::config::ServerUrl;
use crate::config::credentials::Leaf;
use crate::config::types::{self, Config, Kind};
use crate::fleet::upstream_tls::UpstreamTls;
use crate::ollama::name::canonical;

/// A server that is to be asked.
#[derive(Clone, Debug)]
pub struct Target {
    upstream: String,
    kind: Kind,
    name: String,
    url: String,
    http2: bool,
    tls: types::UpstreamTls,
    /// Path that is fetched.
    path: String,
}

/// The servers of a configuration.
pub fn of_config(config: &Config) -> Vec<Target> {
    let servers = |(name, upstream): (&String, &types::Upstream)| {
        let path = match &upstream.health.active {
            Some(types::Active::Check(check)) => check.path.clone(),
            _ => None,
        };
        let target = |server: &types::ServerEntry| Target {
            upstream: name.clone(),
            kind: upstream.kind,
            name: server.name.clone().unwrap_or_else(|| short(&server.url)),
            url: server.url.clone(),
            http2: upstream.http2,
            tls: upstream.tls.clone().unwrap_or_default(),
            path: path.clone().unwrap_or_else(|| usual_path(upstream.kind).to_owned()),
        };
        upstream.servers.iter().map(target).collect::<Vec<_>>()
    };
    config.upstreams.iter().flat_map(servers).collect()
}

/// The servers that a running process tells of, where there is no configuration.
pub fn of_running(running: &Running) -> Vec<Target> {
    let target = |seen: &crate::cli::diagnose::facts::SeenServer| {
        let kind = match (seen.supports_ollama, seen.supports_v1) {
            (true, _) => Kind::Ollama,
            (false, true) => Kind::Openai,
            (false, false) => Kind::Http,
        };
        Target {
            upstream: seen.upstream.clone(),
            kind,
            name: seen.name.clone(),
            url: seen.url.clone(),
            http2: false,
            tls: types::UpstreamTls::default(),
            path: usual_path(kind).to_owned(),
        }
    };
    running.servers.iter().map(target).collect()
}

/// Host and port of a URL: the name of a server that has none.
fn short(url: &str) -> String {
    ServerUrl::parse(url).map_or_else(|_| url.to_owned(), |url| url.address.to_string())
}

const fn usual_path(kind: Kind) -> &'static str {
    match kind {
        Kind::Ollama => "/api/version",
        Kind::Openai => "/v1/models",
        Kind::Http => "/",
    }
}

/// Asks all of them, side by side; `limit` holds for each step.
pub async fn ask(targets: Vec<Target>, limit: Duration) -> Vec<ServerFacts> {
    let mut looks = JoinSet::new();
    for (place, target) in targets.into_iter().enumerate() {
        looks.spawn(async move { (place, target.look(limit).await) });
    }
    let mut found = looks.join_all().await;
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().filter_map(|(_, facts)| facts).collect()
}

impl Target {
    /// `None` when its URL is none, which the configuration would not let through.
    async fn look(self, limit: Duration) -> Option<ServerFacts> {
        let url = ServerUrl::parse(&self.url).ok()?;
        let (host, port) = (url.address.host.clone(), url.address.port);
        let addresses = resolve(&host, port, limit).await;
        let mut certificate = None;
        let mut models = None;
        let answer = match &addresses {
            Err(_) => Err(Silence::Unknown),
            Ok((addresses, _)) => {
                let address = addresses.first().map(|ip| SocketAddr::new(*ip, port));
                match address {
                    None => Err(Silence::Unknown),
                    Some(address) => {
                        if url.tls {
                            certificate = self.certificate(&host, address, limit).await;
                        }
                        let answer = self.answer(&url, address, limit).await;
                        if answer.as_ref().is_ok_and(|answer| (200..400).contains(&answer.status)) {
                            models = self.models(&url, address, limit).await;
                        }
                        answer
                    }
                }
            }
        };
        Some(ServerFacts {
            id: format!("{}/{}", self.upstream, self.name),
            upstream: self.upstream,
            kind: self.kind,
            name: self.name,
            url: self.url,
            host,
            port,
            addresses,
            answer,
            certificate,
            models,
        })
    }

    async fn answer(&self, url: &ServerUrl, address: SocketAddr, limit: Duration) -> Result<Answered, Silence> {
        let began = clock::now();
        let answer = self.get(url, address, &self.path, limit).await?;
        let took = clock::now() - began;
        let version = serde_json::from_slice::<Value>(&answer.body).ok();
        let version = version.and_then(|body| body["version"].as_str().map(str::to_owned));
        Ok(Answered { status: answer.status, took, clock: clock_of(&answer.fields, clock::unix_seconds()), version })
    }

    /// The canonical names of its models.
    async fn models(&self, url: &ServerUrl, address: SocketAddr, limit: Duration) -> Option<Vec<String>> {
        let (path, list, name) = match self.kind {
            Kind::Ollama => ("/api/tags", "models", "name"),
            Kind::Openai => ("/v1/models", "data", "id"),
            Kind::Http => return None,
        };
        let answer = self.get(url, address, path, limit).await.ok().filter(|answer| answer.status == 200)?;
        let body: Value = serde_json::from_slice(&answer.body).ok()?;
        let names = body[list].as_array()?.iter().filter_map(|row| row[name].as_str());
        Some(names.map(|name| canonical(name).into_owned()).collect())
    }

    async fn get(
        &self,
        url: &ServerUrl,
        address: SocketAddr,
        path: &str,
        limit: Duration,
    ) -> Result<exchange::Answer, Silence> {
        let tcp = connect(address, limit).await.map_err(Silence::Refused)?;
        let version = if self.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        if !url.tls {
            return exchange::get(tcp, version, &self.url, path, limit).await.map_err(Silence::Silent);
        }
        let tls = self.handshake(&url.address.host, tcp, true, limit).await.map_err(Silence::Tls)?;
        exchange::get(tls, version, &self.url, path, limit).await.map_err(Silence::Silent)
    }

    /// Its certificate, trusted or not; `None` when it shows none.
    async fn certificate(&self, host: &str, address: SocketAddr, limit: Duration) -> Option<ServerCertificate> {
        let shown = self.handshake(host, connect(address, limit).await.ok()?, false, limit).await.ok()?;
        let leaf = Leaf::parse(shown.get_ref().1.peer_certificates()?.first()?)?;
        let refused = if self.tls.verify {
            self.handshake(host, connect(address, limit).await.ok()?, true, limit).await.err()
        } else {
            None
        };
        Some(ServerCertificate { not_after: leaf.not_after, refused })
    }

    /// A handshake, by the rules of the upstream or without looking at the certificate.
    async fn handshake(
        &self,
        host: &str,
        tcp: TcpStream,
        checked: bool,
        limit: Duration,
    ) -> Result<TlsStream<TcpStream>, String> {
        let settings = types::UpstreamTls { verify: checked && self.tls.verify, ..self.tls.clone() };
        let tls = UpstreamTls::load(settings, self.http2)?;
        let name = ServerName::try_from(tls.name(host).to_owned()).map_err(|error| error.to_string())?;
        let handshake = TlsConnector::from(Arc::clone(&tls.trust().config)).connect(name, tcp);
        match tokio::time::timeout(limit, handshake).await {
            Ok(stream) => stream.map_err(|error| error.to_string()),
            Err(_) => Err(late(limit)),
        }
    }
}

fn late(limit: Duration) -> String {
    format!("no answer within {}", crate::units::Duration(limit))
}

/// Opens a connection.
///
/// # Errors
/// Why there is none.
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, String> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(stream) => stream.map_err(|error| error.to_string()),
        Err(_) => Err(late(limit)),
    }
}

async fn resolve(host: &str, port: u16, limit: Duration) -> Result<(Vec<IpAddr>, Duration), String> {
    if let Ok(address) = host.parse() {
        return Ok((vec![address], Duration::ZERO));
    }
    let began = clock::now();
    let found = match tokio::time::timeout(limit, tokio::net::lookup_host((host, port))).await {
        Ok(found) => found.map_err(|error| error.to_string())?,
        Err(_) => return Err(late(limit)),
    };
    Ok((found.map(|address| address.ip()).collect(), clock::now() - began))
}

/// The clock of whoever answered minus this one, in seconds.
fn clock_of(fields: &HeaderMap, now: i64) -> Option<i64> {
    let date = httpdate::parse_http_date(fields.get(header::DATE)?.to_str().ok()?).ok()?;
    let date = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(i64::try_from(date.as_secs()).ok()?.saturating_sub(now))
}
