//! Errors on stderr, and the exit codes that they become.

use std::io::{self, Write as _};

use super::output::{ClosedPipe, Format};
use crate::{
    config::Problem,
    error::{Error, Kind},
};

const RED: &str = "\u{1b}[1;31m";
const BLUE: &str = "\u{1b}[1;34m";
const PLAIN: &str = "\u{1b}[0m";

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it should.
    Ok = 0,
    /// It did not: a test, a conflict, a blocked consumer.
    Failed = 1,
    /// Its input is wrong: flags, config, a component.
    Invalid = 2,
    /// What it needs is not there: a store, the API, a toolchain, a port.
    Environment = 3,
}

impl Exit {
    /// What an error ends a command with.
    pub fn of(error: &Error) -> Self {
        if is_closed_pipe(error) {
            return Self::Ok;
        }
        match error.kind() {
            Kind::Invalid => Self::Invalid,
            Kind::Unavailable => Self::Environment,
            Kind::NotFound | Kind::Denied | Kind::Limit | Kind::Fenced | Kind::Ambiguous | Kind::Corrupt => {
                Self::Failed
            }
        }
    }
}

fn is_closed_pipe(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<ClosedPipe>())
}

/// Writes an error to stderr: as text for people, or as one JSON object a line.
pub fn report(error: &Error, format: Format, color: bool) {
    if is_closed_pipe(error) {
        return;
    }
    let mut stderr = io::stderr().lock();
    for problem in Problem::of(error) {
        let text = match format {
            Format::Json => serde_json::to_string(&problem).unwrap_or_default(),
            Format::Table if color => coloured(&problem),
            Format::Table => problem.to_string(),
        };
        // Nobody reads it: there is nobody to tell.
        let _ = writeln!(stderr, "{text}");
    }
}

fn coloured(problem: &Problem) -> String {
    let text = problem.to_string();
    let text = text.replacen("error[", &format!("{RED}error["), 1).replacen("]:", &format!("]{PLAIN}:"), 1);
    text.replacen("\n  -->", &format!("\n  {BLUE}-->{PLAIN}"), 1).replacen(
        "\nhelp:",
        &format!("\n{BLUE}help{PLAIN}:"),
        1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_errors_have_exit_codes() {
        assert_eq!(Exit::of(&Error::invalid("x")), Exit::Invalid);
        assert_eq!(Exit::of(&Error::unavailable("x")), Exit::Environment);
        assert_eq!(Exit::of(&Error::not_found("x")), Exit::Failed);
        assert_eq!(Exit::of(&Error::unavailable("stdout is closed").because(ClosedPipe)), Exit::Ok);
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let mut problem = Problem::new("config.syntax", "not TOML");
        problem.file = Some("tendon.toml".to_owned());
        problem.suggestion = Some("look".to_owned());
        let coloured = coloured(&problem);
        assert!(coloured.starts_with("\u{1b}[1;31merror[config.syntax]\u{1b}[0m: not TOML"), "{coloured:?}");
        let plain = [RED, BLUE, PLAIN].iter().fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, problem.to_string());
    }
}
