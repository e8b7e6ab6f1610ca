//! The engine of a command.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    runtime::{CodeCache, Compiler, Engine},
};

/// One that has components compiled by processes of this binary, and keeps what they were compiled to: in the folder that was named,
/// else in the user's cache folder if it is good for that.
pub(super) fn engine(code_cache: Option<&Path>) -> Result<Engine> {
    let cache = match code_cache {
        Some(folder) => Some(CodeCache::open(folder)?),
        None => default_code_cache().and_then(|folder| {
            let unfit = |error: &Error| tracing::warn!("components are compiled at every start: {}", error.chain());
            CodeCache::open(&folder).inspect_err(unfit).ok()
        }),
    };
    Engine::new(this_compiler()?, cache)
}

/// One that keeps nothing of what it compiles, for commands that write nothing.
pub(super) fn engine_that_keeps_nothing() -> Result<Engine> {
    Engine::new(this_compiler()?, None)
}

/// Where machine code is kept unless somebody says where.
pub(super) fn default_code_cache() -> Option<PathBuf> {
    Some(dirs::cache_dir()?.join("tendon/code"))
}

/// Processes of this binary.
pub(super) fn this_compiler() -> Result<Compiler> {
    this_binary().map(Compiler::Apart)
}

/// The very file that runs, whatever has been put in its place since.
#[cfg(target_os = "linux")]
fn this_binary() -> Result<PathBuf> {
    Ok(PathBuf::from("/proc/self/exe"))
}

#[cfg(not(target_os = "linux"))]
fn this_binary() -> Result<PathBuf> {
    std::env::current_exe().map_err(|error| Error::unavailable("this binary is not found").because(error))
}
