//! Types that stand for another implementation of a trait forward each of its
//! methods, also those with a default: a default that is not forwarded compiles and
//! answers for the wrong type. The lists are read from the sources.

#![expect(
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

/// The text of the block that begins with the line `head`, without comments.
fn block(source: &str, head: &str) -> String {
    let mut lines = source.lines().skip_while(|line| !line.starts_with(head));
    let Some(first) = lines.next() else {
        panic!("no line begins with {head:?}");
    };
    let code = lines.take_while(|line| *line != "}");
    let code = code.filter(|line| !line.trim_start().starts_with("//"));
    std::iter::once(first)
        .chain(code)
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The methods of a block, each with its text.
fn methods(block: &str) -> Vec<(&str, &str)> {
    let methods = block.split("\n    fn ").skip(1);
    methods.filter_map(|text| text.split_once('(')).collect()
}

fn assert_forwards(name: &str, of: &str, forwarding: &str, not: &[&str]) {
    let methods_of = methods(of);
    assert!(methods_of.len() > 10, "{name}: {methods_of:?}");
    for (method, _) in methods_of {
        let forwards = methods(forwarding)
            .into_iter()
            .any(|(name, body)| name == method && body.contains(&format!(".{method}(")));
        assert_eq!(forwards, !not.contains(&method), "{name}: {method}");
    }
}

#[test]
fn a_boxed_host_pmu_forwards_every_method() {
    let source = include_str!("../src/host/pmu.rs");
    assert_forwards(
        "Box<P>",
        &block(source, "pub trait HostPmu"),
        &block(source, "impl<P: HostPmu + ?Sized> HostPmu for Box<P>"),
        &[],
    );
}

#[test]
fn a_model_forwards_every_method() {
    assert_forwards(
        "Model",
        &block(include_str!("../src/guest/traits.rs"), "pub trait GuestPmu"),
        &block(
            include_str!("../src/guest/model.rs"),
            "impl GuestPmu for Model",
        ),
        // Made of `decode`, `read` and `write`, which are forwarded.
        &["decode_alone", "rdmsr", "wrmsr"],
    );
}
