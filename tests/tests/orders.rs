//! The story of `examples/orders` on both servers, with the real binary and under fire: other programs insert orders while
//! the host is killed again and again; then every balance and every invoice is what the order service's own table says.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tendon_tests::{
    binary,
    both::Server,
    gap::Connection,
    project::{Project, free_address, wait},
};
use tokio::{task::JoinHandle, time::sleep};

/// Programs that insert, and the orders of each.
const WRITERS: u64 = 4;
const ORDERS: u64 = 60;
const KILLS: u32 = 4;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/orders")
}

/// The example's own config and component.
fn project(server: &Server) -> Project {
    let mut build = binary::command();
    build.args(["build", "--quiet"]).arg(example()).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    assert!(build.env_remove("CARGO_TARGET_DIR").status().unwrap().success());
    let config = fs::read_to_string(example().join("tendon.toml")).unwrap();
    let component = "target/wasm32-wasip2/release/balances.wasm";
    let project = Project::new(
        &config
            .replace("127.0.0.1:7070", &free_address())
            .replace("${ORDERS_URL}", &server.url())
            .replace(component, "balances.wasm"),
    );
    project.write("balances.wasm", fs::read(example().join(component)).unwrap());
    project
}

/// An event of the order service.
fn insert(order: &str, r#type: i32, metadata: &str) -> String {
    format!(
        "INSERT INTO order_events (foreign_id, timestamp, type, metadata) VALUES ('{order}', now(), {type}, '{metadata}')"
    )
}

/// What befalls an order in a transaction of its own; whether it was committed.
async fn befalls(connection: &mut Connection, sql: String) -> bool {
    connection.run("BEGIN").await;
    connection.run(sql).await;
    sleep(Duration::from_micros(fastrand::u64(..8_000))).await;
    let stands = fastrand::u8(..20) > 0;
    connection.run(if stands { "COMMIT" } else { "ROLLBACK" }).await;
    stands
}

async fn order_on(mut connection: Connection, writer: u64) {
    for n in 0..ORDERS {
        let order = format!("order-{writer}-{n}");
        let placed =
            format!("{{\"customer\": \"c{}\", \"cents\": {}}}", fastrand::u64(..7), 100 + fastrand::u64(..9_000));
        if !befalls(&mut connection, insert(&order, 1, &placed)).await {
            continue;
        }
        let ends = fastrand::u8(..10);
        let is_paid = ends > 1 && befalls(&mut connection, insert(&order, 2, "{}")).await;
        if is_paid && ends == 9 {
            befalls(&mut connection, insert(&order, 3, "{}")).await;
        } else if ends == 0 {
            befalls(&mut connection, insert(&order, 4, "{}")).await;
        }
    }
}

/// What each customer has: open and paid cents, and the documents as type, order and cents, in their order.
#[derive(Debug, Default, PartialEq)]
struct Account {
    open: i64,
    paid: i64,
    documents: Vec<(i32, String, i64)>,
}

type Accounts = BTreeMap<String, Account>;

/// Rows of a table of events: type, foreign id, payload.
async fn events(server: &Server, table: &str) -> Vec<(i32, String, Value)> {
    let metadata = server.either("CAST(metadata AS CHAR)", "convert_from(metadata, 'UTF8')");
    let sql = format!("SELECT CAST(type AS CHAR(9)), foreign_id, {metadata} FROM {table} ORDER BY id");
    let event =
        |row: Vec<String>| (row[0].trim().parse().unwrap(), row[1].clone(), serde_json::from_str(&row[2]).unwrap());
    server.rows(&sql).await.into_iter().map(event).collect()
}

/// The accounts, from nothing but the order service's table.
fn expected(orders: &[(i32, String, Value)]) -> Accounts {
    let mut placed: BTreeMap<&str, (String, i64)> = BTreeMap::new();
    let mut accounts = Accounts::new();
    for (r#type, order, metadata) in orders {
        if *r#type == 1 {
            let customer = metadata["customer"].as_str().unwrap().to_owned();
            placed.insert(order, (customer, metadata["cents"].as_i64().unwrap()));
        }
        let (customer, cents) = &placed[order.as_str()];
        let account = accounts.entry(customer.clone()).or_default();
        match r#type {
            1 => account.open += cents,
            2 => {
                account.open -= cents;
                account.paid += cents;
                account.documents.push((1, order.clone(), *cents));
            }
            3 => {
                account.paid -= cents;
                account.documents.push((2, order.clone(), -cents));
            }
            _ => account.open -= cents,
        }
    }
    accounts
}

