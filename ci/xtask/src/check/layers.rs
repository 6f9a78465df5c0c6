//! One way through the modules of a crate: each uses only modules below it.
//!
//! The order is here as data, and in the documentation of the crate's `lib.rs` for
//! readers; the check compares the two. It reads each path that begins at the
//! crate's root: `use crate::a::B`, `crate::{a::B, c::D}`, `crate::a::f()` in the
//! middle of code, and `super::super::a` where the `super`s lead out of the module
//! at the top. `lib.rs` itself and `src/bin` stand above all.
//!
//! Test modules are exempt: a test of a rule may put a whole PMU together, which
//! changes nothing for who reads or reuses the module. Links in comments are exempt
//! too: a reader may be sent anywhere.

use anyhow::Result;

use super::rules::verdict;
use super::source::{self, Source};

/// The order of a crate's modules at the top.
struct Layers {
    /// The folder of its sources.
    folder: &'static str,
    /// The modules, those that use no other first. Modules of one row do not use
    /// each other.
    rows: &'static [&'static [&'static str]],
}

const VMM: Layers = Layers {
    folder: "vmm/src/",
    rows: &[
        &["sys"],
        &["output"],
        &["error_text", "rate_limit", "fuzz_input"],
        &["snapshot"],
        &["kvm"],
        &["config", "stop"],
        &["cli", "probe", "devices"],
        &["vcpu"],
        &["pmu"],
        &["event_loop"],
        &["machine"],
        &["doctor", "control"],
        &["launch"],
        &["exec"],
        &["run"],
    ],
};

const VPMU: Layers = Layers {
    folder: "vpmu/src/",
    rows: &[
        &["ids", "units", "crc"],
        &["times", "x86"],
        &["sched", "host"],
        &["guest"],
        &["rules", "totals"],
        &["state"],
        &["vcpu", "uncore"],
        &["documents"],
    ],
};

/// The sentence before the order in a `lib.rs`.
const BEFORE_ORDER: &str = "//! A module uses only modules of the lines above its own.";

/// No module of `vmm` and `vpmu` uses one that is not below it.
pub(super) fn layers() -> Result<()> {
    let sources = source::all()?;
    let mut found = VMM.complaints(&sources);
    found.extend(VPMU.complaints(&sources));
    verdict(&found)
}

impl Layers {
    fn complaints(&self, sources: &[Source]) -> Vec<String> {
        let mut found = Vec::new();
        let own = sources.iter().filter_map(|source| {
            let inner = source.path.strip_prefix(self.folder)?;
            Some((source, inner))
        });
        for (source, inner) in own {
            if inner == "lib.rs" {
                self.compare_documentation(source, &mut found);
            } else if inner != "main.rs" && !inner.starts_with("bin/") {
                self.read(source, inner, &mut found);
            }
        }
        if !found.is_empty() {
            let rows: Vec<_> = self.rows.iter().map(|row| row.join(", ")).collect();
            found.push(format!(
                "the order of {} is: {}",
                self.folder,
                rows.join(" < ")
            ));
        }
        found
    }

    fn read(&self, source: &Source, inner: &str, found: &mut Vec<String>) {
        let module = module_path(inner);
        let Some(user) = module.first() else { return };
        for (line, used) in paths_from_root(&source.code(), module.len()) {
            let at = format!("{}:{line}", source.path);
            match (self.row(user), self.row(&used)) {
                _ if used == *user => {}
                (Some(user_row), Some(used_row)) if used_row < user_row => {}
                (Some(_), Some(_)) => {
                    found.push(format!(
                        "{at}: `{user}` may not use `{used}`, which is not below it"
                    ));
                }
                (Some(_), None) => found.push(format!(
                    "{at}: `crate::{used}` is no module of the order; use: `crate::module::{used}`"
                )),
                (None, _) => found.push(format!("{at}: `{user}` has no place in the order")),
            }
        }
    }

    fn row(&self, module: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.contains(&module))
    }

