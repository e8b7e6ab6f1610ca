//! Deployments for tests that do not care what is in them.

use std::{collections::BTreeMap, time::Duration};

use tendon::{
    batch::BatchPolicy,
    deployment::{Deployment, Spec, StateScope},
    event::{Cursor, Timestamp},
    filter::Filter,
    limits::Limits,
    policy::RetryPolicy,
    store::{Digest, Epoch},
    tenant::ConsumerId,
    topology::{Past, Shards},
};

use crate::place::{name, stream};

/// A deployment of a component, not activated yet.
pub fn deployment(consumer: &ConsumerId, component: &[u8]) -> Deployment {
    Deployment {
        consumer: consumer.clone(),
        epoch: Epoch(0),
        digest: Digest::of(component),
        spec: Spec {
            stream: stream("in"),
            store: name("main"),
            start: Cursor(vec![0xff, 0].into()),
            filter: Filter { types: vec![-1, 5], foreign_ids: vec!["a".into()], r#where: Some("type == 5".into()) },
            lag: Duration::from_secs(3),
            state: StateScope::Key,
            shards: Shards::default(),
            past: Past::default(),
            batch: BatchPolicy::default(),
            retry: RetryPolicy::default(),
            limits: Limits::default(),
            grants_emit: vec![name("out")],
            config: BTreeMap::from([("a".into(), "b\0\"".into())]),
            state_version: 3,
            legacy_cursor: None,
        },
        at: Timestamp(1_800_000_000_000_000),
    }
}
