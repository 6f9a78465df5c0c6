//! `resources/artifacts.txt`: what comes from which Debian package.

use anyhow::{Context, Result, bail};

use crate::paths;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Artifact {
    /// A kernel series and the meta package that depends on its newest release.
    Kernel { series: String, meta: String },
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

/// The kernel series of the table, in its order.
pub(crate) fn kernels() -> Result<Vec<(String, String)>> {
    let kernel = |a| match a {
        Artifact::Kernel { series, meta } => Some((series, meta)),
        _ => None,
    };
    Ok(load()?.into_iter().filter_map(kernel).collect())
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
            "kernel" => Artifact::Kernel {
                series: what,
                meta: package,
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
                "line {}: unknown kind `{kind}`: kernel, program or file",
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
        let series: Vec<&str> = kernels.iter().map(|(s, _)| s.as_str()).collect();
        assert_eq!(series, ["6.1", "6.12"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let err = parse("# x\n\nkernel 6.1").unwrap_err().to_string();
        assert!(err.contains("line 3"), "{err}");
        assert!(parse("nothing a b").is_err());
    }
}
