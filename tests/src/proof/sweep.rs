//! The crash sweep.

use anyhow::Result;

use super::report::Report;

pub(super) fn run(_report: &mut Report) -> Result<()> {
    Ok(())
}
