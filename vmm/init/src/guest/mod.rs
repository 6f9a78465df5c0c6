//! The parts of the guest's side.

mod first;
mod launch;
mod lead;
mod modules;
mod mounts;
mod netlink;
mod network;
mod ports;
mod streams;
mod symbols;

pub(crate) use first::first_process;
pub(crate) use launch::launch;
pub(crate) use lead::lead;

use std::fs;

use guest_words::Job;

use crate::{Failure, failed};

/// Where the job lies in the guest's own root.
const KEPT_JOB: &str = "/run/perfvisor.job";

/// The job, for the programs that the first one starts.
fn kept_job() -> Result<Job, Failure> {
    let bytes = fs::read(KEPT_JOB).map_err(failed("read the job"))?;
    Job::parse(&bytes).map_err(failed("read the job"))
}
