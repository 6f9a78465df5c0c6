//! The registers that every function has (PCI 3.0, "Configuration Space").

/// The length of the space without PCI Express's part, in bytes.
const LEN: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CLASS: usize = 0x09;
const BAR0: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

/// "Memory space": the function answers at its BAR.
const MEMORY: u16 = 1 << 1;
/// "Bus master", and "interrupt disable".
const BUS_MASTER: u16 = 1 << 2;
const INTERRUPT_DISABLE: u16 = 1 << 10;
/// "Capabilities list".
const HAS_CAPABILITIES: u16 = 1 << 4;

/// What a function is.
#[derive(Clone, Copy, Debug)]
pub struct FunctionIds {
    /// The vendor.
    pub vendor: u16,
    /// The device.
    pub device: u16,
    /// The revision.
    pub revision: u8,
    /// Base class, sub-class, programming interface.
    pub class: [u8; 3],
    /// The subsystem's vendor and device.
    pub subsystem: [u16; 2],
}

/// The registers, and which of their bits a guest can write.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    next_capability: usize,
    /// Where the last link to a capability is.
    last_link: usize,
    place: Option<u32>,
}

impl ConfigSpace {
    /// The registers of a function without BAR and capabilities.
    #[must_use]
    pub fn new(ids: FunctionIds) -> Self {
        let mut space = Self {
            bytes: [0; LEN],
            writable: [0; LEN],
            next_capability: FIRST_CAPABILITY,
            last_link: CAPABILITIES,
            place: None,
        };
        let [class, sub_class, interface] = ids.class;
        let [sub_vendor, sub_device] = ids.subsystem;
        space.set(0, &ids.vendor.to_le_bytes());
        space.set(2, &ids.device.to_le_bytes());
        space.set(CLASS - 1, &[ids.revision, interface, sub_class, class]);
        space.set(SUBSYSTEM, &sub_vendor.to_le_bytes());
        space.set(SUBSYSTEM + 2, &sub_device.to_le_bytes());
        space.allow(COMMAND, &(BUS_MASTER | INTERRUPT_DISABLE).to_le_bytes());
        space
    }

    /// Gives the function `len` bytes of memory at `place`, as BAR 0: 32 bits, not
    /// prefetchable. The length is a power of two, and divides the place.
    pub fn set_bar(&mut self, place: u32, len: u32) {
        self.place = Some(place);
        self.set(BAR0, &place.to_le_bytes());
        self.allow(BAR0, &(!(len - 1)).to_le_bytes());
        // As firmware would leave it.
        self.set(COMMAND, &MEMORY.to_le_bytes());
        let command = MEMORY | BUS_MASTER | INTERRUPT_DISABLE;
        self.allow(COMMAND, &command.to_le_bytes());
    }

