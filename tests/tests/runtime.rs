//! What guests may do, what they may not, and what their operator reads when they try.

use std::{sync::Arc, time::Duration};

use tendon::{
    changes::latest,
    deployment::StateScope,
    event::Event,
    handler::{Failure, FailureKind, Handled, Handler, HandlerFactory as _},
    limits::Limits,
};
use tendon_tests::{
    guests::{Guest, Setup, engine, event},
    shelf::Shelf,
};

fn setup(behaviour: &'static str) -> Setup {
    let (limits, scope) = (Limits::default(), StateScope::Consumer);
    Setup { guest: Guest::Hostile, behaviour, limits, scope, store: Arc::new(Shelf::Empty) }
}

fn limited(behaviour: &'static str, change: impl FnOnce(&mut Limits)) -> Setup {
    let mut setup = setup(behaviour);
    change(&mut setup.limits);
    setup
}

async fn create(setup: &Setup) -> Result<Box<dyn Handler>, Failure> {
    setup.factory(engine()).await.unwrap().create(setup.view().unwrap()).await
}

/// Handles events, in as many turns as it takes.
async fn handle(setup: &Setup, events: &[Event]) -> Handled {
    let mut handler = create(setup).await.unwrap();
    let mut all = Handled::default();
    while all.failure.is_none() && all.done < events.len() {
        let turn = handler.handle(&events[all.done..]).await;
        assert!(turn.done > 0 || turn.failure.is_some(), "a turn that did nothing");
        let before = all.done;
        all.done += turn.done;
        all.changes.merge(turn.changes);
        all.failure = turn.failure.map(|failure| Failure { index: before + failure.index, ..failure });
    }
    all
}

/// Handles one event that must fail.
async fn failure(setup: &Setup) -> Failure {
    let handled = handle(setup, &[event(7, "a", "{}")]).await;
    assert_eq!(handled.done, 0);
    assert!(handled.changes.is_empty());
    handled.failure.expect("it did not fail")
}

async fn start_failure(setup: &Setup) -> Failure {
    create(setup).await.err().expect("it started")
}

/// Checks that what is at a limit passes, and what is one above it does not and says the limit's name.
async fn check_limit(name: &str, at: &Setup, above: &Setup) {
    let handled = handle(at, &[event(7, "a", "{}")]).await;
    assert!(handled.failure.is_none(), "at {name}: {:?}", handled.failure);
    let failure = failure(above).await;
    assert!(matches!(failure.kind, FailureKind::Limit), "{failure:?}");
    assert!(failure.message.contains(name), "{failure:?}");
}

#[tokio::test]
async fn an_event_that_is_handled_leaves_its_changes() {
    let handled = handle(&setup("counter"), &[event(1, "a", "{}"), event(2, "a", "{}"), event(3, "b", "{}")]).await;
    assert_eq!(handled.done, 3);
    assert!(handled.failure.is_none(), "{:?}", handled.failure);
    let mut writes: Vec<_> =
        latest(handled.changes.writes.iter()).map(|write| (write.key, write.value.unwrap())).collect();
    writes.sort();
    assert_eq!(writes, [("a", &b"2"[..]), ("b", b"1")]);
}

#[tokio::test]
async fn an_event_arrives_whole_and_leaves_whole() {
    let mut given = event(1, "näme", vec![0xff; 1024 * 1024]);
    given.headers = vec![("traceparent".into(), "00-ä".into()), ("empty".into(), "".into())];
    let handled = handle(&setup("echo"), &[given.clone(), event(2, "", "")]).await;
    let [first, second] = handled.changes.emits.as_slice() else { panic!("{:?}", handled.failure) };
    assert_eq!(first.event.foreign_id, given.foreign_id);
    assert_eq!(first.event.metadata, given.metadata);
    assert_eq!(first.event.headers, given.headers);
    assert!(second.event.metadata.is_empty() && second.event.headers.is_empty());
    assert_ne!(first.key, second.key);
}

