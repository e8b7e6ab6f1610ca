//! What a guest of the tests does with an event: its config key `behaviour` says, such as `ok` or `emit 3`, or with
//! `by-event` each event's metadata.

use std::{
    hint::black_box,
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use tendon_sdk::{Error, Event, NewEvent, Result, config, emit, state};

static CONFIGURED: OnceLock<String> = OnceLock::new();

fn configured() -> &'static str {
    CONFIGURED.get_or_init(|| config::get("behaviour").unwrap_or_else(|| "ok".to_owned()))
}

/// What `init` does: behaviours of events do nothing there.
pub fn init() -> Result<()> {
    match configured() {
        "init-trap" => panic!("no luck at all"),
        "init-error" => Err(Error::retry("nothing works without a key")),
        "init-loop" => spin(),
        "init-write" => {
            state::set("a", "1");
            Ok(())
        }
        "init-read" => {
            state::get("a");
            Ok(())
        }
        "init-emit" => {
            emit::emit("out", 1, "x", "");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Handles an event; `index` is its place in a batch.
pub fn handle(event: &Event, index: u32) -> Result<()> {
    let behaviour = match configured() {
        "ok" => return Ok(()),
        "by-event" => event.text()?,
        behaviour => behaviour,
    };
    let (name, argument) = behaviour.split_once(' ').unwrap_or((behaviour, ""));
    let number = || argument.parse::<usize>().expect("a behaviour with a number");
    match name {
        "fail" => Err(Error::retry("not now").after(Duration::from_millis(250)).detail("code", 503)),
        "reject" => Err(Error::reject("never")),
        "say" => {
            log::info!("said");
            println!("printed");
            Err(Error::reject("enough was said"))
        }
        "panic" => panic!("boom of {}", event.id),
        "exit" => std::process::exit(3),
        "loop" => spin(),
        "recurse" => {
            black_box(recurse(1));
            Ok(())
        }
        "allocate" => allocate(),
        "hold" => hold(number()),
        "sleep" => {
            sleep(Duration::from_millis(number() as u64));
            Ok(())
        }
        "slow" => slow(Duration::from_millis(number() as u64)),
        _ => effects(name, number, event, index),
    }
}

fn effects(name: &str, number: impl Fn() -> usize, event: &Event, index: u32) -> Result<()> {
    match name {
        "ok" | "init-trap" => {}
        "counter" => return counter(event),
        "echo" => emit::event(&echo(event), index),
        "emit" => (0..number()).for_each(|n| emit::event(&named("out", n), index)),
        "emit-ungranted" => emit::event(&named("secrets", 0), index),
        "emit-for" => emit::event(&named("out", 0), number() as u32),
        "emit-bytes" => emit::emit("out", 1, "x", vec![0; number()]),
        "set" => (0..number()).for_each(|n| state::set(&format!("key-{n}"), "")),
        "set-bytes" => state::set("key", vec![0; number()]),
        "set-key" => state::set(&"k".repeat(number()), ""),
        "get" => (0..number()).for_each(|_| {
            state::get("key");
        }),
        "append" => append(event),
        "log" => log::info!("{}", "x".repeat(number())),
        "log-flood" => loop {
            log::info!("again and again");
        },
        "print" => (0..number()).for_each(|n| println!("line {n}")),
        other => return Err(Error::reject(format!("no such behaviour: {other}"))),
    }
    Ok(())
}

/// Reads a count, parses the metadata, writes the count.
fn counter(event: &Event) -> Result<()> {
    let _: serde_json::Value = event.json()?;
    let count: u64 = state::get_json(&event.foreign_id)?.unwrap_or(0);
    state::set_json(&event.foreign_id, &(count + 1))
}

/// Appends the event's id to a list: the state then tells which events were handled, in which order, how often.
fn append(event: &Event) {
    let mut ids = state::get("ids").unwrap_or_default();
    ids.extend_from_slice(event.id.as_bytes());
    ids.push(b' ');
    state::set("ids", ids);
}

fn echo(event: &Event) -> NewEvent {
    NewEvent {
        stream: "out".to_owned(),
        type_: event.type_,
        foreign_id: event.foreign_id.clone(),
        metadata: event.metadata.clone(),
        headers: event.headers.clone(),
    }
}

fn named(stream: &str, n: usize) -> NewEvent {
    NewEvent {
        stream: stream.to_owned(),
        type_: 1,
        foreign_id: n.to_string(),
        metadata: Vec::new(),
        headers: Vec::new(),
    }
}

fn spin() -> ! {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

fn slow(time: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        black_box(began);
    }
    Ok(())
}

#[inline(never)]
#[allow(unconditional_recursion, reason = "it is what the test is about")]
fn recurse(depth: u64) -> u64 {
    let here = black_box([depth; 16]);
    recurse(depth + 1) + here[0]
}

fn allocate() -> Result<()> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(black_box(vec![1; 1024 * 1024]));
    }
}

/// Holds this many bytes for a while.
fn hold(bytes: usize) -> Result<()> {
    black_box(vec![1_u8; bytes]);
    Ok(())
}
