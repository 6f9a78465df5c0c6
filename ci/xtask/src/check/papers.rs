//! What documents promise is there: the documents themselves, the files and
//! anchors that they link to, the files that they name, the rules, and the tests that
//! SECURITY.md names (`promises`).
//!
//! Rules are R-numbers, of `vpmu/docs/perf-core.md`, and G-numbers, of
//! `vpmu/docs/guest-contract.md`. Each number in a source or a document is one of
//! them; in a document it is a link to the rule.

mod markdown;
mod promises;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path};

use anyhow::{Context, Result};

use self::markdown::{Document, splits};
use super::rules::verdict;
use crate::{guest_tests, paths, payloads};

const WANTED: [&str; 10] = [
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-BSD-3-Clause",
    "README.md",
    "SECURITY.md",
    "ci/README.md",
    "guest-tests/README.md",
    "resources/README.md",
    "vmm/README.md",
    "vpmu/README.md",
];

/// The documents that have the rules, by the letter of the rules' numbers.
const LAW: [(char, &str); 2] = [
    ('R', "vpmu/docs/perf-core.md"),
    ('G', "vpmu/docs/guest-contract.md"),
];

/// Folders that are not read.
const SKIPPED: [&str; 4] = [".git", "target", "corpus", "seeds"];

/// Files that may name a rule, by their extensions.
const TEXTS: [&str; 7] = ["rs", "md", "c", "h", "S", "sh", "toml"];

/// Code spans with a `/` and one of these endings name a file of the tree.
const NAMED: [&str; 4] = [".rs", ".md", ".toml", ".txt"];

/// Every document is there and names nothing that is not.
pub(super) fn papers() -> Result<()> {
    let tree = Tree::read(paths::root())?;
    let mut found = tree.complaints();
    let mut rows = guest_tests::names();
    rows.extend(payloads::names()?);
    promises::check(&tree.texts, &rows, &mut found);
    verdict(&found)
}

/// The project's files, by their paths from the root.
#[derive(Debug, Default)]
struct Tree {
    paths: BTreeSet<String>,
    texts: BTreeMap<String, String>,
}

impl Tree {
    fn read(root: impl AsRef<Path>) -> Result<Self> {
        let mut tree = Self::default();
        tree.collect(root.as_ref(), "")?;
        Ok(tree)
    }

    fn collect(&mut self, root: &Path, folder: &str) -> Result<()> {
        let unread = || format!("cannot read {}", root.join(folder).display());
        for entry in fs::read_dir(root.join(folder)).with_context(unread)? {
            let entry = entry.with_context(unread)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = resolve(folder, &name);
            if entry.file_type().with_context(unread)?.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    self.collect(root, &path)?;
                }
            } else if name
                .rsplit_once('.')
                .is_some_and(|(_, e)| TEXTS.contains(&e))
            {
                let text = fs::read_to_string(entry.path()).with_context(unread)?;
                self.texts.insert(path.clone(), text);
            }
            self.paths.insert(path);
        }
        Ok(())
    }

    fn complaints(&self) -> Vec<String> {
        let missing = WANTED.iter().filter(|p| !self.paths.contains(**p));
        let mut found: Vec<String> = missing.map(|p| format!("{p} is missing")).collect();
        let documents = self.documents();
        for (path, text) in &self.texts {
            for (line, rule) in rules_in(text) {
                if !is_rule(&documents, rule) {
                    found.push(format!("{path}:{line}: there is no rule {rule}"));
                }
            }
        }
        for (path, document) in &documents {
            self.check_links(path, document, &documents, &mut found);
            self.check_names(path, document, &mut found);
            check_rules(path, document, &mut found);
        }
        found
    }

    fn documents(&self) -> BTreeMap<&str, Document> {
        let documents = self.texts.iter().filter(|(path, _)| path.ends_with(".md"));
        let read = documents.map(|(path, text)| (path.as_str(), Document::read(text)));
        read.collect()
    }

    /// What is linked to is there, with its anchor.
    fn check_links(
        &self,
        path: &str,
        document: &Document,
        documents: &BTreeMap<&str, Document>,
        found: &mut Vec<String>,
    ) {
        let defined = document.definitions.values().map(|target| (0, target));
        let linked = document.links.iter().map(|(line, target)| (*line, target));
        for (line, target) in defined.chain(linked) {
            if target.contains("://") || target.starts_with("crate") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => path.to_owned(),
                _ => resolve(folder_of(path), file),
            };
            let known = |d: &Document| anchor.is_empty() || d.anchors.contains(anchor);
            if !self.paths.contains(&file) {
                found.push(format!("{path}:{line}: {target}: no such file"));
            } else if documents.get(file.as_str()).is_some_and(|d| !known(d)) {
                found.push(format!("{path}:{line}: {target}: no such anchor"));
            }
        }
    }

    /// Files that are named by a path in a code span are there. The path begins
    /// at the root, or in the document's folder or its `src`.
    fn check_names(&self, path: &str, document: &Document, found: &mut Vec<String>) {
        let folder = folder_of(path);
        let from = ["", folder, &resolve(folder, "src")].map(str::to_owned);
        for (line, name) in &document.spans {
            let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            let is_name = name.contains('/')
                && !name.starts_with(['/', '.'])
                && !name.starts_with("target/")
                && name.chars().all(is_path)
                && NAMED.iter().any(|end| name.ends_with(end));
            let is_there = |from: &String| self.paths.contains(&resolve(from, name));
            if is_name && !from.iter().any(is_there) {
                found.push(format!("{path}:{line}: `{name}`: no such file"));
            }
        }
    }
}

