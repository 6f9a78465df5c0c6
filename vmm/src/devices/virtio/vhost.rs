//! From a flag to its device: `--fs`, `--net`, `--vsock`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use super::backend::{self, ProgramError, SharedFolder};
use super::vhost_user::{Backend, BackendUnusable, Kind, VhostUserDevice};
use crate::config::{FsConfig, FsSource, NetConfig, NetSource};
use crate::stop::StopSignal;
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
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody serves the socket.
    #[error("{flag}: cannot connect to {path}; use the socket of a back end that was started before", path = .path.display())]
    Socket {
        /// The flag.
        flag: String,
        /// The socket.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no program for it.
    #[error("{flag}: {source}")]
    Program {
        /// The flag.
        flag: String,
        /// What is wrong.
        source: ProgramError,
    },
    /// The back end is not usable.
    #[error(transparent)]
    Backend(#[from] BackendUnusable),
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
        matches!(self, Self::Folder { .. } | Self::Socket { .. })
    }
}

/// Makes the device of a shared folder; starts virtiofsd if it is to. The calling thread
/// must live as long as the VM.
///
/// # Errors
/// If the folder, the program or the back end is not usable.
pub fn open_fs(config: &FsConfig, stop: &Arc<StopSignal>) -> Result<VhostUserDevice, VhostError> {
    let flag = config.flag();
    let backend = match &config.source {
        FsSource::Socket(path) => at_socket(flag, path)?,
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
            started(flag, backend::start_virtiofsd(&folder))?
        }
    };
    let kind = Kind::Fs {
        tag: config.tag.clone(),
    };
    Ok(VhostUserDevice::connect(backend, kind, stop)?)
}

/// Makes a network card that a process serves; starts passt if it is to. The calling
/// thread must live as long as the VM.
///
/// # Errors
/// If the program or the back end is not usable.
pub fn open_net(config: &NetConfig, stop: &Arc<StopSignal>) -> Result<VhostUserDevice, VhostError> {
    let flag = config.flag();
    let mac = mac_of(config)?;
    let backend = match &config.source {
        NetSource::User => started(flag, backend::start_passt())?,
        NetSource::Socket(path) => at_socket(flag, path)?,
        NetSource::Tap(_) => {
            return Err(VhostError::Host {
                flag,
                what: "use a tap device yet",
                source: io::Error::from(io::ErrorKind::Unsupported),
            });
        }
    };
    Ok(VhostUserDevice::connect(backend, Kind::Net { mac }, stop)?)
}

fn started(
    flag: String,
    started: Result<(backend::BackendProcess, std::os::unix::net::UnixStream), ProgramError>,
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
