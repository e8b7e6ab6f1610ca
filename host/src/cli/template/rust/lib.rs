//! Counts events per foreign id.

use tendon_sdk::{Event, Result, state};

tendon_sdk::handler!(handle);

fn handle(event: &Event) -> Result<()> {
    let count: u64 = state::get_json(&event.foreign_id)?.unwrap_or(0);
    state::set_json(&event.foreign_id, &(count + 1))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tendon_sdk::testing::{Host, event};

    use super::*;

    #[test]
    fn events_are_counted_per_foreign_id() {
        let mut host = Host::new();
        for foreign_id in ["a", "b", "a"] {
            host.handle(handle, &event(1, foreign_id, "{}")).unwrap();
        }
        assert_eq!(host.json::<u64>("a"), Some(2));
        assert_eq!(host.json::<u64>("b"), Some(1));
    }
}
