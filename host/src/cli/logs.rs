//! The process's own logs: lines for people on a terminal, JSON otherwise.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use super::Ctx;

/// Starts logging to stderr. `RUST_LOG` says more than the flags do.
pub(super) fn start(ctx: &Ctx) {
    let level = match (ctx.globals.quiet, ctx.globals.verbose) {
        (true, _) => "error",
        (false, 0) => "info",
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,tendon={level},guest={level}")));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second start, in one process, keeps the first one's.
    let _ = match io::stderr().is_terminal() {
        true => logs.with_ansi(ctx.globals.color.on_stderr()).try_init(),
        false => logs.json().try_init(),
    };
}
