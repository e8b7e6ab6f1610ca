//! Consumers that leave events alone until those are of an age.

use std::time::Duration;

use tendon::{
    deployment::Spec,
    event::{Cursor, Timestamp},
    store::Status,
};
use tokio::time::{Instant, sleep};

use super::{LONG, NOW, Stage, Subject, at, in_virtual_time, ok, spec};

/// What a timer may be late by.
const TICK: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn lagging(lag: Duration) -> Spec {
    Spec { lag, ..spec() }
}

/// A stage with five events: two of the past, one of now and two of the future.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    for seconds in -2..=2 {
        stage.append(1, at(seconds), "").await;
    }
    stage
}

/// All five were handled, each of them at its moment.
fn was_called_at(subject: &Subject, moments: &[Timestamp]) {
    assert_eq!(subject.called_with(), (1..=moments.len() as u64).collect::<Vec<_>>());
    for (called_at, due) in subject.called_at().into_iter().zip(moments) {
        assert!(called_at >= *due && called_at.since(*due) <= TICK, "called at {called_at}, due at {due}");
    }
}

/// The delays of reflex's test: those that are old enough wait for nothing, the others until the second.
pub(super) fn events_wait_for_their_age() {
    for (lag, delays) in [(0, [0, 0, 0, 0, 0]), (1, [0, 0, 1, 2, 3]), (5, [3, 4, 5, 6, 7])] {
        in_virtual_time(async {
            let stage = stage().await;
            let subject = stage.run("c", lagging(Duration::from_secs(lag)), ok);
            sleep(LONG).await;
            was_called_at(&subject, &delays.map(at));
            assert_eq!(stage.row("c").await.cursor, Cursor("5".into()));
        });
    }
}

/// The stream is not what waits: who has no lag handles everything as it comes, whoever waits beside it.
pub(super) fn a_lag_is_no_other_consumer_s() {
    in_virtual_time(async {
        let stage = stage().await;
        let patient = stage.run("patient", lagging(HOUR), ok);
        sleep(Duration::from_secs(1)).await;
        let eager = stage.run("eager", spec(), ok);
        sleep(Duration::from_secs(1)).await;
        stage.append(1, at(2), "").await;
        sleep(Duration::from_secs(1)).await;
        was_called_at(&eager, &[1, 1, 1, 1, 1, 2].map(at));
        assert!(patient.called_with().is_empty());
        sleep(HOUR).await;
        was_called_at(&patient, &[-2, -1, 0, 1, 2, 2].map(|seconds| at(seconds).after(HOUR)));
    });
}

/// Nothing is handled, passed or set aside by a stop, which does not wait either; and the wait goes on where it was.
pub(super) fn a_stop_ends_the_wait() {
    in_virtual_time(async {
        let stage = stage().await;
        let subject = stage.run("c", lagging(HOUR), ok);
        sleep(Duration::from_secs(60)).await;
        let asked = Instant::now();
        assert_eq!(subject.running.stop().await, 0);
        assert!(asked.elapsed() <= TICK, "the stop took {:?}", asked.elapsed());
        assert_eq!(subject.calls.lock().unwrap().len(), 0);
        let row = stage.row("c").await;
        assert_eq!((row.cursor, row.status, row.attempts), (Cursor::START, Status::Running, 0));
        assert_eq!(stage.letters("c").await.len(), 0);
        let subject = stage.run("c", lagging(HOUR), ok);
        sleep(HOUR).await;
        was_called_at(&subject, &[-2, -1, 0, 1, 2].map(|seconds| at(seconds).after(HOUR)));
    });
}

/// Rows that are stamped ten seconds ahead, as by a server whose clock is.
pub(super) fn events_of_the_future() {
    const EVENTS: u64 = 20;
    let lag = Duration::from_millis(2_100);
    in_virtual_time(async {
        let stage = Stage::new().await;
        let subject = stage.run("c", lagging(lag), ok);
        let mut due = Vec::new();
        for n in 0..EVENTS {
            let ahead = stage.clock.now().after(Duration::from_secs(10));
            stage.append(1, ahead, "").await;
            due.push(ahead.after(lag));
            sleep(Duration::from_millis(100 + n)).await;
        }
        assert!(stage.clock.now() > NOW && subject.called_with().is_empty(), "none is of its age yet");
        sleep(LONG).await;
        was_called_at(&subject, &due);
    });
}
