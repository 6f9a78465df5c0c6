//! A listening socket without a file, whose first connection is ours.
#![expect(
    unsafe_code,
    reason = "std binds no autobound name and sets no backlog"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// How many names are tried: whoever connects to one before us makes it useless.
const TRIES: u32 = 16;

/// A listening Unix socket with an abstract name that the kernel chose, and a connection
/// to it. Whoever accepts gets this connection first: the queue of the listener has room
/// for one, and ours found it empty.
///
/// # Errors
/// What the host says to the sockets, or that others connected first each time.
pub fn listener_with_connection() -> io::Result<(OwnedFd, UnixStream)> {
    for _ in 0..TRIES {
        let listener = unix_socket(0)?;
        let (address, len) = listen(&listener)?;
        let client = unix_socket(libc::SOCK_NONBLOCK)?;
        // SAFETY: `address` is a valid address of `len` bytes, from getsockname.
        let result = unsafe { libc::connect(client.as_raw_fd(), (&raw const address).cast(), len) };
        if result == 0 {
            let client = UnixStream::from(client);
            client.set_nonblocking(false)?;
            return Ok((listener, client));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error);
        }
    }
    Err(io::Error::from(io::ErrorKind::AddrInUse))
}

fn unix_socket(flags: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: the call takes numbers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives the socket a name of the kernel's choice (unix(7), "Autobind feature") and room
/// for one connection that nobody has accepted yet.
fn listen(socket: &OwnedFd) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let check = |result| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: all-zero is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
    let family_only = libc::socklen_t::try_from(size_of::<libc::sa_family_t>());
    // SAFETY: the address has at least the bytes of its family.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            family_only.unwrap_or_default(),
        )
    })?;
    // Linux lets a queue exceed its backlog by one: 0 is room for one.
    // SAFETY: the call takes numbers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 0) })?;
    let mut len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: `address` has room for `len` bytes.
    check(unsafe {
        libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len)
    })?;
    Ok((address, len))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Whoever knows the name comes second, and only when the first was accepted.
    #[test]
    fn the_first_connection_is_ours() {
        let (listener, mut ours) = listener_with_connection().unwrap();
        let listener = UnixListener::from(listener);
        let address = listener.local_addr().unwrap();
        assert!(address.as_abstract_name().is_some(), "no file");
        let stranger = unix_socket(libc::SOCK_NONBLOCK).unwrap();
        // Its queue is full: a second one would wait.
        let (mut raw, mut len) = (
            // SAFETY: all-zero is a valid `sockaddr_un`.
            unsafe { std::mem::zeroed::<libc::sockaddr_un>() },
            libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap(),
        );
        // SAFETY: `raw` has room for `len` bytes.
        let named =
            unsafe { libc::getsockname(listener.as_raw_fd(), (&raw mut raw).cast(), &raw mut len) };
        assert_eq!(named, 0);
        // SAFETY: `raw` is a valid address of `len` bytes.
        let refused = unsafe { libc::connect(stranger.as_raw_fd(), (&raw const raw).cast(), len) };
        assert_eq!(refused, -1);
        let (mut accepted, _) = listener.accept().unwrap();
        ours.write_all(b"hello").unwrap();
        let mut word = [0; 5];
        accepted.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello");
    }
}
