//! `cargo prove NAME [--quick]`: runs what a claim rests on and prints target and measured side by side. The full run
//! writes docs/proofs/NAME.md; it exits 1 when a target is missed. `--quick` judges counts alone.

use std::process::ExitCode;

use tendon_tests::proof::{self, Scale};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scale = if arguments.iter().any(|argument| argument == "--quick") { Scale::Quick } else { Scale::Full };
    let names: Vec<&str> = arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
    match names[..] {
        ["list"] => {
            for (name, claim) in proof::LIST {
                println!("{name:<10}{claim}");
            }
            ExitCode::SUCCESS
        }
        [name] if proof::LIST.iter().any(|(known, _)| *known == name) => match proof::run(name, scale) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {name} could not be run: {error:#}");
                ExitCode::from(3)
            }
        },
        _ => {
            eprintln!("usage: cargo prove NAME [--quick], where NAME is one of what `cargo prove list` prints");
            ExitCode::from(2)
        }
    }
}
