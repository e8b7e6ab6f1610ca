//! What a guest may call, and how the host calls it: the bindings of `wit/`, and the host's half of them.
//!
//! Every `bindgen!` is here, for it is what takes long to compile.

use std::str::FromStr;

use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker};

use self::tendon::consumer::{config, emit, log, state, types};
use super::{context::Ctx, trap::Stop};
use crate::{
    deployment::StateScope,
    error::{Error, Result},
    event::{NewEvent, StreamName, Timestamp},
};

wasmtime::component::bindgen!({
    path: "../wit",
    world: "all",
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: {
        "tendon:consumer/state.get": async | trappable,
        "tendon:consumer/state.get-many": async | trappable,
        "tendon:consumer/state.scan": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    require_store_data_send: true,
});

/// A linker with everything that a guest may import.
pub(super) fn linker(engine: &wasmtime::Engine) -> Result<Linker<Ctx>> {
    let mut linker = Linker::new(engine);
    let mut add = || {
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        state::add_to_linker::<_, HasSelf<Ctx>>(&mut linker, |ctx| ctx)?;
        emit::add_to_linker::<_, HasSelf<Ctx>>(&mut linker, |ctx| ctx)?;
        log::add_to_linker::<_, HasSelf<Ctx>>(&mut linker, |ctx| ctx)?;
        config::add_to_linker::<_, HasSelf<Ctx>>(&mut linker, |ctx| ctx)
    };
    add().map_err(|error| Error::invalid("link what guests may import").because(error))?;
    Ok(linker)
}

impl types::Host for Ctx {}

impl Ctx {
    /// A key's own state cannot be read where there is no event to say which key.
    fn require_readable(&mut self) -> Result<(), Stop> {
        self.count_host_call()?;
        match self.view.state_scope() {
            StateScope::Key => self.require_event("the state of a key can be read"),
            StateScope::Consumer | StateScope::Shard => Ok(()),
        }
    }

    fn write(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), Stop> {
        Ok(self.view.write(key, value)?)
    }
}

impl state::Host for Ctx {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        self.require_readable()?;
        let value = self.view.get(&key).await;
        self.meter.resume();
        Ok(value.map_err(Stop::from)?)
    }

    async fn get_many(&mut self, keys: Vec<String>) -> wasmtime::Result<Vec<Option<Vec<u8>>>> {
        self.require_readable()?;
        let values = self.view.get_many(&keys).await;
        self.meter.resume();
        Ok(values.map_err(Stop::from)?)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        self.count_host_call()?;
        self.require_event("state can be written")?;
        Ok(self.write(&key, Some(&value))?)
    }

    fn set_many(&mut self, entries: Vec<types::Entry>) -> wasmtime::Result<()> {
        self.count_host_call()?;
        self.require_event("state can be written")?;
        for entry in entries {
            self.write(&entry.key, Some(&entry.value))?;
        }
        Ok(())
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        self.count_host_call()?;
        self.require_event("state can be written")?;
        Ok(self.write(&key, None)?)
    }

    async fn scan(&mut self, prefix: String, after: Option<String>, limit: u32) -> wasmtime::Result<Vec<types::Entry>> {
        self.require_readable()?;
        let entries = self.view.scan(&prefix, after.as_deref(), limit).await;
        self.meter.resume();
        let entry =
            |(key, value): (bytestring::ByteString, Bytes)| types::Entry { key: key.to_string(), value: value.into() };
        Ok(entries.map_err(Stop::from)?.into_iter().map(entry).collect())
    }
}

impl emit::Host for Ctx {
    fn emit(&mut self, event: types::NewEvent, cause: u32) -> wasmtime::Result<()> {
        self.count_host_call()?;
        let stream = StreamName::from_str(&event.stream).map_err(Stop::from)?;
        let new = NewEvent {
            r#type: event.type_,
            foreign_id: event.foreign_id.into(),
            timestamp: Timestamp::default(),
            metadata: event.metadata.into(),
            headers: event.headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        };
        // In a call of one event there is one cause, whatever the guest says.
        let cause = if self.call.events == 1 { 0 } else { cause };
        Ok(self.view.emit_for(cause, stream, new).map_err(Stop::from)?)
    }
}

impl log::Host for Ctx {
    fn log(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.count_host_call()?;
        let level = match level {
            log::Level::Trace => tracing::Level::TRACE,
            log::Level::Debug => tracing::Level::DEBUG,
            log::Level::Info => tracing::Level::INFO,
            log::Level::Warn => tracing::Level::WARN,
            log::Level::Error => tracing::Level::ERROR,
        };
        Ctx::log(self, level, &message);
        Ok(())
    }
}

impl config::Host for Ctx {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.count_host_call()?;
        Ok(self.config.get(&key).cloned())
    }

    fn get_all(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        self.count_host_call()?;
        Ok(self.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
