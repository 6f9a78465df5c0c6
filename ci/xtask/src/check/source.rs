//! Rust sources as the rules read them: without comments, strings and tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

/// A source file of the workspace.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its path from the root.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
}

/// Every Rust file of the members, in order.
pub(crate) fn all() -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for member in ["vpmu", "vmm", "guest-tests", "ci"] {
        collect(&paths::root().join(member), &mut files)?;
    }
    files.sort();
    let read = |path: PathBuf| {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let path = path
            .strip_prefix(paths::root())
            .unwrap_or(&path)
            .display()
            .to_string();
        Ok(Source { path, text })
    };
    files.into_iter().map(read).collect()
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|n| n != "target") {
                collect(&path, into)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

impl Source {
    /// A file that is not in the tree.
    #[cfg(test)]
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    /// Whether the whole file is test code.
    pub(crate) fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        parts.any(|p| matches!(p, "tests" | "tests.rs" | "benches" | "fuzz" | "examples"))
    }

    /// The number of lines before the file's own test module.
    pub(crate) fn code_lines(&self) -> usize {
        if self.is_test() {
            0
        } else {
            untested(&self.text).lines().count()
        }
    }

    /// The code lines, numbered from 1, without comments and the insides of strings.
    pub(crate) fn code(&self) -> Vec<(usize, String)> {
        if self.is_test() {
            return Vec::new();
        }
        let bare = bare(untested(&self.text));
        bare.lines()
            .enumerate()
            .map(|(n, line)| (n + 1, line.to_owned()))
            .collect()
    }
}

/// The text up to `#[cfg(test)] mod … {`.
fn untested(text: &str) -> &str {
    let mut from = 0;
    while let Some(at) = text[from..].find("#[cfg(test)]").map(|at| from + at) {
        let after = text[at..]
            .lines()
            .skip(1)
            .find(|l| !l.trim().starts_with("#["));
        let module = after.is_some_and(|l| {
            let mut words = l.split_whitespace().skip_while(|w| w.starts_with("pub"));
            words.next() == Some("mod") && l.ends_with('{')
        });
        if module {
            return &text[..at];
        }
        from = at + 1;
    }
    text
}

/// Blanks out comments and string contents, keeping the line structure.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if c == '"' {
            string_len(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
        rest = &rest[skipped..];
    }
    out
}

/// The length of a string literal with its quotation marks. Raw strings with a
/// quotation mark inside come out wrong, which the rules can live with.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_not_counted() {
        let text = "a\nb\n#[cfg(test)]\nmod tests {\n c\n}\n";
        assert_eq!(Source::new("x/src/a.rs", text).code_lines(), 2);
        assert_eq!(Source::new("x/src/tests.rs", text).code_lines(), 0);
        let text = text.replace("mod", "pub(super) mod");
        assert_eq!(Source::new("x/src/a.rs", &text).code_lines(), 2);
        let text = "#[cfg(test)]\nuse x;\n#[cfg(test)]\nmod tests;\ncode\n";
        assert_eq!(Source::new("x/src/a.rs", text).code_lines(), 5);
    }

    #[test]
    fn comments_and_strings_are_blank() {
        let text = "let a = \"kvm \\\" kvm\"; // kvm\n/* kvm\n */ b '\"' c\n";
        let code = Source::new("a.rs", text).code();
        assert_eq!(code[0].1.trim(), "let a = ;");
        assert_eq!(code[2], (3, " b  c".into()));
    }
}
