//! Many events a call.

use tendon_sdk::{Error, Event};

fn handle(events: &[Event]) -> Result<(), (usize, Error)> {
    for (index, event) in events.iter().enumerate() {
        behaviours::handle(event, index as u32).map_err(|error| (index, error))?;
    }
    Ok(())
}

tendon_sdk::batch_handler!(handle);
