//! What a guest asks for, in the words of the host's PMU.

use crate::host::{RawSelect, UncoreEvent};

use super::EnergyScale;
use super::source::UncoreSource;

/// An event as the host's PMU takes it.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    /// `perf_event_attr.config`.
    pub(super) config: u64,
    /// The same, as perf writes it.
    pub(super) text: String,
    /// What its counts are, if they are energy.
    pub(super) energy: Option<EnergyScale>,
}

/// Bits of a select of AMD's L3 that say whose accesses count.
const L3_WHOSE: u64 = 0xffff_fc00_0000_0000;
/// Everybody's: all slices and threads (family 17h, "ChL3PmcCfg"), or all
/// slices, cores and threads (family 19h). Others are numbers of the guest's
/// vCPUs, which mean nothing on the host.
const L3_EVERYBODY: [u64; 2] = [0xff0f_0000_0000_0000, 0x0300_c000_0000_0000];

impl UncoreSource {
    /// The host's event; `None` if it has none such.
    pub(super) fn encode(&self, event: &UncoreEvent) -> Option<Encoded> {
        match event {
            UncoreEvent::Energy(domain) => {
                let name = domain.name();
                let details = self.details();
                let config = details.events.get(name)?;
                if details.units.get(name)? != "Joules" {
                    return None;
                }
                Some(Encoded {
                    config: details.encode(config).ok()?.config,
                    text: name.to_owned(),
                    energy: Some(EnergyScale::parse(details.scales.get(name)?)?),
                })
            }
            // The host counts everybody's by default.
            UncoreEvent::L3(RawSelect(raw)) => L3_EVERYBODY
                .contains(&(raw & L3_WHOSE))
                .then(|| self.raw(raw & !L3_WHOSE, &["event", "umask"]))
                .flatten(),
            UncoreEvent::DataFabric(RawSelect(raw)) => self.raw(*raw, &["event", "umask"]),
            UncoreEvent::Umc { select, .. } => self.raw(select.0, &["event", "rdwrmask"]),
        }
    }

    /// A select, whose layout is that of `config`, if each of its bits belongs
    /// to one of these fields here.
    fn raw(&self, select: u64, fields: &[&str]) -> Option<Encoded> {
        let known = self.details().config_bits(fields);
        (select & !known == 0).then(|| Encoded {
            config: select,
            text: format!("config={select:#x}"),
            energy: None,
        })
    }
}