    /// `lib.rs` quotes this order and declares these modules.
    fn compare_documentation(&self, lib: &Source, found: &mut Vec<String>) {
        let rows: Vec<Vec<&str>> = self.rows.iter().map(|row| row.to_vec()).collect();
        if quoted_order(&lib.text) != rows {
            found.push(format!(
                "{}: the order in its documentation is not that of ci/xtask/src/check/layers.rs",
                lib.path
            ));
        }
        for (line, code) in lib.code() {
            let declared = code
                .trim()
                .trim_start_matches("pub ")
                .strip_prefix("mod ")
                .and_then(|rest| rest.strip_suffix(';'));
            if let Some(module) = declared.filter(|module| self.row(module).is_none()) {
                found.push(format!(
                    "{}:{line}: `{module}` has no place in the order of ci/xtask/src/check/layers.rs",
                    lib.path
                ));
            }
        }
    }
}

/// The first column of the table after [`BEFORE_ORDER`].
fn quoted_order(lib: &str) -> Vec<Vec<&str>> {
    let after = lib.lines().skip_while(|line| *line != BEFORE_ORDER);
    let inside = after
        .skip_while(|line| !line.starts_with("//! ```text"))
        .skip(1)
        .take_while(|line| *line != "//! ```");
    let names = inside.map(|line| {
        let line = line.trim_start_matches("//!").trim();
        line.split_once("  ").map_or(line, |(names, _)| names)
    });
    names.map(|names| names.split(", ").collect()).collect()
}

/// The modules that a file's path names, from the root on.
fn module_path(inner: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = inner.trim_end_matches(".rs").split('/').collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    parts
}

/// The first name of each path that begins at the crate's root, with its line.
/// `depth` is how many `super`s lead there from outside inline modules.
fn paths_from_root(code: &[(usize, String)], depth: usize) -> Vec<(usize, String)> {
    let tokens: Vec<(usize, &str)> = code
        .iter()
        .flat_map(|(line, code)| tokens(code).into_iter().map(|token| (*line, token)))
        .collect();
    let mut found = Vec::new();
    let mut inline = InlineModules::default();
    let mut at = 0;
    while let Some((_, token)) = tokens.get(at) {
        inline.pass(&tokens[..=at]);
        let supers = tokens[at..]
            .chunks_exact(2)
            .take_while(|pair| pair[0].1 == "super" && pair[1].1 == "::")
            .count();
        let behind = match *token {
            "crate" if tokens.get(at + 1).is_some_and(|t| t.1 == "::") => at + 2,
            "super" if supers == depth + inline.open.len() => at + 2 * supers,
            _ => {
                at += (2 * supers).max(1);
                continue;
            }
        };
        found.extend(first_names(&tokens[behind..]));
        at = behind;
    }
    found
}

/// The modules inside a file that are open at a token.
#[derive(Default)]
struct InlineModules {
    /// How many braces are open.
    braces: usize,
    /// For each open module, how many braces were open before it.
    open: Vec<usize>,
}

impl InlineModules {
    /// Takes the last of the tokens so far.
    fn pass(&mut self, so_far: &[(usize, &str)]) {
        match so_far {
            [.., (_, "mod"), _, (_, "{")] => {
                self.open.push(self.braces);
                self.braces += 1;
            }
            [.., (_, "{")] => self.braces += 1,
            [.., (_, "}")] => {
                self.braces = self.braces.saturating_sub(1);
                if self.open.last() == Some(&self.braces) {
                    self.open.pop();
                }
            }
            _ => {}
        }
    }
}

