//! What each access to the devices is to do, written down a second time.

use std::sync::Arc;

use super::PLACES;
use crate::devices::{cpu_hotplug, debug_exit, i8042, panic, power};
use crate::kvm::layout;
use crate::stop::StopReason;

/// An access of the guest's.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) is_port: bool,
    pub(super) address: u64,
    /// What is written, or as many bytes as are read.
    pub(super) bytes: Vec<u8>,
    pub(super) is_write: bool,
}

impl Access {
    /// Whether the whole of it is in these addresses.
    fn is_in(&self, base: u64, len: u64) -> bool {
        let end = self.address.checked_add(self.bytes.len() as u64);
        self.address >= base && end.is_some_and(|end| end <= base + len)
    }

    /// Whether any device has the whole of it.
    fn has_device(&self) -> bool {
        let mut places = PLACES.iter();
        places.any(|&(base, len)| {
            self.is_port == (base != u64::from(layout::CPU_HOTPLUG)) && self.is_in(base, len)
        })
    }

    fn register(&self) -> Option<u64> {
        let base = u64::from(layout::CPU_HOTPLUG);
        let is_register = !self.is_port && self.is_in(base, cpu_hotplug::LEN);
        is_register.then(|| self.address - base)
    }

    /// What was read: ones without a device, and from the registers for vCPUs no
    /// more than they have.
    pub(super) fn check_read(&self, read: &[u8]) {
        if !self.has_device() {
            assert!(
                read.iter().all(|&byte| byte == 0xff),
                "{self:x?}: {read:x?}"
            );
        }
        match (self.register(), read) {
            (Some(cpu_hotplug::FLAGS), [flags]) => assert!(flags & !7 == 0, "{flags:#x}"),
            (Some(cpu_hotplug::SELECT), [_, _, _, _]) | (None, _) => {}
            (Some(_), _) => assert!(read.iter().all(|&b| b == 0), "{self:x?}: {read:x?}"),
        }
    }

    /// Whether it is one that tells of a vCPU: a write of flags, or of an answer's
    /// status.
    pub(super) fn may_change_vcpus(&self) -> bool {
        let by_register = matches!(
            (self.register(), self.bytes.len()),
            (Some(cpu_hotplug::FLAGS), 1) | (Some(cpu_hotplug::OST_STATUS), 4)
        );
        self.is_write && by_register
    }
}

/// Why the VM is to have stopped.
#[derive(Debug, Default)]
pub(super) struct StopModel(Option<Expected>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    PowerOff,
    Reset,
    GuestPanic,
    DebugExit(u32),
}

impl StopModel {
    /// The first write that stops a VM is its reason.
    pub(super) fn written(&mut self, access: &Access) {
        let first = access.bytes.first().copied();
        let in_device = |base: u16, len| access.is_port && access.is_in(base.into(), len);
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(&access.bytes) {
            *to = *from;
        }
        let at = |port: u16| access.address == u64::from(port);
        let reason = if in_device(debug_exit::PORT, debug_exit::PORT_COUNT) {
            Some(Expected::DebugExit(u32::from_le_bytes(word)))
        } else if in_device(power::CONTROL_PORT, power::PORT_COUNT) && at(power::CONTROL_PORT) {
            match first {
                Some(power::POWER_OFF_VALUE) => Some(Expected::PowerOff),
                Some(power::RESET_VALUE) => Some(Expected::Reset),
                _ => None,
            }
        } else if in_device(i8042::BASE_PORT, i8042::PORT_COUNT) && at(0x64) {
            (first == Some(0xfe)).then_some(Expected::Reset)
        } else if in_device(panic::PORT, panic::PORT_COUNT) {
            // A crash kernel's event is another bit.
            let is_panic = first.is_some_and(|events| events & 1 != 0);
            is_panic.then_some(Expected::GuestPanic)
        } else {
            None
        };
        self.0 = self.0.or(reason);
    }

    /// Compares with why it has stopped.
    pub(super) fn check(&self, reason: Option<&Arc<StopReason>>) {
        let found = reason.map(|reason| match **reason {
            StopReason::PowerOff => Some(Expected::PowerOff),
            StopReason::Reset => Some(Expected::Reset),
            StopReason::GuestPanic => Some(Expected::GuestPanic),
            StopReason::DebugExit(value) => Some(Expected::DebugExit(value)),
            _ => None,
        });
        assert_eq!(found, self.0.map(Some), "{reason:?}");
    }
}
