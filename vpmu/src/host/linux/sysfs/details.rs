//! What a PMU's directory says of its events.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{DEVICES, PmuDevice, Sysfs, read};

/// `perf_event_attr.config`, `config1` and `config2` of a raw event, whose
/// `type` is the PMU's own.
///
/// # Examples
/// ```
/// use vpmu::host::linux::sysfs::RawConfig;
///
/// assert_eq!(RawConfig::of(0x3c).config1, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawConfig {
    /// `config`.
    pub config: u64,
    /// `config1`.
    pub config1: u64,
    /// `config2`.
    pub config2: u64,
}

impl RawConfig {
    /// An event that `config` alone names.
    #[must_use]
    pub const fn of(config: u64) -> Self {
        Self {
            config,
            config1: 0,
            config2: 0,
        }
    }
}

/// The reason why a text names no event of a PMU.
///
/// # Examples
/// ```
/// use std::path::Path;
/// use vpmu::host::linux::sysfs::{EncodeError, Sysfs};
///
/// let sysfs = Sysfs::at(Path::new("/sys"));
/// for pmu in sysfs.pmus()? {
///     let refused = sysfs.details(&pmu).encode("no_such_field=1");
///     assert_eq!(refused, Err(EncodeError::UnknownField("no_such_field".to_owned())));
/// }
/// # Ok::<(), vpmu::host::linux::sysfs::SysfsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The PMU has no such field.
    #[error("the PMU has no field {0:?}")]
    UnknownField(String),
    /// The field's description is in a form that is not known here.
    #[error("the PMU describes field {field:?} as {format:?}, which is none of the known forms")]
    Format {
        /// The field.
        field: String,
        /// Its description.
        format: String,
    },
    /// No number, or one that the field has no bits for.
    #[error("{value:?} is not a number that fits into field {field:?}")]
    Value {
        /// The field.
        field: String,
        /// What it was to hold.
        value: String,
    },
}

/// The parts of a PMU's directory that few need.
///
/// An attribute that cannot be read is left out: it is a name that the PMU then
/// does not have.
///
/// # Examples
/// ```
/// use vpmu::host::linux::sysfs::PmuDetails;
///
/// let mut details = PmuDetails::default();
/// details.formats.insert("event".into(), "config:0-7".into());
/// details.formats.insert("umask".into(), "config:8-15".into());
/// let config = details.encode("event=0xc4,umask=0x1").unwrap();
/// assert_eq!(config.config, 0x01c4);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PmuDetails {
    /// Fields of the configuration words: name → `config:0-7,32-35`.
    pub formats: BTreeMap<String, String>,
    /// Events by name: name → `event=0x3c,umask=0x1`.
    pub events: BTreeMap<String, String>,
    /// What to multiply an event's count with, by the event's name.
    pub scales: BTreeMap<String, String>,
    /// The unit of the product, by the event's name: `Joules`.
    pub units: BTreeMap<String, String>,
    /// Capabilities, such as `pmu_name` and `branches`.
    pub caps: BTreeMap<String, String>,
}

impl Sysfs {
    /// The details of a PMU, read now.
    #[must_use]
    pub fn details(&self, pmu: &PmuDevice) -> PmuDetails {
        let directory = self.0.join(DEVICES).join(&pmu.name);
        let mut events = attributes(&directory.join("events"));
        let described = |suffix| {
            let mine = events.iter().filter_map(|(name, text)| {
                Some((name.strip_suffix(suffix)?.to_owned(), text.clone()))
            });
            mine.collect()
        };
        let (scales, units) = (described(".scale"), described(".unit"));
        // `NAME.scale`, `NAME.unit` and the like describe event NAME.
        events.retain(|name, _| !name.contains('.'));
        PmuDetails {
            formats: attributes(&directory.join("format")),
            events,
            scales,
            units,
            caps: attributes(&directory.join("caps")),
        }
    }
}

fn attributes(directory: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name, read(&entry.path()).ok()?))
        })
        .collect()
}

impl PmuDetails {
    /// The configuration words for `event=0x3c,umask=0x1`, or for an event's
    /// name. A field without `=` is 1.
    ///
    /// # Errors
    /// [`EncodeError`]
    pub fn encode(&self, text: &str) -> Result<RawConfig, EncodeError> {
        let text = self.events.get(text).map_or(text, String::as_str);
        let mut config = RawConfig::default();
        for term in text.split(',') {
            let (field, value) = term.split_once('=').unwrap_or((term, "1"));
            self.set(&mut config, field, value)?;
        }
        Ok(config)
    }

    /// The bits of `config` that these fields have; a field that the PMU lacks
    /// has none.
    #[must_use]
    pub fn config_bits(&self, fields: &[&str]) -> u64 {
        let of_field = |field: &&str| {
            let bits = self.formats.get(*field)?.strip_prefix("config:")?;
            Some(
                bit_numbers(bits)?
                    .into_iter()
                    .fold(0, |mask, bit| mask | 1 << bit),
            )
        };
        fields
            .iter()
            .filter_map(of_field)
            .fold(0, |all, mask| all | mask)
    }

    fn set(&self, config: &mut RawConfig, field: &str, value: &str) -> Result<(), EncodeError> {
        let format = self
            .formats
            .get(field)
            .ok_or_else(|| EncodeError::UnknownField(field.to_owned()))?;
        let strange = || EncodeError::Format {
            field: field.to_owned(),
            format: format.clone(),
        };
        let unfit = || EncodeError::Value {
            field: field.to_owned(),
            value: value.to_owned(),
        };
        let (word, bits) = format.split_once(':').ok_or_else(strange)?;
        let bits = bit_numbers(bits).ok_or_else(strange)?;
        let word = match word {
            "config" => &mut config.config,
            "config1" => &mut config.config1,
            "config2" => &mut config.config2,
            _ => return Err(strange()),
        };
        let mut rest = number(value).ok_or_else(unfit)?;
        for bit in bits {
            *word |= (rest & 1) << bit;
            rest >>= 1;
        }
        if rest == 0 { Ok(()) } else { Err(unfit()) }
    }
}

/// `0-7,32-35`: the field's bits, its lowest first.
fn bit_numbers(text: &str) -> Option<Vec<u32>> {
    let mut bits = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if last > 63 {
            return None;
        }
        bits.extend(first..=last);
    }
    Some(bits)
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
