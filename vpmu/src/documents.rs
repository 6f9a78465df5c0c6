//! The crate's documents, as pages of `cargo doc`.
//!
//! Numbers such as G-404 and R-120, in every comment of the crate, are rules:
//! R-numbers of [`perf_core`], G-numbers of [`guest_contract`]. The address of a
//! rule is its number: `perf_core/index.html#r-120`.
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "words in brackets are evidence marks, names of Linux's functions and values"
)]

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../docs/perf-core.md")]
pub mod perf_core {}

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../docs/guest-contract.md")]
pub mod guest_contract {}

#[doc = include_str!("../docs/scenario.md")]
pub mod scenario {}

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../DESIGN.md")]
pub mod design {}

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../REGISTERS.md")]
pub mod registers {}

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../RULES.md")]
pub mod rules_table {}

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../SCHED.md")]
pub mod sched {}