#[tokio::test]
async fn a_failure_keeps_what_stood_before_it_and_undoes_the_rest() {
    let events = [event(1, "a", "append"), event(2, "a", "append"), event(3, "a", "fail"), event(4, "a", "append")];
    let handled = handle(&setup("by-event"), &events).await;
    assert_eq!(handled.done, 2);
    assert_eq!(handled.changes.writes.len(), 2);
    assert_eq!(latest(handled.changes.writes.iter()).next().unwrap().value, Some(&b"1 2 "[..]));
    let failure = handled.failure.unwrap();
    assert!(matches!(failure.kind, FailureKind::Retry), "{failure:?}");
    assert_eq!(failure.index, 2);
    assert_eq!(failure.after, Some(Duration::from_millis(250)));
    assert_eq!(failure.message, "not now\n  code: 503");
}

#[tokio::test]
async fn a_reject_is_one() {
    let failure = failure(&setup("reject")).await;
    assert!(matches!(failure.kind, FailureKind::Reject), "{failure:?}");
    assert_eq!(failure.message, "never");
}

#[tokio::test]
async fn a_panic_tells_its_text_and_where_it_was() {
    let failure = failure(&setup("panic by-event")).await;
    assert!(matches!(failure.kind, FailureKind::Trap), "{failure:?}");
    let mut lines = failure.message.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("panicked at behaviours/src/lib.rs:") && first.ends_with("boom of 7"), "{failure:?}");
    assert!(lines.clone().any(|line| line.starts_with("  at hostile::handle")), "{}", failure.message);
    assert!(lines.all(|line| !line.contains("wasm function") && !line.contains("panicking")), "{}", failure.message);
}

#[tokio::test]
async fn an_exit_ends_the_guest_and_not_the_host() {
    let failure = failure(&setup("exit")).await;
    assert!(matches!(failure.kind, FailureKind::Trap), "{failure:?}");
    assert!(failure.message.starts_with("the guest called exit(1)"), "{failure:?}");
}

#[tokio::test]
async fn a_recursion_without_end_is_named_as_one() {
    let failure = failure(&setup("recurse")).await;
    assert!(matches!(failure.kind, FailureKind::Trap), "{failure:?}");
    assert!(failure.message.starts_with("recursion too deep"), "{failure:?}");
    assert!(failure.message.contains("behaviours::recurse"), "{failure:?}");
    assert!(failure.message.lines().count() < 20, "{}", failure.message);
}

