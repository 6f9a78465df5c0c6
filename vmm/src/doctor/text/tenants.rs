//! The section on guests of several owners.

use super::super::report::TenantsReport;
use super::page::{TextPage, say};

/// Each setting, what it means and, for a risk, what to change.
pub(super) fn tenants(page: &mut TextPage, rows: &[TenantsReport]) {
    page.section("Guests of several owners on this host");
    for row in rows {
        page.line(row.check, &say(&row.found, String::clone));
        page.line("", row.meaning);
        if let Some(change) = row.change {
            page.line("", &format!("to change: {change}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample::report;
    use super::*;

    #[test]
    fn a_risk_has_its_meaning_and_its_change() {
        let mut page = TextPage::default();
        tenants(&mut page, &report().tenants);
        let text = page.finish();
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "  smt                   on",
                "                        threads share a core",
                "                        to change: switch it off",
                "  ksm                   not known: no /sys",
                "                        pages are merged",
            ]
        );
    }
}
