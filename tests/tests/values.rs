//! Values at their edges, in tables that others wrote: each comes as it is, or stops the reading with the row's name.

use tendon::{
    error::Kind,
    event::{Cursor, Timestamp},
};
use tendon_tests::{
    both::{Server, adopt, failure, ids, named},
    place::read,
};

/// Metadata of this many bytes.
const BIG: usize = 16 * 1024 * 1024 - 1024;

async fn table(server: &Server, time: &str) {
    let (id, bytes) = (
        server.either("id BIGINT AUTO_INCREMENT PRIMARY KEY", "id bigserial PRIMARY KEY"),
        server.either("LONGBLOB", "bytea"),
    );
    let set = server.either("CHARACTER SET utf8mb4", "");
    server
        .run(format!(
            "CREATE TABLE events ({id}, foreign_id VARCHAR(300) NOT NULL, timestamp {time} NOT NULL, type INT NOT NULL,
            metadata {bytes}) {set}"
        ))
        .await;
}

/// A row of that id.
fn row(id: i64, foreign_id: &str, time: &str, metadata: &str) -> String {
    format!(
        "INSERT INTO events (id, foreign_id, timestamp, type, metadata) VALUES ({id}, '{foreign_id}', '{time}', 1, {metadata})"
    )
}

#[tokio::test]
async fn texts_and_payloads_come_as_they_are() {
    for server in Server::both().await {
        table(&server, server.either("DATETIME(6)", "timestamp")).await;
        let noon = "2026-01-02 12:00:00";
        let texts = ["", "\u{5d0}\u{202e}abc", "a quote \" and, a comma", "\u{1f600}\u{10ffff}", &"l".repeat(299)];
        for (id, text) in (1..).zip(texts) {
            server.run(row(id, text, noon, "NULL")).await;
        }
        let odd = server.either("x'00ff00c328'", "'\\x00ff00c328'");
        let big =
            server.either("REPEAT('x', BIG)", "convert_to(repeat('x', BIG), 'UTF8')").replace("BIG", &BIG.to_string());
        for (id, metadata) in [(6, server.either("x''", "''")), (7, odd), (8, &big), (9, "'after'")] {
            server.run(row(id, "b", noon, metadata)).await;
        }
        let (_database, source) = server.adopted("events").await;
        let events = read(&*source, &Cursor::START).await;
        let found: Vec<&str> = events.iter().take(texts.len()).map(|event| &*event.foreign_id).collect();
        assert_eq!(found, texts);
        let payloads: Vec<usize> = events.iter().map(|event| event.metadata.len()).collect();
        assert_eq!(payloads, [0, 0, 0, 0, 0, 0, 5, BIG, 5]);
        assert_eq!(&events[6].metadata[..], b"\0\xff\0\xc3\x28");
        assert!(events[7].metadata.iter().all(|byte| *byte == b'x'));
    }
}

#[tokio::test]
async fn a_time_is_the_moment_it_was_whatever_the_sessions_zone() {
    let micros = |text: &str| text.parse::<Timestamp>().unwrap();
    for server in Server::both().await {
        // Without a zone: UTC, as reflex writes it. With one: that moment.
        for (kind, zone, wanted) in [
            (server.either("DATETIME(6)", "timestamp"), "Z", "2026-07-01T12:00:00.123456Z"),
            (server.either("TIMESTAMP(6)", "timestamptz"), "+05", "2026-07-01T07:00:00.123456Z"),
        ] {
            server.run("DROP TABLE IF EXISTS events").await;
            table(&server, kind).await;
            let mut writer = server.connect().await;
            writer.run(server.either("SET time_zone = '+05:00'", "SET TIME ZONE 'Asia/Karachi'")).await;
            writer.run(row(1, "a", "2026-07-01 12:00:00.123456", "NULL")).await;
            let database = server.open().await;
            let source = adopt(&database, "events", &named("events")).await.unwrap();
            assert_eq!(read(&*source, &Cursor::START).await[0].timestamp, micros(wanted), "{kind} {zone}");
            database.close().await;
        }
        server.run("DROP TABLE events").await;
        table(&server, server.either("DATETIME(6)", "timestamp")).await;
        let first = server.either("1000-01-01 00:00:00", "4713-01-01 00:00:00 BC");
        let last = server.either("9999-12-31 23:59:59.999999", "294247-01-10 04:00:54.775807");
        // A leap second is the next one's first, where it is a time at all.
        let leap = server.either("2016-12-31 23:59:59", "2016-12-31 23:59:60");
        for (id, time) in (1..).zip([first, last, leap, "2026-03-29 02:30:00"]) {
            server.run(row(id, "a", time, "NULL")).await;
        }
        let (_database, source) = server.adopted("events").await;
        let times: Vec<Timestamp> = read(&*source, &Cursor::START).await.iter().map(|event| event.timestamp).collect();
        let days = |days: i64| Timestamp(days * 86_400 * 1_000_000);
        let [start, end, new_year] = match server {
            Server::Mysql(_) => [days(-354_285), Timestamp(days(2_932_897).0 - 1), micros("2016-12-31T23:59:59Z")],
            Server::Postgres(_) => [days(-2_440_550), Timestamp(i64::MAX), micros("2017-01-01T00:00:00Z")],
        };
        assert_eq!(times, [start, end, new_year, micros("2026-03-29T02:30:00Z")]);
        if let Server::Postgres(_) = server {
            // Beyond what can be counted in microseconds since 1970.
            server.run(row(5, "a", "294247-01-10 04:00:54.775808", "NULL")).await;
            let error = failure(&*source, &Cursor("4".into())).await;
            assert!(error.chain().contains("row 5 has no time"), "{}", error.chain());
        }
    }
}

