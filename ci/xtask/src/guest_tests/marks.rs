//! Marks between the guests of one job: in its output and in its errors.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Seen;
use crate::{cmd, guest, paths};

const BEGIN: &str = "\u{1}begin ";
const END: &str = "\u{1}end ";
/// A sign of life among the errors, of a guest whose console is a file.
const BEAT: &str = "\u{1}beat\n";

/// A line of shell with marks around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marked<'a> {
    /// Its number.
    pub(super) n: usize,
    /// Seconds after which it is ended by the host's clock.
    pub(super) limit: u64,
    /// One command.
    pub(super) run: &'a str,
    /// Lines that print more before the second mark.
    pub(super) after: &'a str,
    /// The file of the guest's console, if it is one; empty: it is the output.
    pub(super) console: &'a str,
}

impl Marked<'_> {
    /// The lines.
    pub(super) fn lines(&self) -> String {
        let Self {
            n,
            limit,
            run,
            after,
            console,
        } = self;
        let mark = |what: &str, status: &str| {
            let word = what.trim_start_matches('\u{1}');
            format!("printf '\\n\\001{word}{n} {status}\\n' | tee /dev/stderr\n")
        };
        let (beat, quiet) = if console.is_empty() {
            (String::new(), "")
        } else {
            (heartbeat(console), "kill $beat\n")
        };
        format!(
            "{}{beat}timeout {limit} {run}\nstatus=$?\n{quiet}{after}{}",
            mark(BEGIN, "_"),
            mark(END, "'$status'")
        )
    }
}

/// Tells, beside the line, that a file grows. Nothing of it keeps a pipe of ours open after
/// its end.
fn heartbeat(file: &str) -> String {
    format!(
        "(before=; while sleep 5 2>&-; do now=$(stat -c %s {file} 2>/dev/null); \
           [ \"$now\" = \"$before\" ] || printf '\\001beat\\n' >&2; before=$now; done) \
           </dev/null >/dev/null & beat=$!\n"
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
    let vmm = part(n, &String::from_utf8_lossy(errors)).map(|(text, _)| text.replace(BEAT, ""));
    let exit = guest::exit_status(&console);
    Some(Seen {
        console,
        vmm: vmm.unwrap_or_default(),
        status,
        exit,
        limit: Duration::ZERO,
    })
}

/// The end of what guest `n` printed, which did not come to its end.
pub(super) fn last_words(n: usize, output: &[u8], errors: &[u8]) -> String {
    let begun = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let (_, after) = text.split_once(&format!("{BEGIN}{n} _\n"))?;
        Some(cmd::last_lines(&after.replace(BEAT, ""), 12))
    };
    match (begun(output), begun(errors)) {
        (None, None) => "it had not begun".into(),
        (output, errors) => format!(
            "output:\n{}\nerrors:\n{}",
            output.unwrap_or_default(),
            errors.unwrap_or_default()
        ),
    }
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
        let marked = |n, run, after| Marked {
            n,
            limit: 60,
            run,
            after,
            console: "",
        };
        let line = format!(
            "{}{}",
            marked(0, "sh -c 'echo one; echo uno >&2; exit 3'", "echo two\n").lines(),
            marked(1, "printf perfvisor.exit=7", "").lines()
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

    /// Beats come while the console grows, are no part of what was seen, and end with the
    /// line: nothing else would close the pipe.
    #[test]
    fn a_console_that_grows_is_a_sign_of_life() {
        let console = std::env::temp_dir().join(format!("xtask-beat-{}", std::process::id()));
        let file = console.display().to_string();
        let run =
            format!("sh -c 'for n in $(seq 12); do echo x >>{file}; sleep 1; done; echo done >&2'");
        let line = Marked {
            n: 0,
            limit: 600,
            run: &run,
            after: "",
            console: &file,
        };
        let run = std::process::Command::new("sh")
            .args(["-c", &line.lines()])
            .output()
            .unwrap();
        let _removed = fs::remove_file(&console);
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(errors.contains(BEAT), "{errors}");
        assert_eq!(seen(0, &run.stdout, &run.stderr).unwrap().vmm, "done\n");
        let last = last_words(0, &run.stdout, &run.stderr);
        assert!(last.contains("done") && !last.contains("beat"), "{last}");
        assert_eq!(last_words(1, &run.stdout, &run.stderr), "it had not begun");
    }
}
