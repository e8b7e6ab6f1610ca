//! The real `tendon`, as cargo builds it beside the tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The binary. Cargo is asked once per process to bring it up to date: an old one would test what is no more.
pub fn tendon() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build)
}

/// The binary, ready to be run. What one test has compiled the others need not; it is not kept with the user's own.
pub fn command() -> Command {
    let mut command = Command::new(tendon());
    command.env("XDG_CACHE_HOME", tendon().with_file_name("test-cache"));
    command
}

/// Builds it in the profile and the folder of the test that runs. Cargo's own lock makes test processes take turns.
fn build() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM.
    let profile = test.ancestors().find(|folder| folder.join("deps").is_dir()).unwrap();
    let target = profile.parent().unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace, so that its features are those of `cargo test --workspace` and nothing is built twice.
    cargo.args(["build", "--quiet", "--locked", "--workspace", "--bin", "tendon", "--target-dir"]).arg(target);
    // What cargo tells a test of its package makes another cargo build everything anew that asks for the same of its own.
    for (variable, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| variable.to_string_lossy().starts_with(own)) {
            cargo.env_remove(variable);
        }
    }
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "cargo could not build tendon: {status}");
    let binary = profile.join("tendon").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(binary.is_file(), "there is no {}", binary.display());
    binary
}
