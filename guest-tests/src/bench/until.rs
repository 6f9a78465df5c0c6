//! `until WORD COMMAND…`: starts a command, waits for WORD in its output, prints what it
//! took, and ends the command.
//!
//! | line | is |
//! |---|---|
//! | `first TICKS` | ticks of the TSC from before the start to the command's first byte |
//! | `word TICKS` | and to the word |
//! | `pss KIB` | its proportional share of memory then, besides that of its largest mapping: for a VMM, the guest's memory |

use std::fs;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use guest_tests::cpu::rdtsc;

fn main() -> ExitCode {
    match until() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("until: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn until() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let usage = "usage: until WORD COMMAND...";
    let (word, program) = (words.next().context(usage)?, words.next().context(usage)?);
    let start = rdtsc();
    let mut child = Command::new(&program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let output = child.stdout.take().context("no pipe")?;
    let seen = look(output, word.as_bytes());
    let then = rdtsc();
    let pss = fs::read_to_string(format!("/proc/{}/smaps", child.id()));
    child.kill()?;
    child.wait()?;
    println!("first {}", seen?.wrapping_sub(start));
    println!("word {}", then.wrapping_sub(start));
    println!("pss {}", besides_the_largest(&pss?)?);
    Ok(())
}

/// Reads up to the word; gives the time of the first byte.
fn look(mut output: impl Read, word: &[u8]) -> Result<u64> {
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    let mut first = None;
    while !all.windows(word.len()).any(|part| part == word) {
        let n = output.read(&mut bytes)?;
        if n == 0 {
            bail!("it ended before: {}", String::from_utf8_lossy(&all));
        }
        first.get_or_insert_with(rdtsc);
        all.extend_from_slice(&bytes[..n]);
    }
    first.context("no word to look for")
}

/// The sum of `Pss` without that of the largest mapping, in KiB.
fn besides_the_largest(smaps: &str) -> Result<u64> {
    let (mut size, mut largest) = (0, (0, 0));
    let mut all = 0;
    for line in smaps.lines() {
        let number = || -> Result<u64> {
            let number = line.split_whitespace().nth(1);
            Ok(number.context("smaps without a number")?.parse()?)
        };
        if line.starts_with("Size:") {
            size = number()?;
        } else if line.starts_with("Pss:") {
            let pss = number()?;
            all += pss;
            largest = largest.max((size, pss));
        }
    }
    Ok(all - largest.1)
}
