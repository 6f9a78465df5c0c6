//! One name, one thing: no two types have one name.
//!
//! The check reads the types of `vmm` and `vpmu` together, because `vmm` names those
//! of `vpmu`: structs, enums, traits and unions, public or not, also inside functions,
//! and aliases at the top of a file. Exempt are tests, aliases that are indented (as a
//! rule associated types, whose name comes from a trait) and `vpmu/src/bin`, a program
//! of its own.

use std::collections::BTreeMap;

use anyhow::Result;

use super::rules::verdict;
use super::source::{self, Source};

const FOLDERS: [&str; 2] = ["vmm/src/", "vpmu/src/"];
const EXEMPT: &str = "vpmu/src/bin/";

/// No two types of `vmm` and `vpmu` have one name.
pub(super) fn names() -> Result<()> {
    verdict(&complaints(&source::all()?))
}

fn complaints(sources: &[Source]) -> Vec<String> {
    let own = sources.iter().filter(|source| {
        FOLDERS.iter().any(|f| source.path.starts_with(f)) && !source.path.starts_with(EXEMPT)
    });
    let mut first_places = BTreeMap::new();
    let mut found = Vec::new();
    for source in own {
        for (line, name) in types(source) {
            let place = format!("{}:{line}", source.path);
            if let Some(first) = first_places.get(&name) {
                found.push(format!("two types are named `{name}`: {first} and {place}"));
            } else {
                first_places.insert(name, place);
            }
        }
    }
    found
}

/// The types that a file defines outside of tests, with their lines.
fn types(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_test = false;
    for (line, code) in source.code() {
        let text = code.trim();
        if text == "#[cfg(test)]" {
            in_test = true;
        } else if !text.is_empty() && !text.starts_with("#[") {
            found.extend(defined(&code).filter(|_| !in_test).map(|name| (line, name)));
            in_test = false;
        }
    }
    found
}

/// The name of the type whose definition begins on this line.
fn defined(code: &str) -> Option<String> {
    let mut words = code
        .split_whitespace()
        .skip_while(|word| word.starts_with("pub") || *word == "unsafe" || word.ends_with(')'));
    let is_type = match words.next()? {
        "struct" | "enum" | "trait" | "union" => true,
        "type" => !code.starts_with(' '),
        _ => false,
    };
    let name = words.next().filter(|_| is_type)?;
    let end = name
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(name.len());
    (end > 0).then(|| name[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_no_name_twice_and_a_planted_one_is_found() {
        let mut sources = source::all().unwrap();
        assert_eq!(complaints(&sources), [""; 0]);
        for planted in [
            "pub struct VcpuPmu;",
            "type VcpuPmu = u8;",
            "pub(in crate::a) enum VcpuPmu {",
            "fn f() {\n    pub(super) trait VcpuPmu<T>: X {}\n}",
        ] {
            sources.push(Source::new("vmm/src/planted.rs", planted));
            let found = complaints(&sources);
            assert_eq!(found.len(), 1, "{planted}: {found:?}");
            for part in ["`VcpuPmu`", "vpmu/src/vcpu/", "vmm/src/planted.rs:"] {
                assert!(found[0].contains(part), "no {part} in {found:?}");
            }
            sources.pop();
        }
    }

    #[test]
    fn tests_associated_types_and_other_programs_are_exempt() {
        for (path, text) in [
            ("vmm/src/b.rs", "#[cfg(test)]\nmod tests {\n struct A;\n}"),
            ("vmm/src/b.rs", "#[cfg(test)]\n#[derive(Debug)]\nstruct A;"),
            ("vmm/src/b.rs", "impl X for Y {\n    type A = u8;\n}"),
            ("vmm/src/b.rs", "// struct A;\nlet a = \"struct A\";"),
            ("vmm/src/b.rs", "pub use other::A;\nfn f(a: A) {}"),
            ("vmm/src/b/tests.rs", "struct A;"),
            ("vpmu/src/bin/sim/b.rs", "struct A;"),
            ("guest-tests/src/b.rs", "struct A;"),
        ] {
            let sources = [
                Source::new("vmm/src/a.rs", "struct A;"),
                Source::new(path, text),
            ];
            assert_eq!(complaints(&sources), [""; 0], "{path}: {text}");
        }
    }
}
