//! What is no guest is refused before it can do anything, with a sentence that says what it is.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tendon::{
    deployment::StateScope,
    error::{Error, Kind},
    limits::Limits,
    runtime::{Compiler, Engine, GuestFactory, HandlerKind, inspect},
};
use tendon_tests::{
    guests::{Guest, Setup},
    shelf::Shelf,
};

async fn refusal(bytes: impl Into<Bytes>) -> Error {
    let engine = Engine::new(Compiler::Here, None).unwrap();
    let error = engine.compile(bytes.into(), &Limits::default()).await.err().expect("it was taken");
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.way_out().is_some(), "no way out: {error:?}");
    error
}

fn component(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap()
}

/// A component with an export of that name, which is an empty interface.
fn exporting(name: &str) -> Vec<u8> {
    component(&format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#))
}

#[tokio::test]
async fn a_core_module_is_told_how_to_become_a_component() {
    let error = refusal(component("(module)")).await;
    assert_eq!(error.to_string(), "a core module, not a component");
    assert!(error.way_out().unwrap().contains("wasm-tools component new"));
}

#[tokio::test]
async fn a_text_file_is_named_as_one() {
    assert_eq!(refusal("(component)").await.to_string(), "a text file, not a component");
    assert_eq!(refusal("ä".repeat(1_000)).await.to_string(), "a text file, not a component");
    assert_eq!(refusal(vec![0xff, 0, 1]).await.to_string(), "not a component: it is no WebAssembly");
    assert_eq!(refusal("").await.to_string(), "an empty file, not a component");
}

#[tokio::test]
async fn a_truncated_file_is_named_as_one_wherever_it_was_cut() {
    let whole = Guest::Hostile.component().unwrap();
    for length in [5, 9, 100, whole.len() / 2, whole.len() - 1] {
        let error = refusal(whole.slice(..length)).await;
        assert_eq!(error.to_string(), format!("a truncated file: it ends after {length} bytes"));
    }
}

#[tokio::test]
async fn a_flipped_byte_is_refused_or_harmless_and_never_a_panic() {
    let whole = Guest::Hostile.component().unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 200) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0xff;
        let _ = inspect(&bytes);
    }
}

#[tokio::test]
async fn native_code_is_refused() {
    // The header that wasmtime's own object files have: 64 bits, little-endian, its number for the system, its flag.
    let mut elf = vec![0; 4096];
    elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\xc8");
    elf[16] = 1;
    elf[18] = 62;
    elf[20] = 1;
    elf[48] = 2;
    elf[52] = 64;
    let error = refusal(elf).await;
    assert!(error.to_string().starts_with("precompiled native code"), "{error}");
}

#[tokio::test]
async fn a_wit_package_is_no_guest() {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("a.wit", "package a:b@1.0.0; interface c { f: func(); }").unwrap();
    let bytes = wit_component::encode(&resolve, package).unwrap();
    let error = refusal(bytes).await;
    assert!(error.to_string().starts_with("a WIT package, not a component"), "{error}");
}

#[tokio::test]
async fn a_component_of_another_version_is_told_both_versions() {
    let error = refusal(exporting("tendon:consumer/handler@0.2.0")).await;
    assert_eq!(error.to_string(), "built for version 0.2.0 of tendon:consumer, this host speaks 0.1.x");
    let error = refusal(exporting("tendon:consumer/handler@0.1.0-rc.1")).await;
    assert_eq!(error.to_string(), "built for version 0.1.0-rc.1 of tendon:consumer, this host speaks 0.1.x");
    let error = refusal(exporting("tendon:consumer/handler")).await;
    assert_eq!(error.to_string(), "built for an unversioned tendon:consumer, this host speaks 0.1.x");
}

#[tokio::test]
async fn a_component_of_another_world_is_told_what_it_exports() {
    let error = refusal(exporting("wasi:cli/run@0.2.0")).await;
    assert_eq!(error.to_string(), "the component exports no handler, but wasi:cli/run@0.2.0");
    assert!(error.way_out().unwrap().contains("tendon_sdk::handler!"));
    assert_eq!(refusal(component("(component)")).await.to_string(), "the component exports no handler, but nothing");
}

