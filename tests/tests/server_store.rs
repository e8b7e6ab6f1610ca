//! A host on a database server, with the real binary: killed and started again, found by the command line, and told by
//! the doctor when the server is not there.

use serde_json::json;
use tendon_tests::{
    project::{Project, free_address, wait},
    servers::{MariadbDatabase, PostgresDatabase, has_mariadb, has_postgres},
};

fn config(url: &str) -> String {
    let listen = free_address();
    format!(
        "[host]\nlisten = \"{listen}\"\n[store.main]\nurl = \"{url}\"\n[stream.events]\n[consumer.subject]\n\
        component = \"guest.wasm\"\nstream = \"events\"\nconfig = {{ behaviour = \"counter\" }}\n"
    )
}

#[tokio::test]
async fn a_host_on_postgres_is_killed_and_goes_on_with_each_event_once() {
    if has_postgres() {
        let database = PostgresDatabase::fresh().await;
        kill_and_go_on(&database.url());
    }
}

#[tokio::test]
async fn a_host_on_mariadb_is_killed_and_goes_on_with_each_event_once() {
    if has_mariadb() {
        let database = MariadbDatabase::fresh().await;
        kill_and_go_on(&database.url());
    }
}

fn kill_and_go_on(url: &str) {
    let project = Project::new(&config(url));
    let nobody = project.run(&["consumer", "list"]);
    assert_eq!(nobody.status.code(), Some(3), "{}", String::from_utf8_lossy(&nobody.stderr));
    for round in 1..=3_u32 {
        let host = project.host();
        for _ in 0..5 {
            project.append("events", &json!({}));
        }
        if round < 3 {
            host.kill();
            continue;
        }
        let state = || Some(project.json(&["state", "get", "subject", "a"])["value"].clone());
        wait("all are counted", || state().filter(|value| *value == json!(15)));
        let consumer = project.consumer("subject", "at its head", |consumer| consumer["lag_events"] == 0);
        assert_eq!(consumer["status"], "running");
        assert_eq!(host.terminate(), Some(0));
    }
    // Without a host, reading opens the database itself.
    assert_eq!(project.json(&["state", "get", "subject", "a"])["value"], 15);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_its_password_is_not() {
    let project = Project::new(&config("postgres://me:hunter2@127.0.0.1:1/orders"));
    for arguments in
        [&["run"][..], &["run", "--check"], &["doctor"], &["config", "show"], &["state", "list", "subject"]]
    {
        let output = project.run(arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("127.0.0.1:1"), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{arguments:?}: {said}");
    }
    assert_eq!(project.run(&["run"]).status.code(), Some(3));
}