/// The accounts as the consumer has them: balances from its state, documents from the table that it emits to.
fn found(balances: &Value, invoices: &[(i32, String, Value)]) -> Accounts {
    let mut accounts = Accounts::new();
    for entry in balances.as_array().unwrap() {
        let customer = entry["key"].as_str().unwrap().trim_start_matches("balance/").to_owned();
        let cents = |key: &str| entry["value"][key].as_i64().unwrap();
        let (open, paid) = (cents("open_cents"), cents("paid_cents"));
        accounts.insert(customer, Account { open, paid, documents: Vec::new() });
    }
    for (r#type, order, document) in invoices {
        let customer = document["customer"].as_str().unwrap();
        let account = accounts.entry(customer.to_owned()).or_default();
        account.documents.push((*r#type, order.clone(), document["cents"].as_i64().unwrap()));
        let number = format!("{customer}-{:04}", account.documents.len());
        assert_eq!(document["number"], number, "a number was left out or given twice");
    }
    accounts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_balance_and_invoice_is_what_the_orders_say() {
    for server in Server::both().await {
        let sql = server.either("mariadb.sql", "postgres.sql");
        server.run(fs::read_to_string(example().join(sql)).unwrap()).await;
        let project = project(&server);
        let mut host = project.host();
        let mut writers: Vec<JoinHandle<()>> = Vec::new();
        for writer in 0..WRITERS {
            writers.push(tokio::spawn(order_on(server.connect().await, writer)));
        }
        for _ in 0..KILLS {
            sleep(Duration::from_millis(fastrand::u64(50..300))).await;
            host.kill();
            host = project.host();
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let orders = events(&server, "order_events").await;
        let last = server.rows("SELECT CAST(max(id) AS CHAR(20)) FROM order_events").await[0][0].trim().to_owned();
        project.consumer("balances", "at its head", |consumer| consumer["cursor"] == *last);

        let balances = || project.json(&["state", "list", "balances", "--prefix", "balance/"]);
        let invoices = events(&server, "invoices").await;
        let wanted = expected(&orders);
        assert!(wanted.len() > 7 && invoices.len() > 100, "too little happened");
        assert_eq!(found(&balances(), &invoices), wanted);
        assert_eq!(host.terminate(), Some(0));

        // That would be seen: an invoice less, and one event handled twice.
        assert_ne!(found(&balances(), &invoices[..invoices.len() - 1]), wanted);
        let twice: Vec<_> = orders.iter().cloned().chain(orders.last().cloned()).collect();
        assert_ne!(expected(&twice), wanted);
    }
}

#[test]
fn the_script_says_what_it_wants() {
    let refused = Command::new(example().join("server")).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("postgres|mariadb"));
}

/// As its README has it: the server from the script, the consumer from `tendon dev`, and an order that comes while it runs.
#[test]
fn the_story_runs_from_the_script_on() {
    for (kind, is_here) in
        [("mariadb", tendon_tests::servers::has_mariadb()), ("postgres", tendon_tests::servers::has_postgres())]
    {
        if !is_here {
            continue;
        }
        let mut script = Command::new(example().join("server"));
        script.arg(kind);
        let script = tendon_tests::project::Host::spawn(script);
        let line = script.line("export ORDERS_URL=");
        let url = line.split_once('=').unwrap().1;
        let mut dev = binary::command();
        dev.args(["dev", "--until-head", "-o", "json"])
            .arg(example())
            .env("ORDERS_URL", url)
            .env_remove("TENDON_CONFIG");
        dev.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
        let output = dev.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(ended["consumers"][0]["consumed"], json!(18), "{ended}");
        assert_eq!(script.terminate(), Some(0));
        wait("the server is gone", || {
            let address = url.rsplit('@').next().unwrap().split('/').next().unwrap();
            std::net::TcpStream::connect(address).is_err().then_some(())
        });
    }
}
