//! What the service manager that started us is told: systemd's `Type=notify`.
//!
//! A message is one datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names. Nothing depends on it:
//! without the variable nothing is sent, and a message that is lost is lost (sd_notify(3)).

use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::clock;

/// The way to the service manager, where there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    way: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` by `env`.
    #[must_use]
    pub fn new(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let address = env("NOTIFY_SOCKET").and_then(|name| address(&name));
        let way = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let is_ours = env("WATCHDOG_PID").is_none_or(|id| id == std::process::id().to_string());
        let watchdog = env("WATCHDOG_USEC").and_then(|microseconds| microseconds.parse().ok());
        Self { way, watchdog: watchdog.filter(|_| is_ours).map(Duration::from_micros) }
    }

    /// Requests are served.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Another configuration is being put in force; [`ServiceManager::ready`] follows.
    pub fn reloading(&self) {
        // The time tells systemd whether this was before or after it asked.
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic().as_micros()));
    }

    /// The process is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Another process is the service from here on.
    pub fn replaced_by(&self, process: u32) {
        self.tell(&format!("MAINPID={process}\nREADY=1"));
    }

    /// The process is alive.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// How often that must be said, where it must; half of what the service manager waits.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.way.as_ref()?;
        self.watchdog.map(|limit| limit / 2).filter(|interval| !interval.is_zero())
    }

    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.way
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!(%error, text, "the service manager was not told");
        }
    }
}

/// A path, or an abstract name behind `@`.
fn address(name: &str) -> Option<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix('@') {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name).ok();
    }
    SocketAddr::from_pathname(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(variables: &[(&str, &str)]) -> ServiceManager {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ServiceManager::new(&find)
    }

    #[test]
    fn messages_arrive_as_datagrams() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
        manager.ready();
        manager.reloading();
        manager.replaced_by(7);
        manager.stopping();
        manager.alive();
        let mut buffer = [0; 256];
        let mut next = || {
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert_eq!(next(), "READY=1");
        let reloading = next();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!([next(), next(), next()], ["MAINPID=7\nREADY=1", "STOPPING=1", "WATCHDOG=1"]);
        // Nobody is there any more: no matter.
        drop(socket);
        manager.ready();
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_it_bites() {
        let notify = ("NOTIFY_SOCKET", "/nowhere");
        let own = std::process::id().to_string();
        let half_second = Some(Duration::from_millis(500));
        assert_eq!(manager(&[notify, ("WATCHDOG_USEC", "1000000")]).watchdog(), half_second);
        assert_eq!(manager(&[notify, ("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", &own)]).watchdog(), half_second);
        for variables in [
            &[notify][..],
            &[("WATCHDOG_USEC", "1000000")],
            &[notify, ("WATCHDOG_USEC", "never")],
            &[notify, ("WATCHDOG_USEC", "1")],
            &[notify, ("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "0")],
        ] {
            let interval = manager(variables).watchdog();
            assert!(interval.is_none_or(|interval| interval < Duration::from_millis(1)), "{variables:?}");
        }
    }
}
