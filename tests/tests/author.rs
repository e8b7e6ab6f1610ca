//! The author's loop with the real toolchain: what the README promises, and the example on real events.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;
use tempfile::TempDir;
use tendon_tests::binary;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn tendon(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = binary::command();
    command.args(arguments).current_dir(folder).env_remove("TENDON_CONFIG");
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    // An author may have all of cargo's builds go elsewhere; a config still finds its components.
    command.env("CARGO_TARGET_DIR", root().join("target/elsewhere"));
    command.output().unwrap()
}

fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = tendon(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The example in a place of its own, beside the SDK that it needs.
fn quakes() -> (TempDir, PathBuf) {
    let place = TempDir::new().unwrap();
    let example = place.path().join("examples/quakes");
    let copy = |from: PathBuf, to: &Path| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-RL").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    };
    for part in ["Cargo.toml", "Cargo.lock", "tendon.toml", "quakes.jsonl", "stats", "alerts"] {
        copy(root().join("examples/quakes").join(part), &example.join(part));
    }
    copy(root().join("guest-sdk/rust"), &place.path().join("guest-sdk/rust"));
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let is_member = |line: &&str| line.starts_with("members") || line.starts_with("default-members");
    let others = workspace.lines().filter(|line| !is_member(line)).collect::<Vec<_>>().join("\n");
    let workspace = others.replacen("[workspace]", "[workspace]\nmembers = [\"guest-sdk/rust\"]", 1);
    fs::write(place.path().join("Cargo.toml"), workspace).unwrap();
    (place, example)
}

/// The clone's own example: a database has one host at a time.
static EXAMPLE: Mutex<()> = Mutex::new(());

#[test]
fn the_example_ends_in_its_known_numbers_and_a_second_run_changes_nothing() {
    let _alone = EXAMPLE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = root().join("examples/quakes");
    for file in ["quakes.db", "quakes.db-wal", "quakes.db-shm"] {
        // Of an earlier run, if there was one.
        let _ = fs::remove_file(folder.join(file));
    }
    let run = || -> Value {
        serde_json::from_str(&succeeds(&root(), &["dev", "examples/quakes", "--until-head", "-o", "json"])).unwrap()
    };
    let line = |summary: &Value, consumer: &str| -> Value {
        let lines = summary["consumers"].as_array().unwrap().clone();
        lines.into_iter().find(|line| line["consumer"] == consumer).unwrap()
    };
    let first = run();
    let stats = line(&first, "stats");
    assert_eq!((&stats["handled"], &stats["keys"], &stats["emitted"]), (&1707.into(), &12.into(), &85.into()));
    assert_eq!(line(&first, "alerts")["handled"], 85);

    let dump = |consumer: &str| succeeds(&folder, &["state", "list", consumer, "--limit", "1000", "-o", "json"]);
    let alerts = || succeeds(&folder, &["event", "list", "alerts", "--limit", "1000", "-o", "json"]);
    let before = (dump("stats"), dump("alerts"), alerts());
    let second = run();
    for consumer in ["stats", "alerts"] {
        assert_eq!(line(&second, consumer)["handled"], 0);
        assert_eq!(line(&second, consumer)["consumed"], line(&first, consumer)["consumed"]);
    }
    assert_eq!((dump("stats"), dump("alerts"), alerts()), before);

    // Each once: 85 alerts of 85 quakes, and the count that the other consumer kept of them.
    let events: Vec<Value> = serde_json::from_str(&alerts()).unwrap();
    let quakes: std::collections::BTreeSet<_> =
        events.iter().map(|event| event["metadata"]["quake"].to_string()).collect();
    assert_eq!((events.len(), quakes.len()), (85, 85));
    let count = succeeds(&folder, &["state", "get", "alerts", "count", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&count).unwrap()["value"], 85);
}

/// The commands of the README's shell blocks, in their order.
fn readme_commands() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).map(|line| line.split("  #").next().unwrap().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_commands_of_the_readme_work_as_they_stand() {
    const TENDON: &str = "cargo run --release -- ";
    const TESTS: &str = "./check";
    let alone = EXAMPLE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = TempDir::new().unwrap();
    let mut ran = 0;
    for command in readme_commands() {
        if command == TESTS {
            continue;
        }
        let arguments = command.strip_prefix(TENDON).unwrap_or_else(|| panic!("how is `{command}` to be tested?"));
        // The binary of this test run stands for the one that cargo would build, and another folder for the clone.
        let of_the_clone = |word: &str| word.starts_with("examples/") || word.starts_with("guest-sdk/");
        let place_of = |word: &str| match of_the_clone(word) {
            true => root().join(word).display().to_string(),
            false => word.to_owned(),
        };
        let arguments: Vec<String> = arguments.split_whitespace().map(place_of).collect();
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if arguments.first() == Some(&"dev") && !arguments.contains(&"--until-head") {
            arguments.push("--until-head");
        }
        succeeds(place.path(), &arguments);
        ran += 1;
    }
    drop(alone);
    assert!(ran >= 5, "only {ran} commands were found");

    let counter = place.path().join("counter");
    let tests = Command::new("cargo").arg("test").current_dir(&counter).env_remove("RUSTFLAGS").output().unwrap();
    assert!(tests.status.success(), "the template's test: {}", String::from_utf8_lossy(&tests.stderr));
    let tested = succeeds(&counter, &["test", "-o", "json"]);
    let effects: Vec<Value> = serde_json::from_str(&tested).unwrap();
    assert!(effects.iter().all(|effect| effect.get("failure").is_none()));
    let failing = tendon(&counter, &["test", "--event", r#"{"type":1,"foreign_id":"a","metadata":1}"#]);
    assert!(failing.status.success(), "the template takes any payload");
    let built = succeeds(&counter, &["build", "-o", "json"]);
    let built: Vec<Value> = serde_json::from_str(&built).unwrap();
    let inspected = succeeds(&counter, &["inspect", built[0]["path"].as_str().unwrap(), "-o", "json"]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!((&inspected["language"]["name"], &inspected["sdk"]["name"]), (&"Rust".into(), &"tendon-sdk".into()));
}

#[test]
fn an_edited_source_is_built_and_takes_over_in_dev() {
    let (_place, example) = quakes();
    fs::write(
        example.join("tendon.toml"),
        fs::read_to_string(example.join("tendon.toml")).unwrap().replace("7070", "0"),
    )
    .unwrap();
    let mut dev = binary::command();
    dev.args(["dev", "."]).current_dir(&example).env_remove("TENDON_CONFIG").env_remove("RUSTFLAGS");
    let host = tendon_tests::project::Host::spawn(dev);
    host.line("running");
    let source = example.join("alerts/src/lib.rs");
    let edited = fs::read_to_string(&source).unwrap().replace("\"where\"", "\"place\"");
    fs::write(&source, edited).unwrap();
    let line = host.line("reloaded alerts");
    assert!(line.contains("… → ") && line.contains(" ms (compiled in "), "{line}");
    assert_eq!(host.terminate(), Some(0));
}
