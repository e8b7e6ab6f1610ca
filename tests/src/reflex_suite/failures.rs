//! Consumers that fail.

use std::{sync::Arc, time::Duration};

use tendon::{
    committer::Committer,
    dead_letter::DeadLetter,
    deployment::Spec,
    error::Error,
    event::{Cursor, Event},
    handler::{Failure, FailureKind},
    policy::{OnExhausted, RetryPolicy},
    shard::Version,
    store::{Epoch, Status},
    view::View,
};
use tokio::time::sleep;

use super::{LONG, Once, Stage, in_virtual_time, ok, spec};
use crate::{
    bench::Running,
    native::{Logic, Native, failure, infrastructure},
    place::consumer,
};

const EVENTS: u64 = 3;
const MESSAGE: &str = "consumer error";

fn failing(attempts: u32, on_exhausted: OnExhausted) -> Spec {
    Spec { retry: RetryPolicy { attempts, on_exhausted, ..RetryPolicy::default() }, ..spec() }
}

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.append_all(EVENTS as usize).await;
    stage
}

/// What a consumer says to an event that it does not handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Retry,
    Reject,
    /// It was not the event's fault: what reflex calls an expected error.
    Unavailable,
}

impl Says {
    fn failure(self) -> Failure {
        match self {
            Self::Retry => failure(FailureKind::Retry, MESSAGE),
            Self::Reject => failure(FailureKind::Reject, MESSAGE),
            Self::Unavailable => infrastructure(Error::unavailable(MESSAGE)),
        }
    }
}

/// What reflex asks a recovery function, the component says itself. The second event fails so many times.
pub(super) fn the_component_decides() {
    use Says::{Reject, Retry, Unavailable};
    let rows: [(Says, u32, &[u64], &str, u32); 5] = [
        // The error stands: it is tried as often as the policy lets it.
        (Retry, u32::MAX, &[1, 2, 2, 2], "1", 3),
        // It is an expected one: nobody is asked, and nothing counts.
        (Unavailable, 5, &[1, 2, 2, 2, 2, 2, 2, 3], "3", 0),
        // It is dealt with.
        (Retry, 0, &[1, 2, 3], "3", 0),
        (Retry, 2, &[1, 2, 2, 2, 3], "3", 0),
        // It becomes another one, after which nothing is tried.
        (Reject, u32::MAX, &[1, 2], "1", 1),
    ];
    for row @ (says, times, called_with, cursor, attempts) in rows {
        in_virtual_time(async {
            let stage = stage().await;
            let answer = move |event: &Event, n: u32| match *event.id.0 == *"2" && n <= times {
                true => Err(says.failure()),
                false => Ok(()),
            };
            let subject = stage.run("c", failing(3, OnExhausted::Block), answer);
            sleep(LONG).await;
            assert_eq!(subject.called_with(), called_with, "{row:?}");
            let found = stage.row("c").await;
            assert_eq!((found.cursor, found.attempts), (Cursor(cursor.into()), attempts), "{row:?}");
            let code = found.reason.map(|reason| reason.code);
            match attempts {
                0 => assert_eq!((found.status, code), (Status::Running, None), "{row:?}"),
                _ => assert_eq!((found.status, code.as_deref()), (Status::Blocked, Some(says.failure().kind.code()))),
            }
        });
    }
}

/// Never comes to an end with the second event.
struct Endless;

