//! Counts earthquakes per seismic network, and raises an alert for every strong one.

use serde::{Deserialize, Serialize};
use tendon_sdk::{Event, Result, emit, state};

/// The least magnitude that is worth an alert.
const STRONG: f64 = 4.5;
/// The type of an event in the stream `alerts`.
const ALERT: i32 = 1;

/// What is read of an event's metadata.
#[derive(Deserialize)]
struct Quake {
    quake: String,
    /// Missing where nobody could tell.
    mag: Option<f64>,
    place: String,
}

/// What is kept of a network, under the key `network/<id>`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Network {
    count: u64,
    max_mag: Option<f64>,
}

/// What other consumers learn.
#[derive(Serialize)]
struct Alert<'a> {
    quake: &'a str,
    mag: f64,
    place: &'a str,
}

fn handle(event: &Event) -> Result<()> {
    let quake: Quake = event.json()?;

    let key = format!("network/{}", event.foreign_id);
    let mut network: Network = state::get_json(&key)?.unwrap_or_default();
    network.count += 1;
    network.max_mag = match (network.max_mag, quake.mag) {
        (Some(before), Some(now)) => Some(before.max(now)),
        (before, now) => before.or(now),
    };
    state::set_json(&key, &network)?;

    if let Some(mag) = quake.mag.filter(|mag| *mag >= STRONG) {
        log::debug!("magnitude {mag}, {}", quake.place);
        let alert = Alert { quake: &quake.quake, mag, place: &quake.place };
        emit::json("alerts", ALERT, &event.foreign_id, &alert)?;
    }
    Ok(())
}

tendon_sdk::handler!(handle);

#[cfg(test)]
mod tests {
    use super::*;
    use tendon_sdk::testing::{Host, event};

    fn quake(mag: &str) -> Event {
        event(1, "us", format!(r#"{{"quake":"us1","mag":{mag},"place":"Sangiang"}}"#))
    }

    #[test]
    fn a_network_is_counted_with_its_strongest_quake() {
        let mut host = Host::new();
        for mag in ["1.5", "null", "3.25", "2"] {
            host.handle(handle, &quake(mag)).unwrap();
        }
        assert_eq!(host.json("network/us"), Some(Network { count: 4, max_mag: Some(3.25) }));
        assert!(host.emitted().is_empty());
    }

    #[test]
    fn a_quake_of_four_and_a_half_raises_an_alert_and_a_weaker_one_does_not() {
        let mut host = Host::new();
        host.handle(handle, &quake("4.4999")).unwrap();
        host.handle(handle, &quake("4.5")).unwrap();
        assert_eq!(host.emitted().len(), 1);
        assert_eq!(host.emitted()[0].metadata, br#"{"quake":"us1","mag":4.5,"place":"Sangiang"}"#);
    }

    #[test]
    fn what_is_no_quake_is_rejected_and_counts_nowhere() {
        let mut host = Host::new();
        assert!(host.handle(handle, &event(1, "us", "{}")).unwrap_err().is_reject());
        assert!(host.state().is_empty());
    }
}
