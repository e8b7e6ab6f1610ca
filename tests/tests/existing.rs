//! Tables that other programs made, with the real binary: made and checked, taken over from reflex and given back, and what
//! an operator sees of a transaction that holds a stream up.

use serde_json::Value;
use tendon_tests::{
    both::Server,
    project::{Host, Project, free_address, get, wait},
};

/// A consumer that passes on what it reads.
fn config(server: &Server) -> String {
    let (listen, url) = (free_address(), server.url());
    let legacy = server.either("legacy-cursor = { table = \"cursors\", mirror = true }", "");
    format!(
        r#"
        [host]
        listen = "{listen}"
        [store.main]
        url = "{url}"
        [stream.orders.table]
        name = "order_events"
        [stream.out.table]
        name = "invoices"
        metadata = "body"
        [consumer.subject]
        component = "guest.wasm"
        stream = "orders"
        config = {{ behaviour = "echo" }}
        grants = {{ emit = ["out"] }}
        {legacy}
        "#
    )
}

/// An order of that number.
fn order(n: u32) -> String {
    format!(
        "INSERT INTO order_events (foreign_id, timestamp, type, metadata) VALUES ('order-{n}', now(), 1, '{{\"n\": {n}}}')"
    )
}

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// How far the table of invoices is: all of a reflex consumer's columns.
async fn invoices(server: &Server) -> Vec<String> {
    let body = server.either("CAST(body AS CHAR)", "convert_from(body, 'UTF8')");
    let sql = format!("SELECT {body} FROM invoices WHERE type = 1 AND foreign_id LIKE 'order-%' ORDER BY id");
    server.rows(&sql).await.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_table_is_made_checked_read_and_written() {
    for server in Server::both().await {
        let project = Project::new(&config(&server));
        for stream in ["orders", "out"] {
            for _ in 0..2 {
                let made = project.run(&["stream", "create", stream]);
                assert!(made.status.success(), "{}", said(&made));
            }
        }
        if let Server::Mysql(_) = server {
            server
                .run(
                    "CREATE TABLE cursors (id VARCHAR(255) PRIMARY KEY, last_event_id BIGINT, updated_at DATETIME(6));
                    INSERT INTO cursors VALUES ('subject', 2, now())",
                )
                .await;
        }
        for n in 1..=4 {
            server.run(order(n)).await;
        }
        let host = project.host();
        // What reflex has handled is not handled again.
        let wanted = if matches!(server, Server::Mysql(_)) { 3..=4 } else { 1..=4 };
        project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "4");
        let bodies: Vec<String> = wanted.map(|n| format!("{{\"n\": {n}}}")).collect();
        assert_eq!(invoices(&server).await, bodies);
        let check = project.run(&["stream", "check", "orders"]);
        assert!(check.status.success(), "{}", said(&check));
        assert_eq!(host.terminate(), Some(0));
        if let Server::Mysql(_) = server {
            let mirrored = "SELECT CAST(last_event_id AS CHAR) FROM cursors WHERE id = 'subject'";
            assert_eq!(server.rows(mirrored).await, [["4"]], "reflex can go on from here");

            let host = project.host();
            assert!(project.run(&["consumer", "pause", "subject"]).status.success());
            project.status("subject", "paused");
            assert_eq!(host.terminate(), Some(0));
            server.run("UPDATE cursors SET last_event_id = 9 WHERE id = 'subject'").await;
            let host = project.host();
            project.status("subject", "paused");
            assert_eq!(host.terminate(), Some(0));
            assert_eq!(
                server.rows(mirrored).await,
                [["9"]],
                "it has gone on, and what is paused leaves it where it is"
            );
        }
        let other = project.run(&["stream", "list"]);
        assert!(said(&other).contains("orders"), "{}", said(&other));
    }
}

/// The value of a stream's gauge.
fn gauge(address: &str, name: &str) -> Option<f64> {
    let text = get(address, "/metrics", &format!("Host: {address}\r\n"));
    let line = text.lines().find(|line| line.starts_with(name) && line.contains("stream=\"orders\""))?;
    line.rsplit(' ').next()?.trim().parse().ok()
}

fn held_up(project: &Project) -> Option<Value> {
    let shown = project.json(&["consumer", "show", "subject"]);
    Some(shown["summary"]["held_up"].clone()).filter(|by| !by.is_null())
}

#[tokio::test]
async fn who_holds_a_stream_up_is_named_everywhere() {
    for server in Server::both().await {
        let project = Project::new(&config(&server).replace("legacy-cursor", "#"));
        assert!(project.run(&["stream", "create", "orders"]).status.success());
        assert!(project.run(&["stream", "create", "out"]).status.success());
        server.run(order(1)).await;
        let host = Host::start(&project, &["run"]);
        let address = host.address();
        project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
        assert_eq!(held_up(&project), None);
        assert_eq!(gauge(&address, "tendon_stream_held_up{"), Some(0.0));

        let mut open = server.connect().await;
        open.run("BEGIN").await;
        open.run(order(2)).await;
        server.run(order(3)).await;
        let by = wait("somebody is named", || held_up(&project));
        let session = by["by"].as_str().unwrap();
        assert!(session.contains("session"), "{by}");
        let since = by["since"].as_str().unwrap_or_default();
        assert!(since.starts_with("20"), "{by}");
        for arguments in [&["consumer", "show", "subject"][..], &["stream", "check", "orders"]] {
            // Whatever is long is broken into lines.
            let shown = said(&project.run(arguments)).split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(shown.contains("held up by") && shown.contains(session), "{shown}");
        }
        assert_eq!(gauge(&address, "tendon_stream_held_up{"), Some(1.0));
        assert!(gauge(&address, "tendon_stream_held_up_seconds{").is_some_and(|seconds| seconds >= 0.0));
        assert_eq!(project.consumer("subject", "waits", |_| true)["cursor"], "1", "nothing is passed by");

        open.run("COMMIT").await;
        project.consumer("subject", "has all", |consumer| consumer["cursor"] == "3");
        assert_eq!(invoices(&server).await, ["{\"n\": 1}", "{\"n\": 2}", "{\"n\": 3}"]);
        assert_eq!((held_up(&project), gauge(&address, "tendon_stream_held_up{")), (None, Some(0.0)));
        assert_eq!(host.terminate(), Some(0));
    }
}

#[tokio::test]
async fn a_table_that_is_not_there_is_named_with_what_to_do() {
    for server in Server::both().await {
        let project = Project::new(&config(&server).replace("legacy-cursor", "#"));
        let refused = project.run(&["run"]);
        let text = said(&refused);
        assert_ne!(refused.status.code(), Some(0));
        assert!(text.contains("order_events") && text.contains("tendon stream create"), "{text}");
    }
}
