//! SECURITY.md names a test for each threat, and each test that it names is there.
//!
//! A code span `path/file.rs::function` is a test function of this tree. A code span
//! after the word `row` begins the name of a guest test or of a payload's test.

use std::collections::{BTreeMap, BTreeSet};

use super::markdown::{Document, splits};

/// The document with the threats.
pub(super) const SECURITY: &str = "SECURITY.md";

/// Whether a threat's line is one of a table: `| who | could | defence | shown by |`.
fn is_threat(line: &str) -> bool {
    let cells = line.matches('|').count();
    let is_rule = line.contains("|---");
    let is_head = line.contains("shown by");
    line.starts_with('|') && cells == 5 && !is_rule && !is_head
}

/// Tests that are named and are not there, and threats without a test.
pub(super) fn check(
    texts: &BTreeMap<String, String>,
    rows: &BTreeSet<String>,
    found: &mut Vec<String>,
) {
    let Some(text) = texts.get(SECURITY) else {
        return;
    };
    let mut shown = BTreeSet::new();
    for (line, span) in Document::read(text).spans {
        let Some((file, function)) = span.split_once(".rs::") else {
            continue;
        };
        let file = format!("{file}.rs");
        if texts.get(&file).is_some_and(|text| is_test(text, function)) {
            shown.insert(line);
        } else {
            found.push(format!("{SECURITY}:{line}: `{span}`: no such test"));
        }
    }
    for (number, line) in text.lines().enumerate().map(|(n, l)| (n + 1, l)) {
        for (_, after) in splits(line, "row `") {
            let row = after.split('`').next().unwrap_or_default();
            if rows.iter().any(|name| name.starts_with(row)) {
                shown.insert(number);
            } else {
                found.push(format!(
                    "{SECURITY}:{number}: row `{row}`: no such guest test"
                ));
            }
        }
        if is_threat(line) && !shown.contains(&number) {
            found.push(format!("{SECURITY}:{number}: no test shows this"));
        }
    }
}

/// Whether a file has this function, with `#[test]` in the lines before it, or in a
/// `proptest!`. A test that is ignored shows nothing.
fn is_test(text: &str, function: &str) -> bool {
    splits(text, &format!("fn {function}(")).any(|(before, _)| {
        // The last part is what stands before the function in its own line.
        let above = before.rsplit('\n').skip(1).map(str::trim);
        let is_attribute = |line: &&str| line.starts_with("#[") || line.starts_with("//");
        let attributes: Vec<_> = above.take_while(is_attribute).collect();
        attributes.contains(&"#[test]")
            && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(security: &str) -> Vec<String> {
        let code = "#[test]\nfn works() {}\n\nfn helps() {}\n\n    #[test]\n    #[should_panic]\n    fn too() {}\n\n#[test]\n#[ignore]\nfn rests() {}\n";
        let texts = [(SECURITY, security), ("a/b.rs", code)];
        let texts = texts.map(|(path, text)| (path.to_owned(), text.to_owned()));
        let mut found = Vec::new();
        let rows = ["boot/one".to_owned()].into();
        check(&texts.into(), &rows, &mut found);
        found
    }

    #[test]
    fn a_test_that_is_named_is_there() {
        assert_eq!(
            complaints("`a/b.rs::works`, `a/b.rs::too`, row `boot/`"),
            [""; 0]
        );
        for wrong in [
            "`a/b.rs::helps`",
            "`a/b.rs::rests`",
            "`a/c.rs::works`",
            "`a/b.rs::work`",
            "row `root`",
        ] {
            assert_eq!(complaints(wrong).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn each_threat_has_a_test() {
        let head = "| who | could | defence | shown by |\n|---|---|---|---|\n";
        let shown = format!("{head}| a guest | fault | ends | `a/b.rs::works` |\n");
        assert_eq!(complaints(&shown), [""; 0]);
        let by_row = format!("{head}| a guest | fault | ends | row `boot/one` |\n");
        assert_eq!(complaints(&by_row), [""; 0]);
        let not = format!("{head}| a guest | fault | ends | `a/b.rs` |\n");
        assert_eq!(complaints(&not), ["SECURITY.md:3: no test shows this"]);
    }
}
