//! An error as text.

use std::error::Error;

use crate::output::stderr;

/// The words before advice, which ends an error's text.
const ADVICE: [&str; 3] = ["; accepted: ", "; expected: ", "; use "];

/// One line with the whole chain of causes. Causes stand before the error's advice.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let text = error.to_string();
    let advice = ADVICE.iter().filter_map(|words| text.find(words)).min();
    let (what, advice) = text.split_at(advice.unwrap_or(text.len()));
    match error.source() {
        Some(cause) => format!("{what}: {}{advice}", one_line(cause)),
        None => text,
    }
}

/// Writes an error and its causes to standard error, as the program's last line.
pub(crate) fn report(error: &dyn Error) {
    stderr::line(&format!("perfvisor: {}", one_line(error)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use thiserror::Error;

    #[derive(Debug, Error)]
    #[error("{0}")]
    struct Caused(&'static str, #[source] std::io::Error);

    #[test]
    fn a_cause_stands_before_the_advice() {
        let line = |text| one_line(&Caused(text, std::io::Error::other("no disk")));
        assert_eq!(line("cannot read x"), "cannot read x: no disk");
        for advice in ["; expected: a file", "; use y", "; accepted: 1; use 1"] {
            let text: &'static str = format!("cannot read x{advice}").leak();
            assert_eq!(line(text), format!("cannot read x: no disk{advice}"));
        }
    }
}
