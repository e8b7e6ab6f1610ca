//! Why a guest ended, as a failure that an operator can read.

use std::fmt;

use bytesize::ByteSize;
use wasmtime::{FrameInfo, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::{
    error::{Error, Kind},
    handler::FailureKind,
    limits::Limits,
};

/// The most frames that a message shows.
const FRAMES_MAX: usize = 12;
/// The most bytes of a guest's last words that a message shows.
const LAST_WORDS_BYTES: usize = 2 * 1024;
/// wasmtime's own words, for which it has no type.
const HOSTCALL_FUEL_TEXT: &str = "too much data is being copied between the host and the guest";
/// This close below 4 GiB an address is one that fell below 0: the stack of a language that keeps its own grew down
/// through the start of its memory.
const BELOW_ZERO: u64 = 0xf000_0000;

/// The host ends a call: a limit was passed, or the host cannot serve it.
#[derive(Debug)]
pub(super) struct Stop {
    kind: FailureKind,
    message: String,
}

impl Stop {
    /// A limit other than of time.
    pub(super) fn limit(name: &str, value: &str, found: String) -> Self {
        Self { kind: FailureKind::Limit, message: limit_text(name, value, &found) }
    }

    /// A limit of time.
    pub(super) fn timeout(name: &str, value: &str, found: String) -> Self {
        Self { kind: FailureKind::Timeout, message: limit_text(name, value, &found) }
    }

    /// The kind of failure, and its sentence.
    pub(super) fn into_parts(self) -> (FailureKind, String) {
        (self.kind, self.message)
    }
}

fn limit_text(name: &str, value: &str, found: &str) -> String {
    let key = name.trim_start_matches("limits.");
    format!("{found}, {name} is {value}\nhelp: if it needs more, raise `{key}` in the consumer's `limits`")
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

impl From<Error> for Stop {
    /// What the view or the store says to a guest's call.
    fn from(error: Error) -> Self {
        let mut message = error.chain();
        if let Some(help) = error.way_out() {
            message.push_str("\nhelp: ");
            message.push_str(help);
        }
        let kind = match error.kind() {
            Kind::Limit | Kind::Invalid => FailureKind::Limit,
            Kind::Denied => FailureKind::Denied,
            _ => FailureKind::Infrastructure(error),
        };
        Self { kind, message }
    }
}

/// An error with its causes, joined by `: `.
pub(super) fn chain(error: &wasmtime::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Reads wasmtime's error: the kind of failure and its message, with the guest's last words and a backtrace.
pub(super) fn read(error: wasmtime::Error, last_words: &str, limits: &Limits) -> (FailureKind, String) {
    let frames = error.downcast_ref::<WasmBacktrace>().map(readable_frames).unwrap_or_default();
    let error = match error.downcast::<Stop>() {
        Ok(stop) => {
            let (kind, message) = stop.into_parts();
            let message = if matches!(kind, FailureKind::Timeout) { with_frames(message, &frames) } else { message };
            return (kind, message);
        }
        Err(error) => error,
    };
    let root = error.root_cause().to_string();
    if root.contains(HOSTCALL_FUEL_TEXT) {
        let value = ByteSize::b(limits.hostcall_bytes).display().iec().to_string();
        return Stop::limit("limits.hostcall", &value, "a call handed too many bytes to the host".to_owned())
            .into_parts();
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return (FailureKind::Trap, with_frames(format!("the guest called exit({code})"), &frames));
    }
    let message = match error.downcast_ref::<Trap>() {
        Some(trap) if is_recursion(*trap, &error) => "recursion too deep: the guest's stack is full".to_owned(),
        Some(Trap::CannotEnterComponent) => "the host used an instance that had ended: a bug of the host".to_owned(),
        Some(Trap::CannotLeaveComponent) => {
            "the guest called the host while the host was handing it an argument (Go: use the tendon SDK)".to_owned()
        }
        _ => match panic_text(last_words) {
            Some(text) => text,
            None => root,
        },
    };
    (FailureKind::Trap, with_frames(message, &frames))
}

fn is_recursion(trap: Trap, error: &wasmtime::Error) -> bool {
    match trap {
        Trap::StackOverflow => true,
        Trap::MemoryOutOfBounds => error.chain().any(|cause| fell_below_zero(&cause.to_string())),
        _ => false,
    }
}

/// Whether a text such as `memory fault at wasm address 0xfffffff0 in linear memory of size 0x110000` names an
/// address below 0.
fn fell_below_zero(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("wasm address 0x") else { return false };
    let digits: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).is_ok_and(|address| (BELOW_ZERO..=u64::from(u32::MAX) + 0xffff).contains(&address))
}

/// What the guest wrote last, without what its language adds for its own users.
fn panic_text(last_words: &str) -> Option<String> {
    let kept = |line: &&str| !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE");
    let lines: Vec<&str> = last_words.lines().map(str::trim_end).filter(kept).collect();
    // Rust: `thread 'main' (1) panicked at src/lib.rs:12:5:`, then the text.
    let panic = lines.iter().rposition(|line| line.starts_with("thread ") && line.contains(" panicked at "));
    let lines = lines.get(panic.unwrap_or(0)..).unwrap_or_default();
    let text = lines.join("\n");
    let text = match text.split_once(" panicked at ") {
        Some((_, rest)) if panic.is_some() => format!("panicked at {}", rest.replacen(":\n", ": ", 1)),
        _ => text,
    };
    (!text.is_empty()).then(|| tail(&text, LAST_WORDS_BYTES).to_owned())
}

fn tail(text: &str, most: usize) -> &str {
    let from = (text.len().saturating_sub(most)..=text.len()).find(|at| text.is_char_boundary(*at));
    from.and_then(|from| text.get(from..)).unwrap_or_default()
}

fn with_frames(mut message: String, frames: &[String]) -> String {
    for frame in frames {
        message.push_str("\n  at ");
        message.push_str(frame);
    }
    message
}

/// The guest's own frames: without the machinery of panics above them, and of the boundary below, unless there is
/// nothing else.
fn readable_frames(backtrace: &WasmBacktrace) -> Vec<String> {
    let names: Vec<String> = backtrace.frames().iter().map(name).collect();
    let mut own: Vec<&String> = names.iter().filter(|name| !is_machinery(name) && !is_boundary(name)).collect();
    if own.is_empty() {
        own = names.iter().filter(|name| !is_machinery(name)).collect();
    }
    let mut shown: Vec<String> = Vec::new();
    let mut repeats = 0;
    for name in own {
        match shown.last() {
            Some(before) if before == name => repeats += 1,
            _ if shown.len() == FRAMES_MAX => break,
            _ => shown.push(name.clone()),
        }
    }
    if repeats > 0 {
        shown.push(format!("… and {repeats} more calls of the same functions"));
    }
    shown
}

fn name(frame: &FrameInfo) -> String {
    let Some(raw) = frame.func_name() else {
        let module = frame.module().name().unwrap_or("the component");
        return format!("function {} of {module}", frame.func_index());
    };
    let place = frame.symbols().first().and_then(|symbol| Some((symbol.file()?, symbol.line()?)));
    let readable = format!("{:#}", rustc_demangle::demangle(raw));
    match place {
        Some((file, line)) => format!("{readable} ({file}:{line})"),
        None => readable,
    }
}

/// What a language runs between a panic and its end.
fn is_machinery(name: &str) -> bool {
    const STARTS: [&str; 11] = [
        "std::panicking",
        "core::panicking",
        "core::option::unwrap_failed",
        "core::option::expect_failed",
        "core::result::unwrap_failed",
        "std::sys",
        "std::process::abort",
        "__rustc",
        "__rust_",
        "rust_panic",
        "rust_begin_unwind",
    ];
    name == "abort" || STARTS.iter().any(|start| name.starts_with(start))
}

/// What stands between the host and the author's function.
fn is_boundary(name: &str) -> bool {
    const STARTS: [&str; 3] = ["tendon:consumer/", "__export_", "tendon_sdk::"];
    STARTS.iter().any(|start| name.starts_with(start)) || name.contains("_export_handle")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rust_panic_is_told_by_its_place_and_text() {
        let stderr = "earlier line\n\nthread '<unnamed>' (1) panicked at src/lib.rs:12:5:\nno such network: xx\n\
                      note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        assert_eq!(panic_text(stderr).unwrap(), "panicked at src/lib.rs:12:5: no such network: xx");
        assert_eq!(panic_text("Traceback\n  File\nValueError: x\n").unwrap(), "Traceback\n  File\nValueError: x");
        assert_eq!(panic_text("\n"), None);
    }

    #[test]
    fn an_address_just_below_zero_is_a_stack_that_grew_through_the_start_of_its_memory() {
        assert!(fell_below_zero("memory fault at wasm address 0xfffffff0 in linear memory of size 0x110000"));
        assert!(!fell_below_zero("memory fault at wasm address 0x110000 in linear memory of size 0x110000"));
        assert!(!fell_below_zero("out of bounds"));
    }

    #[test]
    fn a_limits_message_says_its_name_its_value_and_how_to_raise_it() {
        let (kind, text) = Stop::timeout("limits.cpu", "200ms", "the guest used 201ms of CPU".to_owned()).into_parts();
        assert!(matches!(kind, FailureKind::Timeout));
        assert_eq!(
            text,
            "the guest used 201ms of CPU, limits.cpu is 200ms\n\
             help: if it needs more, raise `cpu` in the consumer's `limits`"
        );
    }

    #[test]
    fn an_error_of_the_store_is_not_the_events_fault() {
        let kind = |error: Error| Stop::from(error).into_parts().0;
        assert!(matches!(kind(Error::unavailable("disk full")), FailureKind::Infrastructure(_)));
        assert!(matches!(kind(Error::limit("limits.state")), FailureKind::Limit));
        assert!(matches!(kind(Error::new(Kind::Denied, "stream")), FailureKind::Denied));
    }
}
