//! The state of a VM in parts, each under the name of its owner.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The reason why a part of a state cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SectionError {
    /// It is not there.
    #[error("it has no section \"{name}\"")]
    Missing {
        /// The section.
        name: String,
    },
    /// Its bytes mean nothing.
    #[error("its section \"{name}\" is damaged")]
    Damaged {
        /// The section.
        name: String,
    },
    /// It is of something else than what is there.
    #[error("its section \"{name}\" does not fit: {reason}")]
    Misfit {
        /// The section.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// Nobody knows it.
    #[error("it has a section \"{name}\", which this version of perfvisor does not know")]
    Unknown {
        /// The section.
        name: String,
    },
}

/// Sections, each written once and read once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sections(BTreeMap<String, Vec<u8>>);

impl Sections {
    /// Writes a section.
    ///
    /// # Errors
    /// If the value has no form in bytes.
    pub fn put(&mut self, name: &str, value: &impl Serialize) -> Result<(), SectionError> {
        let bytes = postcard::to_allocvec(value).map_err(|_| SectionError::Damaged {
            name: name.to_owned(),
        })?;
        self.put_bytes(name, bytes);
        Ok(())
    }

    /// Writes a section that is bytes already.
    pub fn put_bytes(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.to_owned(), bytes);
    }

    /// Reads a section, which is gone then.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, SectionError> {
        let bytes = self.0.remove(name).ok_or_else(|| SectionError::Missing {
            name: name.to_owned(),
        })?;
        decode(&bytes).ok_or_else(|| SectionError::Damaged {
            name: name.to_owned(),
        })
    }

    /// All sections have been read.
    ///
    /// # Errors
    /// The first that has not: what it holds would be lost.
    pub fn are_all_taken(&self) -> Result<(), SectionError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(SectionError::Unknown { name: name.clone() }),
        }
    }

    /// All sections, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        let sections = self.0.iter();
        sections.map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }
}

/// A value, if the bytes are its form and nothing else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn a_section_is_read_once_and_none_is_left_unread() {
        let mut sections = Sections::default();
        sections.put("serial", &(1u8, "text")).unwrap();
        sections.put("vcpu0", &7u64).unwrap();
        assert_eq!(sections.iter().len(), 2);
        assert_eq!(sections.take("serial"), Ok((1u8, "text".to_owned())));
        let missing = sections.take::<u8>("serial");
        assert_eq!(
            missing,
            Err(SectionError::Missing {
                name: named("serial")
            })
        );
        let unread = sections.are_all_taken();
        assert_eq!(
            unread,
            Err(SectionError::Unknown {
                name: named("vcpu0")
            })
        );
        assert_eq!(sections.take("vcpu0"), Ok(7u64));
        assert_eq!(sections.are_all_taken(), Ok(()));
    }

    #[test]
    fn bytes_of_another_form_are_damaged() {
        for bytes in [&[][..], &[1, 2], &[200, 200, 200, 200, 200, 200]] {
            let mut sections = Sections::default();
            sections.put_bytes("x", bytes.to_vec());
            let taken = sections.take::<u8>("x");
            let damaged = SectionError::Damaged { name: named("x") };
            assert_eq!(taken, Err(damaged), "{bytes:?}");
        }
    }
}
