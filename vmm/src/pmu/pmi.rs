//! How a PMI reaches the guest.

/// The local APIC's performance-counter entry.
///
/// SDM vol. 3A, "Local Vector Table".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lvtpc {
    /// No delivery.
    Masked,
    /// As an NMI.
    Nmi,
    /// As an interrupt of this vector.
    Fixed(u8),
    /// A delivery mode that a PMI cannot have: as masked.
    Other,
}

impl Lvtpc {
    /// Where the entry lies in the local APIC's page.
    pub(super) const OFFSET: usize = 0x340;

    /// Reads the register's value.
    #[must_use]
    pub(super) const fn decode(value: u32) -> Self {
        const MASKED: u32 = 1 << 16;
        let [vector, ..] = value.to_le_bytes();
        match (value & MASKED, value >> 8 & 0b111) {
            (0, 0b100) => Self::Nmi,
            (0, 0b000) => Self::Fixed(vector),
            (0, _) => Self::Other,
            _ => Self::Masked,
        }
    }
}

/// The address and data of a fixed interrupt to one local APIC, whose id has
/// eight bits.
///
/// SDM vol. 3A, "Message Address Register Format".
#[must_use]
pub(super) const fn fixed_message(apic_id: u32, vector: u8) -> (u32, u32) {
    const LOCAL_APICS: u32 = 0xfee0_0000;
    (LOCAL_APICS | (apic_id & 0xff) << 12, vector as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guest-contract §4.1 and G-403.
    #[test]
    fn entries() {
        for (value, delivery) in [
            (0x400, Lvtpc::Nmi),
            (0x1_0400, Lvtpc::Masked),
            (0x1_0000, Lvtpc::Masked),
            (0xf2, Lvtpc::Fixed(0xf2)),
            (0x200, Lvtpc::Other),
        ] {
            assert_eq!(Lvtpc::decode(value), delivery, "{value:#x}");
        }
        assert_eq!(fixed_message(3, 0xf2), (0xfee0_3000, 0xf2));
    }
}