impl Logic for Endless {
    async fn handle(&self, event: &Event, _: &mut View) -> Result<(), Failure> {
        if *event.id.0 == *"2" {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// A host that ends while an event is handled, or between two attempts, neither passes the event nor sets it aside, and
/// that is no attempt.
pub(super) fn a_shutdown_is_no_failure() {
    for on_exhausted in [OnExhausted::DeadLetter, OnExhausted::Skip, OnExhausted::Block] {
        in_virtual_time(async {
            let stage = stage().await;
            let spec = Arc::new(failing(1, on_exhausted));
            let version = Version { epoch: Epoch(1), spec: spec.clone(), factory: Native::new("endless", Endless) };
            let (committer, tailer) = (Committer::start(stage.database.store()), stage.tailer.clone());
            let running =
                Running::start_by(stage.clock, ("c", 0), &stage.database, committer, tailer, version).unwrap();
            sleep(Duration::from_secs(60)).await;
            drop(running);
            nothing_became_of_the_second(&stage, 0).await;
            let subject = stage.run("c", failing(1, on_exhausted), ok);
            sleep(LONG).await;
            assert_eq!(subject.called_with().last(), Some(&EVENTS));
            assert_eq!(stage.letters("c").await.len(), 0);
        });
        in_virtual_time(async {
            let stage = stage().await;
            let base = Duration::from_secs(50);
            let mut spec = failing(2, on_exhausted);
            spec.retry = RetryPolicy { base, jitter: false, ..spec.retry };
            let answer = |event: &Event, _| if *event.id.0 == *"2" { Err(Says::Retry.failure()) } else { Ok(()) };
            let subject = stage.run("c", spec, answer);
            sleep(base / 2).await;
            subject.running.stop().await;
            assert_eq!(subject.calls.lock().unwrap().len(), 2);
            nothing_became_of_the_second(&stage, 1).await;
        });
    }
}

async fn nothing_became_of_the_second(stage: &Stage, attempts: u32) {
    let row = stage.row("c").await;
    // What a host that was cut off had handled before may be handled again.
    assert!(row.cursor == Cursor("1".into()) || row.cursor == Cursor::START && attempts == 0, "{}", row.cursor);
    assert_eq!((row.status, row.attempts), (Status::Running, attempts));
    assert_eq!(stage.letters("c").await.len(), 0);
}

/// A row of reflex's tables: each event fails so many times, and is tried once more so many times.
#[derive(Clone, Copy, Debug)]
struct Row {
    errors: u32,
    retries: u32,
    says: Says,
    /// Whether the store is down when the first event is to be set aside.
    fails_to_write: bool,
    /// Calls with each event.
    calls: u32,
    /// Whether they all end as dead letters.
    is_set_aside: bool,
}

const fn row(errors: u32, retries: u32, calls: u32, is_set_aside: bool) -> Row {
    Row { errors, retries, says: Says::Retry, fails_to_write: false, calls, is_set_aside }
}

/// The nine rows of a consumer with dead letters.
pub(super) fn dead_letters() {
    let fails_to_write = true;
    let rows = [
        row(0, 0, 1, false),
        row(1, 0, 1, true),
        // Reflex passes such an event.
        Row { says: Says::Unavailable, ..row(1, 0, 2, false) },
        // It fails until that is written, and so do those of two retries.
        Row { fails_to_write, ..row(u32::MAX, 0, 1, true) },
        row(1, 1, 2, false),
        row(4, 2, 3, true),
        Row { fails_to_write, ..row(u32::MAX, 2, 3, true) },
        row(2, 3, 3, false),
        Row { fails_to_write, ..row(2, 3, 3, false) },
    ];
    rows.into_iter().for_each(|row| holds(row, OnExhausted::DeadLetter));
}

/// The five rows of one that goes on whatever happens.
pub(super) fn best_effort() {
    let rows = [row(0, 0, 1, false), row(1, 0, 1, true), row(1, 1, 2, false), row(1, 0, 1, true), row(2, 3, 3, false)];
    rows.into_iter().for_each(|row| holds(row, OnExhausted::Skip));
}

fn holds(row: Row, on_exhausted: OnExhausted) {
    in_virtual_time(async {
        let stage = stage().await;
        let (attempts, first, failpoints) = (row.retries + 1, Once::default(), stage.database.failpoints().clone());
        let answer = move |_: &Event, n: u32| {
            if n > row.errors {
                return Ok(());
            }
            if row.fails_to_write && n == attempts && first.is_now() {
                failpoints.crash_at(0);
            }
            Err(row.says.failure())
        };
        let subject = stage.run("c", failing(attempts, on_exhausted), answer);
        sleep(LONG).await;
        let (mut before, mut calls) = (0, [row.calls; EVENTS as usize]);
        if row.fails_to_write && row.is_set_aside {
            // It is not passed as long as that cannot be written, whoever is called meanwhile. Its last attempt is made again.
            assert!(subject.called_with().starts_with(&vec![1; attempts as usize]), "{row:?}");
            assert_eq!(stage.row("c").await.cursor, Cursor::START, "{row:?}");
            assert_eq!(stage.letters("c").await.len(), 0, "{row:?}");
            stage.database.failpoints().disarm();
            (before, calls[0]) = (subject.called_with().len(), 1);
            sleep(LONG).await;
        }
        let called_with: Vec<u64> = (1..).zip(calls).flat_map(|(id, calls)| vec![id; calls as usize]).collect();
        assert_eq!(subject.called_with()[before..], called_with, "{row:?}: in their order, one after the other");
        let found = stage.row("c").await;
        assert_eq!((found.cursor, found.status), (Cursor(EVENTS.to_string().into()), Status::Running), "{row:?}");
        assert_eq!((found.attempts, found.reason), (0, None), "{row:?}");
        let letters = stage.letters("c").await;
        let ids: Vec<_> = letters.iter().map(|letter| letter.event.id.to_string()).collect();
        assert_eq!(ids, if row.is_set_aside { vec!["1", "2", "3"] } else { vec![] }, "{row:?}");
        letters.iter().for_each(|letter| names_what_failed(letter, attempts, on_exhausted));
    });
}

/// Reflex takes the event's id for the consumer's name here, and the name for the id.
fn names_what_failed(letter: &DeadLetter, attempts: u32, on_exhausted: OnExhausted) {
    assert_eq!(letter.shard.consumer, consumer("c"));
    assert_eq!(letter.attempts, attempts);
    let reason = (&*letter.reason.code, &*letter.reason.message);
    match on_exhausted {
        OnExhausted::Skip => assert_eq!(reason, ("skipped", &*format!("retry: {MESSAGE}"))),
        _ => assert_eq!(reason, ("retry", MESSAGE)),
    }
}
