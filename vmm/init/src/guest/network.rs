//! The network: the loopback device, which many programs expect to work, and a card if
//! the job says so.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use guest_words::dhcp::{self, Offer};

use super::netlink::{self, LOOPBACK, Route};
use crate::{Failure, failed};

/// The devices.
const DEVICES: &str = "/sys/class/net";
/// How long an answer may take, and how often it is asked for: whoever answers has started
/// before this guest.
const ANSWER: Duration = Duration::from_secs(2);
const QUESTIONS: u32 = 30;
/// The number of our questions, of which there is one at a time.
const TRANSACTION: u32 = 0x7065_7266;
/// Where programs look for servers that know names.
const RESOLVERS: &str = "/etc/resolv.conf";

/// Sets the loopback device up; the kernel gives it its addresses.
pub(super) fn loopback() -> io::Result<()> {
    netlink::up(LOOPBACK)
}

/// Gives the card its address, the way out, and the servers that know names.
pub(super) fn card() -> Result<(), Failure> {
    let (device, mac) = find().map_err(failed("find the network card"))?;
    netlink::up(device).map_err(failed("start the network card"))?;
    // For the question, which goes to everybody on the wire.
    netlink::add_route(device, Route::AllNear).map_err(failed("use the network card"))?;
    let offer = ask(mac).map_err(failed("get an address by DHCP"))?;
    configure(device, &offer).map_err(failed("use the address of the network card"))?;
    if !offer.resolvers.is_empty() {
        resolvers(&offer.resolvers).map_err(failed(format_args!("write {RESOLVERS}")))?;
    }
    Ok(())
}

/// The number and the address of the only device that is not the loopback device.
fn find() -> io::Result<(u32, [u8; 6])> {
    for entry in fs::read_dir(DEVICES)?.flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name));
        let index = read("ifindex")?.trim().parse().map_err(io::Error::other)?;
        if index != LOOPBACK && entry.path().join("device").exists() {
            let mac = parse_mac(read("address")?.trim());
            return Ok((index, mac.ok_or(ErrorKind::InvalidData)?));
        }
    }
    Err(ErrorKind::NotFound.into())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn ask(mac: [u8; 6]) -> io::Result<Offer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, dhcp::CLIENT_PORT))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let question = dhcp::question(TRANSACTION, mac);
    let mut answer = [0; 2048];
    for _ in 0..QUESTIONS {
        socket.send_to(&question, (Ipv4Addr::BROADCAST, dhcp::SERVER_PORT))?;
        match socket.recv(&mut answer) {
            Ok(len) => {
                let answer = answer.get(..len).unwrap_or_default();
                if let Some(offer) = Offer::parse(answer, TRANSACTION) {
                    return Ok(offer);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn configure(device: u32, offer: &Offer) -> io::Result<()> {
    netlink::add_address(device, offer.address, offer.prefix)?;
    let Some(gateway) = offer.gateway else {
        return Ok(());
    };
    if !offer.gateway_is_near() {
        netlink::add_route(device, Route::Near(gateway))?;
    }
    netlink::add_route(device, Route::By(gateway))
}

/// In the place of the host's file, which may be a link to what only the host has.
fn resolvers(addresses: &[Ipv4Addr]) -> io::Result<()> {
    let lines = addresses.iter().map(|a| format!("nameserver {a}\n"));
    match fs::remove_file(RESOLVERS) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = Path::new(RESOLVERS).parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(RESOLVERS, lines.collect::<String>())
}
