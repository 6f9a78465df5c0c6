//! Keeps `vpmu/RULES.md` true: rule → module → test. The rules are those of
//! `docs/perf-core.md`; their numbers are found in comments of `src/sched` and in
//! names and comments of the tests.
//!
//! `UPDATE_RULES=1 cargo test -p vpmu --test rules_table` writes the file.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Rules that a library without some part of a kernel cannot have.
const NOT_HERE: [(u16, &str); 3] = [
    (
        210,
        "event codes and raw masks are the business of the PMU that owns them; the order of refusals is the mock's and `constraints`'s",
    ),
    (
        227,
        "the width of a counter is known to its driver, which returns differences",
    ),
    (
        223,
        "SMT workaround and AMD pair counters: give `X86Pmu` a smaller `gp`",
    ),
];

type Found = BTreeMap<u16, BTreeSet<String>>;

/// Numbers after `R-`, with ranges such as `R-020…R-022`.
fn numbers(line: &str) -> Vec<u16> {
    let mut all: Vec<u16> = Vec::new();
    let mut range = false;
    for (at, _) in line.match_indices("R-") {
        let rest = &line[at + 2..];
        let Some(n) = rest.get(..3).and_then(|d| d.parse().ok()) else {
            continue;
        };
        if let (true, Some(last)) = (range, all.last().copied()) {
            all.extend(last + 1..n);
        }
        all.push(n);
        range = rest[3..].starts_with("…R-");
    }
    all
}

/// Numbers in the name of a test: `r020_r021_what`.
fn in_name(name: &str) -> Vec<u16> {
    let parts = name.split('_').map(|p| {
        p.strip_prefix('r')
            .and_then(|d| d.parse().ok())
            .filter(|_| p.len() == 4)
    });
    parts.flatten().collect()
}

fn sources(dir: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            all.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    all.sort();
    all
}

fn modules(root: &Path) -> Found {
    let mut found = Found::new();
    for (name, text) in sources(&root.join("src/sched")) {
        for n in text.lines().flat_map(numbers) {
            found.entry(n).or_default().insert(name.clone());
        }
    }
    found
}

fn tests(root: &Path) -> Found {
    let mut found = Found::new();
    for (file, text) in sources(&root.join("tests/rules")) {
        let mut test = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn ").and_then(|l| l.split('(').next()) {
                test = format!("{file}::{name}");
                for n in in_name(name) {
                    found.entry(n).or_default().insert(test.clone());
                }
            } else if line.starts_with(' ') {
                for n in numbers(line) {
                    found.entry(n).or_default().insert(test.clone());
                }
            }
        }
    }
    found
}

/// The rules of the law, in its order, each with the beginning of its text.
fn law() -> Vec<(u16, String)> {
    let lines: Vec<&str> = include_str!("../docs/perf-core.md").lines().collect();
    let mut rules = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((_, rule)) = line.split_once("</a>R-").filter(|_| line.starts_with("* ")) else {
            continue;
        };
        let (number, first) = rule.split_once(' ').unwrap();
        let rest = lines[at + 1..].iter().take_while(|l| l.starts_with("  "));
        let text = rest.fold(first.to_owned(), |text, l| text + " " + l.trim());
        rules.push((number.parse().unwrap(), beginning(&text)));
    }
    assert!(rules.len() > 180, "{} rules are found", rules.len());
    rules
}

/// The first statement of a rule, in at most 100 characters.
fn beginning(rule: &str) -> String {
    const LONGEST: usize = 100;
    let rule = rule.replace("**", "").replace('|', "\\|");
    let ends = ["; ", ". ", " [`"];
    let end = ends.iter().filter_map(|end| rule.find(end)).min();
    let rule = rule[..end.unwrap_or(rule.len())].trim_end_matches(['.', ':']);
    if rule.chars().count() <= LONGEST {
        return rule.to_owned();
    }
    let cut: String = rule.chars().take(LONGEST).collect();
    format!("{} …", cut.rsplit_once(' ').unwrap().0)
}

fn table(root: &Path) -> (String, Vec<String>) {
    let (modules, tests) = (modules(root), tests(root));
    let list = |found: &Found, n: u16| {
        let names = found
            .get(&n)
            .into_iter()
            .flatten()
            .map(|m| format!("`{m}`"));
        names.collect::<Vec<_>>().join(", ")
    };
    let mut text = String::from(
        "# Rules of the scheduler\n\n\
         Generated by `UPDATE_RULES=1 cargo test -p vpmu --test rules_table`; the test of that name fails when it\n\
         is stale. Rules are those of [docs/perf-core.md], modules are in `vpmu::sched`, tests in\n\
         `tests/rules`. Besides, `tests/oracle.rs` compares all of them with 359 recordings of Linux 6.12, and\n\
         `tests/property.rs` with a naive model.\n\n| Rule | What | Modules | Tests |\n|---|---|---|---|\n",
    );
    let mut missing = Vec::new();
    let law = law();
    for (n, what) in &law {
        if let Some((_, why)) = NOT_HERE.iter().find(|(r, _)| r == n) {
            text.push_str(&format!("| [R-{n:03}] | {what} | — | {why} |\n"));
            continue;
        }
        let (m, t) = (list(&modules, *n), list(&tests, *n));
        if m.is_empty() || t.is_empty() {
            missing.push(format!("R-{n:03}: modules [{m}] tests [{t}]: {what}"));
        }
        text.push_str(&format!("| [R-{n:03}] | {what} | {m} | {t} |\n"));
    }
    text.push_str("\n[docs/perf-core.md]: docs/perf-core.md\n");
    for (n, _) in &law {
        text.push_str(&format!("[R-{n:03}]: docs/perf-core.md#r-{n:03}\n"));
    }
    (text, missing)
}

#[test]
fn rules_md_is_up_to_date_and_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (text, missing) = table(root);
    let file = root.join("RULES.md");
    if std::env::var_os("UPDATE_RULES").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert!(
        missing.is_empty(),
        "rules without a module or a test:\n{}",
        missing.join("\n")
    );
    assert!(
        std::fs::read_to_string(&file).unwrap_or_default() == text,
        "RULES.md is stale: run with UPDATE_RULES=1"
    );
}
