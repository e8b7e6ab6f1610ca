//! The gate: what is no guest of this host is refused with a sentence that says what it is, and what to do.
//!
//! What the linker says about such files misleads (a guest of another version reads "function implementation is
//! missing"), so everything that can be told from the bytes is told here first.

use bytesize::ByteSize;
use wasmparser::Parser;
use wit_component::DecodedWasm;
use wit_parser::{InterfaceId, PackageName, Resolve, WorldId, WorldItem, WorldKey};

use crate::{
    error::{Error, Result},
    limits::Limits,
};

/// The package that guests are built against, and the version of it that this host speaks.
const CONTRACT: (&str, &str) = ("tendon", "consumer");
const SPOKEN: (u64, u64) = (0, 1);
const OFFERED: [&str; 5] = ["types", "state", "emit", "log", "config"];
const OFFERED_WASI: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
const HANDLERS: [&str; 2] = ["handler", "batch-handler"];

/// What a component imports and exports, as its own type says.
pub(super) struct Shape {
    /// Full names with versions, in the order of the component.
    pub(super) imports: Vec<String>,
    /// Likewise.
    pub(super) exports: Vec<String>,
    /// The interfaces of the contract that it imports.
    pub(super) contract_imports: Vec<String>,
    /// The interfaces of the contract that it exports.
    pub(super) contract_exports: Vec<String>,
}

/// Refuses a component that is larger than its limit.
pub(super) fn check_size(size_bytes: u64, limits: &Limits) -> Result<()> {
    if size_bytes <= limits.component_bytes {
        return Ok(());
    }
    let [found, most] = [size_bytes, limits.component_bytes].map(|bytes| ByteSize::b(bytes).display().iec());
    Err(Error::limit(format!("the component has {found}, limits.component is {most}"))
        .help("raise `component` in the consumer's `limits`, or build it smaller (release profile, lto)"))
}

/// The shape of a guest of this host; an error that says what else it is.
pub(super) fn shape(bytes: &[u8]) -> Result<Shape> {
    check_container(bytes)?;
    let decoded = wit_component::decode(bytes).map_err(|error| not_valid(&format!("{error:#}")))?;
    let (resolve, world) = match decoded {
        DecodedWasm::Component(resolve, world) => (resolve, world),
        DecodedWasm::WitPackage(..) => {
            return Err(Error::invalid("a WIT package, not a component: it says how to write a guest, and is none")
                .help("name the component that was built from it"));
        }
    };
    let shape = read(&resolve, world);
    check_imports(&resolve, world)?;
    check_exports(&resolve, world, &shape)?;
    Ok(shape)
}

/// What can be told before anything is decoded.
fn check_container(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Err(Error::invalid("an empty file, not a component").help("build it again"));
    }
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(Error::invalid("precompiled native code, which is refused: it would run outside of the sandbox")
            .help("name the .wasm component that it was compiled from"));
    }
    if !bytes.starts_with(b"\0asm") {
        let head = bytes.get(..bytes.len().min(512)).unwrap_or_default();
        let is_text = !head.contains(&0) && std::str::from_utf8(head).is_ok_or_cut();
        let what = if is_text { "a text file, not a component" } else { "not a component: it is no WebAssembly" };
        return Err(Error::invalid(what).help("name the .wasm file that the build wrote"));
    }
    for payload in Parser::new(0).parse_all(bytes) {
        if let Err(error) = payload {
            if error.message().contains("unexpected end") {
                return Err(Error::invalid(format!("a truncated file: it ends after {} bytes", bytes.len()))
                    .help("copy or build it again; a file that is still being written looks like this, too"));
            }
            return Err(not_valid(&error.to_string()));
        }
    }
    if !Parser::is_component(bytes) {
        return Err(Error::invalid("a core module, not a component").help(
            "run `wasm-tools component new module.wasm -o component.wasm`, or build for the target wasm32-wasip2",
        ));
    }
    Ok(())
}

trait CutText {
    fn is_ok_or_cut(&self) -> bool;
}

impl CutText for std::result::Result<&str, std::str::Utf8Error> {
    /// Text, or text whose last character was cut.
    fn is_ok_or_cut(&self) -> bool {
        match self {
            Ok(_) => true,
            Err(error) => error.error_len().is_none(),
        }
    }
}

fn not_valid(why: &str) -> Error {
    Error::invalid(format!("not a valid component: {why}")).help("build it again; `wasm-tools validate` says more")
}

