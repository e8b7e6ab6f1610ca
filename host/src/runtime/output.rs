//! What a guest writes to stdout and stderr: the last of it, for its log and for the message of its end.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

/// How much of an event's output is kept: its last bytes.
const KEPT_BYTES: usize = 8 * 1024;

/// One instance's output, shared with the streams that its guest holds.
#[derive(Clone, Default)]
pub(super) struct Output(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Whether anything was written since the last `take`: a call that writes nothing takes no lock.
    written: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

impl Output {
    /// Whether anything was written since the last `take`.
    pub(super) fn is_written(&self) -> bool {
        self.0.written.load(Ordering::Relaxed)
    }

    /// What was written since the last time, or the end of it.
    pub(super) fn take(&self) -> String {
        self.0.written.store(false, Ordering::Relaxed);
        let mut bytes = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        bytes.clear();
        text
    }

    fn push(&self, new: &[u8]) {
        let mut bytes = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = new.get(new.len().saturating_sub(KEPT_BYTES)..).unwrap_or_default();
        let excess = (bytes.len() + new.len()).saturating_sub(KEPT_BYTES);
        let excess = excess.min(bytes.len());
        bytes.drain(..excess);
        bytes.extend_from_slice(new);
        self.0.written.store(true, Ordering::Relaxed);
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(KEPT_BYTES)
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_flood_is_kept() {
        let output = Output::default();
        assert!(!output.is_written());
        for n in 0..5_000 {
            output.push(format!("line {n}\n").as_bytes());
        }
        assert!(output.is_written());
        let text = output.take();
        assert_eq!(text.len(), KEPT_BYTES);
        assert!(text.ends_with("line 4999\n"));
        output.push(&[b'x'; 3 * KEPT_BYTES]);
        assert_eq!(output.take().len(), KEPT_BYTES);
        assert_eq!(output.take(), "");
    }
}
