//! Marks between the guests of one job: in its output and in its errors.

use std::fs;

use anyhow::{Context, Result};

use super::Seen;
use crate::{guest, paths};

const BEGIN: &str = "\u{1}begin ";
const END: &str = "\u{1}end ";

/// A `perfvisor run` line with marks around it and a time limit; `after` are lines of
/// shell that print more before the second mark.
pub(super) fn wrapped(n: usize, limit: u64, run: &str, after: &str) -> String {
    let mark = |what: &str, status: &str| {
        let word = what.trim_start_matches('\u{1}');
        format!("printf '\\n\\001{word}{n} {status}\\n' | tee /dev/stderr\n")
    };
    format!(
        "{}timeout {limit} {run}\nstatus=$?\n{after}{}",
        mark(BEGIN, "_"),
        mark(END, "'$status'")
    )
}

/// How many guests have ended.
pub(super) fn ends(output: &[u8]) -> usize {
    let mark = END.as_bytes();
    output.windows(mark.len()).filter(|w| *w == mark).count()
}

/// What came out of guest `n`, if it ended.
pub(super) fn seen(n: usize, output: &[u8], errors: &[u8]) -> Option<Seen> {
    let (console, status) = part(n, &String::from_utf8_lossy(output))?;
    let vmm = part(n, &String::from_utf8_lossy(errors)).map(|(text, _)| text);
    let exit = guest::exit_status(&console);
    Some(Seen {
        console,
        vmm: vmm.unwrap_or_default(),
        status,
        exit,
    })
}

fn part(n: usize, text: &str) -> Option<(String, u8)> {
    let (_, after) = text.split_once(&format!("{BEGIN}{n} _\n"))?;
    let (inside, end) = after.split_once(&format!("\n{END}{n} "))?;
    let status = end.lines().next()?.trim().parse().ok()?;
    Some((inside.to_owned(), status))
}

/// Keeps everything in log files, for a look at a failure.
pub(super) fn log(name: &str, output: &[u8], errors: &[u8]) -> Result<()> {
    for (kind, bytes) in [("out", output), ("err", errors)] {
        let path = paths::cache("logs")?.join(format!("guests-{name}.{kind}"));
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_at_the_marks() {
        let line = format!(
            "{}{}",
            wrapped(0, 9, "sh -c 'echo one; echo uno >&2; exit 3'", "echo two\n"),
            wrapped(1, 9, "printf perfvisor.exit=7", "")
        );
        let run = std::process::Command::new("sh")
            .args(["-c", &line])
            .output()
            .unwrap();
        assert_eq!(ends(&run.stdout), 2);
        let first = seen(0, &run.stdout, &run.stderr).unwrap();
        assert_eq!(
            (first.console.as_str(), first.vmm.as_str()),
            ("one\ntwo\n", "uno\n")
        );
        assert_eq!((first.status, first.exit), (3, None));
        assert_eq!(seen(1, &run.stdout, &run.stderr).unwrap().exit, Some(7));
        assert!(seen(2, &run.stdout, &run.stderr).is_none());
    }
}
