//! `tendon doctor`: what a host and an author need, and how to get it.

use std::{
    fs::OpenOptions,
    net::{TcpListener, TcpStream, ToSocketAddrs as _},
    path::Path,
    time::Duration,
};

use serde::Serialize;
use tokio::process::Command;

use super::{
    Ctx, build,
    engine::{self, this_compiler},
    output::Format,
    problem::Exit,
};
use crate::{
    backend::sqlite,
    config::{
        Components, Config, Problem,
        resolved::{ServerUrl, Store, StoreUrl},
    },
    error::{Error, Result},
    runtime::{CodeCache, Confined},
    tenant::Name,
};

/// Mappings of memory that an instance takes, measured.
const MAPS_PER_INSTANCE: u64 = 4;
/// Below this a host with many consumers may run out of mappings.
const MAPS_MIN: u64 = 65_530;
/// How long a database's server may take to answer a call.
const SERVER_ANSWERS_MAX: Duration = Duration::from_secs(3);
/// Below this a host with many stores and connections may run out of files.
const FILES_MIN: u64 = 4_096;

/// There is nothing to choose.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// It works, but not for everything.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    check: String,
    status: Status,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), status: Status::Ok, found: found.into(), fix: None }
    }

    fn fail(check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.into(), status: Status::Fail, found: found.into(), fix: Some(fix.into()) }
    }

    fn warn(check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Warn, ..Self::fail(check, found, fix) }
    }
}

/// Looks at everything. Exit code 3 where something does not work.
pub async fn run(_: Args, ctx: &Ctx) -> Result<Exit> {
    let mut checks = toolchain().await;
    checks.extend(config(ctx));
    checks.push(compiler().await);
    checks.push(code_cache(ctx));
    checks.extend(limit("memory mappings", maps(), MAPS_MIN, maps_found, "sysctl -w vm.max_map_count=1048576"));
    checks.extend(limit("open files", open_files(), FILES_MIN, |files| files.to_string(), "ulimit -n 65536"));
    match ctx.out.format {
        Format::Json => ctx.out.json(&checks)?,
        Format::Table => ctx.out.list(&checks, &["", "check", "found", "fix"], |check| {
            let status = match check.status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            vec![status.to_owned(), check.check.clone(), check.found.clone(), check.fix.clone().unwrap_or_default()]
        })?,
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { Exit::Environment } else { Exit::Ok })
}

/// What `tendon build` needs. A host that only runs components needs none of it.
async fn toolchain() -> Vec<Check> {
    let mut checks = Vec::new();
    match Command::new("cargo").arg("--version").output().await {
        Ok(output) => checks.push(Check::ok("cargo", String::from_utf8_lossy(&output.stdout).trim())),
        Err(error) => {
            let fix = "to build consumers, install Rust with rustup: https://rustup.rs";
            return vec![Check::warn("cargo", format!("it cannot be run: {error}"), fix)];
        }
    }
    checks.push(match build::target_is_installed(Path::new(".")).await {
        Ok(true) => Check::ok("wasm32-wasip2", "it is installed"),
        Ok(false) => Check::warn(
            "wasm32-wasip2",
            "it is not installed",
            "rustup target add wasm32-wasip2 (`tendon build` does it)",
        ),
        Err(error) => Check::warn("wasm32-wasip2", error.chain(), error.way_out().unwrap_or_default()),
    });
    checks
}

/// Whether components are compiled by a process that can do nothing else.
async fn compiler() -> Check {
    let confined = match this_compiler() {
        Ok(compiler) => compiler.confined().await,
        Err(error) => Err(error),
    };
    let fix =
        "run the host on Linux 5.13 or later with both: who breaks the compiler could do there what this user can";
    match confined.map(Option::unwrap_or_default) {
        Ok(Confined { landlock: true, seccomp: true }) => Check::ok("compiler", "it can compute and nothing else"),
        Ok(Confined { landlock: true, .. }) => Check::warn("compiler", "the kernel has no seccomp", fix),
        Ok(Confined { seccomp: true, .. }) => Check::warn("compiler", "the kernel has no landlock", fix),
        Ok(_) => Check::warn("compiler", "the kernel has neither landlock nor seccomp", fix),
        Err(error) => Check::fail("compiler", error.chain(), error.way_out().unwrap_or("see the message").to_owned()),
    }
}

/// Whether what is compiled can be kept.
fn code_cache(ctx: &Ctx) -> Check {
    let named = ctx.config(Components::MayBeMissing).ok().and_then(|config| config.host.code_cache);
    let Some(folder) = named.or_else(engine::default_code_cache) else {
        return Check::warn("code cache", "this user has no cache folder", "name one: `code-cache` under [host]");
    };
    match CodeCache::look(&folder) {
        Ok(Some(_)) => Check::ok("code cache", folder.display().to_string()),
        Ok(None) => Check::ok("code cache", format!("{} will be made", folder.display())),
        Err(error) => {
            let fix = error.way_out().unwrap_or("name another folder: `code-cache` under [host]").to_owned();
            Check::fail("code cache", error.chain(), fix)
        }
    }
}