#[tokio::test]
async fn unknown_imports_are_named_all_of_them() {
    let wat = r#"(component
        (import "acme:db/query@1.0.0" (instance (export "q" (func))))
        (import "wasi:http/outgoing-handler@0.2.0" (instance (export "h" (func))))
        (import "tendon:consumer/later@0.1.9" (instance (export "l" (func))))
        (import "free" (func)))"#;
    let error = refusal(component(wat)).await;
    assert_eq!(
        error.to_string(),
        "the component imports what this host does not offer: acme:db/query@1.0.0, wasi:http/outgoing-handler@0.2.0, \
         tendon:consumer/later@0.1.9, free"
    );
}

#[tokio::test]
async fn an_import_of_another_shape_does_not_fit() {
    let wat = r#"(component
        (import "tendon:consumer/config@0.1.3" (instance (export "count" (func (result u32)))))
        (instance $i)
        (export "tendon:consumer/handler@0.1.0" (instance $i)))"#;
    let error = refusal(component(wat)).await;
    assert!(error.to_string().starts_with("the component does not fit tendon:consumer 0.1"), "{error}");
    assert!(error.to_string().contains("count"), "{error}");
}

#[tokio::test]
async fn a_handler_of_another_shape_does_not_start() {
    let wat = r#"(component
        (core module $m (func (export "f")))
        (core instance $m (instantiate $m))
        (func $f (canon lift (core func $m "f")))
        (instance $i (export "handle" (func $f)))
        (export "tendon:consumer/handler@0.1.0" (instance $i)))"#;
    let setup = Setup {
        guest: Guest::Hostile,
        behaviour: "ok",
        limits: Limits::default(),
        scope: StateScope::Consumer,
        store: Arc::new(Shelf::Empty),
    };
    let engine = Engine::new(Compiler::Here, None).unwrap();
    let compiled = engine.compile(component(wat).into(), &setup.limits).await.unwrap();
    let factory = GuestFactory::new(&engine, compiled, BTreeMap::new(), &setup.limits).unwrap();
    let error = factory.trial(setup.view().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("does not fit tendon:consumer 0.1"), "{error}");
}

#[tokio::test]
async fn a_component_may_have_as_many_bytes_as_its_limit_and_no_more() {
    let engine = Engine::new(Compiler::Here, None).unwrap();
    let guest = Guest::Hostile.component().unwrap();
    for (spare, taken) in [(1_i64, true), (0, true), (-1, false)] {
        let component_bytes = (guest.len() as i64 + spare) as u64;
        let limits = Limits { component_bytes, ..Limits::default() };
        let result = engine.compile(guest.clone(), &limits).await;
        assert_eq!(result.is_ok(), taken, "{spare} bytes to spare");
        if let Err(error) = result {
            assert_eq!(error.kind(), Kind::Limit);
            assert!(error.to_string().contains("limits.component is"), "{error}");
        }
    }
}

#[tokio::test]
async fn compiling_again_costs_nothing() {
    let engine = Engine::new(Compiler::Here, None).unwrap();
    let guest = Guest::Hostile.component().unwrap();
    let limits = Limits::default();
    let (first, second) = tokio::join!(engine.compile(guest.clone(), &limits), engine.compile(guest.clone(), &limits));
    let mut times = [first.unwrap().compiled_in(), second.unwrap().compiled_in()];
    times.sort();
    assert!(times[0].is_zero() && !times[1].is_zero(), "{times:?}");
}

#[test]
fn an_inspection_says_what_a_guest_is_and_what_holds_for_its_effects() {
    let hostile = inspect(&Guest::Hostile.component().unwrap()).unwrap();
    assert_eq!(hostile.handler, HandlerKind::Handler);
    assert_eq!(hostile.world, "consumer-with-lifecycle");
    assert!(hostile.exports.contains(&"tendon:consumer/handler@0.1.0".to_owned()), "{:?}", hostile.exports);
    assert!(hostile.imports.contains(&"tendon:consumer/state@0.1.0".to_owned()), "{:?}", hostile.imports);
    let promises: Vec<_> =
        hostile.guarantees.iter().map(|held| (&*held.effect, held.promise.contains("exactly"))).collect();
    assert_eq!(promises, [("state", true), ("emit", true), ("log", false)]);
    let batch = inspect(&Guest::Batch.component().unwrap()).unwrap();
    assert_eq!((batch.handler, batch.lifecycle), (HandlerKind::BatchHandler, false));
    assert_eq!(batch.world, "batch-consumer");
    let json = serde_json::to_value(&batch).unwrap();
    assert_eq!(json["handler"], "batch-handler");
}
