//! KVM, behind types of our own. The only module that names `kvm_ioctls` and
//! `kvm_bindings`.

mod access;
mod boot_state;
mod exit;
mod features;
mod hypervisor;
pub mod layout;
mod msr_filter;
pub(crate) mod paging;
mod power_on;
mod registers;
mod vcpu;
mod vm;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use boot_state::BootState;
pub use exit::{Exit, Gp};
pub use features::Features;
pub use hypervisor::{CpuidEntry, Hypervisor};
pub use msr_filter::{MAX_RANGE_LEN, MAX_RANGES, MsrAccess, MsrFilter, MsrRange};
pub use paging::{Page, Paging};
pub use registers::{Controls, Registers};
pub use vcpu::Vcpu;
pub use vm::{Interrupter, Vm};

/// What can go wrong between this VMM and KVM.
#[derive(Debug, Error)]
pub enum KvmError {
    /// The device cannot be opened.
    #[error("cannot open the KVM device {path}: {error}; {advice}")]
    Open {
        /// The device.
        path: PathBuf,
        /// Why. Its text stands before the advice, so it is no source.
        error: io::Error,
        /// What the user can do.
        advice: String,
    },
    /// The file is not a KVM device, or one of another API.
    #[error("{path} is not a KVM device of API version 12: it reports version {version}")]
    NotKvm {
        /// The file.
        path: PathBuf,
        /// What `KVM_GET_API_VERSION` returned.
        version: i32,
    },
    /// This KVM lacks something that every VM here needs.
    #[error("this KVM lacks {0}, which Perfvisor needs")]
    Missing(&'static str),
    /// An ioctl failed.
    #[error("{ioctl} failed")]
    Ioctl {
        /// Its name.
        ioctl: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A table does not fit what KVM takes.
    #[error("{what} has {len} entries, more than KVM accepts")]
    TooMany {
        /// Which table.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// KVM refused to set a register at start.
    #[error("KVM refused to set MSR {index:#x}")]
    MsrRefused {
        /// Its index.
        index: u32,
    },
}

/// Gives a failed ioctl its name.
fn ioctl(name: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Ioctl {
        ioctl: name,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}
