//! What passes between a process and the one that replaces it: open sockets one way, "I serve" the other.
//!
//! The two talk over a pair of unix sockets, of which the new process finds its end as its standard input. Sockets
//! travel as SCM_RIGHTS with one line of JSON that says which is which, so that no descriptor is ever inherited by
//! accident and none has to be taken by its number. The new process writes its standard error into a pipe of the old
//! one until it serves: whatever made it fail can be told to who asked for the upgrade.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::close;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

/// Set for a process that is to take over.
pub const VARIABLE: &str = "ARRIERO_HANDOVER";
/// What the new process says when it serves.
pub const SERVING: &str = "serving\n";
/// Sockets that fit into one message (SCM_MAX_FD of Linux), standard error among them.
const MOST: usize = 253;
/// Longest line that says which is which.
const LONGEST: usize = 1 << 20;
/// How long the old process may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which descriptor is which: standard error, the admin listener, then these.
#[derive(Debug, Serialize, Deserialize)]
struct Names {
    admin: String,
    listeners: Vec<String>,
}

/// Everything a process gets from the one before it; nothing when there is none.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets of listeners, by their addresses as they were written.
    pub listeners: Vec<(String, TcpListener)>,
    /// The socket of the admin listener, by its address as it was written.
    pub admin: Option<(String, OwnedFd)>,
    /// The process that waits for us.
    pub predecessor: Option<Predecessor>,
}

/// The process that waits for us to serve.
#[derive(Debug)]
pub struct Predecessor {
    channel: UnixStream,
    standard_error: OwnedFd,
}

impl Predecessor {
    /// From here on our standard error is that of the process before.
    pub fn take_standard_error(&self) -> io::Result<()> {
        Ok(rustix::stdio::dup2_stderr(&self.standard_error)?)
    }

    /// Tells it that we serve: it stops.
    pub fn release(mut self) -> io::Result<()> {
        self.channel.write_all(SERVING.as_bytes())
    }
}

/// Sends sockets; they are open here and there from then on. Nothing may have been sent on the channel before.
pub fn send(channel: &UnixStream, admin: (&str, &OwnedFd), listeners: &[(String, TcpListener)]) -> io::Result<()> {
    if listeners.len() + 2 > MOST {
        return Err(io::Error::other(format!("more than {} listeners cannot be handed over", MOST - 2)));
    }
    let names =
        Names { admin: admin.0.to_owned(), listeners: listeners.iter().map(|(address, _)| address.clone()).collect() };
    let mut line = serde_json::to_vec(&names)?;
    line.push(b'\n');
    let standard_error = io::stderr();
    let mut descriptors: Vec<BorrowedFd<'_>> = vec![standard_error.as_fd(), admin.1.as_fd()];
    descriptors.extend(listeners.iter().map(|(_, socket)| socket.as_fd()));
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&descriptors).size()];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("the sockets do not fit into a message"));
    }
    let sent = rustix::net::sendmsg(channel, &[IoSlice::new(&line)], &mut rights, SendFlags::NOSIGNAL)?;
    let mut channel = channel;
    channel.write_all(&line[sent..])
}

/// Takes what the process before sends, if there is one.
pub fn receive() -> io::Result<Inherited> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(Inherited::default());
    }
    let channel = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    channel.set_read_timeout(Some(PATIENCE))?;
    let (names, descriptors) = receive_from(&channel)?;
    let mut descriptors = descriptors.into_iter();
    let (Some(standard_error), Some(admin)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::Error::other("sockets are missing"));
    };
    Ok(Inherited {
        listeners: names.listeners.into_iter().zip(descriptors.map(TcpListener::from)).collect(),
        admin: Some((names.admin, admin)),
        predecessor: Some(Predecessor { channel, standard_error }),
    })
}

/// Descriptors that are ours and known only by their numbers. A number alone is not safe to use; so the system hands
/// them out once more, over a pair of sockets, and the numbers are free.
pub fn adopt(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let (here, there) = UnixStream::pair()?;
    let rights = [ControlMessage::ScmRights(numbers)];
    sendmsg::<()>(here.as_raw_fd(), &[IoSlice::new(b"\n")], &rights, MsgFlags::empty(), None)?;
    let (_, descriptors) = receive_descriptors(&there)?;
    numbers.iter().try_for_each(|number| close(*number))?;
    Ok(descriptors)
}

/// The bytes of a message, and the descriptors that it brings.
fn receive_descriptors(channel: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 64 << 10];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(channel, &mut parts, &mut rights, RecvFlags::empty())?.bytes;
    bytes.truncate(received);
    let mut descriptors = Vec::new();
    for message in rights.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    for descriptor in &descriptors {
        // They are ours and not of the processes that we may start.
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok((bytes, descriptors))
}

fn receive_from(mut channel: &UnixStream) -> io::Result<(Names, Vec<OwnedFd>)> {
    let (mut line, descriptors) = receive_descriptors(channel)?;
    while !line.ends_with(b"\n") && line.len() < LONGEST {
        let mut piece = [0; 4096];
        match channel.read(&mut piece)? {
            0 => break,
            count => line.extend_from_slice(&piece[..count]),
        }
    }
    Ok((serde_json::from_slice(&line)?, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_arrive_under_their_names_and_are_the_same() {
        let (old, new) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..100).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let admin = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let named = |(number, socket): (usize, &TcpListener)| (format!("{number}:0"), socket.try_clone().unwrap());
        let listeners: Vec<_> = sockets.iter().enumerate().map(named).collect();
        send(&old, ("unix:/admin", &admin), &listeners).unwrap();
        let (names, descriptors) = receive_from(&new).unwrap();
        assert_eq!((names.admin.as_str(), descriptors.len()), ("unix:/admin", 102));
        let received = names.listeners.into_iter().zip(descriptors.into_iter().skip(2).map(TcpListener::from));
        for ((name, socket), (expected, own)) in received.zip(listeners) {
            assert_eq!(name, expected);
            assert_eq!(socket.local_addr().unwrap(), own.local_addr().unwrap());
            assert!(rustix::io::fcntl_getfd(&socket).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_number_becomes_a_descriptor_and_is_free_then() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(socket);
        let adopted = adopt(&[number]).unwrap().into_iter().map(TcpListener::from).collect::<Vec<_>>();
        assert_eq!(adopted[0].local_addr().unwrap(), address);
        drop(adopted);
        // Nothing else holds it open.
        assert!(std::net::TcpStream::connect(address).is_err());
        assert!(adopt(&[1 << 20]).is_err());
        assert!(adopt(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_a_handover_is_an_error() {
        let (mut old, new) = UnixStream::pair().unwrap();
        old.write_all(b"hello\n").unwrap();
        assert!(receive_from(&new).is_err());
        drop(old);
        assert!(receive_from(&new).is_err());
    }
}
