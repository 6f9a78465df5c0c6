//! Other programs: run them, and say what went wrong in one line.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Tells the reader of the terminal what is going on; never on standard output.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { eprintln!("xtask: {}", format_args!($($arg)*)) };
}

/// The program's name and arguments, for a message.
fn shown(cmd: &Command) -> String {
    let words = std::iter::once(cmd.get_program()).chain(cmd.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command with our standard error as its output; fails if it does.
pub(crate) fn run(cmd: &mut Command) -> Result<()> {
    let status = cmd
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot start `{}`", shown(cmd)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(cmd));
    }
    Ok(())
}

/// Does something that takes long, and says so, and how long it took.
///
/// # Errors
/// As `work`.
pub(crate) fn long<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say!("{what}: this may take minutes");
    let began = Instant::now();
    let done = work()?;
    say!("{what}: took {:.0} s", began.elapsed().as_secs_f32());
    Ok(done)
}

/// Runs a command and returns its standard output; fails, with the end of its
/// standard error, if it does.
pub(crate) fn output(cmd: &mut Command) -> Result<Vec<u8>> {
    let Output {
        status,
        stdout,
        stderr,
    } = cmd
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(cmd)))?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!(
            "`{}` failed ({status}): {}",
            shown(cmd),
            last_lines(&stderr, 3)
        );
    }
    Ok(stdout)
}

/// As [`output`], as text.
pub(crate) fn text(cmd: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(cmd)?).into_owned())
}

/// The last `n` lines of a text that are not empty.
pub(crate) fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// Whether a program is in PATH.
pub(crate) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Whether we may install packages as we are.
pub(crate) fn is_root() -> bool {
    text(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// A word that a POSIX shell reads as exactly `word`.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut cmd = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd.current_dir(crate::paths::root());
    cmd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_a_shell() {
        for word in ["plain", "", "a b", "it's", "$x `y` \"z\"\n", "é*?"] {
            let line = format!("printf %s {}", quoted(word));
            let out = text(Command::new("sh").args(["-c", &line])).unwrap();
            assert_eq!(out, word);
        }
    }

    #[test]
    fn last_lines_skips_empty_ones() {
        assert_eq!(last_lines("a\n\nb\nc\n\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
