//! The line for a command line that cannot be parsed.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use super::{Cli, foreign};

/// One line that says what is wrong with `words`, the words of the command line
/// without the program's name, and what works.
#[must_use]
pub fn refusal(error: &clap::Error, words: &[OsString]) -> String {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let root = Cli::command();
    let (path, command) = command_of(&root, &words);
    let text = match error.kind() {
        ErrorKind::MissingSubcommand => missing_command(command),
        ErrorKind::InvalidSubcommand => unknown_command(error, command),
        ErrorKind::UnknownArgument => unknown_flag(error, &path, &words),
        _ => None,
    };
    let text = text.unwrap_or_else(|| clap_says(error));
    format!("{text} (see {path} --help)")
}

/// The command that the words lead to, with its name as the user would write it.
fn command_of<'a>(root: &'a Command, words: &[&str]) -> (String, &'a Command) {
    let (mut path, mut command) = (root.get_name().to_owned(), root);
    for word in words {
        if let Some(next) = command.find_subcommand(word) {
            command = next;
            path = format!("{path} {word}");
        }
    }
    (path, command)
}

/// Commands of `command`, but not `help`.
fn choices(command: &Command) -> Vec<&str> {
    let names = command.get_subcommands().map(Command::get_name);
    names.filter(|name| *name != "help").collect()
}

/// `a, b or c`.
fn listed(choices: &[&str]) -> Option<String> {
    let (last, others) = choices.split_last()?;
    Some(format!("{} or {last}", others.join(", ")))
}

fn missing_command(command: &Command) -> Option<String> {
    let choices = listed(&choices(command))?;
    Some(format!("no command given; use {choices}"))
}

fn unknown_command(error: &clap::Error, command: &Command) -> Option<String> {
    let word = context(error, ContextKind::InvalidSubcommand)?;
    let choices = choices(command);
    Some(match similar(word, &choices) {
        Some(known) => format!("no command '{word}'; did you mean '{known}'?"),
        None => format!("no command '{word}'; use {}", listed(&choices)?),
    })
}

fn unknown_flag(error: &clap::Error, path: &str, words: &[&str]) -> Option<String> {
    let flag = context(error, ContextKind::InvalidArg)?;
    // A word with one dash is one flag for each letter to clap.
    let written = words.iter().find(|word| word.starts_with(flag));
    let written = written.copied().unwrap_or(flag);
    let in_run = path.ends_with(" run");
    let at_top = path == "perfvisor";
    if (in_run || at_top)
        && let Some(answer) = foreign::answer(written)
    {
        return Some(answer);
    }
    if !flag.starts_with('-') {
        return None;
    }
    if at_top {
        return Some(format!(
            "no command before {flag}; use perfvisor run {flag}, perfvisor exec, perfvisor doctor or perfvisor ctl"
        ));
    }
    Some(match context(error, ContextKind::SuggestedArg) {
        Some(known) => format!("no flag {flag}; did you mean {known}?"),
        None => format!("no flag {flag}"),
    })
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// The words of clap, on one line, without those about how to get help.
fn clap_says(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// The choice that is at most two mistakes away, the nearest first.
fn similar<'a>(word: &str, choices: &[&'a str]) -> Option<&'a str> {
    // Two mistakes make any word of two letters out of any other.
    let allowed = word.chars().count().saturating_sub(1).min(2);
    let near = choices
        .iter()
        .map(|choice| (mistakes(word, choice), *choice));
    let near = near.filter(|(mistakes, _)| *mistakes <= allowed);
    near.min_by_key(|(mistakes, _)| *mistakes)
        .map(|(_, choice)| choice)
}

/// How many letters are to be added, removed, replaced or swapped with their
/// neighbours to make `b` of `a`.
fn mistakes(a: &str, b: &str) -> usize {
    let (a, b): (Vec<_>, Vec<_>) = (a.chars().collect(), b.chars().collect());
    // Rows of the table of distances between the beginnings of both words.
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, &to) in b.iter().enumerate() {
            let at =
                |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&row, j) + usize::from(from != to))
                .min(at(&row, j + 1) + 1)
                .min(at(&next, j) + 1);
            let swapped =
                i > 0 && j > 0 && a.get(i - 1) == Some(&to) && b.get(j - 1) == Some(&from);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_counted() {
        for (a, b, count) in [
            ("run", "run", 0),
            ("rnu", "run", 1),
            ("rum", "run", 1),
            ("runn", "run", 1),
            ("un", "run", 1),
            ("docter", "doctor", 1),
            ("dcotro", "doctor", 2),
            ("", "ctl", 3),
        ] {
            assert_eq!(mistakes(a, b), count, "{a} {b}");
        }
        assert_eq!(similar("rnu", &["run", "doctor"]), Some("run"));
        assert_eq!(similar("xyz", &["run", "doctor"]), None);
        assert_eq!(similar("x", &["ab"]), None);
    }
}
