//! The devices of a guest with a command: a console with four ports, a virtiofs for each
//! folder, and a network card if it is to have one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use guest_words::ports;
use thiserror::Error;

use super::folders::{Folders, SharedPath};
use super::plan;
use crate::config::{NetConfig, NetSource};
use crate::devices::virtio::backend::{Isolation, ProgramError, SharedFolder, start_virtiofsd};
use crate::devices::virtio::console::{ConsoleHandle, ConsolePort, VirtioConsole};
use crate::devices::virtio::vhost::{self, VhostError};
use crate::devices::virtio::vhost_user::{Backend, BackendKind, BackendUnusable, VhostUserDevice};
use crate::devices::virtio::{Threaded, VirtioDevice};
use crate::stop::StopSignal;

/// The card of a guest with a network.
const CARD: NetConfig = NetConfig {
    source: NetSource::User,
    mac: None,
};

/// The reason why a device cannot be.
#[derive(Debug, Error)]
pub enum ExecDeviceError {
    /// Nobody serves the folders.
    #[error("the host's files cannot be shared")]
    Program(#[from] ProgramError),
    /// It does not serve a folder.
    #[error(transparent)]
    Unusable(#[from] BackendUnusable),
    /// There is no network.
    #[error(transparent)]
    Network(#[from] VhostError),
    /// The streams cannot be connected.
    #[error("cannot connect the command's streams")]
    Streams(#[from] io::Error),
}

/// The devices, and the host's hands on them.
#[derive(Debug)]
pub(super) struct ExecDevices {
    /// In the order of their PCI functions.
    pub(super) devices: Vec<Box<dyn VirtioDevice>>,
    /// The console's.
    pub(super) console: ConsoleHandle,
    /// The other end of the control port.
    pub(super) control: UnixStream,
}

impl ExecDevices {
    /// Starts what serves the folders and the network, and makes the devices.
    pub(super) fn start(
        folders: &Folders,
        network: bool,
        stop: &Arc<StopSignal>,
    ) -> Result<Self, ExecDeviceError> {
        let (control, theirs) = UnixStream::pair()?;
        let (rows, columns) = plan::size();
        let card = network.then(|| vhost::open_net(&CARD, stop)).transpose()?;
        let (console, handle) = VirtioConsole::new(streams(theirs)?, (columns, rows))?;
        let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(Threaded::new(console))];
        for folder in &folders.shared {
            devices.push(Box::new(serve(folder, stop)?));
        }
        devices.extend(card);
        Ok(Self {
            devices,
            console: handle,
            control,
        })
    }
}

/// The ports. The first of a console's is for its terminal by Linux's rules; the others
/// have names only.
fn streams(control: UnixStream) -> io::Result<Vec<ConsolePort>> {
    let also_control = OwnedFd::from(control.try_clone()?);
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    Ok(vec![
        ConsolePort::stream(ports::CONTROL, Some(control.into()), Some(also_control))?,
        ConsolePort::stream(ports::STDIN, Some(stdin), None)?,
        ConsolePort::stream(ports::STDOUT, None, Some(stdout))?,
        ConsolePort::stream(ports::STDERR, None, Some(stderr))?,
    ])
}

fn serve(folder: &SharedPath, stop: &Arc<StopSignal>) -> Result<VhostUserDevice, ExecDeviceError> {
    let SharedPath { share, host } = folder;
    let shared = SharedFolder {
        path: PathBuf::from(host),
        readonly: !share.writable,
    };
    // The command is the caller's, and is to see whose the files are.
    let (process, socket) = start_virtiofsd(&shared, Isolation::that_keeps_owners())?;
    let backend = Backend {
        flag: format!("the host's {}", host.display()),
        socket,
        process: Some(process),
    };
    let tag = share.tag.clone();
    Ok(VhostUserDevice::connect(
        backend,
        BackendKind::Fs { tag },
        stop,
    )?)
}
