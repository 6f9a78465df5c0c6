//! Lines of text in two columns, and the words for values.

use super::super::report::Finding;

/// The column at which values start.
const COLUMN: usize = 22;

/// The text so far.
#[derive(Default)]
pub(super) struct TextPage(String);

impl TextPage {
    /// A line as it is.
    pub(super) fn text(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// An empty line and the title of a section.
    pub(super) fn section(&mut self, title: &str) {
        self.text(&format!("\n{title}"));
    }

    /// A label and its value.
    pub(super) fn line(&mut self, label: &str, value: &str) {
        self.text(&format!("  {label:COLUMN$}{value}"));
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// The words for a value that is not known.
pub(super) fn not_known(why: &str) -> String {
    format!("not known: {why}")
}

/// The value in words, or why it is not known.
pub(super) fn say<T>(found: &Finding<T>, words: impl Fn(&T) -> String) -> String {
    match found {
        Finding::Value(value) => words(value),
        Finding::Unknown { unknown } => not_known(unknown),
    }
}

/// `yes` or `no`.
pub(super) const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// Names with commas, or `none`.
pub(super) fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
