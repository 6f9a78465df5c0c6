//! Requests to the kernel about network devices (rtnetlink(7)).

use std::io;
use std::net::Ipv4Addr;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
    socket,
};

/// rtnetlink(7): change a device, add an address, add a route.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// netlink(7): a request that is answered, and that makes or replaces something.
const REQUEST_AND_ACK: u16 = 1 | 4;
const CREATE_OR_REPLACE: u16 = 0x400 | 0x100;
/// netdevice(7).
const IFF_UP: u32 = 1;
/// The family of IPv4 addresses.
const AF_INET: u8 = 2;
/// Attributes of addresses and of routes.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// A route in the main table, made at boot, to one host or to others by one.
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;

/// The loopback device, which is the first of every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Where a route leads.
#[derive(Clone, Copy)]
pub(super) enum Route {
    /// Everywhere, as if all were on the same wire.
    AllNear,
    /// To one address on the wire.
    Near(Ipv4Addr),
    /// Everywhere, by this address.
    By(Ipv4Addr),
}

/// Sets a device up.
pub(super) fn up(device: u32) -> io::Result<()> {
    // struct ifinfomsg: family, type; index; flags; those that change.
    let mut body = vec![0; 4];
    body.extend_from_slice(&device.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    ask(RTM_NEWLINK, 0, &body)
}

/// Gives a device an address.
pub(super) fn add_address(device: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    // struct ifaddrmsg: family, prefix, flags, scope; index.
    let mut body = vec![AF_INET, prefix, 0, RT_SCOPE_UNIVERSE];
    body.extend_from_slice(&device.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, address.octets());
    attribute(&mut body, IFA_ADDRESS, address.octets());
    ask(RTM_NEWADDR, CREATE_OR_REPLACE, &body)
}

/// Adds a route, or puts it in the place of the one to the same addresses.
pub(super) fn add_route(device: u32, route: Route) -> io::Result<()> {
    let (bits, scope) = match route {
        Route::AllNear => (0, RT_SCOPE_LINK),
        Route::Near(_) => (32, RT_SCOPE_LINK),
        Route::By(_) => (0, RT_SCOPE_UNIVERSE),
    };
    // struct rtmsg: family, bits of the target and the source, type of service; table,
    // protocol, scope, type; flags.
    let mut body = vec![AF_INET, bits, 0, 0];
    body.extend_from_slice(&[RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST]);
    body.extend_from_slice(&[0; 4]);
    match route {
        Route::AllNear => {}
        Route::Near(address) => attribute(&mut body, RTA_DST, address.octets()),
        Route::By(gateway) => attribute(&mut body, RTA_GATEWAY, gateway.octets()),
    }
    attribute(&mut body, RTA_OIF, device.to_ne_bytes());
    ask(RTM_NEWROUTE, CREATE_OR_REPLACE, &body)
}

/// struct rtattr, and a value of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend_from_slice(&8u16.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&value);
}

/// Sends a request and waits for its answer.
fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    const HEADER: usize = 16;
    let len = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    // struct nlmsghdr: length; type, flags; sequence; port.
    let mut request = len.to_ne_bytes().to_vec();
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&(REQUEST_AND_ACK | flags).to_ne_bytes());
    request.extend_from_slice(&1u32.to_ne_bytes());
    request.extend_from_slice(&0u32.to_ne_bytes());
    request.extend_from_slice(body);
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &request, SendFlags::empty(), &kernel)?;
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