#[tokio::test]
async fn a_loop_without_end_ends_at_its_limit_of_cpu() {
    let setup = limited("loop", |limits| limits.cpu = Duration::from_millis(40));
    let began = std::time::Instant::now();
    let failure = failure(&setup).await;
    assert!(matches!(failure.kind, FailureKind::Timeout), "{failure:?}");
    assert!(failure.message.contains("limits.cpu is 40ms"), "{failure:?}");
    assert!(failure.message.contains("raise `cpu`"), "{failure:?}");
    assert!(failure.message.contains("  at hostile::handle"), "{failure:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_call_may_take_its_limit_of_cpu_and_others_run_meanwhile() {
    let setup = limited("slow 60", |limits| limits.cpu = Duration::from_secs(5));
    let mut handler = create(&setup).await.unwrap();
    let others = tokio::spawn(async {
        let mut turns = 0;
        loop {
            turns += 1;
            tokio::task::yield_now().await;
            if turns == 5 {
                return turns;
            }
        }
    });
    let handled = handler.handle(&[event(1, "a", "")]).await;
    assert!(handled.failure.is_none(), "{:?}", handled.failure);
    assert!(others.is_finished(), "a guest kept the only thread for 60 ms");
}

#[tokio::test]
async fn a_turn_ends_early_and_goes_on_where_it_ended() {
    let setup = limited("slow 4", |limits| limits.cpu = Duration::from_secs(5));
    let mut handler = create(&setup).await.unwrap();
    let events: Vec<Event> = (0..20).map(|n| event(n, "a", "")).collect();
    let mut done = 0;
    let mut turns = 0;
    while done < events.len() {
        let handled = handler.handle(&events[done..]).await;
        assert!(handled.failure.is_none() && handled.done > 0);
        done += handled.done;
        turns += 1;
    }
    assert!(turns > 3, "{turns} turns for 80 ms");
}

#[tokio::test]
async fn a_guest_that_waits_ends_at_its_limit_of_wall_time() {
    for behaviour in ["sleep 3600000", "get 1"] {
        let mut setup = limited(behaviour, |limits| limits.wall = Duration::from_millis(50));
        setup.store = Arc::new(Shelf::Silent);
        let failure = failure(&setup).await;
        assert!(matches!(failure.kind, FailureKind::Timeout), "{failure:?}");
        assert!(failure.message.contains("limits.wall is 50ms"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_guest_that_spins_within_its_cpu_ends_at_its_limit_of_wall_time() {
    let setup = limited("loop", |limits| {
        limits.cpu = Duration::from_secs(600);
        limits.wall = Duration::from_millis(50);
    });
    assert!(failure(&setup).await.message.contains("limits.wall is 50ms"));
}

#[tokio::test]
async fn an_allocation_without_end_ends_at_the_limit_of_memory() {
    let setup = limited("allocate", |limits| limits.memory_bytes = 16 * 1024 * 1024);
    let failure = failure(&setup).await;
    assert!(matches!(failure.kind, FailureKind::Limit), "{failure:?}");
    assert!(failure.message.contains("limits.memory is 16.0 MiB"), "{failure:?}");
}

#[tokio::test]
async fn memory_may_be_used_up_to_its_limit_to_the_byte() {
    let mut handler = create(&setup("ok")).await.unwrap();
    handler.handle(&[event(1, "a", "")]).await;
    let needed = handler.memory_bytes() as u64;
    assert!(needed > 65_536 && needed < 4 * 1024 * 1024, "{needed}");
    for (bytes, starts) in [(needed - 1, false), (needed, true), (needed + 1, true)] {
        let created = create(&limited("ok", |limits| limits.memory_bytes = bytes)).await;
        let handled = match created {
            Ok(mut handler) => handler.handle(&[event(1, "a", "")]).await.failure,
            Err(failure) => Some(failure),
        };
        assert_eq!(handled.is_none(), starts, "{bytes} of {needed}: {handled:?}");
        if let Some(failure) = handled {
            assert!(failure.message.contains("limits.memory"), "{failure:?}");
        }
    }
}

#[tokio::test]
async fn each_limit_of_a_call_holds_at_its_value_and_not_above() {
    check_limit(
        "limits.emits",
        &limited("emit 3", |limits| limits.emits = 3),
        &limited("emit 4", |limits| limits.emits = 3),
    )
    .await;
    check_limit(
        "limits.state-keys",
        &limited("set 3", |limits| limits.state_keys = 3),
        &limited("set 4", |limits| limits.state_keys = 3),
    )
    .await;
    check_limit(
        "limits.state",
        &limited("set-bytes 97", |limits| limits.state_bytes = 100),
        &limited("set-bytes 98", |limits| limits.state_bytes = 100),
    )
    .await;
    // One call of the host reads the config.
    check_limit(
        "limits.host-calls",
        &limited("get 10", |limits| limits.host_calls = 10),
        &limited("get 11", |limits| limits.host_calls = 10),
    )
    .await;
    check_limit("a state key", &setup("set-key 1024"), &setup("set-key 1025")).await;
    check_limit("a state value", &setup("set-bytes 1048576"), &setup("set-bytes 1048577")).await;
}

#[tokio::test]
async fn a_call_cannot_hand_the_host_more_bytes_than_its_limit() {
    let at = limited("emit-bytes 99000", |limits| limits.hostcall_bytes = 100_000);
    let above = limited("emit-bytes 100001", |limits| limits.hostcall_bytes = 100_000);
    check_limit("limits.hostcall", &at, &above).await;
}

#[tokio::test]
async fn what_was_not_granted_ends_the_call_and_says_how_to_grant_it() {
    let failure = failure(&setup("emit-ungranted")).await;
    assert!(matches!(failure.kind, FailureKind::Denied), "{failure:?}");
    assert!(failure.message.contains("stream `secrets` was not granted"), "{failure:?}");
    assert!(failure.message.contains("grants.emit"), "{failure:?}");
}

#[tokio::test]
async fn limits_hold_for_each_event_and_not_for_all_of_them() {
    let setup = limited("emit 3", |limits| limits.emits = 3);
    let events: Vec<Event> = (0..10).map(|n| event(n, "a", "")).collect();
    let handled = handle(&setup, &events).await;
    assert_eq!((handled.done, handled.changes.emits.len()), (10, 30));
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_then_counted_as_host_calls() {
    let failure = failure(&limited("log-flood", |limits| limits.host_calls = 100)).await;
    assert!(failure.message.contains("limits.host-calls is 100"), "{failure:?}");
    let handled = handle(&setup("print 2000"), &[event(1, "a", "")]).await;
    assert!(handled.failure.is_none(), "{:?}", handled.failure);
}

#[tokio::test]
async fn init_may_fail_in_every_way_and_says_so() {
    let failure = start_failure(&setup("init-error")).await;
    assert!(matches!(failure.kind, FailureKind::Reject), "{failure:?}");
    assert_eq!(failure.message, "init: nothing works without a key");

    let failure = start_failure(&setup("init-trap")).await;
    assert!(matches!(failure.kind, FailureKind::Trap), "{failure:?}");
    assert!(failure.message.contains("no luck at all"), "{failure:?}");

    let failure = start_failure(&limited("init-loop", |limits| limits.init = Duration::from_millis(30))).await;
    assert!(matches!(failure.kind, FailureKind::Timeout), "{failure:?}");
    assert!(failure.message.contains("limits.init is 30ms"), "{failure:?}");
}

#[tokio::test]
async fn init_reads_state_and_writes_nothing() {
    assert!(create(&setup("init-read")).await.is_ok());
    for behaviour in ["init-write", "init-emit"] {
        let failure = start_failure(&setup(behaviour)).await;
        assert!(failure.message.contains("`init` has none"), "{failure:?}");
    }
    let keyed = Setup { scope: StateScope::Key, ..setup("init-read") };
    assert!(start_failure(&keyed).await.message.contains("`init` has none"));
}

#[tokio::test]
async fn a_trial_says_why_a_component_does_not_start() {
    for (behaviour, starts) in [("ok", true), ("init-trap", false)] {
        let setup = setup(behaviour);
        let tried = setup.factory(engine()).await.unwrap().trial(setup.view().unwrap()).await;
        assert_eq!(tried.is_ok(), starts);
        if let Err(error) = tried {
            assert!(error.to_string().contains("no luck at all"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_not_the_events_fault() {
    let setup = Setup { store: Arc::new(Shelf::Broken), ..setup("get 1") };
    let failure = failure(&setup).await;
    let FailureKind::Infrastructure(error) = &failure.kind else { panic!("{failure:?}") };
    assert_eq!(error.to_string(), "the shelf is broken");
}

#[tokio::test]
async fn a_panic_in_the_host_ends_the_call_and_not_the_host() {
    let setup = Setup { store: Arc::new(Shelf::Mad), ..setup("get 1") };
    let failure = failure(&setup).await;
    assert!(matches!(failure.kind, FailureKind::Infrastructure(_)), "{failure:?}");
    assert!(failure.message.contains("the store has a bug"), "{failure:?}");
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_a_host_that_goes_on() {
    let setup = Setup { store: Arc::new(Shelf::Silent), ..setup("get 1") };
    let factory = setup.factory(engine()).await.unwrap();
    let mut handler = factory.create(setup.view().unwrap()).await.unwrap();
    let events = [event(1, "a", "")];
    let dropped = tokio::time::timeout(Duration::from_millis(20), handler.handle(&events)).await;
    assert!(dropped.is_err());
    drop(handler);
    let sound = Setup { store: Arc::new(Shelf::Full("1")), ..setup };
    let handled = factory.create(sound.view().unwrap()).await.unwrap().handle(&events).await;
    assert_eq!(handled.done, 1);
}

fn batch(behaviour: &'static str) -> Setup {
    Setup { guest: Guest::Batch, ..setup(behaviour) }
}

#[tokio::test]
async fn a_batch_is_handled_in_one_call_and_each_emitted_event_has_its_cause() {
    let events: Vec<Event> = (0..5).map(|n| event(n, "a", "x")).collect();
    let handled = handle(&batch("echo"), &events).await;
    assert_eq!((handled.done, handled.changes.emits.len()), (5, 5));
    let singly = handle(&setup("echo"), &events).await;
    let keys = |handled: &Handled| handled.changes.emits.iter().map(|emit| emit.key).collect::<Vec<_>>();
    assert_eq!(keys(&handled), keys(&singly), "an emitted event's key depends on how its cause was handled");
}

#[tokio::test]
async fn a_batch_fails_as_a_whole_at_the_event_that_it_names() {
    let events: Vec<Event> =
        ["append", "append", "fail", "append"].iter().zip(1..).map(|(does, n)| event(n, "a", *does)).collect();
    let handled = handle(&batch("by-event"), &events).await;
    assert_eq!(handled.done, 0);
    assert!(handled.changes.is_empty());
    assert_eq!(handled.failure.unwrap().index, 2);
}

#[tokio::test]
async fn a_batch_that_traps_may_be_of_any_of_its_events() {
    let mut events: Vec<Event> = (0..9).map(|n| event(n, "a", "append")).collect();
    events[6] = event(6, "a", "panic");
    let setup = batch("by-event");
    let handled = handle(&setup, &events).await;
    let failure = handled.failure.unwrap();
    assert_eq!((handled.done, failure.index, failure.among), (0, 0, 9));
    assert!(handled.changes.is_empty());
    let failure = handle(&setup, &events[6..7]).await.failure.unwrap();
    assert_eq!((failure.index, failure.among), (0, 1));
    assert!(failure.message.contains("boom of 6"), "{failure:?}");
}

#[tokio::test]
async fn a_batch_never_mixes_the_states_of_two_keys() {
    let setup = Setup { scope: StateScope::Key, ..batch("append") };
    let events: Vec<Event> = ["a", "a", "b", "a"].iter().zip(1..).map(|(key, n)| event(n, key, "")).collect();
    let handled = handle(&setup, &events).await;
    assert_eq!(handled.done, 4, "{:?}", handled.failure);
    let mut states: Vec<_> =
        latest(handled.changes.writes.iter()).map(|write| (write.part, write.value.unwrap())).collect();
    states.sort();
    assert_eq!(states, [("a", &b"1 2 4 "[..]), ("b", b"3 ")]);
}

#[tokio::test]
async fn a_batch_shares_what_its_events_may_use_but_not_the_events_that_each_may_emit() {
    let events: Vec<Event> = (0..3).map(|n| event(n, "a", "")).collect();
    let handled = handle(&Setup { limits: Limits { emits: 2, ..Limits::default() }, ..batch("emit 2") }, &events).await;
    assert_eq!(handled.changes.emits.len(), 6, "{:?}", handled.failure);
    let handled = handle(&Setup { limits: Limits { emits: 2, ..Limits::default() }, ..batch("emit 3") }, &events).await;
    assert!(handled.failure.unwrap().message.contains("limits.emits"));
    let handled = handle(&batch("emit-for 3"), &events).await;
    assert!(handled.failure.unwrap().message.contains("event 3 of a batch of 3"));
}
