//! The `key=value,key=value` style of flag values, as in Cloud Hypervisor.

use std::path::PathBuf;

use super::ConfigError;

/// A flag and what it takes, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
    pub(super) accepted: &'static str,
}

/// The pairs of one flag value. Keys are known and given at most once.
#[derive(Debug)]
pub(super) struct Options<'a> {
    flag: Flag,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    /// Splits `text` at the commas that stand outside of brackets, and each part
    /// at its first `=`.
    pub(super) fn parse(flag: Flag, text: &'a str) -> Result<Self, ConfigError> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for item in split_outside_brackets(text) {
            let Some((key, value)) = item.split_once('=') else {
                return Err(ConfigError::NotKeyValue {
                    flag: flag.name,
                    item: item.to_owned(),
                    accepted: flag.accepted,
                });
            };
            if !flag.keys.contains(&key) {
                return Err(ConfigError::UnknownKey {
                    flag: flag.name,
                    key: key.to_owned(),
                    accepted: flag.accepted,
                });
            }
            if pairs.iter().any(|&(known, _)| known == key) {
                return Err(ConfigError::Duplicate {
                    flag: flag.name,
                    key: key.to_owned(),
                });
            }
            pairs.push((key, value));
        }
        Ok(Self { flag, pairs })
    }

    /// The text of a key, if given.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.pairs
            .iter()
            .find(|&&(known, _)| known == key)
            .map(|&(_, value)| value)
    }

    /// A key that must be there.
    pub(super) fn require(&self, key: &'static str) -> Result<&'a str, ConfigError> {
        self.get(key).ok_or(ConfigError::MissingKey {
            flag: self.flag.name,
            key,
            accepted: self.flag.accepted,
        })
    }

    /// A decimal number within a range, if given.
    pub(super) fn number(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u16>,
        accepted: &'static str,
    ) -> Result<Option<u16>, ConfigError> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.bad(key, text, accepted)),
        }
    }

    /// A key that is on or off, if given.
    pub(super) fn switch(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some("on") => Ok(Some(true)),
            Some("off") => Ok(Some(false)),
            Some(text) => Err(self.bad(key, text, "on, off")),
        }
    }

    /// A path, if given.
    pub(super) fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(text) if text.is_empty() || text.contains('\0') => {
                Err(self.bad(key, text, "a path"))
            }
            Some(text) => Ok(Some(text.into())),
        }
    }

    /// The error for a value that does not do.
    pub(super) fn bad(
        &self,
        key: &'static str,
        value: &str,
        accepted: &'static str,
    ) -> ConfigError {
        ConfigError::BadValue {
            flag: self.flag.name,
            key,
            value: value.to_owned(),
            accepted,
        }
    }
}

/// The inside of `[…]`.
pub(super) fn unbracket(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

/// The parts of `text` between commas; one inside of brackets separates
/// nothing here.
pub(super) fn split_outside_brackets(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_brackets_belong_to_the_value() {
        let parts: Vec<_> = split_outside_brackets("a=1,b=[0@[2,3],1@[4]],c").collect();
        assert_eq!(parts, ["a=1", "b=[0@[2,3],1@[4]]", "c"]);
        assert_eq!(unbracket("[0,1]"), Some("0,1"));
        assert_eq!(unbracket("[0,1"), None);
    }
}
