//! KVM, behind types of our own. The only module that names `kvm_ioctls` and
//! `kvm_bindings`.

mod access;
mod apic;
mod boot_state;
mod detour;
mod dirty_log;
mod exit;
mod features;
mod hypervisor;
pub mod layout;
mod module;
mod msi;
mod msr_filter;
pub(crate) mod paging;
mod registers;
mod tsc_moment;
mod vcpu;
mod vcpu_image;
mod vm;
mod vm_state;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use apic::ApicRegister;
pub use boot_state::BootState;
pub use dirty_log::DirtyLog;
pub use exit::{Exit, Gp};
pub use features::Features;
pub use hypervisor::{CpuidEntry, Hypervisor};
pub use module::{MODULES, Parameter, SYS_MODULE};
pub use msi::{MsiLine, MsiMessage};
pub use msr_filter::{MAX_RANGE_LEN, MAX_RANGES, MsrAccess, MsrFilter, MsrRange};
pub use paging::{Page, Paging};
pub use registers::{Controls, Registers};
pub use tsc_moment::TscMoment;
pub use vcpu::Vcpu;
pub use vcpu_image::SavedVcpu;
pub use vm::{Interrupter, Vm};
pub use vm_state::{SavedChips, VmChips};

/// The errors of the KVM device and of KVM's calls.
#[derive(Debug, Error)]
pub enum KvmError {
    /// The device cannot be opened.
    #[error("--kvm-device: cannot open {path}: {error}; {advice}")]
    Open {
        /// The device.
        path: PathBuf,
        /// Why. Its text stands before the advice, so it is no source.
        error: io::Error,
        /// What the user can do.
        advice: String,
    },
    /// The file is not a KVM device, or one of another API.
    #[error(
        "--kvm-device: {path} is not a KVM device of API version 12 (it reports {version}); use /dev/kvm"
    )]
    NotKvm {
        /// The file.
        path: PathBuf,
        /// The answer to `KVM_GET_API_VERSION`.
        version: i32,
    },
    /// This KVM lacks a capability that every VM needs; the field names it.
    #[error("this KVM lacks {0}, which every VM needs; use host kernel 6.1 or later")]
    Missing(&'static str),
    /// An ioctl failed.
    #[error("the KVM call {ioctl} failed")]
    Ioctl {
        /// The name of the call.
        ioctl: &'static str,
        /// KVM's error.
        source: io::Error,
    },
    /// A table has more entries than KVM takes.
    #[error("{what} has {len} entries, more than KVM accepts")]
    TooMany {
        /// The table's name.
        what: &'static str,
        /// The number of its entries.
        len: usize,
    },
    /// KVM refused the value that a register has at power-on.
    #[error("KVM refused to set MSR {index:#x}")]
    MsrRefused {
        /// The index of the register.
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
