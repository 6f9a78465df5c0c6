//! The virtio devices that are ours, as flags ask for them: disks, a console, random bytes.
//! A disk that another process serves is made here too, for disks have one order.

use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::serial_file::SerialFile;
use super::virtio::{DeviceContext, DeviceError, DeviceMaker, NamedDevice};
use crate::config::{ConsoleConfig, DiskArg, DiskConfig, VmConfig};
use crate::devices::serial::FILE_LIMIT;
use crate::devices::virtio::Threaded;
use crate::devices::virtio::block::{OpenDisk, VirtioBlock};
use crate::devices::virtio::console::{ConsolePort, VirtioConsole};
use crate::devices::virtio::rng::VirtioRng;
use crate::devices::virtio::vhost;
use crate::error_text::one_line;
use crate::event_loop::TypedPipe;
use crate::sys::terminal;

/// What makes them, in the order of their PCI functions: the disks first.
pub(super) fn makers(config: &VmConfig) -> Vec<DeviceMaker> {
    let mut makers: Vec<DeviceMaker> = Vec::new();
    for (number, disk) in config.disks.iter().cloned().enumerate() {
        let name = format!("disk{number}");
        makers.push(match disk {
            DiskArg::File(disk) => Box::new(move |context| disk_device(name, &disk, context)),
            DiskArg::Socket(socket) => Box::new(move |context| {
                let device = Box::new(vhost::open_disk(&socket, context.stop)?);
                Ok(NamedDevice { name, device })
            }),
        });
    }
    if let Some(console) = config.console.clone() {
        makers.push(Box::new(move |context| console_device(&console, context)));
    }
    if config.rng {
        makers.push(Box::new(|_| {
            Ok(NamedDevice {
                name: "rng".to_owned(),
                device: Box::new(Threaded::new(VirtioRng)),
            })
        }));
    }
    makers
}

fn disk_device(
    name: String,
    config: &DiskConfig,
    context: &mut DeviceContext<'_>,
) -> Result<NamedDevice, DeviceError> {
    const FLAG: &str = "--disk";
    let disk = OpenDisk::open(config).map_err(|error| {
        let line = one_line(&error);
        let reason = line
            .strip_prefix(FLAG)
            .and_then(|line| line.strip_prefix(": "));
        DeviceError::Usage {
            flag: FLAG,
            reason: reason.unwrap_or(&line).to_owned(),
        }
    })?;
    let full = Arc::clone(&context.shared.host_full);
    let device = Box::new(Threaded::new(VirtioBlock::new(name.clone(), disk, full)));
    Ok(NamedDevice { name, device })
}

fn console_device(
    config: &ConsoleConfig,
    context: &mut DeviceContext<'_>,
) -> Result<NamedDevice, DeviceError> {
    let host = |what| {
        move |source| DeviceError::Host {
            device: "console".to_owned(),
            what,
            source,
        }
    };
    let port = match config {
        ConsoleConfig::Tty => {
            let input = typed(context).map_err(host("read the terminal"))?;
            let output = terminal::stdout().map_err(host("write the terminal"))?;
            ConsolePort::console("console", Some(input), Some(output.into()))
        }
        ConsoleConfig::Null => ConsolePort::console("console", None, None),
        ConsoleConfig::File(_) => {
            let file = context
                .shared
                .console_file
                .map(SerialFile::writer)
                .transpose();
            let file = file.map_err(host("write its file"))?;
            ConsolePort::console("console", None, file.map(OwnedFd::from))
                .map(|port| port.limit_output(FILE_LIMIT))
        }
    };
    let port = port.map_err(host("tell what its streams are"))?;
    let size = match config {
        ConsoleConfig::Tty => terminal::size().unwrap_or_default(),
        ConsoleConfig::Null | ConsoleConfig::File(_) => (0, 0),
    };
    let (device, handle) = VirtioConsole::new(vec![port], size).map_err(host("get an eventfd"))?;
    // There is one console: nobody else has set it.
    drop(context.shared.terminal.set(handle));
    Ok(NamedDevice {
        name: "console".to_owned(),
        device: Box::new(Threaded::new(device)),
    })
}

/// What is typed, without the command key's words, as a pipe.
fn typed(context: &mut DeviceContext<'_>) -> io::Result<OwnedFd> {
    let (input, pipe) = io::pipe()?;
    let keys = io::stdin().is_terminal();
    let typed = TypedPipe::new(
        terminal::stdin()?,
        pipe.into(),
        Arc::clone(context.stop),
        keys,
    )?;
    context.events.add(Arc::new(Mutex::new(typed)));
    Ok(input.into())
}
