//! What a consumer may use. Every limit has a default, a name in the config, and a message that says both.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The largest event, in bytes of payload and text.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest key of a state, in bytes.
pub const STATE_KEY_BYTES_MAX: usize = 1024;
/// The largest value of a state, in bytes.
pub const STATE_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// The most entries that one scan returns.
pub const SCAN_ENTRIES_MAX: u32 = 1000;

/// The limits of one consumer. Sources of the defaults: measured needs of the guest languages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU time per call.
    pub cpu: Duration,
    /// Wall time per call, host calls included.
    pub wall: Duration,
    /// CPU and wall time to instantiate and `init`.
    pub init: Duration,
    /// Bytes of memory and tables, summed over all of an instance's.
    pub memory_bytes: u64,
    /// Bytes of a component.
    pub component_bytes: u64,
    /// CPU time to compile a component, in whole seconds. A deployment that is older than this limit has its default.
    #[serde(default = "compile_cpu")]
    pub compile_cpu: Duration,
    /// Bytes of memory that compiling it may take, those of the compiler included.
    #[serde(default = "compile_memory_bytes")]
    pub compile_memory_bytes: u64,
    /// Bytes that a call may hand to the host.
    pub hostcall_bytes: u64,
    /// Host calls per event.
    pub host_calls: u32,
    /// Events emitted per event.
    pub emits: u32,
    /// Keys of state written per event.
    pub state_keys: u32,
    /// Bytes of state written per event.
    pub state_bytes: u64,
    /// Bytes of log lines per event; what exceeds it is cut.
    pub log_bytes: u64,
}

fn compile_cpu() -> Duration {
    Duration::from_secs(60)
}

fn compile_memory_bytes() -> u64 {
    2048 * MIB
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_millis(200),
            wall: Duration::from_secs(30),
            init: Duration::from_secs(1),
            memory_bytes: 64 * MIB,
            component_bytes: 20 * MIB,
            compile_cpu: compile_cpu(),
            compile_memory_bytes: compile_memory_bytes(),
            hostcall_bytes: 32 * MIB,
            host_calls: 10_000,
            emits: 1_000,
            state_keys: 1_000,
            state_bytes: 16 * MIB,
            log_bytes: MIB,
        }
    }
}