/// In a document a rule's number is a link to the rule.
fn check_rules(path: &str, document: &Document, found: &mut Vec<String>) {
    for (line, prose) in &document.prose {
        for (before, rule) in rules_of(prose) {
            let is_the_rule = before.ends_with("</a>") || before.ends_with("</a>**");
            let anchor = format!("#{}", rule.to_lowercase());
            let target = document.definitions.get(rule);
            let is_link = before.ends_with('[') && target.is_some_and(|t| t.ends_with(&anchor));
            if !is_the_rule && !is_link {
                found.push(format!(
                    "{path}:{line}: {rule} is no link; use: [{rule}], and at the document's end \
                     [{rule}]: …{anchor}"
                ));
            }
        }
    }
}

/// Whether the law has the rule.
fn is_rule(documents: &BTreeMap<&str, Document>, rule: &str) -> bool {
    let law = LAW.iter().find(|(letter, _)| rule.starts_with(*letter));
    let law = law.and_then(|(_, path)| documents.get(path));
    law.is_some_and(|d| d.anchors.contains(&rule.to_lowercase()))
}

/// The rules' numbers in a text, with the numbers of their lines.
fn rules_in(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines.flat_map(|(n, line)| rules_of(line).map(move |(_, rule)| (n + 1, rule)))
}

/// The rules' numbers in a line, each with what stands before it.
fn rules_of(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let found = LAW.iter().flat_map(|(letter, _)| {
        let dash = if *letter == 'R' { "R-" } else { "G-" };
        splits(line, dash).map(move |(before, after)| (before, after, dash.len()))
    });
    found.filter_map(|(before, after, dash)| {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
        let rule = &line[before.len()..before.len() + dash + digits];
        (begins && digits == 3).then_some((before, rule))
    })
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A relative path, from the root.
fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let joined = Path::new(folder).join(path);
    for part in joined.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.extend(name.to_str()),
            _ => {}
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with a law of two rules, and one document.
    fn complaints(path: &str, text: &str) -> Vec<String> {
        let mut tree = Tree::default();
        let law = "# Law\n* <a id=\"r-120\"></a>R-120 First\n";
        let contract = "<a id=\"g-401\"></a>**G-401** One PMI\n";
        for (path, text) in [
            ("vpmu/docs/perf-core.md", law),
            ("vpmu/docs/guest-contract.md", contract),
            (path, text),
        ] {
            tree.paths.insert(path.into());
            tree.texts.insert(path.into(), text.into());
        }
        tree.paths.extend(WANTED.map(str::to_owned));
        tree.complaints()
    }

    #[test]
    fn a_rule_that_is_not_there_is_found_wherever_it_is_named() {
        assert_eq!(
            complaints("vmm/src/a.rs", "// R-120, G-401, XR-999"),
            [""; 0]
        );
        let found = complaints("vmm/src/a.rs", "// R-120\n// R-121");
        assert_eq!(found, ["vmm/src/a.rs:2: there is no rule R-121"]);
        let found = complaints("vmm/a.md", "`G-402`");
        assert_eq!(found, ["vmm/a.md:1: there is no rule G-402"]);
    }

    #[test]
    fn a_rule_in_a_document_is_a_link() {
        let linked = "As [R-120] says.\n\n[R-120]: ../vpmu/docs/perf-core.md#r-120\n";
        assert_eq!(complaints("vmm/a.md", linked), [""; 0]);
        assert_eq!(complaints("vmm/a.md", "```\nR-120\n```\n"), [""; 0]);
        for wrong in [
            "As R-120 says.",
            "As [R-120] says.",
            "[R-120]\n\n[R-120]: ../vpmu/docs/perf-core.md#law\n",
        ] {
            assert_eq!(complaints("vmm/a.md", wrong).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn links_and_named_files_are_there() {
        let law = "[law](../vpmu/docs/perf-core.md#law), [site](https://example.org/x)";
        assert_eq!(complaints("vmm/a.md", law), [""; 0]);
        assert_eq!(
            complaints("vmm/a.md", "`vmm/a.md`, `a/b`, `/etc/a.txt`"),
            [""; 0]
        );
        for wrong in [
            "[law](vpmu/docs/perf-core.md)",
            "[law](../vpmu/docs/perf-core.md#lore)",
            "[text]: b.md",
            "`src/b.rs`",
        ] {
            assert_eq!(complaints("vmm/a.md", wrong).len(), 1, "{wrong}");
        }
    }
}
