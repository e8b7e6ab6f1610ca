//! Tables that were there before tendon: read as they are, written so that others can read them, refused where they cannot
//! be read safely, and noticed when they are not what they were.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use tendon::{
    backend::foreign::ForeignTable,
    changes::Changes,
    deployment::LegacyCursor,
    error::Kind,
    event::{Cursor, NewEvent, Timestamp},
    source::{Until, verify},
    store::{Commit, Position},
    tailer::Tailer,
};
use tendon_tests::{
    both::{Server, adopt, ids, named},
    place::{advance, append, claim, commit, emit_new, event, read, shard, stream, wait_for},
    servers::MariadbKind,
};
use tokio::time::timeout;

fn at(id: i64) -> Cursor {
    Cursor(id.to_string().into())
}

/// Inserts a row of type 1.
fn insert(text: &str) -> String {
    format!("INSERT INTO events (foreign_id, timestamp, type) VALUES ('{text}', now(), 1)")
}

#[tokio::test]
async fn a_table_of_reflex_is_read_as_it_is() {
    for server in Server::both().await {
        server
            .run(server.either(
                "CREATE TABLE ledger (eid BIGINT AUTO_INCREMENT PRIMARY KEY, account INT NOT NULL, at DATETIME NOT NULL,
                    kind SMALLINT NOT NULL, body TEXT, span BLOB)",
                "CREATE TABLE ledger (eid serial PRIMARY KEY, account int NOT NULL, at timestamptz(0) NOT NULL,
                    kind smallint NOT NULL, body json, span bytea)",
            ))
            .await;
        let trace = "0a2034626639326633353737623334646136613363653932396430653065343733361210303066303637616130626139303262\
            37";
        let span = server.either("x'TRACE'", "'\\xTRACE'").replace("TRACE", trace);
        server
            .run(format!(
                "INSERT INTO ledger (account, at, kind, body, span) VALUES
                    (7, '2026-01-02 03:04:05', 3, '{{\"n\": 1}}', {span}), (0, '2026-01-02 03:04:06', 0, NULL, NULL),
                    (-7, '1969-12-31 23:59:59', -3, NULL, NULL), (0, '2026-01-02 03:04:06', 1, NULL, NULL)"
            ))
            .await;
        let table = ForeignTable {
            id: "eid".parse().unwrap(),
            foreign_id: "account".parse().unwrap(),
            timestamp: "at".parse().unwrap(),
            r#type: "kind".parse().unwrap(),
            metadata: Some("body".parse().unwrap()),
            trace: Some("span".parse().unwrap()),
            ..named("ledger")
        };
        let database = server.open().await;
        let source = adopt(&database, "ledger", &table).await.unwrap();
        let events = read(&*source, &Cursor::START).await;
        let seen: Vec<_> =
            events.iter().map(|event| (&*event.id.0, event.r#type, &*event.foreign_id, event.timestamp.0)).collect();
        assert_eq!(
            seen,
            [("1", 3, "7", 1_767_323_045_000_000), ("3", -3, "-7", -1_000_000), ("4", 1, "0", 1_767_323_046_000_000)],
            "the row that only fills a hole is none"
        );
        assert_eq!((&events[0].metadata[..], &events[1].metadata[..]), (&b"{\"n\": 1}"[..], &b""[..]));
        assert_eq!(events[0].headers[0].1, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        assert_eq!(source.lag(&Cursor::START, 100).await.unwrap().events, 3);
        assert_eq!(source.head().await.unwrap(), at(4));

        let another = ForeignTable { noops: true, ..table.clone() };
        let error = adopt(&database, "ledger", &another).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Invalid, "one stream is one table");
        let all = adopt(&database, "all", &another).await.unwrap();
        assert_eq!(ids(&*all, &Cursor::START).await, ["1", "2", "3", "4"]);
    }
}

