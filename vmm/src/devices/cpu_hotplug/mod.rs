//! The registers through which the guest's ACPI methods (`machine::acpi::cpus`)
//! see which vCPUs come and go.
//!
//! | offset | width | read | write |
//! |---|---|---|---|
//! | 0 | 4 | the selected vCPU | select |
//! | 4 | 1 | bit 0 there, 1 comes, 2 is to go | bit 1, 2: seen; bit 3: eject |
//! | 6 | 2 | 0 | `_OST` source event |
//! | 8 | 4 | 0 | `_OST` status, which completes the report |
//!
//! Other accesses read 0 and do nothing, and so does all of it for a vCPU that
//! cannot be.

mod slots;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vpmu::ids::VcpuId;

pub use slots::{Refusal, SlotReport, SlotState, Slots};

use super::BusDevice;

/// How many bytes the registers take.
pub const LEN: u64 = 12;
/// The interrupt line that has the guest look at them.
pub const IRQ: u32 = 17;

/// Offsets.
pub const SELECT: u64 = 0;
/// See [`SELECT`].
pub const FLAGS: u64 = 4;
/// See [`SELECT`].
pub const OST_EVENT: u64 = 6;
/// See [`SELECT`].
pub const OST_STATUS: u64 = 8;

/// Bits of [`FLAGS`].
pub const ENABLED: u8 = 1 << 0;
/// The guest is to take it; written, the guest has seen so.
pub const INSERTING: u8 = 1 << 1;
/// The guest is to let it go; written, the guest has seen so.
pub const REMOVING: u8 = 1 << 2;
/// Written, the guest has let it go.
pub const EJECT: u8 = 1 << 3;

/// The slots, as the device and the VMM share them.
pub type SharedSlots = Arc<Mutex<Slots>>;

/// What happens to a vCPU that the guest has ejected, or will not have. Called
/// on the thread of the vCPU that wrote, which may be the very one.
pub type Release = Box<dyn Fn(VcpuId) + Send>;

/// The line that has the guest look.
#[derive(Clone, Debug)]
pub struct HotplugLine(Arc<EventFd>);

impl HotplugLine {
    /// A line whose [`HotplugLine::irq`] is to be connected to [`IRQ`].
    ///
    /// # Errors
    /// If the host gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::new(EFD_NONBLOCK)?)))
    }

    /// Each write is an edge.
    #[must_use]
    pub fn irq(&self) -> &EventFd {
        &self.0
    }

    /// Has the guest look.
    ///
    /// # Errors
    /// What the host says.
    pub fn pulse(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The registers.
pub struct CpuHotplug {
    slots: SharedSlots,
    release: Release,
    selected: u32,
    ost_event: u16,
}

impl fmt::Debug for CpuHotplug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuHotplug")
            .field("selected", &self.selected)
            .finish_non_exhaustive()
    }
}

impl CpuHotplug {
    /// Registers over `slots`.
    #[must_use]
    pub fn new(slots: SharedSlots, release: Release) -> Self {
        Self {
            slots,
            release,
            selected: 0,
            ost_event: 0,
        }
    }

    fn selected(&self) -> VcpuId {
        VcpuId(u16::try_from(self.selected).unwrap_or(u16::MAX))
    }

    /// Changes the slots, and releases the vCPU if that comes of it.
    fn change(&self, what: impl FnOnce(&mut Slots, VcpuId) -> bool) {
        let vcpu = self.selected();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let released = what(&mut slots, vcpu);
        drop(slots);
        if released {
            (self.release)(vcpu);
        }
    }

    fn set_flags(&self, flags: u8) {
        self.change(|slots, vcpu| {
            slots.seen(vcpu, flags & INSERTING != 0, flags & REMOVING != 0);
            flags & EJECT != 0 && slots.eject(vcpu)
        });
    }
}