/// The first name of each branch of a path's rest: one, or several in braces.
fn first_names(rest: &[(usize, &str)]) -> Vec<(usize, String)> {
    let named = |(line, name): &(usize, &str)| (*line, (*name).to_owned());
    if rest.first().is_none_or(|token| token.1 != "{") {
        let name = rest.first().filter(|token| is_name(token.1));
        return name.map(named).into_iter().collect();
    }
    let mut found = Vec::new();
    let mut open = 0;
    let mut fresh = false;
    for token in rest {
        match token.1 {
            "{" => {
                open += 1;
                fresh = open == 1;
            }
            "}" if open == 1 => break,
            "}" => open -= 1,
            "," => fresh = open == 1,
            name if fresh => {
                fresh = false;
                if is_name(name) {
                    found.push(named(token));
                }
            }
            _ => {}
        }
    }
    found
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single other characters of a line of code.
fn tokens(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = code.trim_start();
    while let Some(c) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let len = if is_word(c) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else if rest.starts_with("'{'") || rest.starts_with("'}'") {
            3
        } else {
            c.len_utf8()
        };
        found.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Layers = Layers {
        folder: "x/src/",
        rows: &[&["low"], &["left", "right"], &["high"]],
    };

    fn complaints(path: &str, text: &str) -> Vec<String> {
        let mut found = SMALL.complaints(&[Source::new(path, text)]);
        found.pop();
        found
    }

    #[test]
    fn the_tree_has_one_way_and_a_wrong_use_is_found() {
        let mut sources = source::all().unwrap();
        for (layers, victim, wrong) in [
            (VMM, "vmm/src/kvm/vm.rs", "use crate::machine::Machine;"),
            (VMM, "vmm/src/pmu/port.rs", "use super::super::run;"),
            (VPMU, "vpmu/src/state/mod.rs", "use crate::vcpu::VcpuPmu;"),
        ] {
            assert_eq!(layers.complaints(&sources), [""; 0]);
            let source = sources.iter_mut().find(|s| s.path == victim).unwrap();
            let right = source.text.clone();
            source.text = format!("{wrong}\n{right}");
            let found = layers.complaints(&sources);
            assert_eq!(found.len(), 2, "{found:?}");
            assert!(found[0].starts_with(&format!("{victim}:1: `")), "{found:?}");
            assert!(found[1].contains(" < "), "the order: {found:?}");
            let source = sources.iter_mut().find(|s| s.path == victim).unwrap();
            source.text = right;
        }
    }

    #[test]
    fn a_module_uses_what_is_below_it() {
        for (path, text) in [
            ("x/src/high/mod.rs", "use crate::{left::A, right::{B, C}};"),
            (
                "x/src/high/a.rs",
                "pub(in crate::high) fn f() { super::high() }",
            ),
            (
                "x/src/left.rs",
                "// [`x`](crate::high)\n/// crate::high\nuse crate::low;",
            ),
            (
                "x/src/low.rs",
                "#[cfg(test)]\nmod tests {\n use crate::high;\n}",
            ),
            ("x/src/low/tests.rs", "use crate::high;"),
            (
                "x/src/low.rs",
                "mod a { use super::super::low; use super::b; } mod b {}",
            ),
            ("x/src/bin/tool.rs", "use crate::steps;"),
        ] {
            assert_eq!(complaints(path, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn every_form_of_a_path_is_read() {
        for (path, text, line) in [
            ("x/src/low.rs", "\nuse crate::left::A;", 2),
            ("x/src/left.rs", "pub use crate::right::B;", 1),
            (
                "x/src/low.rs",
                "use crate::{\n  low,\n  high::{A, B},\n};",
                3,
            ),
            ("x/src/low/a.rs", "fn f() -> u8 { crate::high::f() }", 1),
            ("x/src/low/a.rs", "use super::super::high;", 1),
            (
                "x/src/low.rs",
                "mod a { fn f() {} use super::super::high; }",
                1,
            ),
            ("x/src/low.rs", "mod a { fn f() {} }\nuse super::high;", 2),
            ("x/src/low/mod.rs", "use super::{low, high::A};", 1),
            ("x/src/low/a.rs", "use super::super::{low, left};", 1),
        ] {
            let found = complaints(path, text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(
                found[0].starts_with(&format!("{path}:{line}: ")),
                "{found:?}"
            );
        }
        let found = complaints("x/src/high.rs", "use crate::Short;");
        assert!(
            found[0].contains("`crate::Short` is no module"),
            "{found:?}"
        );
        let found = complaints("x/src/new.rs", "use crate::low;");
        assert!(found[0].contains("`new` has no place"), "{found:?}");
    }

    #[test]
    fn lib_quotes_the_order() {
        let text = format!(
            "//! X.\n{BEFORE_ORDER}\n//!\n//! ```text\n//! low   a\n//! left, right  b\n//! high  c\n\
             //! ```\nmod low;\npub mod left;\n"
        );
        assert_eq!(
            SMALL.complaints(&[Source::new("x/src/lib.rs", &text)]),
            [""; 0]
        );
        let found = complaints("x/src/lib.rs", &text.replace("left, right", "left"));
        assert!(
            found[0].contains("the order in its documentation"),
            "{found:?}"
        );
        let found = complaints("x/src/lib.rs", &format!("{text}mod stray;\n"));
        assert!(found[0].contains("`stray` has no place"), "{found:?}");
    }
}