#[tokio::test]
async fn what_is_emitted_is_a_row_that_others_read() {
    for server in Server::both().await {
        server.table("events").await;
        server.run(server.either("ALTER TABLE events ADD trace BLOB", "ALTER TABLE events ADD trace bytea")).await;
        let (database, source) = server.adopted("events").await;
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let headers = vec![("traceparent".into(), trace.into())];
        let full = NewEvent { headers, foreign_id: "ä😀'\"\\".into(), ..event(1) };
        let emits = vec![emit_new(&stream("events"), full.clone()), emit_new(&stream("events"), event(2))];
        assert_eq!(commit(&*database.store(), append(emits.clone())).await.unwrap().appended, 2);
        // The keys are in a table beside it: the same ones are not written twice.
        commit(&*database.store(), append(emits)).await.unwrap_err();
        let events = read(&*source, &Cursor::START).await;
        assert_eq!(events.len(), 2);
        assert_eq!((&events[0].foreign_id, events[0].timestamp), (&full.foreign_id, full.timestamp));
        assert_eq!((&events[0].metadata, events[0].r#type), (&full.metadata, 1));
        assert_eq!(events[0].headers[0].1, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        let sql = server.either(
            "SELECT CONVERT(id, CHAR), foreign_id, CONVERT(timestamp, CHAR), CONVERT(type, CHAR),
                CONVERT(metadata USING utf8mb4), HEX(trace) FROM events WHERE id = 1",
            "SELECT id::text, foreign_id, timestamp::text, type::text, convert_from(metadata, 'UTF8'),
                upper(encode(trace, 'hex')) FROM events WHERE id = 1",
        );
        let [id, foreign_id, timestamp, r#type, metadata, trace]: [String; 6] =
            server.rows(sql).await.remove(0).try_into().unwrap();
        assert_eq!((&*id, &*foreign_id, &*r#type, &*metadata), ("1", "ä😀'\"\\", "1", "{\"n\":1}"));
        assert!(timestamp.starts_with("2027-01-15 08:00:00.000001"), "{timestamp}");
        assert!(trace.starts_with("0A2034626639") && trace.ends_with("30326237"), "{trace}");
    }
}

#[tokio::test]
async fn what_a_row_cannot_hold_is_refused_and_takes_nobody_with_it() {
    for server in Server::both().await {
        server
            .run(server.either(
                "CREATE TABLE events (id BIGINT AUTO_INCREMENT PRIMARY KEY, foreign_id INT NOT NULL, type TINYINT NOT NULL,
                    timestamp DATETIME(6) NOT NULL)",
                "CREATE TABLE events (id bigserial PRIMARY KEY, foreign_id int NOT NULL, type smallint NOT NULL,
                    timestamp timestamp NOT NULL)",
            ))
            .await;
        let (database, source) = server.adopted("events").await;
        let plain = NewEvent { metadata: Default::default(), foreign_id: "7".into(), ..event(1) };
        let with_header = vec![("a".into(), "b".into())];
        let wrong = [
            ("foreign id", NewEvent { foreign_id: "x".into(), ..plain.clone() }),
            ("metadata", NewEvent { metadata: "x".into(), ..plain.clone() }),
            ("headers", NewEvent { headers: with_header, ..plain.clone() }),
            ("type 0", NewEvent { r#type: 0, foreign_id: "0".into(), ..plain.clone() }),
            ("time", NewEvent { timestamp: Timestamp(i64::MAX), ..plain.clone() }),
            ("time", NewEvent { timestamp: Timestamp(i64::MIN), ..plain.clone() }),
            ("does not fit", NewEvent { r#type: 1_000_000, ..plain.clone() }),
            ("does not fit", NewEvent { foreign_id: i64::MAX.to_string().into(), ..plain.clone() }),
        ];
        for (what, event) in wrong {
            let good = append(vec![emit_new(&stream("events"), plain.clone())]);
            let bad = append(vec![emit_new(&stream("events"), event)]);
            let answers = database.store().commit(&[good, bad]).await;
            let error = answers[1].as_ref().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
            assert!(error.chain().contains(what), "{what}: {}", error.chain());
            assert_eq!(answers[0].as_ref().unwrap().appended, 1);
        }
        assert_eq!(read(&*source, &Cursor::START).await.len(), 8);
    }
}

#[tokio::test]
async fn a_lower_id_that_commits_late_is_in_its_place_from_the_very_start_on() {
    for server in Server::both().await {
        server.table("events").await;
        let (_database, source) = server.adopted("events").await;
        let mut late = server.connect().await;
        late.run("BEGIN").await;
        late.run(insert("one")).await;
        server.run(insert("two")).await;
        let mut reading = source.stream(Cursor::START, Until::Forever).await.unwrap();
        assert!(timeout(Duration::from_millis(300), reading.next()).await.is_err(), "two was read before one");
        assert_eq!(ids(&*source, &Cursor::START).await, Vec::<String>::new());
        let held = source.held_up(&Cursor::START).await.unwrap().unwrap();
        assert!(held.by.contains("session ") && held.since.is_some() && held.way_out.is_some(), "{held:?}");
        assert_eq!(source.lag(&Cursor::START, 9).await.unwrap().events, 1);
        late.run("COMMIT").await;
        let chunk = timeout(Duration::from_secs(30), reading.next()).await.unwrap().unwrap().unwrap();
        let texts: Vec<_> = chunk.events.iter().map(|event| &*event.foreign_id).collect();
        assert_eq!(texts, ["one", "two"]);
        assert_eq!(source.held_up(&Cursor::START).await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_is_in_flight_is_after_the_head() {
    for server in Server::both().await {
        server.table("events").await;
        server.run(insert("one")).await;
        let (_database, source) = server.adopted("events").await;
        assert_eq!(source.head().await.unwrap(), at(1));
        let mut late = server.connect().await;
        late.run("BEGIN").await;
        late.run(insert("two")).await;
        server.run(insert("three")).await;
        let head = source.head().await.unwrap();
        assert_eq!(head, at(1));
        // A host that has just started and knows nothing of the table does not guess.
        let (_other, fresh) = server.adopted("events").await;
        let error = fresh.head().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains("waits for"), "{error}");
        late.run("COMMIT").await;
        server.run(insert("four")).await;
        assert_eq!(ids(&*source, &head).await, ["2", "3", "4"]);
        assert_eq!(fresh.head().await.unwrap(), at(4));
    }
}

#[tokio::test]
async fn an_id_that_was_rolled_back_holds_nobody_up() {
    for server in Server::both().await {
        server.table("events").await;
        let (_database, source) = server.adopted("events").await;
        server.run(insert("one")).await;
        for round in 0..3 {
            let mut given_up = server.connect().await;
            given_up.run("BEGIN").await;
            given_up.run(insert("gone")).await;
            given_up.run("ROLLBACK").await;
            server.run(insert("after")).await;
            assert_eq!(ids(&*source, &Cursor::START).await.len(), 2 + round, "it ends at the head, not at the hole");
        }
        assert_eq!(ids(&*source, &Cursor::START).await, ["1", "3", "5", "7"]);
        assert_eq!(source.head().await.unwrap(), at(7));
    }
}

#[tokio::test]
async fn a_prepared_transaction_is_waited_for_although_its_session_is_gone() {
    // MariaDB does not tell which tables a prepared transaction has locked: other tests would wait for it.
    for server in Server::both_on(MariadbKind::PerformanceSchema).await {
        server.table("events").await;
        let (_database, source) = server.adopted("events").await;
        let xa = format!("'x{}'", fastrand::u32(..));
        let mut session = server.connect().await;
        session.run(server.either(&format!("XA START {xa}"), "BEGIN")).await;
        session.run(insert("one")).await;
        server.run(insert("two")).await;
        let mut reading = source.stream(Cursor::START, Until::Forever).await.unwrap();
        assert!(timeout(Duration::from_millis(200), reading.next()).await.is_err());
        // The barrier stands before the transaction leaves its session.
        session
            .run(server.either(&format!("XA END {xa}; XA PREPARE {xa}"), &format!("PREPARE TRANSACTION {xa}")))
            .await;
        drop(session);
        assert!(timeout(Duration::from_millis(500), reading.next()).await.is_err(), "two was read before one");
        let (_other, fresh) = server.adopted("events").await;
        assert_eq!(ids(&*fresh, &Cursor::START).await, Vec::<String>::new());
        let held = fresh.held_up(&Cursor::START).await.unwrap().unwrap();
        assert!(held.by.contains("prepared transaction"), "{held:?}");
        server.run(server.either(&format!("XA COMMIT {xa}"), &format!("COMMIT PREPARED {xa}"))).await;
        let chunk = timeout(Duration::from_secs(30), reading.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(chunk.events.len(), 2);
    }
}

/// MariaDB's list of transactions is old while others read it: a number in it may be that of the transaction before.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_list_of_transactions_is_not_believed() {
    for server in Server::both().await.into_iter().filter(|server| matches!(server, Server::Mysql(_))) {
        server.table("events").await;
        let (_database, source) = server.adopted("events").await;
        let mut monitor = server.connect().await;
        let monitor = tokio::spawn(async move {
            loop {
                monitor.run("SELECT COUNT(*) FROM information_schema.innodb_trx").await;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(20..160))).await;
            }
        });
        let mut session = server.connect().await;
        let mut after = Cursor::START;
        for round in 0..12 {
            session.run(format!("BEGIN; {}", insert("early"))).await;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..150))).await;
            session.run(format!("COMMIT; BEGIN; {}", insert("late"))).await;
            server.run(insert("next")).await;
            let mut reading = source.stream(after.clone(), Until::Forever).await.unwrap();
            let mut seen = Vec::new();
            while let Ok(chunk) = timeout(Duration::from_millis(400), reading.next()).await {
                seen.extend(chunk.unwrap().unwrap().events);
            }
            let texts: Vec<_> = seen.iter().map(|event| &*event.foreign_id).collect();
            assert_eq!(texts, ["early"], "round {round}");
            session.run("COMMIT").await;
            let rest = timeout(Duration::from_secs(30), wait_for(&*source, &seen[0].cursor, 2)).await.unwrap();
            assert_eq!(rest.iter().map(|event| &*event.foreign_id).collect::<Vec<_>>(), ["late", "next"]);
            after = rest[1].cursor.clone();
        }
        monitor.abort();
    }
}

#[tokio::test]
async fn who_waits_is_woken_by_what_this_host_appends_and_soon_by_what_others_do() {
    for server in Server::both().await {
        server.table("events").await;
        let (database, source) = server.adopted("events").await;
        let mut reading = source.stream(Cursor::START, Until::Forever).await.unwrap();
        for n in 0..20 {
            if n % 2 == 0 {
                // Between the look and the wait, or after it.
                assert!(reading.next().now_or_never().is_none());
            }
            commit(&*database.store(), append(vec![emit_new(&stream("events"), event(n))])).await.unwrap();
            let chunk = timeout(Duration::from_secs(20), reading.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(chunk.events.len(), 1);
            server.run(insert("other")).await;
            let chunk = timeout(Duration::from_secs(20), reading.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(chunk.events.len(), 1);
        }
    }
}

/// An event is a value: whoever changes a copy of it changes nobody else's.
#[tokio::test]
async fn consumers_of_one_table_do_not_see_what_another_makes_of_an_event() {
    for server in Server::both().await {
        server.table("events").await;
        server.run(insert("one")).await;
        let (_database, source) = server.adopted("events").await;
        let tailer = Tailer::start(source);
        let (mut first, mut second) = (tailer.subscribe(Cursor::START), tailer.subscribe(Cursor::START));
        let mut mine = first.next().await.unwrap().events().to_vec();
        mine[0].foreign_id = "MUTATED".into();
        assert_eq!(second.next().await.unwrap().events()[0].foreign_id, "one");
    }
}

#[tokio::test]
async fn a_stream_that_was_changed_behind_a_cursor_is_noticed() {
    for server in Server::both().await {
        server.table("events").await;
        for text in ["one", "two", "three"] {
            server.run(insert(text)).await;
        }
        let (database, source) = server.adopted("events").await;
        let events = read(&*source, &Cursor::START).await;
        let row = claim(&database, &shard("c")).await;
        let after =
            |n: usize| Position { cursor: events[n].cursor.clone(), last_event: Some(events[n].hash()), ..row.clone() };
        verify(&*source, &row).await.unwrap();
        verify(&*source, &after(1)).await.unwrap();

        server.run("DELETE FROM events WHERE id <= 2").await;
        verify(&*source, &after(1)).await.unwrap();
        let error = verify(&*source, &after(0)).await.unwrap_err();
        assert!(error.to_string().contains("the next one is 3"), "{error}");
        assert_eq!(error.kind(), Kind::Corrupt);

        server.run("UPDATE events SET foreign_id = 'another' WHERE id = 3").await;
        let error = verify(&*source, &after(2)).await.unwrap_err();
        assert!(error.to_string().contains("not the one that was handled"), "{error}");

        server.run("DELETE FROM events").await;
        verify(&*source, &after(2)).await.unwrap();
        server.run(server.either("TRUNCATE events", "TRUNCATE events RESTART IDENTITY")).await;
        let error = verify(&*source, &after(2)).await.unwrap_err();
        assert!(error.to_string().contains("draws 1 next"), "{error}");
        assert!(error.way_out().unwrap().contains("another name"));
    }
}

#[tokio::test]
async fn a_table_that_is_made_can_be_read_and_written() {
    for server in Server::both().await {
        let database = server.open().await;
        for _ in 0..2 {
            database.create_table(&named("made")).await.unwrap();
        }
        let source = adopt(&database, "made", &named("made")).await.unwrap();
        commit(&*database.store(), append(vec![emit_new(&stream("made"), event(1))])).await.unwrap();
        assert_eq!(read(&*source, &Cursor::START).await[0].metadata, event(1).metadata);
    }
}

fn legacy(name: &str) -> LegacyCursor {
    LegacyCursor {
        schema: None,
        table: "cursors".parse().unwrap(),
        id: "id".parse().unwrap(),
        cursor: "last_event_id".parse().unwrap(),
        updated_at: "updated_at".parse().unwrap(),
        name: name.to_owned(),
        mirror: true,
    }
}

#[tokio::test]
async fn a_mirrored_cursor_moves_with_the_commit_and_with_nothing_else() {
    for server in Server::both().await.into_iter().filter(|server| matches!(server, Server::Mysql(_))) {
        for cursor in ["BIGINT", "VARCHAR(255)"] {
            server.run("DROP TABLE IF EXISTS cursors").await;
            server
                .run(format!(
                    "CREATE TABLE cursors (id VARCHAR(255) PRIMARY KEY, last_event_id {cursor} NOT NULL,
                        updated_at DATETIME(6) NOT NULL, note INT);
                    INSERT INTO cursors VALUES ('one', '8', now(), 5), ('empty', '0', now(), 6)"
                ))
                .await;
            let database = server.open().await;
            assert_eq!(database.legacy_cursor(&legacy("one")).await.unwrap(), Some(at(8)));
            for none in ["empty", "nobody"] {
                assert_eq!(database.legacy_cursor(&legacy(none)).await.unwrap(), None);
            }
            let wrong = LegacyCursor { cursor: "place".parse().unwrap(), ..legacy("one") };
            assert_eq!(database.legacy_cursor(&wrong).await.unwrap_err().kind(), Kind::Invalid);

            let mirrored = |from: &Position, name: &str, cursor: &str| Commit {
                mirror: Some(Arc::new(legacy(name))),
                changes: Changes::default(),
                ..advance(from, cursor)
            };
            let (one, two) = (claim(&database, &shard("one")).await, claim(&database, &shard("two")).await);
            let stale = one.clone();
            let one = commit(&*database.store(), mirrored(&one, "one", "9")).await.unwrap().position.unwrap();
            // One that has lost its shard moves neither row; the other one's stands, from 9 to 10 and all.
            let commits = [mirrored(&stale, "one", "99"), mirrored(&two, "two", "7")];
            let answers = database.store().commit(&commits).await;
            assert!(answers[0].is_err() && answers[1].is_ok(), "{answers:?}");
            commit(&*database.store(), mirrored(&one, "one", "10")).await.unwrap();
            let rows = server
                .rows("SELECT id, CONVERT(last_event_id, CHAR), CONVERT(COALESCE(note, 0), CHAR) FROM cursors ORDER BY id")
                .await;
            assert_eq!(rows, [["empty", "0", "6"], ["one", "10", "5"], ["two", "7", "0"]]);
            // Wherever it dies, both are where they were, or both have moved.
            let mut two = answers[1].as_ref().unwrap().position.clone().unwrap();
            for point in 1.. {
                database.failpoints().crash_at(point);
                let next = mirrored(&two, "two", &(10 + point).to_string());
                let answer = commit(&*database.store(), next).await;
                let visited = database.failpoints().visited();
                database.failpoints().disarm();
                two = database.store().load(&shard("two")).await.unwrap();
                let row = server.rows("SELECT CONVERT(last_event_id, CHAR) FROM cursors WHERE id = 'two'").await;
                assert_eq!(row[0][0], two.cursor.to_string());
                if answer.is_ok() {
                    assert!(point > 3 && visited.contains(&"mysql mirror"), "{visited:?}");
                    break;
                }
            }
        }
    }
}