impl BusDevice for CpuHotplug {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let flags = || {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.flags(self.selected())
        };
        data.fill(0);
        match (offset, &mut *data) {
            (SELECT, [_, _, _, _]) => data.copy_from_slice(&self.selected.to_le_bytes()),
            (FLAGS, [byte]) => *byte = flags(),
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECT, &[a, b, c, d]) => self.selected = u32::from_le_bytes([a, b, c, d]),
            (FLAGS, &[flags]) => self.set_flags(flags),
            (OST_EVENT, &[a, b]) => self.ost_event = u16::from_le_bytes([a, b]),
            (OST_STATUS, &[a, b, c, d]) => {
                let status = u32::from_le_bytes([a, b, c, d]);
                self.change(|slots, vcpu| slots.reported(vcpu, self.ost_event, status));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    fn write(device: &mut CpuHotplug, vcpu: u32, flags: u8) {
        device.write(SELECT, &vcpu.to_le_bytes());
        device.write(FLAGS, &[flags]);
    }

    fn flags(device: &mut CpuHotplug, vcpu: u32) -> u8 {
        let mut byte = [0];
        device.write(SELECT, &vcpu.to_le_bytes());
        device.read(FLAGS, &mut byte);
        byte[0]
    }

    /// Guest-contract §7.2, and rule G-701: the guest has seen the request
    /// before it ejects.
    #[test]
    fn a_vcpu_comes_and_goes_through_the_registers() {
        let slots = Arc::new(Mutex::new(Slots::new(1, 3)));
        let (to, released) = mpsc::channel();
        let release = Box::new(move |vcpu| to.send(vcpu).unwrap());
        let mut device = CpuHotplug::new(Arc::clone(&slots), release);
        let there = |device: &mut CpuHotplug| [0, 1, 2, 3, u32::MAX].map(|n| flags(device, n));
        assert_eq!(there(&mut device), [ENABLED, 0, 0, 0, 0]);
        let now = Instant::now();
        slots.lock().unwrap().offer(VcpuId(2), now).unwrap();
        assert_eq!(flags(&mut device, 2), ENABLED | INSERTING);
        write(&mut device, 2, INSERTING);
        assert_eq!(flags(&mut device, 2), ENABLED);
        device.write(OST_EVENT, &1u16.to_le_bytes());
        device.write(OST_STATUS, &0u32.to_le_bytes());
        slots.lock().unwrap().ask_back(VcpuId(2), now).unwrap();
        assert_eq!(flags(&mut device, 2), ENABLED | REMOVING);
        write(&mut device, 2, REMOVING);
        assert_eq!(flags(&mut device, 2), ENABLED);
        assert!(released.try_recv().is_err());
        write(&mut device, 2, EJECT);
        assert_eq!(flags(&mut device, 2), 0);
        write(&mut device, 2, EJECT);
        assert_eq!(released.try_iter().collect::<Vec<_>>(), [VcpuId(2)]);
    }

    /// Rule G-702: CPU 0 cannot go; and what is no register does nothing.
    #[test]
    fn the_boot_cpu_and_absent_ones_are_not_ejected() {
        let slots = Arc::new(Mutex::new(Slots::new(2, 3)));
        let (to, released) = mpsc::channel();
        let release = Box::new(move |vcpu| to.send(vcpu).unwrap());
        let mut device = CpuHotplug::new(slots, release);
        for vcpu in [0, 2, 3, 0x1_0001, u32::MAX] {
            write(&mut device, vcpu, 0xff);
        }
        device.write(SELECT, &1u32.to_le_bytes());
        for (offset, len) in [(1, 1), (4, 4), (5, 1), (6, 1), (8, 1), (8, 2), (11, 1)] {
            device.write(offset, &vec![0xff; len]);
            let mut data = vec![0xff; len];
            device.read(offset, &mut data);
            assert!(data.iter().all(|&byte| byte == 0), "{offset} {len}");
        }
        assert_eq!(flags(&mut device, 1), ENABLED);
        assert!(released.try_recv().is_err());
    }
}
