//! Markdown as far as the checks read it: what is code, links, anchors.

use std::collections::{BTreeMap, BTreeSet};

/// A document, taken apart.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Its lines without code blocks, code spans and link definitions, with
    /// their numbers.
    pub(super) prose: Vec<(usize, String)>,
    /// The code spans, with the numbers of their lines.
    pub(super) spans: Vec<(usize, String)>,
    /// `[text](target)`, with the numbers of their lines.
    pub(super) links: Vec<(usize, String)>,
    /// `[label]: target`.
    pub(super) definitions: BTreeMap<String, String>,
    /// What a link may name after `#`.
    pub(super) anchors: BTreeSet<String>,
}

impl Document {
    /// Takes a text apart.
    pub(super) fn read(text: &str) -> Self {
        let mut document = Self::default();
        let mut in_code = false;
        for (number, line) in text.lines().enumerate().map(|(n, l)| (n + 1, l)) {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            } else if !in_code && !line.starts_with("    ") {
                document.line(number, line);
            }
        }
        document
    }

    fn line(&mut self, number: usize, line: &str) {
        if let Some((label, target)) = definition(line) {
            self.definitions.insert(label.into(), target.into());
            return;
        }
        if let Some(title) = line.strip_prefix('#') {
            let title = title.trim_start_matches('#').trim();
            self.anchors.insert(slug(title));
        }
        for (_, rest) in splits(line, "<a id=\"") {
            let id = rest.split('"').next();
            self.anchors.extend(id.map(str::to_owned));
        }
        let mut prose = String::new();
        for (n, part) in line.split('`').enumerate() {
            if n % 2 == 0 {
                prose.push_str(part);
            } else {
                self.spans.push((number, part.to_owned()));
                prose.push('`');
            }
        }
        for (_, rest) in splits(&prose, "](") {
            let target = rest.split(')').next();
            self.links.extend(target.map(|t| (number, t.to_owned())));
        }
        self.prose.push((number, prose));
    }
}

/// Every split of `text` at `at`.
pub(super) fn splits<'a>(text: &'a str, at: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let found = text.match_indices(at);
    found.map(|(i, what)| (&text[..i], &text[i + what.len()..]))
}

/// `[label]: target`.
fn definition(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix('[')?.split_once("]: ")
}

/// The anchor that forges and rustdoc give a heading.
fn slug(title: &str) -> String {
    let kept = title.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
    });
    kept.collect()
}
