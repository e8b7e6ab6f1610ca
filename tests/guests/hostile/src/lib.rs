//! One event a call.

use behaviours::init;
use tendon_sdk::{Event, Result};

fn handle(event: &Event) -> Result<()> {
    behaviours::handle(event, 0)
}

tendon_sdk::handler!(handle, init = init);
