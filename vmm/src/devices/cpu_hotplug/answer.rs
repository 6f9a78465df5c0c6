//! The guest's answer to a request: `_OST` (ACPI 6.5, "_OST (OSPM Status
//! Indication)").

/// Source events.
const BUS_CHECK: u16 = 0;
const DEVICE_CHECK: u16 = 1;
const EJECT_REQUEST: u16 = 3;
const OSPM_EJECT: u16 = 0x103;

/// Status codes.
const SUCCESS: u32 = 0;
/// Status code of an ejection: the guest still uses the device.
pub const DEVICE_BUSY: u32 = 0x82;
/// "In progress", of an insertion and of an ejection.
const INSERTION_GOES_ON: u32 = 0x82;
const EJECTION_GOES_ON: u32 = 0x84;

/// The guest's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestAnswer {
    /// The guest accepts the vCPU that is offered.
    Accepted,
    /// The guest declines the vCPU that is offered.
    Declined {
        /// The status code.
        status: u32,
    },
    /// The guest keeps the vCPU that it was asked to give back.
    Kept {
        /// The status code.
        status: u32,
    },
}

impl GuestAnswer {
    /// The answer in a source event and a status; `None` if it decides nothing:
    /// another event, an action that still goes on, or the success of an
    /// ejection, which the guest reports by the eject itself.
    #[must_use]
    pub const fn decode(event: u16, status: u32) -> Option<Self> {
        match (event, status) {
            (BUS_CHECK | DEVICE_CHECK, SUCCESS) => Some(Self::Accepted),
            (BUS_CHECK | DEVICE_CHECK, INSERTION_GOES_ON) => None,
            (BUS_CHECK | DEVICE_CHECK, status) => Some(Self::Declined { status }),
            (EJECT_REQUEST | OSPM_EJECT, SUCCESS | EJECTION_GOES_ON) => None,
            (EJECT_REQUEST | OSPM_EJECT, status) => Some(Self::Kept { status }),
            _ => None,
        }
    }
}
