//! Unix sockets: a listening one without a file, whose first connection is ours; and a
//! connection that waits for nobody.
#![expect(
    unsafe_code,
    reason = "std has no autobound name, no backlog and no connect that does not wait"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

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

/// Connects to the socket at `path`. Does not wait for a listener whose queue is full.
///
/// # Errors
/// What the host says, or that the path is longer than an address holds (107 bytes).
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: all-zero is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
    let bytes = path.as_os_str().as_bytes();
    // One byte is the NUL at its end.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path of a socket has 1 to 107 bytes",
        ));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    let client = unix_socket(libc::SOCK_NONBLOCK)?;
    // SAFETY: `address` is a valid address of `len` bytes.
    let result = unsafe { libc::connect(client.as_raw_fd(), (&raw const address).cast(), len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let client = UnixStream::from(client);
    client.set_nonblocking(false)?;
    Ok(client)
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
    use crate::sys::scratch::Scratch;

    #[test]
    fn a_connection_waits_for_nobody() {
        let scratch = Scratch::new("unix-socket");
        let path = scratch.0.join("socket");
        let kind = |path: &Path| connect(path).unwrap_err().kind();
        assert_eq!(kind(&path), io::ErrorKind::NotFound);
        let long = scratch.0.join("x".repeat(200));
        assert_eq!(kind(&long), io::ErrorKind::InvalidInput);
        let listener = UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            match connect(&path) {
                Ok(connection) => waiting.push(connection),
                Err(error) => break error.kind(),
            }
            if waiting.len() == 1 {
                // SAFETY: the call takes numbers.
                unsafe { libc::listen(listener.as_raw_fd(), 0) };
            }
        };
        assert_eq!((refused, waiting.len()), (io::ErrorKind::WouldBlock, 1));
        drop(listener);
        assert_eq!(kind(&path), io::ErrorKind::ConnectionRefused);
    }

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
