//! `cargo prove NAME [--quick] [--only TEXT]`: runs what a claim rests on and prints target and measured side by side.
//! The full run writes docs/proofs/NAME.md; it exits 1 when a target is missed. `--quick` judges counts alone. `--only`
//! runs just the replays whose names contain a text, judges what was run, and writes no file.

use std::process::ExitCode;

use tendon_tests::proof::{self, Scale};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scale = if arguments.iter().any(|argument| argument == "--quick") { Scale::Quick } else { Scale::Full };
    let mut words = arguments.iter().map(String::as_str);
    let (mut names, mut only) = (Vec::new(), None);
    while let Some(word) = words.next() {
        match word {
            "--only" => only = words.next(),
            word if word.starts_with('-') => {}
            name => names.push(name),
        }
    }
    match names[..] {
        ["list"] => {
            for (name, claim) in proof::LIST {
                println!("{name:<10}{claim}");
            }
            ExitCode::SUCCESS
        }
        // What the proof of latency starts as another process.
        ["append", url, table, events] => match proof::append_events(url, table, events.parse().unwrap_or_default()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
        [name] if proof::LIST.iter().any(|(known, _)| *known == name) => match proof::run(name, scale, only) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {name} could not be run: {error:#}");
                ExitCode::from(3)
            }
        },
        _ => {
            eprintln!(
                "usage: cargo prove NAME [--quick] [--only TEXT], where NAME is one of what `cargo prove list` prints"
            );
            ExitCode::from(2)
        }
    }
}
