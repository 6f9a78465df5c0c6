//! The texts that tell why a request for a vCPU was refused or failed.

use std::fmt;

use thiserror::Error;
use vpmu::ids::VcpuId;

use super::{EJECT_TIMEOUT, OFFER_TIMEOUT, Presence, THREAD_TIMEOUT};
use crate::devices::cpu_hotplug::DEVICE_BUSY;

/// Why a vCPU is neither added nor removed. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PresenceRefusal {
    /// There is no vCPU of this number.
    #[error("there is no vCPU {vcpu}; accepted: {}", numbers(*.max))]
    Unknown {
        /// The number that was asked for.
        vcpu: u16,
        /// The number of possible vCPUs.
        max: u16,
    },
    /// The boot CPU stays.
    #[error("vCPU 0 is the boot CPU and cannot be removed; accepted: {}", others(*.max))]
    BootCpu {
        /// The number of possible vCPUs.
        max: u16,
    },
    /// The vCPU is in a state in which the request is not possible.
    #[error("vCPU {vcpu} {presence}")]
    Elsewhere {
        /// The vCPU.
        vcpu: VcpuId,
        /// Where it is.
        presence: Presence,
    },
    /// The vCPU was lost when its thread panicked.
    #[error("vCPU {vcpu} is lost: its thread panicked")]
    Lost {
        /// The vCPU.
        vcpu: VcpuId,
    },
}

fn numbers(max: u16) -> String {
    match max {
        0 | 1 => "0".to_owned(),
        _ => format!("0 to {}", max - 1),
    }
}

fn others(max: u16) -> String {
    match max {
        0 | 1 => "none, because vCPU 0 is the only vCPU".to_owned(),
        2 => "1".to_owned(),
        _ => format!("1 to {}", max - 1),
    }
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent | Self::Lost => "is not plugged in",
            Self::Offered => "is being added: the guest has not accepted it yet",
            Self::Present => "is plugged in already",
            Self::AskedToLeave => "is being removed: the guest has not ejected it yet",
            Self::Leaving => "is being removed: its thread has not ended yet",
        })
    }
}

pub(super) fn declined(vcpu: VcpuId, status: u32) -> String {
    format!("the guest declines vCPU {vcpu} (_OST status {status:#x})")
}

pub(super) fn kept(vcpu: VcpuId, status: u32) -> String {
    let busy = if status == DEVICE_BUSY {
        ": device busy"
    } else {
        ""
    };
    format!(
        "the guest refuses to eject vCPU {vcpu} (_OST status {status:#x}{busy}); the guest's kernel log may tell why"
    )
}

pub(super) fn never_looked_at(vcpu: VcpuId) -> String {
    format!(
        "the guest did not look at vCPU {vcpu} within {} s (the guest has no ACPI hot-plug, or is still booting); the offer is withdrawn",
        OFFER_TIMEOUT.as_secs()
    )
}

pub(super) fn not_ejected(vcpu: VcpuId) -> String {
    format!(
        "the guest did not let vCPU {vcpu} go within {} s; the vCPU stays plugged in",
        EJECT_TIMEOUT.as_secs()
    )
}

pub(super) fn thread_held_up(vcpu: VcpuId) -> String {
    format!(
        "the thread of vCPU {vcpu} has not ended within {} s (it is held up in the host's kernel)",
        THREAD_TIMEOUT.as_secs()
    )
}
