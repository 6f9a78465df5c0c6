//! `resources/artifacts.txt`: what comes from which Debian package.

use anyhow::{Context, Result, bail};

use crate::paths;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Artifact {
    /// A kernel series and the meta package that depends on its newest version; of this
    /// machine's package archive, or of another release of Debian.
    Kernel {
        series: String,
        meta: String,
        suite: Option<String>,
    },
    /// A release of Debian, what a root file system of it is for, and the packages that it
    /// has besides the essential ones.
    System {
        suite: String,
        purpose: String,
        packages: String,
    },
    /// A program that must be in PATH to make a root file system.
    Maker { name: String, package: String },
    /// A file that must exist for a nested host of Intel's.
    IntelHost { path: String, package: String },
    /// A program that must be in PATH.
    Program { name: String, package: String },
    /// A file that must exist.
    File { path: String, package: String },
}

/// Reads the table.
pub(crate) fn load() -> Result<Vec<Artifact>> {
    let path = paths::resource("artifacts.txt");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// The kernels of the table, in its order: series, meta package, and the release of Debian
/// if that is not the machine's.
pub(crate) fn kernels() -> Result<Vec<(String, String, Option<String>)>> {
    let kernel = |a| match a {
        Artifact::Kernel {
            series,
            meta,
            suite,
        } => Some((series, meta, suite)),
        _ => None,
    };
    Ok(load()?.into_iter().filter_map(kernel).collect())
}

/// The packages of a root file system, separated by commas.
///
/// # Errors
/// If the table has none of this release for this purpose.
pub(crate) fn system(suite: &str, purpose: &str) -> Result<String> {
    let of_system = |a| match a {
        Artifact::System {
            suite: s,
            purpose: p,
            packages,
        } if s == suite && p == purpose => Some(packages),
        _ => None,
    };
    let lines: Vec<String> = load()?.into_iter().filter_map(of_system).collect();
    if lines.is_empty() {
        bail!("resources/artifacts.txt has no line `system {suite}/{purpose}`");
    }
    Ok(lines.join(","))
}

fn parse(text: &str) -> Result<Vec<Artifact>> {
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_none_or(|w| w.starts_with('#')) {
            continue;
        }
        let &[kind, what, package] = words.as_slice() else {
            bail!("line {}: want `kind what package`, found `{line}`", n + 1);
        };
        let (what, package) = (what.to_owned(), package.to_owned());
        all.push(match kind {
            "kernel" => {
                let (suite, meta) = match package.split_once('/') {
                    Some((suite, meta)) => (Some(suite.to_owned()), meta.to_owned()),
                    None => (None, package),
                };
                Artifact::Kernel {
                    series: what,
                    meta,
                    suite,
                }
            }
            "system" => {
                let Some((suite, purpose)) = what.split_once('/') else {
                    bail!("line {}: want `system RELEASE/PURPOSE PACKAGE,…`", n + 1);
                };
                Artifact::System {
                    suite: suite.to_owned(),
                    purpose: purpose.to_owned(),
                    packages: package,
                }
            }
            "maker" => Artifact::Maker {
                name: what,
                package,
            },
            "intel" => Artifact::IntelHost {
                path: what,
                package,
            },
            "program" => Artifact::Program {
                name: what,
                package,
            },
            "file" => Artifact::File {
                path: what,
                package,
            },
            _ => bail!(
                "line {}: unknown kind `{kind}`: kernel, program, file, system, maker or intel",
                n + 1
            ),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads() {
        let kernels = kernels().unwrap();
        let series: Vec<&str> = kernels.iter().map(|(s, ..)| s.as_str()).collect();
        assert_eq!(series, ["6.1", "6.12", "7"]);
        assert_eq!(kernels[2].2.as_deref(), Some("forky"));
        assert!(system("trixie", "host").unwrap().contains("virtiofsd"));
        assert!(system("trixie", "ship").is_err());
    }

    #[test]
    fn a_bad_line_is_named() {
        let err = parse("# x\n\nkernel 6.1").unwrap_err().to_string();
        assert!(err.contains("line 3"), "{err}");
        assert!(parse("nothing a b").is_err());
    }
}
