//! Random bytes of the host's kernel.
#![expect(unsafe_code, reason = "getrandom has no safe binding")]

use std::io;

/// Fills `bytes`. Waits only on a host that has just started and has no randomness yet.
///
/// # Errors
/// What `getrandom` says.
pub fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the buffer is valid for writes of its length.
        let result = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(result) {
            Ok(len) => bytes = bytes.get_mut(len..).unwrap_or_default(),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_filled() {
        let mut bytes = [0; 1000];
        fill(&mut bytes).unwrap();
        // Sixteen zeros in a row: once in 2^118 runs.
        assert!(!bytes.windows(16).any(|bytes| bytes == [0; 16]));
    }
}