#[tokio::test]
async fn the_highest_id_is_one_and_an_id_below_one_is_refused() {
    for server in Server::both().await {
        table(&server, server.either("DATETIME(6)", "timestamp")).await;
        let noon = "2026-01-02 12:00:00";
        server.run(row(1, "a", noon, "NULL")).await;
        server.run(row(i64::MAX, "a", noon, "NULL")).await;
        let (database, source) = server.adopted("events").await;
        assert_eq!(ids(&*source, &Cursor::START).await, ["1", "9223372036854775807"]);
        let last = Cursor(i64::MAX.to_string().into());
        assert_eq!(source.head().await.unwrap(), last);
        assert_eq!(source.lag(&last, 9).await.unwrap().events, 0);
        assert!(ids(&*source, &last).await.is_empty());
        assert_eq!(source.event_at(&last).await.unwrap().unwrap().cursor, last);
        for wrong in ["abc", "-1", "01", "9223372036854775808"] {
            assert_eq!(source.lag(&Cursor(wrong.into()), 9).await.unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
        database.close().await;

        server.run(row(-5, "a", noon, "NULL")).await;
        let database = server.open().await;
        let refused = adopt(&database, "events", &named("events")).await.err().unwrap();
        assert!(refused.to_string().contains("row -5 has an id below 1"), "{refused}");
        assert!(refused.way_out().is_some());
    }
}

#[tokio::test]
async fn a_column_that_goes_away_is_named_and_its_return_is_all_it_takes() {
    for server in Server::both().await {
        table(&server, server.either("DATETIME(6)", "timestamp")).await;
        server.run(row(1, "a", "2026-01-02 12:00:00", "'x'")).await;
        let (_database, source) = server.adopted("events").await;
        assert_eq!(read(&*source, &Cursor::START).await.len(), 1);
        server.run("ALTER TABLE events RENAME COLUMN metadata TO elsewhere").await;
        let error = failure(&*source, &Cursor::START).await;
        assert!(error.chain().contains("metadata"), "{}", error.chain());
        server.run("ALTER TABLE events RENAME COLUMN elsewhere TO metadata").await;
        assert_eq!(read(&*source, &Cursor::START).await.len(), 1);
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_an_event_stops_the_reading_by_its_name() {
    for server in Server::both().await {
        server
            .run(server.either(
                "CREATE TABLE events (id BIGINT AUTO_INCREMENT PRIMARY KEY, foreign_id VARCHAR(255), type BIGINT,
                    timestamp DATETIME(6))",
                "CREATE TABLE events (id bigserial PRIMARY KEY, foreign_id text, type bigint, timestamp timestamp)",
            ))
            .await;
        let (_database, source) = server.adopted("events").await;
        let time = server.either("'0000-00-00 00:00:00'", "'infinity'");
        let rows = [
            ("NULL, 1, now()", "row 2 has no foreign id"),
            ("'a', NULL, now()", "row 3 has no type"),
            ("'a', 2147483648, now()", "row 4 has no type of 32 bits"),
            ("'a', 1, NULL", "row 5 has no time"),
            (&format!("'a', 1, {time}"), "row 6 has no time"),
        ];
        let strict = server.either("SET sql_mode = ''; ", "");
        server.run("INSERT INTO events (foreign_id, type, timestamp) VALUES ('good', 1, now())").await;
        for (n, (row, what)) in rows.into_iter().enumerate() {
            server.run(format!("{strict}INSERT INTO events (foreign_id, type, timestamp) VALUES ({row})")).await;
            let error = failure(&*source, &Cursor((n + 1).to_string().into())).await;
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.chain().contains(what), "{what}: {}", error.chain());
        }
    }
}
