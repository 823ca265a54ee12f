//! A connection to the Redis that can be written to.
//!
//! Whatever stands at the addresses, one connection comes of it: sentinels are asked where the primary is, and of a Redis
//! Cluster the node is taken that has our keys, which are all in one slot. A node that says that they moved is followed.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::fault::Fault;
use super::link::in_time;
use crate::config::HostPort;
use crate::config::types::RedisMode;
use crate::fleet::cluster::ClusterPlan;

/// How long it may take to have a connection, from the look-up of the name on.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Most nodes that are followed one after another.
const MOST_MOVES: usize = 5;

/// A connection, and the task that moves its bytes: both end together.
pub struct Opened {
    /// Takes calls.
    pub connection: MultiplexedConnection,
    /// Where it leads.
    pub address: HostPort,
    driver: JoinSet<()>,
}

impl Opened {
    /// Ends when the connection does.
    pub async fn ended(&mut self) {
        drop(self.driver.join_next().await);
    }
}

/// What takes messages that other instances published.
pub type Told = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// Connects to where our keys are. `key` is one of them, `first` the number of the address that is tried first: one that answers
/// may still be of no use.
pub async fn connect(plan: &ClusterPlan, key: &str, told: &Told, first: usize) -> Result<Opened, Fault> {
    let mut last = Fault::Unusable("there is no address".to_owned());
    let first = first % plan.addresses.len().max(1);
    for address in plan.addresses[first..].iter().chain(&plan.addresses[..first]) {
        let opened = match plan.typed.mode {
            RedisMode::Single => open(plan, address, Purpose::Use(told)).await,
            RedisMode::Sentinel => through_sentinel(plan, address, told).await,
            RedisMode::Cluster => follow(plan, address, key, told).await,
        };
        match opened {
            Ok(opened) => return Ok(opened),
            Err(fault) => last = Fault::Unusable(format!("{address}: {fault}")),
        }
    }
    Err(last)
}

async fn through_sentinel(plan: &ClusterPlan, sentinel: &HostPort, told: &Told) -> Result<Opened, Fault> {
    // Sentinels often have no password, or another one than what they watch.
    let asked = match open(plan, sentinel, Purpose::Ask { logs_in: true }).await {
        Err(fault) if plan.typed.password_file.is_some() => {
            open(plan, sentinel, Purpose::Ask { logs_in: false }).await.map_err(|_| fault)?
        }
        asked => asked?,
    };
    let master = plan.typed.master.as_deref().unwrap_or_default();
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let mut connection = asked.connection.clone();
    let found: Option<(String, u16)> = in_time(plan.timeout, command.query_async(&mut connection)).await?;
    let Some((host, port)) = found else {
        return Err(Fault::Unusable(format!("this sentinel knows no primary of the name `{master}`")));
    };
    let address = HostPort { host, port };
    let opened = open(plan, &address, Purpose::Use(told)).await;
    opened.map_err(|fault| Fault::Unusable(format!("the primary {address} that it names: {fault}")))
}

async fn follow(plan: &ClusterPlan, node: &HostPort, key: &str, told: &Told) -> Result<Opened, Fault> {
    let mut address = node.clone();
    for _ in 0..MOST_MOVES {
        let opened = open(plan, &address, Purpose::Use(told)).await?;
        let mut connection = opened.connection.clone();
        let mut asked = redis::cmd("EXISTS");
        asked.arg(key);
        let asked: Result<Value, Fault> = in_time(plan.timeout, asked.query_async(&mut connection)).await;
        match asked {
            Ok(_) => return Ok(opened),
            // A node that does not know its own name means the one that was asked.
            Err(Fault::Moved(host, port)) => {
                let host = if host.is_empty() { address.host.clone() } else { host };
                address = HostPort { host, port };
            }
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault::Unusable("the nodes name each other, none has the keys".to_owned()))
}

/// What a connection is for.
#[derive(Clone, Copy)]
enum Purpose<'p> {
    /// A question to a sentinel.
    Ask {
        /// Whether it logs in.
        logs_in: bool,
    },
    /// Calls, and messages.
    Use(&'p Told),
}

/// Opens a connection and logs in.
async fn open(plan: &ClusterPlan, address: &HostPort, purpose: Purpose<'_>) -> Result<Opened, Fault> {
    match tokio::time::timeout(CONNECT_TIMEOUT, open_without_end(plan, address, purpose)).await {
        Ok(opened) => opened,
        Err(_) => Err(Fault::Timeout(CONNECT_TIMEOUT)),
    }
}

async fn open_without_end(plan: &ClusterPlan, address: &HostPort, purpose: Purpose<'_>) -> Result<Opened, Fault> {
    let unusable = |what: &dyn ToString| Fault::Unusable(what.to_string());
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|error| unusable(&error))?;
    tcp.set_nodelay(true).map_err(|error| unusable(&error))?;
    let Some(tls) = &plan.tls else { return speak(plan, address, tcp, purpose).await };
    let name = ServerName::try_from(tls.name(&address.host).to_owned()).map_err(|error| unusable(&error))?;
    let connector = TlsConnector::from(Arc::clone(&tls.trust().config));
    let tls = connector.connect(name, tcp).await.map_err(|error| unusable(&error))?;
    speak(plan, address, tls, purpose).await
}

async fn speak<S>(plan: &ClusterPlan, address: &HostPort, stream: S, purpose: Purpose<'_>) -> Result<Opened, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = if let Purpose::Use(told) = purpose { Some(told) } else { None };
    let logs_in = !matches!(purpose, Purpose::Ask { logs_in: false });
    let mut info = RedisConnectionInfo::default()
        .set_protocol(if told.is_some() { ProtocolVersion::RESP3 } else { ProtocolVersion::RESP2 })
        .set_lib_name("arriero", env!("CARGO_PKG_VERSION"));
    if told.is_some() {
        info = info.set_db(i64::from(plan.database));
    }
    if let Some(file) = plan.typed.password_file.as_ref().filter(|_| logs_in) {
        let password = tokio::fs::read_to_string(file).await;
        let password = password.map_err(|error| Fault::Unusable(format!("`{file}` cannot be read: {error}")))?;
        info = info.set_password(password.trim());
        if let Some(user) = &plan.typed.username {
            info = info.set_username(user);
        }
    }
    // Deadlines are ours; the library's would only be a second one.
    let mut config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    if let Some(told) = told {
        let told = Arc::clone(told);
        config = config.set_push_sender(move |push: PushInfo| {
            told(push);
            Ok::<(), ()>(())
        });
    }
    let (connection, driving) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
    let mut driver = JoinSet::new();
    driver.spawn(driving);
    Ok(Opened { connection, address: address.clone(), driver })
}
