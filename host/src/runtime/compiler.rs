//! Compiles components, in this process or in one of its own that a bad one may end.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
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
pub(super) const CODE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What a worker exits with that had nothing to say of the component.
const ENVIRONMENT: i32 = 3;
/// The most that is read of what a worker complains about.
const STDERR_BYTES_MAX: u64 = 16 * 1024;
/// The longest line that a worker writes before the code, and the longest sentence in it.
const LINE_BYTES_MAX: usize = 1024 * 1024;
const SENTENCE_BYTES_MAX: usize = 4 * 1024;
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
    let mut output = run_apart(binary, component, limits).await?;
    let (Answer { confined, outcome }, line_bytes) = answer(&output, limits)?;
    confined.tell_once();
    match outcome {
        Outcome::Compiled(inspection) => {
            output.stdout.drain(..line_bytes);
            Ok(Artifact { inspection: *inspection, code: output.stdout })
        }
        Outcome::Refused { is_limit, message, help } => {
            let (message, help) = (cut(message), help.map(cut));
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
        Err(_) => Err(Error::limit(format!(
            "compiling it has not ended after {}, {PATIENCE} times its limits.compile-cpu",
            humantime::format_duration(wall)
        ))
        .help("look at what else this machine does; the next start tries it again")),
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// What a worker has written, and how many bytes before the machine code; or why it has ended.
fn answer(output: &Output, limits: &Limits) -> Result<(Answer, usize)> {
    if !output.status.success() {
        return Err(ended(output, limits));
    }
    let corrupt = || Error::corrupt("the compiler's answer makes no sense");
    let end = output.stdout.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n').ok_or_else(corrupt)?;
    let line = output.stdout.get(..end).unwrap_or_default();
    let answer = serde_json::from_slice(line).map_err(|error| corrupt().because(error))?;
    Ok((answer, end + 1))
}

/// A sentence as long as anybody reads.
fn cut(mut sentence: String) -> String {
    let end = (0..=sentence.len().min(SENTENCE_BYTES_MAX)).rev().find(|end| sentence.is_char_boundary(*end));
    sentence.truncate(end.unwrap_or_default());
    sentence
}

fn ended(Output { status, stdout, stderr }: &Output, limits: &Limits) -> Error {
    let said = String::from_utf8_lossy(stderr);
    let said = said.trim();
    if stdout.len() as u64 == CODE_BYTES_MAX {
        return Error::limit("the component compiles to more than 256 MiB of machine code").help("build it smaller");
    }
    match status.signal() {
        Some(libc::SIGXCPU) => return too_long(limits),
        Some(libc::SIGKILL) => {
            return Error::limit("the compiler was killed before the component was compiled; by the system, where memory had run out?")
                .help("give the machine more memory than `compile-memory` in the consumer's `limits`; the next start tries it again");
        }
        _ => {}
    }
    // The first is what an allocator says before it aborts, the second a system call.
    if said.contains("memory allocation") || said.contains("out of memory") {
        let most = ByteSize::b(limits.compile_memory_bytes).display().iec().to_string();
        return Error::limit(format!("compiling it takes more memory than {most}, its limits.compile-memory"))
            .help("raise `compile-memory` in the consumer's `limits`, or build the component smaller");
    }
    if status.code() == Some(ENVIRONMENT) && stdout.is_empty() {
        return Error::unavailable(format!("the compiler cannot work: {said}"));
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
