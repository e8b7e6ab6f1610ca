//! `tendon build [DIR]`: a folder's components, through cargo.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{ChildStdout, Command},
};
use wasm_metadata::Producers;

use super::{Ctx, problem::Exit};
use crate::{
    error::{Error, Result},
    store::Digest,
};

/// What components are built for.
const TARGET: &str = "wasm32-wasip2";
/// The crate whose version is stamped into a component.
const SDK: &str = "tendon-sdk";
/// The way out where cargo or rustup is missing.
const GET_RUST: &str = "install Rust with rustup, from https://rustup.rs";

/// What to build.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder with a Cargo.toml
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
    /// Build quickly and unoptimised, into target/wasm32-wasip2/debug
    #[arg(long)]
    pub debug: bool,
    /// Arguments for cargo
    #[arg(last = true, value_name = "ARGS")]
    pub cargo: Vec<String>,
}

impl Args {
    /// A folder, built for use.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), debug: false, cargo: Vec::new() }
    }
}

/// A component that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Its file, absolute.
    pub path: PathBuf,
    /// How large it is.
    pub size_bytes: u64,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
}

/// Builds and shows what was built.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let built = build(&args, |line| ctx.out.talk(line)).await?;
    ctx.out.list(&built, &["component", "bytes", "digest"], |built| {
        vec![built.path.display().to_string(), built.size_bytes.to_string(), built.digest.short()]
    })?;
    Ok(Exit::Ok)
}

/// Builds a folder's components and stamps language and SDK into them. Cargo talks on stderr; what it says of mistakes
/// in the sources is its own, the error only says that there are some. Dropping the future ends cargo.
pub async fn build(args: &Args, talk: impl Fn(&str)) -> Result<Vec<Built>> {
    let manifest = args.folder.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(Error::invalid(format!("there is no {}", manifest.display()))
            .help("name a folder with a Rust consumer, or make one with `tendon new NAME`"));
    }
    add_target(&args.folder, &talk).await?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--target", TARGET, "--message-format=json-render-diagnostics"]).args(&args.cargo);
    if !args.debug {
        cargo.arg("--release");
    }
    // A config names components below its own folder, wherever this user has other builds go.
    cargo.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
    cargo.current_dir(&args.folder).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut running = cargo.spawn().map_err(|error| missing("cargo", error))?;
    let artifacts = match running.stdout.take() {
        Some(stdout) => Artifacts::read(stdout).await?,
        None => Artifacts::default(),
    };
    let status = running.wait().await.map_err(|error| missing("cargo", error))?;
    if !status.success() {
        return Err(Error::invalid(format!(
            "the folder {} does not build: cargo ended with {status}",
            shown(&args.folder)
        ))
        .help("cargo's messages above say why"));
    }
    if artifacts.components.is_empty() {
        return Err(Error::invalid(format!("the folder {} has no component", shown(&args.folder)))
            .help("add to its Cargo.toml: [lib] crate-type = [\"cdylib\"]"));
    }
    artifacts.components.iter().map(|path| finish(path, artifacts.sdk.as_deref())).collect()
}

/// A folder by its full path: `.` says nothing in a log.
fn shown(folder: &Path) -> String {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).display().to_string()
}

/// Sees to it that Rust's part of the target is there.
async fn add_target(folder: &Path, talk: &impl Fn(&str)) -> Result<()> {
    if target_is_installed(folder).await? {
        return Ok(());
    }
    talk(&format!("adding the target {TARGET} with rustup"));
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    let status = rustup.kill_on_drop(true).status().await.map_err(|error| missing("rustup", error))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::unavailable(format!("rustup could not add the target {TARGET}: it ended with {status}"))
        .help(format!("run `rustup target add {TARGET}`")))
}

/// Whether the toolchain of this folder can build components. `Unavailable` where there is no toolchain.
pub(super) async fn target_is_installed(folder: &Path) -> Result<bool> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]).current_dir(folder);
    let output = rustc.kill_on_drop(true).output().await.map_err(|error| missing("rustc", error))?;
    let libraries = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success() && Path::new(libraries.trim()).is_dir())
}

pub(super) fn missing(program: &str, error: std::io::Error) -> Error {
    let error = Error::unavailable(format!("{program} cannot be run")).because(error);
    error.help(GET_RUST)
}

/// What cargo says that it built.
#[derive(Debug, Default)]
struct Artifacts {
    components: Vec<PathBuf>,
    sdk: Option<String>,
}

