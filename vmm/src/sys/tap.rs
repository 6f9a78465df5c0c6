//! Tap devices: the host's end of a guest's network card.
#![expect(unsafe_code, reason = "the ioctls of /dev/net/tun")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// The header that is before each packet: that of virtio 1, in bytes (Virtio 1.2,
/// "Network Device", struct virtio_net_hdr with num_buffers).
const HEADER: libc::c_int = 12;

/// What the guest takes in one piece: the features of its driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapOffloads {
    /// Packets whose checksum is not made yet.
    pub checksums: bool,
    /// TCP over IPv4 in pieces of up to 64 KiB.
    pub tso4: bool,
    /// TCP over IPv6 in such pieces.
    pub tso6: bool,
    /// The same, with congestion notification.
    pub ecn: bool,
}

/// Why a tap device is not usable.
#[derive(Debug)]
pub enum TapFault {
    /// There is no network device of that name.
    Missing,
    /// Another program has it.
    Busy,
    /// It is another user's.
    Forbidden,
    /// It is no tap device, or one with several queues.
    NoTap,
    /// The host refused something else: the step, and why.
    Host(&'static str, io::Error),
}

/// Opens a tap device that is there, for packets with the header of virtio 1.
///
/// # Errors
/// If there is none that this user may open.
pub fn open(name: &str) -> Result<File, TapFault> {
    let c_name = CString::new(name).map_err(|_| TapFault::Missing)?;
    // TUNSETIFF would make one.
    // SAFETY: the name ends with a zero byte.
    if unsafe { libc::if_nametoindex(c_name.as_ptr()) } == 0 {
        return Err(TapFault::Missing);
    }
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|error| TapFault::Host("open /dev/net/tun", error))?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = c_name.as_bytes();
    if bytes.len() >= request.ifr_name.len() {
        return Err(TapFault::Missing);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or_default();
    // SAFETY: the request is an `ifreq`, which the call reads and writes.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EBUSY) => TapFault::Busy,
            Some(libc::EPERM | libc::EACCES) => TapFault::Forbidden,
            Some(libc::EINVAL) => TapFault::NoTap,
            _ => TapFault::Host("open it", error),
        });
    }
    let header = HEADER;
    // SAFETY: the call reads one int.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) };
    if result < 0 {
        return Err(TapFault::Host(
            "set the size of its packets' header",
            io::Error::last_os_error(),
        ));
    }
    Ok(tun)
}

/// Has the device pass on what the guest takes.
///
/// # Errors
/// What the host says.
pub fn set_offloads(tap: &File, offloads: TapOffloads) -> io::Result<()> {
    let mut flags = 0;
    // The others need it.
    if offloads.checksums {
        flags |= libc::TUN_F_CSUM;
        for (wanted, flag) in [
            (offloads.tso4, libc::TUN_F_TSO4),
            (offloads.tso6, libc::TUN_F_TSO6),
            (
                offloads.ecn && (offloads.tso4 || offloads.tso6),
                libc::TUN_F_TSO_ECN,
            ),
        ] {
            if wanted {
                flags |= flag;
            }
        }
    }
    // SAFETY: the call takes a number.
    let result = unsafe {
        libc::ioctl(
            tap.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tap_device_is_one() {
        assert!(matches!(
            open("no-such-tap").unwrap_err(),
            TapFault::Missing
        ));
        assert!(matches!(open("a\0b").unwrap_err(), TapFault::Missing));
        // The loopback is a network device, and nobody's tap.
        let fault = open("lo").unwrap_err();
        assert!(
            matches!(
                fault,
                TapFault::NoTap | TapFault::Forbidden | TapFault::Host(..)
            ),
            "{fault:?}"
        );
    }
}
