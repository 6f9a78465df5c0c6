//! An error as text.

use std::error::Error;

/// One line with the whole chain of causes.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// Writes an error and its causes to standard error, as the program's last line.
pub(crate) fn report(error: &dyn Error) {
    eprintln!("perfvisor: {}", one_line(error));
}