fn read(resolve: &Resolve, world: WorldId) -> Shape {
    let Some(world) = resolve.worlds.get(world) else {
        return Shape { imports: vec![], exports: vec![], contract_imports: vec![], contract_exports: vec![] };
    };
    let names = |items: &mut dyn Iterator<Item = &WorldKey>| items.map(|key| resolve.name_world_key(key)).collect();
    let contract = |items: &mut dyn Iterator<Item = (&WorldKey, &WorldItem)>| {
        let name = |(_, item)| Some(named(resolve, item).filter(|(package, _)| is_contract(package))?.1.to_owned());
        items.filter_map(name).collect()
    };
    Shape {
        imports: names(&mut world.imports.keys()),
        exports: names(&mut world.exports.keys()),
        contract_imports: contract(&mut world.imports.iter()),
        contract_exports: contract(&mut world.exports.iter()),
    }
}

/// The package and the name of an interface that has one.
fn named<'a>(resolve: &'a Resolve, item: &WorldItem) -> Option<(&'a PackageName, &'a str)> {
    let WorldItem::Interface { id, .. } = item else { return None };
    let interface = resolve.interfaces.get(*id)?;
    let package = resolve.packages.get(interface.package?)?;
    Some((&package.name, interface.name.as_deref()?))
}

fn is_contract(package: &PackageName) -> bool {
    (package.namespace.as_str(), package.name.as_str()) == CONTRACT
}

/// Refuses a guest that was built against a version of the contract that this host does not speak.
fn check_version(package: &PackageName) -> Result<()> {
    let built = package.version.as_ref();
    if built.is_some_and(|version| (version.major, version.minor) == SPOKEN && version.pre.is_empty()) {
        return Ok(());
    }
    let built = built.map_or("an unversioned".to_owned(), |version| format!("version {version} of"));
    let (major, minor) = SPOKEN;
    Err(Error::invalid(format!("built for {built} tendon:consumer, this host speaks {major}.{minor}.x")).help(format!(
        "build it with an SDK of version {major}.{minor}, or run a tendon that speaks the component's version"
    )))
}

fn check_imports(resolve: &Resolve, world: WorldId) -> Result<()> {
    let Some(world) = resolve.worlds.get(world) else { return Ok(()) };
    let mut unknown = Vec::new();
    for (key, item) in &world.imports {
        let name = || resolve.name_world_key(key);
        match (item, named(resolve, item)) {
            (WorldItem::Type { .. }, _) => {}
            (_, Some((package, interface))) if is_contract(package) => {
                check_version(package)?;
                if !OFFERED.contains(&interface) {
                    unknown.push(name());
                }
            }
            (_, Some((package, _))) if is_offered_wasi(package) => {}
            (WorldItem::Interface { id, .. }, _) if has_no_functions(resolve, *id) => {}
            _ => unknown.push(name()),
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let help = if unknown.iter().any(|name| name.starts_with("wasi:http")) {
        "this host offers no HTTP to guests; use a library or a build option that leaves it out"
    } else {
        "a guest may import tendon:consumer 0.1.x and WASI 0.2 (cli, clocks, filesystem, io, random, sockets)"
    };
    Err(Error::invalid(format!("the component imports what this host does not offer: {}", unknown.join(", ")))
        .help(help))
}

fn is_offered_wasi(package: &PackageName) -> bool {
    let version = package.version.as_ref().is_some_and(|version| (version.major, version.minor) == (0, 2));
    package.namespace == "wasi" && OFFERED_WASI.contains(&package.name.as_str()) && version
}

fn has_no_functions(resolve: &Resolve, id: InterfaceId) -> bool {
    resolve.interfaces.get(id).is_some_and(|interface| interface.functions.is_empty())
}

fn check_exports(resolve: &Resolve, world: WorldId, shape: &Shape) -> Result<()> {
    let Some(world) = resolve.worlds.get(world) else { return Ok(()) };
    for item in world.exports.values() {
        if let Some((package, _)) = named(resolve, item).filter(|(package, _)| is_contract(package)) {
            check_version(package)?;
        }
    }
    if shape.contract_exports.iter().any(|name| HANDLERS.contains(&name.as_str())) {
        return Ok(());
    }
    let found = if shape.exports.is_empty() { "nothing".to_owned() } else { shape.exports.join(", ") };
    Err(Error::invalid(format!("the component exports no handler, but {found}"))
        .help("export tendon:consumer/handler or batch-handler; in Rust: `tendon_sdk::handler!(handle);`"))
}
