//! Keeps `vpmu/docs/rustdoc-links.md` true: where the pages of `cargo doc` find
//! what the documents link to by labels such as `[R-120]` and `[DESIGN.md]`. In
//! the documents the same labels lead to files.
//!
//! `UPDATE_LINKS=1 cargo test -p vpmu --test documents` writes the file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;

/// The documents that are pages, by file and by module of `vpmu::documents`.
const PAGES: [(&str, &str); 8] = [
    ("DESIGN.md", "crate::documents::design"),
    ("README.md", "crate"),
    ("REGISTERS.md", "crate::documents::registers"),
    ("RULES.md", "crate::documents::rules_table"),
    ("SCHED.md", "crate::documents::sched"),
    ("docs/guest-contract.md", "crate::documents::guest_contract"),
    ("docs/perf-core.md", "crate::documents::perf_core"),
    ("docs/scenario.md", "crate::documents::scenario"),
];

fn read(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(file)).unwrap_or_default()
}

/// The targets of all labels, for rustdoc.
fn links() -> String {
    let mut links = String::new();
    for (file, page) in PAGES {
        links.push_str(&format!("[{file}]: {page}\n"));
    }
    for (file, page) in PAGES {
        let text = read(file);
        let ids = text.split("<a id=\"").skip(1);
        let ids: BTreeSet<&str> = ids.filter_map(|rest| rest.split('"').next()).collect();
        for id in ids {
            links.push_str(&format!("[{}]: {page}#{id}\n", id.to_uppercase()));
        }
    }
    links
}

#[test]
fn rustdoc_links_are_up_to_date() {
    let text = links();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rustdoc-links.md");
    if std::env::var_os("UPDATE_LINKS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    assert!(
        read("docs/rustdoc-links.md") == text,
        "docs/rustdoc-links.md is stale: run with UPDATE_LINKS=1"
    );
}

/// A link of a page to a file would lead nowhere in `cargo doc`.
#[test]
fn pages_link_by_labels_that_rustdoc_knows() {
    let links = links();
    for (file, _) in PAGES {
        for (number, line) in read(file).lines().enumerate() {
            let place = format!("{file}:{}", number + 1);
            let inline = line.split("](").skip(1);
            let files = inline.filter(|to| !to.starts_with(['#']) && !to.contains("://"));
            let local: Vec<_> = files.filter(|to| to.contains(".md")).collect();
            assert!(local.is_empty(), "{place}: use a label: {local:?}");
            if let Some((label, _)) = line.strip_prefix('[').and_then(|l| l.split_once("]: ")) {
                let known = links.contains(&format!("[{label}]: "));
                assert!(known, "{place}: docs/rustdoc-links.md has no [{label}]");
            }
        }
    }
}
