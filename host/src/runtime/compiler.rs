//! Compiles components, in this process or in one of its own that a bad one may end.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use bytes::Bytes;
use bytesize::ByteSize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

use super::{
    confine::Confined,
    inspection::Inspection,
    worker::{Answer, Outcome},
};
use crate::{
    error::{Error, Result},
    limits::Limits,
};

/// The most machine code that is taken: an interpreter's is 36 MB.
const CODE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The most that is read of what a worker complains about.
const STDERR_BYTES_MAX: u64 = 16 * 1024;
/// How much longer than its CPU time it may take, on a machine that has other things to do.
const PATIENCE: u32 = 4;

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process, which a component can so end: for whoever wrote it, and for tests.
    Here,
    /// In a process for each, of this binary, whose `compile-worker` is [`super::serve_compiler`].
    Apart(PathBuf),
}

/// A component's machine code.
pub(super) struct Artifact {
    pub(super) inspection: Inspection,
    pub(super) code: Vec<u8>,
}

impl Compiler {
    /// What the process that compiles gives up on this system; none where there is no such process.
    pub async fn confined(&self) -> Result<Option<Confined>> {
        let Self::Apart(binary) = self else { return Ok(None) };
        let limits = Limits::default();
        let output = run_apart(binary, &Bytes::new(), &limits).await?;
        answer(&output, &limits).map(|(answer, _)| Some(answer.confined))
    }
}

/// Has a component compiled by a process of this binary, within its limits. Whatever ends that process, the component is refused.
pub(super) async fn compile_apart(binary: &Path, component: &Bytes, limits: &Limits) -> Result<Artifact> {
    let output = run_apart(binary, component, limits).await?;
    let (Answer { outcome, .. }, code) = answer(&output, limits)?;
    match outcome {
        Outcome::Compiled(inspection) => Ok(Artifact { inspection: *inspection, code: code.to_vec() }),
        Outcome::Refused { is_limit, message, help } => {
            let error = if is_limit { Error::limit(message) } else { Error::invalid(message) };
            Err(match help {
                Some(help) => error.help(help),
                None => error,
            })
        }
    }
}

/// Runs the process to its end.
async fn run_apart(binary: &Path, component: &Bytes, limits: &Limits) -> Result<Output> {
    let failed = |error: std::io::Error| {
        Error::unavailable(format!("the compiler {} cannot be started", binary.display())).because(error)
    };
    let mut command = Command::new(binary);
    let numbers = [limits.compile_cpu.as_secs().max(1), limits.compile_memory_bytes].map(|n| n.to_string());
    command.arg("compile-worker").args(numbers).env_clear().kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that has ended already says why by its status.
            let _ = stdin.write_all(component).await;
        }
    };
    let talk = async {
        let ((), stdout, stderr) = tokio::join!(feed, read(stdout, CODE_BYTES_MAX), read(stderr, STDERR_BYTES_MAX));
        let status = child.wait().await?;
        Ok(Output { status, stdout: stdout?, stderr: stderr? })
    };
    let wall = limits.compile_cpu.saturating_mul(PATIENCE);
    match timeout(wall, talk).await {
        Ok(output) => output.map_err(failed),
        Err(_) => Err(too_long(limits)),
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// What a worker has written, with the machine code; or why it has ended.
fn answer<'o>(output: &'o Output, limits: &Limits) -> Result<(Answer, &'o [u8])> {
    if !output.status.success() {
        return Err(ended(output.status, &output.stderr, limits));
    }
    let corrupt = || Error::corrupt("the compiler's answer makes no sense");
    let end = output.stdout.iter().position(|byte| *byte == b'\n').ok_or_else(corrupt)?;
    let (line, code) = output.stdout.split_at(end);
    let answer = serde_json::from_slice(line).map_err(|error| corrupt().because(error))?;
    Ok((answer, code.get(1..).unwrap_or_default()))
}

fn ended(status: ExitStatus, stderr: &[u8], limits: &Limits) -> Error {
    let said = String::from_utf8_lossy(stderr);
    let said = said.trim();
    if status.signal() == Some(libc::SIGXCPU) || status.signal() == Some(libc::SIGKILL) {
        return too_long(limits);
    }
    // The first is what an allocator says before it aborts, the second a system call.
    if said.contains("memory allocation") || said.contains("out of memory") {
        let most = ByteSize::b(limits.compile_memory_bytes).display().iec().to_string();
        return Error::limit(format!("compiling it takes more memory than {most}, its limits.compile-memory"))
            .help("raise `compile-memory` in the consumer's `limits`, or build the component smaller");
    }
    let last = said.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
    Error::invalid(format!("the compiler ended ({status}) before the component was compiled{last}"))
        .help("nothing else was harmed; if the component is a good one, this is worth a report")
}

fn too_long(limits: &Limits) -> Error {
    let most = humantime::format_duration(Duration::from_secs(limits.compile_cpu.as_secs().max(1)));
    Error::limit(format!("compiling it takes more CPU than {most}, its limits.compile-cpu"))
        .help("raise `compile-cpu` in the consumer's `limits`, or build the component smaller")
}
