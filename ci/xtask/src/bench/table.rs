//! The figures as tables for a terminal.

use super::figure::{Measured, number};
use super::json::Pair;

/// All figures: one a line, those that are missing with the reason.
pub(super) fn text(all: &[Measured]) -> String {
    let head = ["figure", "value", "unit", "floor", "ratio", "wanted", ""];
    let mut lines = vec![head.map(str::to_owned)];
    let mut missing = String::new();
    for measured in all {
        let figure = &measured.figure;
        let value = match &measured.value {
            Ok(value) => number(*value),
            Err(reason) => {
                missing += &format!("missing {}: {reason}\n", figure.name);
                "missing".into()
            }
        };
        let met = match measured.is_met() {
            Some(true) => "met",
            Some(false) => "not met",
            None => "",
        };
        let of = |value: Option<f64>| value.map(number).unwrap_or_default();
        lines.push([
            figure.name.clone(),
            value,
            figure.unit.to_owned(),
            of(measured.floor),
            of(measured.ratio()),
            figure.most.map_or_else(String::new, |m| format!("<= {m}")),
            met.to_owned(),
        ]);
    }
    aligned(&lines, [false, true, false, true, true, true, false]) + &missing
}

/// Two lists of figures.
pub(super) fn comparison(pairs: &[Pair]) -> String {
    let mut lines = vec![["figure", "old", "new", "change"].map(str::to_owned)];
    for pair in pairs {
        let of = |value: Option<f64>| value.map_or_else(|| "-".into(), number);
        let change = match (pair.change, pair.old, pair.new) {
            (Some(percent), ..) => format!("{percent:+.2} %"),
            (None, None, _) => "only new".into(),
            (None, _, None) => "only old".into(),
            (None, ..) => "from 0".into(),
        };
        lines.push([pair.name.clone(), of(pair.old), of(pair.new), change]);
    }
    aligned(&lines, [false, true, true, true])
}

/// Lines of equal columns; `right`: those that end in one place.
fn aligned<const N: usize>(lines: &[[String; N]], right: [bool; N]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for ((cell, width), right) in line.iter().zip(widths).zip(right) {
            if right {
                row += &format!("{cell:>width$}  ");
            } else {
                row += &format!("{cell:<width$}  ");
            }
        }
        text += row.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Figure, Most};
    use super::*;

    #[test]
    fn a_table_shows_what_is_missing_and_why() {
        let measured = |name: &str, value, floor| Measured {
            figure: Figure::new(name, "instructions", Some(Most::Times(1.1))),
            value,
            floor,
        };
        let table = text(&[
            measured("a", Ok(9000.0), Some(4500.0)),
            measured("bcd", Err("the host died".into()), None),
        ]);
        let expected = "\
figure    value  unit          floor  ratio     wanted
a         9,000  instructions  4,500   2.00  <= 1.10 x  not met
bcd     missing  instructions                <= 1.10 x
missing bcd: the host died
";
        assert_eq!(table, expected);
    }

    #[test]
    fn a_comparison_shows_what_only_one_has() {
        let pair = |name: &str, old, new, change| Pair {
            name: name.into(),
            old,
            new,
            change,
        };
        let table = comparison(&[
            pair("a", Some(200.0), Some(150.0), Some(-25.0)),
            pair("b", None, Some(7.0), None),
            pair("c", Some(1.0), None, None),
        ]);
        let expected = "\
figure   old   new    change
a        200   150  -25.00 %
b          -  7.00  only new
c       1.00     -  only old
";
        assert_eq!(table, expected);
    }
}
