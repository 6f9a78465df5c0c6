//! Where the parts of a virtio device are in its BAR, and the capabilities that say so
//! (Virtio 1.2, "Virtio Structure PCI Capabilities").

use crate::devices::pci::{ConfigSpace, FunctionIds};
use crate::devices::virtio::DeviceKind;

/// The length of the BAR.
pub(super) const BAR_LEN: u32 = 0x8000;
/// Each part has pages of its own.
const PAGE: u64 = 0x1000;
/// The length of the common configuration.
pub(super) const COMMON_LEN: usize = 56;
/// A queue's notify address is as many bytes behind that of the queue before.
const NOTIFY_STEP: u64 = 4;

const VENDOR: u16 = 0x1af4;
/// The device id of a device type is this and its number.
const FIRST_DEVICE: u16 = 0x1040;
/// "Vendor specific", "MSI-X".
const VENDOR_CAPABILITY: u8 = 0x09;
const MSIX_CAPABILITY: u8 = 0x11;

/// A part of the BAR: the number of its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BarPart {
    Common = 0,
    Isr = 1,
    Device = 2,
    MsixTable = 3,
    MsixPending = 4,
    Notify = 5,
}

impl BarPart {
    const ALL: [Self; 6] = [
        Self::Common,
        Self::Isr,
        Self::Device,
        Self::MsixTable,
        Self::MsixPending,
        Self::Notify,
    ];

    /// The part that has the whole of an access, and the offset in it.
    pub(super) fn find(offset: u64, len: usize) -> Option<(Self, u64)> {
        let index = usize::try_from(offset / PAGE).ok()?;
        let part = *Self::ALL.get(index)?;
        let within = offset % PAGE;
        (within + u64::try_from(len).ok()? <= PAGE).then_some((part, within))
    }

    const fn offset(self) -> u32 {
        self as u32 * 0x1000
    }
}

/// Where in the BAR the notify address of a queue is.
pub(super) const fn notify_offset(queue: u16) -> u64 {
    BarPart::Notify.offset() as u64 + queue as u64 * NOTIFY_STEP
}

/// The queue of an offset in the notify part, if it is a notify address.
pub(super) fn notified_queue(offset: u64) -> Option<u16> {
    let index = u16::try_from(offset / NOTIFY_STEP).ok()?;
    offset.is_multiple_of(NOTIFY_STEP).then_some(index)
}

/// Where the capabilities are that the transport looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct CapabilityOffsets {
    /// MSI-X.
    pub(super) msix: usize,
    /// The window into the BAR.
    pub(super) window: usize,
}

impl CapabilityOffsets {
    /// The message control register.
    pub(super) const fn msix_control(self) -> usize {
        self.msix + 2
    }
}

/// The configuration space of a device of this kind with this many vectors, without a
/// BAR yet.
pub(super) fn config_space(
    kind: DeviceKind,
    vectors: u16,
) -> Option<(ConfigSpace, CapabilityOffsets)> {
    let device = FIRST_DEVICE + kind as u16;
    let mut space = ConfigSpace::new(FunctionIds {
        vendor: VENDOR,
        device,
        // No transitional device.
        revision: 1,
        class: class(kind),
        subsystem: [VENDOR, device],
    });
    let page = 0x1000;
    let common = u32::try_from(COMMON_LEN).ok()?;
    add_part(&mut space, 1, BarPart::Common.offset(), common)?;
    add_part(&mut space, 3, BarPart::Isr.offset(), 1)?;
    add_part(&mut space, 4, BarPart::Device.offset(), page)?;
    let mut notify = part(2, BarPart::Notify.offset(), page).to_vec();
    notify[0] = 20;
    notify.extend(u32::try_from(NOTIFY_STEP).ok()?.to_le_bytes());
    space.add_capability(VENDOR_CAPABILITY, &notify, &[])?;
    // The window: BAR, offset and length are the guest's, and so are the data.
    let mut window = part(5, 0, 0).to_vec();
    window[0] = 20;
    window.extend([0; 4]);
    let mut writable = [0xff; 18];
    writable[0] = 0;
    writable[1] = 0;
    writable[3..6].fill(0);
    let window = space.add_capability(VENDOR_CAPABILITY, &window, &writable)?;
    let last = vectors.checked_sub(1)?;
    let mut msix = last.to_le_bytes().to_vec();
    msix.extend(BarPart::MsixTable.offset().to_le_bytes());
    msix.extend(BarPart::MsixPending.offset().to_le_bytes());
    let msix = space.add_capability(MSIX_CAPABILITY, &msix, &[0, 0xc0])?;
    Some((space, CapabilityOffsets { msix, window }))
}

fn add_part(space: &mut ConfigSpace, kind: u8, offset: u32, len: u32) -> Option<usize> {
    space.add_capability(VENDOR_CAPABILITY, &part(kind, offset, len), &[])
}

/// The body of a capability for a part: its own length, the kind of the part, the BAR,
/// id and padding, offset, length.
fn part(kind: u8, offset: u32, len: u32) -> [u8; 14] {
    let [a, b, c, d] = offset.to_le_bytes();
    let [e, f, g, h] = len.to_le_bytes();
    [16, kind, 0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// PCI's class of a device: what `lspci` shows; drivers go by the id.
const fn class(kind: DeviceKind) -> [u8; 3] {
    match kind {
        DeviceKind::Net => [0x02, 0x00, 0],
        DeviceKind::Block => [0x01, 0x80, 0],
        DeviceKind::Console => [0x07, 0x80, 0],
        DeviceKind::Vsock => [0x02, 0x80, 0],
        DeviceKind::Fs => [0x01, 0x80, 0],
        DeviceKind::Rng => [0xff, 0x00, 0],
    }
}
