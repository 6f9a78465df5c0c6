//! A figure: what it is called, what it is held against, and its value once it was measured.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cmd;
use crate::guest_tests::Seen;

/// What a run has printed: numbers by the names that it gave them.
pub(super) type Values = BTreeMap<String, f64>;

/// Finds the numbers in what came out of a run.
pub(super) type Reader = fn(&Seen) -> Result<Values>;

/// Numbers of the same run whose sum, each so many times, is the least that a figure can be;
/// nothing: no such number is known.
pub(super) type Floor = &'static [(&'static str, u32)];

/// A figure of a run.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    /// Its name in the table and in `bench.json`.
    pub(super) name: String,
    /// Its name in the run.
    pub(super) key: String,
    /// Its unit.
    pub(super) unit: &'static str,
    /// What it is held against.
    pub(super) floor: Floor,
    /// The most that is wanted.
    pub(super) most: Option<Most>,
}

impl Figure {
    /// A figure without a floor, which the run calls as the table does.
    pub(super) fn new(name: impl Into<String>, unit: &'static str, most: Option<Most>) -> Self {
        let name = name.into();
        Self {
            key: name.clone(),
            name,
            unit,
            floor: &[],
            most,
        }
    }
}

/// The most that a figure is wanted to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Most {
    /// So many times its floor.
    Times(f64),
    /// In its unit.
    Value(f64),
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times:.2} x"),
            Self::Value(value) => f.write_str(&number(*value)),
        }
    }
}

/// A figure that was measured, or the reason why it was not.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) figure: Figure,
    pub(super) value: Result<f64, String>,
    pub(super) floor: Option<f64>,
}

impl Measured {
    /// How many times its floor it is.
    pub(super) fn ratio(&self) -> Option<f64> {
        let (value, floor) = (self.value.as_ref().ok()?, self.floor?);
        Some(value / floor)
    }

    /// Whether it is what is wanted; nothing where that cannot be said.
    pub(super) fn is_met(&self) -> Option<bool> {
        match self.figure.most? {
            Most::Times(most) => Some(self.ratio()? <= most),
            Most::Value(most) => Some(*self.value.as_ref().ok()? <= most),
        }
    }
}

/// The numbers of the lines `bench NAME NUMBER`.
pub(super) fn as_printed(seen: &Seen) -> Result<Values> {
    let line = |line: &str| {
        let (name, value) = line.trim_end().strip_prefix("bench ")?.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(seen.console.lines().filter_map(line).collect())
}

/// The figures of a run, with the values that were found or the reason for each that was not.
pub(super) fn measured(figures: Vec<Figure>, seen: Result<Seen>, read: Reader) -> Vec<Measured> {
    let values = seen.and_then(|seen| {
        let values = read(&seen).with_context(|| words(&seen))?;
        Ok((values, words(&seen)))
    });
    let of = |figure: &Figure| -> Result<(f64, Option<f64>)> {
        let (values, words) = values.as_ref().map_err(|error| anyhow!("{error:#}"))?;
        let value = positive(values, &figure.key).map_err(|e| anyhow!("{e:#}: {words}"))?;
        let mut floor = None;
        for (key, times) in figure.floor {
            let more = positive(values, key)? * f64::from(*times);
            floor = Some(floor.unwrap_or_default() + more);
        }
        Ok((value, floor))
    };
    let with_value = |figure: Figure| {
        let (value, floor) = match of(&figure) {
            Ok((value, floor)) => (Ok(value), floor),
            Err(error) => (Err(format!("{error:#}")), None),
        };
        Measured {
            figure,
            value,
            floor,
        }
    };
    figures.into_iter().map(with_value).collect()
}

/// The number of this name. Nothing costs nothing: a 0 is a fault of the measurement, but
/// for an error, which may be none.
fn positive(values: &Values, key: &str) -> Result<f64> {
    let value = *values
        .get(key)
        .with_context(|| format!("the run did not print `{key}`"))?;
    let may_be_none = key.starts_with("error_");
    ensure!(value > 0.0 || may_be_none && value == 0.0, "{key}: {value}");
    Ok(value)
}

/// The end of what a run printed that is no figure, for a reason.
fn words(seen: &Seen) -> String {
    let is_other = |line: &&str| !line.starts_with("bench ");
    let rest: Vec<&str> = seen.console.lines().filter(is_other).collect();
    let rest = cmd::last_lines(&rest.join("\n"), 4);
    let vmm = cmd::last_lines(&seen.vmm, 4);
    format!("{rest}\n{vmm}").trim().replace('\n', "; ")
}

/// A number as people read it: large ones in groups of three digits.
pub(super) fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(key: &str) -> Figure {
        Figure {
            floor: &[("floor_a", 2), ("floor_b", 1)],
            ..Figure::new(key, "instructions", Some(Most::Times(1.5)))
        }
    }

    fn of(console: &str) -> Vec<Measured> {
        let seen = Seen {
            console: console.into(),
            ..Seen::default()
        };
        measured(vec![figure("cost"), figure("other")], Ok(seen), as_printed)
    }

    #[test]
    fn values_and_floors_are_read() {
        let all =
            of("bench cost 45\r\nhello\nbench floor_a 10\nbench floor_b 10\nbench other 46\n");
        assert_eq!(all[0].value, Ok(45.0));
        assert_eq!((all[0].floor, all[0].ratio()), (Some(30.0), Some(1.5)));
        assert_eq!(
            (all[0].is_met(), all[1].is_met()),
            (Some(true), Some(false))
        );
    }

    #[test]
    fn what_is_missing_has_a_reason_and_no_value() {
        let all = of("bench cost 0\nFAIL s0 a check\nbench floor_a 10\nbench floor_b 10\n");
        assert_eq!(all[0].value, Err("cost: 0: FAIL s0 a check".into()));
        let reason = "the run did not print `other`: FAIL s0 a check";
        assert_eq!(all[1].value, Err(reason.into()));
        assert_eq!((all[1].floor, all[1].is_met()), (None, None));
        // No ratio without a floor, and no value without its ratio.
        let without_floor = &of("bench cost 45\nbench floor_a 10\n")[0];
        assert!(without_floor.value.is_err());
        let dead = measured(vec![figure("cost")], Err(anyhow!("died")), as_printed);
        assert_eq!(dead[0].value, Err("died".into()));
    }

    #[test]
    fn only_an_error_may_be_none() {
        let seen = Seen {
            console: "bench error_x 0\n".into(),
            ..Seen::default()
        };
        let none = Figure::new("error_x", "%", None);
        let all = measured(vec![none], Ok(seen), as_printed);
        assert_eq!(all[0].value, Ok(0.0));
    }

    #[test]
    fn numbers_are_grouped() {
        let shown = [1.234, 999.6, 123_456.0, 2_372_000_000.0, -1234.0].map(number);
        assert_eq!(
            shown,
            ["1.23", "1,000", "123,456", "2,372,000,000", "-1,234"]
        );
    }
}
