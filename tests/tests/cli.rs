//! The real binary, where it needs no host: bad configs, help, pipes, new folders.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tendon_tests::binary;

const GOOD: &str = "[stream.orders]\n\n[consumer.billing]\ncomponent = \"billing.wasm\"\nstream = \"orders\"\n";

/// The binary in a folder, with nothing of the environment that it would look at.
fn tendon(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = binary::command();
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for variable in ["TENDON_CONFIG", "TENDON_SDK", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    tendon(folder, arguments).output().unwrap()
}

/// A folder with this config, and a file where the config looks for a component.
fn project(config: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("tendon.toml"), config).unwrap();
    fs::write(folder.path().join("billing.wasm"), "").unwrap();
    folder
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// `config check` must refuse this config, with this text among what it says.
fn refused(config: &str, said: &str) {
    let folder = project(config);
    let output = run(folder.path(), &["config", "check"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(said), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(!folder.path().join("tendon.db").exists(), "a database was made");
}

#[test]
fn an_unknown_key_ends_with_2_its_line_and_a_suggestion() {
    refused(
        &GOOD.replace("stream = ", "retires = 3\nstream = "),
        "error[config.unknown-key]: unknown key `retires`\n  --> tendon.toml:5:1\nhelp: did you mean `retry`?\n",
    );
}

#[test]
fn a_bad_value_ends_with_2_its_line_and_a_suggestion() {
    refused(
        &format!("{GOOD}limits = {{ memory = \"64MB\" }}\n"),
        "  --> tendon.toml:6:21\nhelp: did you mean `64MiB`?\n",
    );
}

#[test]
fn a_missing_component_ends_with_2_and_its_line() {
    refused(&GOOD.replace("billing.wasm", "bill.wasm"), "error[config.missing-component]: the component ");
    refused(&GOOD.replace("billing.wasm", "bill.wasm"), "  --> tendon.toml:4:13\nhelp: build it with `tendon build`");
}

#[test]
fn two_consumers_of_one_name_end_with_2_and_their_line() {
    refused(
        &format!("{GOOD}\n[consumer.billing]\ncomponent = \"other.wasm\"\nstream = \"orders\"\n"),
        "error[config.duplicate]: two consumers are called `billing`\n  --> tendon.toml:7:11\n",
    );
}

#[test]
fn what_is_wrong_is_an_object_a_line_where_json_is_asked_for() {
    let folder = project(&GOOD.replace("stream = \"orders\"", "stream = \"order\"\nretires = 3"));
    let output = run(folder.path(), &["config", "check", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let problems: Vec<Value> = text(&output.stderr).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(problems.len(), 2);
    assert_eq!(problems[0]["code"], "config.unknown-stream");
    assert_eq!(problems[1]["path"], "consumer.billing.retires");
    assert_eq!(problems[1]["line"], 6);
    assert_eq!(problems[1]["suggestion"], "did you mean `retry`?");
}

#[test]
fn no_config_at_all_says_how_to_begin() {
    let folder = TempDir::new().unwrap();
    let output = run(folder.path(), &["config", "show"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("help: start with `tendon new NAME`"));
}

#[test]
fn a_good_config_is_checked_and_shown_with_every_default() {
    let folder = project(GOOD);
    let output = run(folder.path(), &["config", "check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = run(folder.path(), &["config", "show"]);
    assert!(text(&shown.stdout).contains("state-keys = 1000"));
    fs::write(folder.path().join("shown.toml"), &shown.stdout).unwrap();
    let again = tendon(folder.path(), &["config", "show"]).env("TENDON_CONFIG", "shown.toml").output().unwrap();
    assert_eq!(text(&again.stdout), text(&shown.stdout));
    let json = run(folder.path(), &["config", "show", "-o", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["consumer"]["billing"]["retry"]["on-exhausted"], "block");
}

#[test]
fn the_schema_and_the_sample_are_printed() {
    let folder = TempDir::new().unwrap();
    let schema: Value = serde_json::from_slice(&run(folder.path(), &["config", "schema"]).stdout).unwrap();
    let consumer = &schema["properties"]["consumer"]["additionalProperties"];
    assert_eq!(consumer["properties"]["limits"]["properties"]["memory"]["examples"][0], "64MiB");
    assert_eq!(consumer["additionalProperties"], false);
    let sample = run(folder.path(), &["config", "sample"]);
    fs::write(folder.path().join("tendon.toml"), sample.stdout).unwrap();
    assert!(run(folder.path(), &["config", "show"]).status.success());
}

#[test]
fn doctor_looks_at_the_config_the_stores_and_the_system() {
    let folder = project(&GOOD.replace("billing.wasm", "bill.wasm"));
    let output = run(folder.path(), &["doctor", "-o", "json"]);
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<&Value> = checks.iter().filter(|check| check["status"] == "fail").collect();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(failed.len(), 1, "{checks:?}");
    assert_eq!(failed[0]["check"], "config");
    assert!(failed[0]["fix"].as_str().unwrap().contains("tendon build"));
    fs::write(folder.path().join("tendon.toml"), GOOD).unwrap();
    let output = run(folder.path(), &["doctor"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("store main"));
    assert!(!folder.path().join("tendon.db").exists(), "looking made a database");
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let folder = TempDir::new().unwrap();
    let mut child =
        tendon(folder.path(), &["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Gone before a byte is read: every write finds nobody.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn every_command_has_help_and_a_wrong_one_ends_with_2() {
    let folder = TempDir::new().unwrap();
    check_help(folder.path(), &[]);
    for wrong in [&["nwe"][..], &["config"], &["config", "show", "--frob"], &["build", "-o", "xml"], &["new"]] {
        let output = run(folder.path(), wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{wrong:?}");
    }
}

/// Asks a command for help, and every command that the help names.
fn check_help(folder: &Path, command: &[&str]) {
    let output = run(folder, &[command, &["--help"]].concat());
    assert_eq!(output.status.code(), Some(0), "{command:?}");
    let help = text(&output.stdout);
    assert!(help.contains("Usage: tendon"), "{command:?}: {help}");
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    let named = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for below in named.filter_map(|line| line.split_whitespace().next()).filter(|below| *below != "help") {
        check_help(folder, &[command, &[below]].concat());
    }
}

#[test]
fn new_makes_a_folder_with_a_good_config_and_refuses_one_that_is_not_empty() {
    let folder = TempDir::new().unwrap();
    let made = run(folder.path(), &["new", "counter", "-o", "json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["name"], "counter");
    assert!(run(&folder.path().join("counter"), &["config", "show"]).status.success());
    let again = run(folder.path(), &["new", "counter"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("is not empty"), "{}", text(&again.stderr));
    let here = folder.path().join("here");
    fs::create_dir(&here).unwrap();
    assert!(run(&here, &["new", "--here"]).status.success());
    assert!(here.join("src/lib.rs").is_file());
}

#[test]
fn build_says_what_is_missing() {
    let folder = TempDir::new().unwrap();
    let output = run(folder.path(), &["build"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there is no ./Cargo.toml"), "{}", text(&output.stderr));
    fs::write(folder.path().join("Cargo.toml"), "").unwrap();
    let output = tendon(folder.path(), &["build"]).env("PATH", "").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("help: install Rust with rustup"), "{}", text(&output.stderr));
}
