//! Counts the alerts that the consumer `stats` raised.

use serde::Deserialize;
use tendon_sdk::{Event, Result, state};

/// What is read of an alert.
#[derive(Deserialize)]
struct Alert {
    mag: f64,
    place: String,
}

fn handle(event: &Event) -> Result<()> {
    let alert: Alert = event.json()?;

    let count: u64 = state::get_json("count")?.unwrap_or(0);
    state::set_json("count", &(count + 1))?;

    let strongest: f64 = state::get_json("strongest")?.unwrap_or(f64::MIN);
    if alert.mag > strongest {
        state::set_json("strongest", &alert.mag)?;
        state::set("where", alert.place);
    }
    Ok(())
}

tendon_sdk::handler!(handle);

#[cfg(test)]
mod tests {
    use super::*;
    use tendon_sdk::testing::{Host, event};

    #[test]
    fn alerts_are_counted_and_the_strongest_is_remembered() {
        let mut host = Host::new();
        for (mag, place) in [(5.3, "Sangiang"), (6.1, "Hualien"), (4.5, "Lima")] {
            host.handle(handle, &event(1, "us", format!(r#"{{"mag":{mag},"place":"{place}"}}"#))).unwrap();
        }
        assert_eq!(host.json("count"), Some(3));
        assert_eq!(host.json("strongest"), Some(6.1));
        assert_eq!(host.get("where"), Some(&b"Hualien"[..]));
    }
}