/// The config, and what it names.
fn config(ctx: &Ctx) -> Vec<Check> {
    let file = ctx.config_file(Path::new("."));
    let config = match crate::config::read(&file, Components::MustExist) {
        Ok(config) => config,
        Err(_) if ctx.globals.config.is_none() && !file.exists() => {
            return vec![Check::warn("config", "this folder has no tendon.toml", "tendon new NAME, or --config FILE")];
        }
        Err(error) => {
            let check = |problem: Problem| {
                let line = problem.line.map_or_else(String::new, |line| format!("line {line}: "));
                Check::fail("config", format!("{line}{}", problem.message), problem.suggestion.unwrap_or_default())
            };
            return Problem::of(&error).into_iter().map(check).collect();
        }
    };
    let mut checks = vec![Check::ok("config", file.display().to_string())];
    for (name, store) in &config.stores {
        checks.push(store_check(name, store));
    }
    checks.push(port(&config));
    checks
}

/// Whether a store can be had.
fn store_check(name: &Name, store: &Store) -> Check {
    match &store.url {
        StoreUrl::Sqlite(file) => store_file(name, file),
        StoreUrl::Server(url) => store_server(name, url),
    }
}

/// Whether anybody listens where a store's server should be.
fn store_server(name: &Name, url: &ServerUrl) -> Check {
    let (check, address) = (format!("store {name}"), url.address());
    let reached = address.to_socket_addrs().and_then(|mut found| {
        let nobody = || std::io::Error::other("the name has no address");
        TcpStream::connect_timeout(&found.next().ok_or_else(nobody)?, SERVER_ANSWERS_MAX)
    });
    match reached {
        Ok(_) => Check::ok(check, format!("{address} answers")),
        Err(error) => {
            let fix = format!("start the server, or name another one in store.{name}.url");
            Check::fail(check, format!("{address} cannot be reached: {error}"), fix)
        }
    }
}

/// Whether a store's file, or its folder, can be written to.
fn store_file(name: &Name, file: &Path) -> Check {
    let check = format!("store {name}");
    let shown = file.display();
    let folder = file.parent().unwrap_or(Path::new("/"));
    // SQLite writes files beside its own, so that the folder matters even where the file is there.
    if let Err(error) = tempfile::NamedTempFile::new_in(folder) {
        let fix = format!("mkdir -p {0}; its owner must be who runs tendon", folder.display());
        return Check::fail(check, format!("{} cannot be written to: {error}", folder.display()), fix);
    }
    if !file.exists() {
        return Check::ok(check, format!("{shown} will be made"));
    }
    if let Some(holder) = sqlite::holder(file) {
        // Not a mistake: it is in use, and commands about it go to that host.
        return Check::ok(check, format!("{shown} is held by the host with pid {}", holder.pid));
    }
    match OpenOptions::new().read(true).append(true).open(file) {
        Ok(_) => Check::ok(check, format!("{shown} can be written to")),
        Err(error) => {
            let fix = format!("chmod u+rw {shown}; its owner must be who runs tendon");
            Check::fail(check, format!("{shown} cannot be opened: {error}"), fix)
        }
    }
}

/// Refuses a store whose file, or whose folder, cannot be written to, or whose server cannot be reached.
pub(super) fn can_be_opened(name: &Name, store: &Store) -> Result<()> {
    match store_check(name, store) {
        Check { status: Status::Fail, check, found, fix } => {
            Err(Error::unavailable(format!("{check}: {found}")).help(fix.unwrap_or_default()))
        }
        _ => Ok(()),
    }
}

fn port(config: &Config) -> Check {
    let listen = config.host.listen;
    match TcpListener::bind(listen) {
        Ok(_) => Check::ok("API", format!("{listen} is free")),
        Err(error) => {
            let fix = "a running host has it, or another program: then choose another `listen` under [host]";
            Check::warn("API", format!("{listen} cannot be had: {error}"), fix)
        }
    }
}

/// A limit of the system; nothing where it has no such limit.
fn limit(check: &str, found: Option<u64>, least: u64, show: impl Fn(u64) -> String, fix: &str) -> Option<Check> {
    let found = found?;
    Some(if found >= least { Check::ok(check, show(found)) } else { Check::warn(check, show(found), fix) })
}

fn maps() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

fn maps_found(maps: u64) -> String {
    format!("{maps}: enough for some {} instances", maps / MAPS_PER_INSTANCE / 1_000 * 1_000)
}

/// How many files this process may open.
fn open_files() -> Option<u64> {
    open_files_of(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

fn open_files_of(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 1048576              files\n";
        assert_eq!(open_files_of(limits), Some(1024));
        assert_eq!(open_files_of("Max open files unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(open_files_of("what?"), None);
    }

    #[test]
    fn a_limit_warns_below_its_least() {
        let status = |found| limit("x", Some(found), 10, |found| found.to_string(), "y").unwrap().status;
        assert_eq!((status(9), status(10), status(11)), (Status::Warn, Status::Ok, Status::Ok));
        assert!(limit("x", None, 10, |found| found.to_string(), "y").is_none());
    }

    #[test]
    fn a_store_in_a_missing_folder_fails_with_a_way_out() {
        let check = store_file(&"main".parse().unwrap(), Path::new("/nowhere/at/all/tendon.db"));
        assert_eq!(check.status, Status::Fail);
        assert!(check.fix.unwrap().starts_with("mkdir -p /nowhere/at/all"));
    }
}
