//! Sockets that the service manager has opened for us: socket activation (sd_listen_fds(3)).
//!
//! `LISTEN_FDS` says how many there are, `LISTEN_PID` for which process, and they stand behind the three standard
//! descriptors. Each goes to the listener, or the admin listener, that has its address in the configuration. So clients
//! can connect while nobody runs, also to ports that our user may not open.

use std::io;
use std::net::TcpListener;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};

use super::handover::{Inherited, adopt};

/// The first number (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// More than anybody listens on.
const MOST: RawFd = 250;

/// Adds the sockets that `env` tells of to what a process before this one has handed over.
///
/// # Errors
/// When a descriptor is no socket that can be listened on.
pub fn add(inherited: &mut Inherited, env: &dyn Fn(&str) -> Option<String>) -> io::Result<()> {
    for descriptor in adopt(&numbers(env))? {
        if !socket_acceptconn(&descriptor).unwrap_or(false) {
            return Err(io::Error::other("one of them is no socket that is listened on"));
        }
        if socket_domain(&descriptor)? == AddressFamily::UNIX {
            inherited.admin = Some(unix(descriptor)?);
        } else {
            inherited.listeners.push(tcp(descriptor)?);
        }
    }
    Ok(())
}

/// The numbers of the descriptors; none where there are none, or where they are another process's.
fn numbers(env: &dyn Fn(&str) -> Option<String>) -> Vec<RawFd> {
    let is_ours = env("LISTEN_PID").is_some_and(|id| id == std::process::id().to_string());
    let count = env("LISTEN_FDS").and_then(|count| count.parse().ok()).filter(|_| is_ours).unwrap_or(0);
    (FIRST..FIRST + MOST.min(count)).collect()
}

fn tcp(descriptor: OwnedFd) -> io::Result<(String, TcpListener)> {
    let socket = TcpListener::from(descriptor);
    socket.set_nonblocking(true)?;
    Ok((socket.local_addr()?.to_string(), socket))
}

fn unix(descriptor: OwnedFd) -> io::Result<(String, OwnedFd)> {
    let socket = UnixListener::from(descriptor);
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let path = address.as_pathname().ok_or_else(|| io::Error::other("one of them has no path"))?;
    Ok((format!("unix:{}", path.display()), socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Vec<RawFd> {
        numbers(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn descriptors_are_ours_only_when_they_are_meant_for_this_process() {
        let own = std::process::id().to_string();
        assert_eq!(found(&[("LISTEN_PID", &own), ("LISTEN_FDS", "2")]), [3, 4]);
        for variables in [
            &[][..],
            &[("LISTEN_FDS", "2")],
            &[("LISTEN_PID", "1"), ("LISTEN_FDS", "2")],
            &[("LISTEN_PID", &own)],
            &[("LISTEN_PID", &own), ("LISTEN_FDS", "-2")],
            &[("LISTEN_PID", &own), ("LISTEN_FDS", "two")],
        ] {
            assert_eq!(found(variables), [0; 0], "{variables:?}");
        }
        assert_eq!(found(&[("LISTEN_PID", &own), ("LISTEN_FDS", "2000000000")]).len(), 250);
    }
}
