//! The loopback device, which many programs expect to work.

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
    socket,
};

/// rtnetlink(7): change a device.
const RTM_NEWLINK: u16 = 16;
/// netlink(7): a request that is answered.
const REQUEST_AND_ACK: u16 = 1 | 4;
/// The loopback device is the first of every network namespace.
const LOOPBACK: i32 = 1;
/// netdevice(7).
const IFF_UP: u32 = 1;

/// Sets it up; the kernel gives it its addresses.
pub(super) fn up() -> io::Result<()> {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &request(), SendFlags::empty(), &kernel)?;
    let mut answer = [0u8; 1024];
    let (len, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    // struct nlmsghdr, then the error of struct nlmsgerr, 0 or negative.
    let error: Option<[u8; 4]> = answer
        .get(..len)
        .and_then(|answer| answer.get(16..20)?.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// struct nlmsghdr and struct ifinfomsg.
fn request() -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&32u32.to_ne_bytes()); // length
    out.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    out.extend_from_slice(&REQUEST_AND_ACK.to_ne_bytes());
    out.extend_from_slice(&1u32.to_ne_bytes()); // sequence
    out.extend_from_slice(&0u32.to_ne_bytes()); // port
    out.extend_from_slice(&[0; 4]); // family, type
    out.extend_from_slice(&LOOPBACK.to_ne_bytes());
    out.extend_from_slice(&IFF_UP.to_ne_bytes()); // flags
    out.extend_from_slice(&IFF_UP.to_ne_bytes()); // those that change
    out
}
