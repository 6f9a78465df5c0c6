//! From a flag to its device: `--fs`, `--net`, `--vsock`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::backend::{self, BackendProcess, Isolation, ProgramError, SharedFolder};
use super::vhost_user::{Backend, BackendKind, BackendUnusable, VhostUserDevice};
use super::{VirtioDevice, vhost_kernel};
use crate::config::{FsConfig, FsSource, NetConfig, NetSource, VsockConfig};
use crate::stop::StopSignal;
use crate::sys::tap::{self, TapFault};
use crate::sys::unix_socket;

/// Why a device of `--fs`, `--net` or `--vsock` cannot be made.
#[derive(Debug, Error)]
pub enum VhostError {
    /// The folder cannot be shared.
    #[error("{flag}: cannot share {path}; use a folder that exists and that you may read", path = .path.display())]
    Folder {
        /// The flag.
        flag: String,
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody serves the socket.
    #[error("{flag}: cannot connect to {path}; use the socket of a back end that was started before", path = .path.display())]
    Socket {
        /// The flag.
        flag: String,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no program for it.
    #[error("{flag}")]
    Program {
        /// The flag.
        flag: String,
        /// What is wrong.
        source: ProgramError,
    },
    /// The back end is not usable.
    #[error(transparent)]
    Backend(#[from] BackendUnusable),
    /// There is no such tap device, or it is none.
    #[error("{flag}: {text}")]
    NoTap {
        /// The flag.
        flag: String,
        /// What is wrong, and what works.
        text: String,
    },
    /// The host does not give the tap device to this user.
    #[error("{flag}: {text}")]
    TapRefused {
        /// The flag.
        flag: String,
        /// What is wrong, and what works.
        text: &'static str,
    },
    /// Another guest has the address.
    #[error("{flag}: another guest of this host has this cid; use another one")]
    CidTaken {
        /// The flag.
        flag: String,
    },
    /// The host's kernel does not serve the device.
    #[error("{flag}: cannot {what}; use {advice}")]
    Kernel {
        /// The flag.
        flag: String,
        /// The step that failed.
        what: &'static str,
        /// What works.
        advice: &'static str,
        /// Why.
        source: vhost::Error,
    },
    /// The host refused something.
    #[error("{flag}: cannot {what}")]
    Host {
        /// The flag.
        flag: String,
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl VhostError {
    /// Whether what the user gave is to blame, rather than the host.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Folder { .. } | Self::Socket { .. } | Self::NoTap { .. }
        )
    }
}

/// Makes the device of a shared folder; starts virtiofsd if it is to. The calling thread
/// must live as long as the VM.
///
/// # Errors
/// If the folder, the program or the back end is not usable.
pub fn open_fs(config: &FsConfig, stop: &Arc<StopSignal>) -> Result<VhostUserDevice, VhostError> {
    let flag = config.flag();
    let kind = BackendKind::Fs {
        tag: config.tag.clone(),
    };
    match &config.source {
        FsSource::Socket(path) => {
            let backend = at_socket(flag, path)?;
            Ok(VhostUserDevice::connect(backend, kind, stop)?)
        }
        FsSource::Folder { path, readonly } => {
            let fault = |source| VhostError::Folder {
                flag: flag.clone(),
                path: path.clone(),
                source,
            };
            // Also says whether it is a folder at all.
            drop(path.read_dir().map_err(fault)?);
            let folder = SharedFolder {
                // Another folder is the working directory of virtiofsd.
                path: std::path::absolute(path).map_err(fault)?,
                readonly: *readonly,
            };
            share(&flag, &folder, &kind, stop)
        }
    }
}

/// Has virtiofsd serve the folder, as well isolated as this user can have it.
fn share(
    flag: &str,
    folder: &SharedFolder,
    kind: &BackendKind,
    stop: &Arc<StopSignal>,
) -> Result<VhostUserDevice, VhostError> {
    let [best, second] = Isolation::of_this_user();
    let try_one = |isolation| -> Result<VhostUserDevice, VhostError> {
        let started = backend::start_virtiofsd(folder, isolation);
        let backend = started_backend(flag.to_owned(), started)?;
        Ok(VhostUserDevice::connect(backend, kind.clone(), stop)?)
    };
    if folder.path.parent().is_none() {
        // Nothing is outside of it, and no namespace can make it the root again.
        return try_one(second);
    }
    match try_one(best) {
        // It ends if the host gives it no namespaces.
        Err(VhostError::Backend(first)) if first.is_gone => {
            let device = try_one(second)?;
            log::debug!("{first}");
            if second == Isolation::Nothing {
                log::warn!(
                    "{flag}: this host gives virtiofsd no namespaces: the guest's kernel could reach files outside of {}",
                    folder.path.display()
                );
            }
            Ok(device)
        }
        result => result,
    }
}

/// Makes the disk that a process serves at this socket.
///
/// # Errors
/// If nobody serves the socket, or something else is served there.
pub fn open_disk(socket: &Path, stop: &Arc<StopSignal>) -> Result<VhostUserDevice, VhostError> {
    let flag = format!("--disk socket={}", socket.display());
    let backend = at_socket(flag, socket)?;
    Ok(VhostUserDevice::connect(backend, BackendKind::Block, stop)?)
}

/// Makes a network card; starts passt if it is to. The calling thread must live as long as
/// the VM.
///
/// # Errors
/// If the program, the back end or the tap device is not usable.
pub fn open_net(
    config: &NetConfig,
    stop: &Arc<StopSignal>,
) -> Result<Box<dyn VirtioDevice>, VhostError> {
    let flag = config.flag();
    let mac = mac_of(config)?;
    let backend = match &config.source {
        NetSource::User => started_backend(flag, backend::start_passt())?,
        NetSource::Socket(path) => at_socket(flag, path)?,
        NetSource::Tap(name) => return open_tap(flag, name, mac, stop),
    };
    let kind = BackendKind::Net { mac };
    Ok(Box::new(VhostUserDevice::connect(backend, kind, stop)?))
}

fn open_tap(
    flag: String,
    name: &str,
    mac: [u8; 6],
    stop: &Arc<StopSignal>,
) -> Result<Box<dyn VirtioDevice>, VhostError> {
    let tap = match tap::open(name) {
        Ok(tap) => tap,
        Err(TapFault::Missing) => {
            let text = format!(
                "there is no network device {name}; use one that was made, by 'ip tuntap add dev {name} mode tap user $USER' for example"
            );
            return Err(VhostError::NoTap { flag, text });
        }
        Err(TapFault::NoTap) => {
            let text = format!("{name} is no tap device with one queue; use another one");
            return Err(VhostError::NoTap { flag, text });
        }
        Err(TapFault::Busy) => {
            let text = "another program uses this tap device; use another one";
            return Err(VhostError::TapRefused { flag, text });
        }
        Err(TapFault::Forbidden) => {
            let text = "this tap device is another user's; use one that was made for this user";
            return Err(VhostError::TapRefused { flag, text });
        }
        Err(TapFault::Host(what, source)) => {
            return Err(VhostError::Host { flag, what, source });
        }
    };
    match vhost_kernel::open_tap(flag.clone(), tap, mac, stop) {
        Ok(card) => Ok(Box::new(card)),
        Err(source) => Err(VhostError::Kernel {
            flag,
            what: "have the host's kernel serve the card",
            advice: "modprobe vhost_net, and a user that may open /dev/vhost-net; or --net user",
            source,
        }),
    }
}

/// Makes the device of `--vsock`.
///
/// # Errors
/// If the host has no vhost-vsock for us, or another guest has the address.
pub fn open_vsock(
    config: VsockConfig,
    stop: &Arc<StopSignal>,
) -> Result<Box<dyn VirtioDevice>, VhostError> {
    match vhost_kernel::open_vsock(config, stop) {
        Ok(device) => Ok(Box::new(device)),
        Err(vhost::Error::IoctlError(error)) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(VhostError::CidTaken {
                flag: config.flag(),
            })
        }
        Err(source) => Err(VhostError::Kernel {
            flag: config.flag(),
            what: "have the host's kernel serve it",
            advice: "modprobe vhost_vsock, and a user that may open /dev/vhost-vsock",
            source,
        }),
    }
}

fn started_backend(
    flag: String,
    started: Result<(BackendProcess, UnixStream), ProgramError>,
) -> Result<Backend, VhostError> {
    match started {
        Ok((process, socket)) => Ok(Backend {
            flag,
            socket,
            process: Some(process),
        }),
        Err(source) => Err(VhostError::Program { flag, source }),
    }
}

fn at_socket(flag: String, path: &Path) -> Result<Backend, VhostError> {
    match unix_socket::connect(path) {
        Ok(socket) => Ok(Backend {
            flag,
            socket,
            process: None,
        }),
        Err(source) => Err(VhostError::Socket {
            flag,
            path: path.to_owned(),
            source,
        }),
    }
}

/// The card's address: as asked for, or a random one of those that nobody has bought.
fn mac_of(config: &NetConfig) -> Result<[u8; 6], VhostError> {
    if let Some(mac) = config.mac {
        return Ok(mac.0);
    }
    let mut mac = [0; 6];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut mac));
    read.map_err(|source| VhostError::Host {
        flag: config.flag(),
        what: "read /dev/urandom for the card's address",
        source,
    })?;
    // Locally administered, and of a single card (IEEE 802).
    if let Some(first) = mac.first_mut() {
        *first = *first & !1 | 2;
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_address_is_of_a_single_card_and_nobodys() {
        let config = NetConfig {
            source: NetSource::User,
            mac: None,
        };
        let macs = [(); 16].map(|()| mac_of(&config).unwrap());
        assert!(macs.iter().all(|mac| mac[0] & 3 == 2));
        assert_ne!(macs[0][1..], macs[1][1..]);
    }
}
