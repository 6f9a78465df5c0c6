//! States and streams of any bytes, for who fuzzes what reads them.

use super::Sections;
use super::state_file::{self, BODY_AT};
use crate::error_text::one_line;

/// The sections of a file with these bytes.
///
/// # Panics
/// If the file is taken for what it is not.
pub(crate) fn sections_of_file(file: &[u8]) -> Option<Sections> {
    match state_file::decode(file) {
        Ok(sections) => {
            assert!(file.len() >= BODY_AT, "{} bytes", file.len());
            check(&sections, file);
            Some(sections)
        }
        Err(error) => {
            is_one_line(&one_line(&error));
            None
        }
    }
}

/// The sections of a file with this body, whose header is right.
///
/// # Panics
/// If the file is taken for what it is not.
pub(crate) fn sections_of_body(body: &[u8]) -> Option<Sections> {
    sections_of_file(&state_file::around(body))
}

/// What is refused is told in one line.
pub(crate) fn is_one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}

/// Sections have no more bytes than their file, and are the same when they are written and
/// read again.
#[expect(clippy::unwrap_used, reason = "a check")]
fn check(sections: &Sections, file: &[u8]) {
    let bytes: usize = sections
        .iter()
        .map(|(name, bytes)| name.len() + bytes.len())
        .sum();
    assert!(bytes <= file.len(), "{bytes} of {}", file.len());
    let again = state_file::decode(&state_file::encode(sections)).unwrap();
    assert_eq!(&again, sections);
}

/// The file of these sections.
#[cfg(test)]
pub(crate) fn file_of(sections: &Sections) -> Vec<u8> {
    state_file::encode(sections)
}
