//! Keeps each customer's balance, and emits an invoice for every order that is paid, a credit note for every refund.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tendon_sdk::{Error, Event, OrReject as _, Result, emit, state};

// The types of the order service's events. An event's foreign id is its order.
const PLACED: i32 = 1;
const PAID: i32 = 2;
const REFUNDED: i32 = 3;
const CANCELLED: i32 = 4;

// The types of what is emitted.
const INVOICE: i32 = 1;
const CREDIT_NOTE: i32 = 2;

/// What is read of the event that places an order, and kept under `order/<id>`.
#[derive(Clone, Serialize, Deserialize)]
struct Order {
    customer: String,
    cents: i64,
}

/// What is kept of a customer, under `balance/<customer>`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Balance {
    /// Of orders that are placed and not paid yet.
    open_cents: i64,
    /// Of orders that are paid and not refunded.
    paid_cents: i64,
    /// Invoices and credit notes so far: the last one's number.
    documents: u32,
}

/// An invoice or a credit note.
#[derive(Serialize)]
struct Document<'a> {
    number: String,
    order: &'a str,
    customer: &'a str,
    cents: i64,
}

fn handle(event: &Event) -> Result<()> {
    let key = format!("order/{}", event.foreign_id);
    let order: Order = match event.type_ {
        // What is no order will be none the next time either.
        PLACED => event.json().or_reject()?,
        PAID | REFUNDED | CANCELLED => known(&key, &event.foreign_id)?,
        other => return Err(Error::reject(format!("an order has no event of type {other}"))),
    };
    let balance_key = format!("balance/{}", order.customer);
    let mut balance: Balance = state::get_json(&balance_key)?.unwrap_or_default();
    match event.type_ {
        PLACED => {
            balance.open_cents += order.cents;
            state::set_json(&key, &order)?;
        }
        PAID => {
            balance.open_cents -= order.cents;
            balance.paid_cents += order.cents;
            issue(INVOICE, &mut balance, &event.foreign_id, &order)?;
        }
        REFUNDED => {
            balance.paid_cents -= order.cents;
            issue(CREDIT_NOTE, &mut balance, &event.foreign_id, &order)?;
        }
        _ => balance.open_cents -= order.cents,
    }
    state::set_json(&balance_key, &balance)
}

fn known<T: DeserializeOwned>(key: &str, order: &str) -> Result<T> {
    state::get_json(key)?.ok_or_else(|| Error::reject(format!("order {order} was never placed")))
}

/// Emits a document with the customer's next number.
fn issue(r#type: i32, balance: &mut Balance, order_id: &str, order: &Order) -> Result<()> {
    balance.documents += 1;
    let Order { customer, cents } = order;
    let number = format!("{customer}-{:04}", balance.documents);
    let cents = if r#type == CREDIT_NOTE { -cents } else { *cents };
    emit::json("invoices", r#type, order_id, &Document { number, order: order_id, customer, cents })
}

tendon_sdk::handler!(handle);

#[cfg(test)]
mod tests {
    use super::*;
    use tendon_sdk::testing::{Host, event};

    fn placed(order: &str, cents: i64) -> Event {
        event(PLACED, order, format!(r#"{{"customer":"ada","cents":{cents},"item":"a book"}}"#))
    }

    #[test]
    fn an_order_that_is_paid_moves_the_balance_and_has_one_invoice() {
        let mut host = Host::new();
        for event in [placed("1", 1250), placed("2", 300), event(PAID, "1", "{}")] {
            host.handle(handle, &event).unwrap();
        }
        assert_eq!(host.json("balance/ada"), Some(Balance { open_cents: 300, paid_cents: 1250, documents: 1 }));
        assert_eq!(host.emitted().len(), 1);
        let invoice = r#"{"number":"ada-0001","order":"1","customer":"ada","cents":1250}"#;
        assert_eq!(host.emitted()[0].metadata, invoice.as_bytes());
    }

    #[test]
    fn a_refund_has_a_credit_note_and_a_cancelled_order_has_nothing() {
        let mut host = Host::new();
        for event in [placed("1", 500), event(PAID, "1", ""), event(REFUNDED, "1", ""), placed("2", 70)] {
            host.handle(handle, &event).unwrap();
        }
        host.handle(handle, &event(CANCELLED, "2", "")).unwrap();
        assert_eq!(host.json("balance/ada"), Some(Balance { open_cents: 0, paid_cents: 0, documents: 2 }));
        let types: Vec<i32> = host.emitted().iter().map(|event| event.type_).collect();
        assert_eq!(types, [INVOICE, CREDIT_NOTE]);
        assert!(host.emitted()[1].metadata.ends_with(br#""cents":-500}"#));
    }

    #[test]
    fn what_can_never_be_handled_is_rejected() {
        let mut host = Host::new();
        for event in [event(PAID, "9", "{}"), event(PLACED, "9", "no JSON"), event(99, "9", "{}")] {
            assert!(host.handle(handle, &event).unwrap_err().is_reject());
        }
        assert!(host.state().is_empty());
    }
}
