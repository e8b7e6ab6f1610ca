//! The process that compiles, from its own side: it confines itself, reads a component, and writes what became of it.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use super::{
    confine::{Confined, confine},
    engine::settings,
    inspection::{Inspection, inspect},
};
use crate::{
    error::{Error, Kind, Result},
    limits::Limits,
};

/// What a worker writes: one line of this, and behind it the machine code where there is any.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    /// What it has given up.
    pub(super) confined: Confined,
    pub(super) outcome: Outcome,
}

/// What became of a component.
#[derive(Serialize, Deserialize)]
pub(super) enum Outcome {
    /// The component is a guest of this host.
    Compiled(Box<Inspection>),
    /// It is not.
    Refused { is_limit: bool, message: String, help: Option<String> },
}

impl Outcome {
    fn refused(error: &Error) -> Self {
        let (message, help) = (error.chain(), error.way_out().map(str::to_owned));
        Self::Refused { is_limit: error.kind() == Kind::Limit, message, help }
    }
}

/// Compiles the component that comes in, within its limits. An error means that nobody could be told what became of it.
pub fn serve(limits: &Limits, mut input: impl Read, mut output: impl Write) -> Result<()> {
    let failed = |error: std::io::Error| Error::unavailable("the host no longer listens").because(error);
    let failed_engine = |error: wasmtime::Error| Error::unavailable("set the engine up").because(error);
    // On one thread: the other cores are for guests that run, and a process without threads can be confined more. Made first, since it
    // looks at the processor.
    let engine = wasmtime::Engine::new(settings().parallel_compilation(false)).map_err(failed_engine)?;
    let confined = confine(limits)?;
    let mut component = Vec::new();
    input.read_to_end(&mut component).map_err(failed)?;
    let (outcome, code) = match compile(&engine, &component) {
        Ok((inspection, code)) => (Outcome::Compiled(Box::new(inspection)), code),
        Err(error) => (Outcome::refused(&error), Vec::new()),
    };
    let answer = Answer { confined, outcome };
    let line = serde_json::to_string(&answer).map_err(|error| Error::corrupt("no JSON").because(error))?;
    output.write_all(line.as_bytes()).and_then(|()| output.write_all(b"\n")).map_err(failed)?;
    output.write_all(&code).and_then(|()| output.flush()).map_err(failed)
}

fn compile(engine: &wasmtime::Engine, component: &[u8]) -> Result<(Inspection, Vec<u8>)> {
    let inspection = inspect(component)?;
    let code = engine
        .precompile_component(component)
        .map_err(|error| Error::invalid(format!("not a valid component: {}", error.root_cause())))?;
    Ok((inspection, code))
}
