//! What a component is, as far as its bytes tell.

use serde::{Deserialize, Serialize};
use wasm_metadata::Producers;

use super::gate::{self, Shape};
use crate::{error::Result, store::Digest};

/// How a guest wants its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HandlerKind {
    /// One a call.
    Handler,
    /// Many a call. A component that can do both is called this way.
    BatchHandler,
}

/// A name and a version that a build left in a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Such as `Rust`, `tendon-sdk`.
    pub name: String,
    /// Empty where the build left none.
    pub version: String,
}

/// How often an effect happens for one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarantee {
    /// The interface that the effect goes through.
    pub effect: String,
    /// What holds for it.
    pub promise: String,
}

/// What a component is, as far as its bytes tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// How large it is.
    pub size_bytes: u64,
    /// The world of `tendon:consumer` that it is a component of.
    pub world: String,
    /// How it wants its events.
    pub handler: HandlerKind,
    /// Whether it wants to be called before the first event.
    pub lifecycle: bool,
    /// What it imports, with versions.
    pub imports: Vec<String>,
    /// What it exports, with versions.
    pub exports: Vec<String>,
    /// The language that it was written in, where the build says so.
    pub language: Option<Tool>,
    /// The SDK that it was written with, where the build says so.
    pub sdk: Option<Tool>,
    /// What holds for its effects.
    pub guarantees: Vec<Guarantee>,
}

/// Inspects a component without compiling it; what is no guest of this host is `Invalid`.
pub fn inspect(bytes: &[u8]) -> Result<Inspection> {
    let shape = gate::shape(bytes)?;
    // Only the root's own: nested modules name the languages that an interpreter was written in.
    let producers = Producers::from_wasm(bytes).ok().flatten();
    let tool = |field| first_tool(producers.as_ref()?, field);
    let batch = exports(&shape, "batch-handler");
    let lifecycle = exports(&shape, "lifecycle");
    let world = if batch { "batch-consumer" } else { "consumer" };
    Ok(Inspection {
        digest: Digest::of(bytes),
        size_bytes: bytes.len() as u64,
        world: if lifecycle { format!("{world}-with-lifecycle") } else { world.to_owned() },
        handler: if batch { HandlerKind::BatchHandler } else { HandlerKind::Handler },
        lifecycle,
        language: tool("language"),
        sdk: tool("sdk"),
        guarantees: guarantees(&shape),
        imports: shape.imports,
        exports: shape.exports,
    })
}

fn exports(shape: &Shape, name: &str) -> bool {
    shape.contract_exports.iter().any(|export| export == name)
}

fn first_tool(producers: &Producers, field: &str) -> Option<Tool> {
    let field = producers.get(field)?;
    let (name, version) = field.iter().next()?;
    Some(Tool { name: name.clone(), version: version.clone() })
}

/// What is in the commit of an event happens exactly once; what leaves the host at once may happen again.
fn guarantees(shape: &Shape) -> Vec<Guarantee> {
    let promise = |name: &str| match name {
        "state" => Some("exactly once: written in the transaction that moves the cursor"),
        "emit" => Some("exactly once: appended in the transaction that moves the cursor"),
        "log" => Some("best effort: a line may appear again when an event is tried again"),
        _ => None,
    };
    let imports = shape.contract_imports.iter();
    imports.filter_map(|name| Some(Guarantee { effect: name.clone(), promise: promise(name)?.to_owned() })).collect()
}