    /// Adds a capability: its id, and the bytes behind the link, of which the guest can
    /// write those bits that `writable` has. Returns its offset; `None` if there is no
    /// room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let at = self.next_capability;
        let end = at + 2 + body.len();
        if end > LEN {
            return None;
        }
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable);
        let link = u8::try_from(at).ok()?;
        self.set(self.last_link, &[link]);
        self.set(STATUS, &HAS_CAPABILITIES.to_le_bytes());
        self.last_link = at + 1;
        self.next_capability = end.next_multiple_of(4);
        Some(at)
    }

    /// Whether the function answers at its place.
    #[must_use]
    pub fn is_at_place(&self) -> bool {
        let [a, b, c, d] = self.array(BAR0);
        u16::from_le_bytes(self.array(COMMAND)) & MEMORY != 0
            && self.place == Some(u32::from_le_bytes([a, b, c, d]))
    }

    /// The bytes at an offset; zeroes beyond the end.
    #[must_use]
    pub fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut data = [0; N];
        self.read(offset, &mut data);
        data
    }

    /// Fills `data`; zeroes beyond the end, which say that PCI Express's part is empty.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        let rest = rest.iter().copied().chain(std::iter::repeat(0));
        for (to, from) in data.iter_mut().zip(rest) {
            *to = from;
        }
    }

    /// All of it, for a snapshot.
    #[must_use]
    pub fn saved(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes back what a guest has written. Returns whether the bytes are those of such a
    /// function at this place; if not, nothing has changed.
    pub fn restore(&mut self, saved: &[u8]) -> bool {
        let bits = self.bytes.iter().zip(&self.writable).zip(saved);
        let fits = |((own, mask), saved): ((&u8, &u8), &u8)| own & !mask == saved & !mask;
        let fits = saved.len() == LEN && { bits }.all(fits);
        if fits {
            self.write(0, saved);
        }
        fits
    }

    /// Takes the bits that a guest can write.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let bytes = self.bytes.get_mut(offset..).unwrap_or_default();
        let masks = self.writable.get(offset..).unwrap_or_default();
        for ((byte, mask), new) in bytes.iter_mut().zip(masks).zip(data) {
            *byte = (*byte & !mask) | (new & mask);
        }
    }

    fn set(&mut self, offset: usize, data: &[u8]) {
        let bytes = self.bytes.get_mut(offset..).unwrap_or_default();
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        let masks = self.writable.get_mut(offset..).unwrap_or_default();
        for (to, from) in masks.iter_mut().zip(mask) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(FunctionIds {
            vendor: 0x1af4,
            device: 0x1044,
            revision: 1,
            class: [0xff, 0, 7],
            subsystem: [0x1af4, 0x1044],
        });
        space.set_bar(0xc000_8000, 0x8000);
        space
    }

    #[test]
    fn ids_are_where_drivers_look() {
        let space = space();
        assert_eq!(space.array(0), [0xf4, 0x1a, 0x44, 0x10]);
        assert_eq!(space.array(8), [1, 7, 0, 0xff]);
        assert_eq!(space.array(0x0e), [0], "one function, an ordinary header");
        assert_eq!(space.array(0x3d), [0], "no interrupt pin");
    }

    /// PCI 3.0, "Address Maps": ones are written, and the size is read.
    #[test]
    fn a_bar_tells_its_size_and_answers_at_its_place_alone() {
        let mut space = space();
        assert!(space.is_at_place());
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(space.array(BAR0), 0xffff_8000u32.to_le_bytes());
        assert!(!space.is_at_place());
        space.write(BAR0, &0xc000_8000u32.to_le_bytes());
        assert!(space.is_at_place());
        space.write(BAR0 + 1, &[0]);
        assert!(!space.is_at_place(), "moved by a byte of it");
        space.write(BAR0 + 1, &[0x80]);
        space.write(COMMAND, &[0, 0]);
        assert!(!space.is_at_place(), "memory space off");
        // The other BARs and the ROM are not there.
        for bar in [0x14, 0x18, 0x1c, 0x20, 0x24, 0x30] {
            space.write(bar, &[0xff; 4]);
            assert_eq!(space.array(bar), [0; 4]);
        }
    }

    #[test]
    fn a_snapshot_is_taken_back_by_a_function_of_its_kind_at_its_place() {
        let mut space = space();
        space.write(COMMAND, &BUS_MASTER.to_le_bytes());
        let saved = space.saved().to_vec();
        let mut other = self::space();
        assert!(other.restore(&saved));
        assert_eq!(other.saved(), saved);
        let mut moved = self::space();
        moved.set_bar(0xc001_0000, 0x8000);
        assert!(moved.restore(&saved), "a guest may have moved its BAR");
        assert!(!moved.is_at_place());
        for wrong in [&saved[1..], &[&[0], &saved[1..]].concat(), &[]] {
            assert!(!other.restore(wrong));
            assert_eq!(other.saved(), saved);
        }
    }

    #[test]
    fn a_guest_writes_what_is_writable_and_nothing_else() {
        let mut space = space();
        let cap = space.add_capability(9, &[7; 4], &[0, 0xf0]).unwrap();
        assert_eq!(cap, FIRST_CAPABILITY);
        let next = space.add_capability(0x11, &[8; 6], &[]).unwrap();
        assert_eq!(space.array(CAPABILITIES), [0x40]);
        assert_eq!(space.array(cap), [9, 0x48, 7, 7]);
        assert_eq!((next, space.array(next)), (0x48, [0x11, 0]));
        let before = space.clone();
        for offset in 0..300 {
            space.write(offset, &[0xff; 4]);
        }
        assert_eq!(space.array(cap), [9, 0x48, 7, 0xf7]);
        for offset in (0..LEN).filter(|at| !(4..6).contains(at) && !(16..20).contains(at)) {
            if offset != cap + 3 {
                assert_eq!(
                    space.array::<1>(offset),
                    before.array(offset),
                    "{offset:#x}"
                );
            }
        }
        assert_eq!(space.array(COMMAND), [0x06, 0x04]);
        assert_eq!(space.array(254), [0; 4]);
        assert!(space.add_capability(9, &[0; 200], &[]).is_none());
    }
}