/// A line of cargo's.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

impl Artifacts {
    async fn read(stdout: ChildStdout) -> Result<Self> {
        let mut artifacts = Self::default();
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.map_err(|error| missing("cargo", error))? {
            artifacts.take(&line);
        }
        artifacts.components.sort();
        artifacts.components.dedup();
        Ok(artifacts)
    }

    fn take(&mut self, line: &str) {
        // Build scripts may print what they like to cargo's stdout.
        let Ok(message) = serde_json::from_str::<Message>(line) else { return };
        if message.reason == "compiler-artifact" {
            let is_component = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wasm");
            self.components.extend(message.filenames.into_iter().filter(is_component));
            self.sdk = self.sdk.take().or_else(|| version_of(SDK, &message.package_id));
        }
    }
}

/// The version in a package id of this package: `…#tendon-sdk@0.1.0`, or `path+file:///…/tendon-sdk#0.1.0`.
fn version_of(package: &str, id: &str) -> Option<String> {
    let (place, fragment) = id.rsplit_once('#')?;
    match fragment.split_once('@') {
        Some((name, version)) => (name == package).then(|| version.to_owned()),
        None => place.ends_with(&format!("/{package}")).then(|| fragment.to_owned()),
    }
}

/// Stamps a component where its build did not, so that an operator can see what it was written in.
fn finish(path: &Path, sdk: Option<&str>) -> Result<Built> {
    let failed = |what: &str, error: std::io::Error| {
        Error::unavailable(format!("the component {} cannot be {what}", path.display())).because(error)
    };
    let mut bytes = std::fs::read(path).map_err(|error| failed("read", error))?;
    if let Some(stamped) = stamp(&bytes, sdk) {
        // In place: cargo's own copy is a hard link to it, and so cargo does not put the bare one back.
        std::fs::write(path, &stamped).map_err(|error| failed("written", error))?;
        bytes = stamped;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(Built { path, size_bytes: bytes.len() as u64, digest: Digest::of(&bytes) })
}

/// The bytes with language and SDK; none where both are there, or where nothing can be added.
fn stamp(bytes: &[u8], sdk: Option<&str>) -> Option<Vec<u8>> {
    let present = Producers::from_wasm(bytes).ok()?.unwrap_or_default();
    let mut wanted = Producers::empty();
    if present.get("language").is_none() {
        wanted.add("language", "Rust", "");
    }
    if let Some(version) = sdk.filter(|_| present.get("sdk").is_none()) {
        wanted.add("sdk", SDK, version);
    }
    if wanted.is_empty() { None } else { wanted.add_to_wasm(bytes).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_stamped_once() {
        let bare = wasmparser_component();
        let stamped = stamp(&bare, Some("0.1.0")).unwrap();
        let producers = Producers::from_wasm(&stamped).unwrap().unwrap();
        assert!(producers.get("language").is_some_and(|field| field.get("Rust").is_some()));
        assert_eq!(producers.get("sdk").and_then(|field| field.get(SDK).cloned()).as_deref(), Some("0.1.0"));
        assert_eq!(stamp(&stamped, Some("0.1.0")), None);
        assert_eq!(stamp(b"text", Some("0.1.0")), None);
    }

    /// The header of an empty component.
    fn wasmparser_component() -> Vec<u8> {
        b"\0asm\x0d\0\x01\0".to_vec()
    }

    #[test]
    fn cargo_s_messages_name_the_components_and_the_sdk() {
        let mut artifacts = Artifacts::default();
        artifacts.take("a build script's talk");
        artifacts.take(r#"{"reason":"build-finished","success":true}"#);
        artifacts.take(
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/guest-sdk/rust#tendon-sdk@0.1.0","filenames":["/t/lib.rlib"]}"#,
        );
        artifacts
            .take(r#"{"reason":"compiler-artifact","package_id":"path+file:///w/a#0.3.0","filenames":["/t/a.wasm"]}"#);
        assert_eq!(artifacts.components, [PathBuf::from("/t/a.wasm")]);
        assert_eq!(artifacts.sdk.as_deref(), Some("0.1.0"));
        assert_eq!(version_of(SDK, "path+file:///w/tendon-sdk#0.2.0").as_deref(), Some("0.2.0"));
        assert_eq!(version_of(SDK, "registry+https://x#other@1.0.0"), None);
    }
}
