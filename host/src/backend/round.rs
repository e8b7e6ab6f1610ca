//! A round of commits that a SQL database writes together, and alone those that cannot have that.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
};

use super::{check, twice};
use crate::{
    changes::Emit,
    error::{Error, Kind, Result},
    event::EventKey,
    store::{Commit, Committed, Duplicates, Rewrite},
    tenant::StreamId,
};

/// One commit on its way.
pub(super) struct Item<'a, T> {
    /// What is asked for.
    pub(super) commit: &'a Commit,
    /// The tables of the streams that it appends to.
    pub(super) tables: HashMap<&'a StreamId, T>,
}

/// What is to be appended.
pub(super) struct Wanted<'a, T> {
    /// How many events of each item.
    pub(super) counts: Vec<u64>,
    pub(super) keys: Vec<&'a EventKey>,
    /// The events of each stream in their order. Streams have an order, too: all take them in that one.
    pub(super) streams: BTreeMap<&'a StreamId, (T, Vec<&'a Emit>)>,
}

impl<T> Item<'_, T> {
    /// Whether an event whose key is there already is left out.
    pub(super) fn skips(&self) -> bool {
        self.commit.duplicates == Duplicates::Skip
    }
}

/// A database that writes commits.
pub(super) trait Writer: Sync {
    /// What it knows of a stream.
    type Table: Clone + Send + Sync;

    /// A stream's table; none where nobody made it.
    fn table(&self, stream: &StreamId) -> impl Future<Output = Result<Option<Self::Table>>> + Send;

    /// Writes commits in one transaction.
    fn transact(&self, items: &[Item<'_, Self::Table>]) -> impl Future<Output = Result<Vec<Result<Committed>>>> + Send;

    /// Writes a commit that puts other positions in the place of a consumer's, in a transaction of its own.
    fn rewrite(&self, commit: &Commit, rewrite: &Rewrite) -> impl Future<Output = Result<Committed>> + Send;

    /// Whether two commits may not share a transaction.
    fn collide(&self, _: &Commit, _: &Commit) -> bool {
        false
    }
}

/// Writes commits together. If that fails for another reason than a lost compare, each is written alone, so that each
/// gets its own answer. The answers are in the order of the commits.
pub(super) async fn write<W: Writer>(writer: &W, commits: &[Commit]) -> Vec<Result<Committed>> {
    let mut answers: Vec<Option<Result<Committed>>> = Vec::new();
    let (mut items, mut shards) = (Vec::new(), HashSet::new());
    for commit in commits {
        let again = commit.r#move.as_ref().is_some_and(|r#move| !shards.insert(&r#move.from.shard));
        let item = if again { Err(twice(commit)) } else { prepare(writer, commit).await };
        if let (Ok(_), Some(rewrite)) = (&item, &commit.rewrite) {
            answers.push(Some(writer.rewrite(commit, rewrite).await));
            continue;
        }
        match item {
            Ok(item) => {
                items.push(item);
                answers.push(None);
            }
            Err(error) => answers.push(Some(Err(error))),
        }
    }
    let mut written = Vec::new();
    let mut rest = &items[..];
    while !rest.is_empty() {
        let collides = |at: &usize| {
            let before = rest.iter().take(*at);
            rest.get(*at).is_some_and(|item| before.into_iter().any(|other| writer.collide(other.commit, item.commit)))
        };
        let (together, later) = rest.split_at((1..rest.len()).find(collides).unwrap_or(rest.len()));
        written.extend(write_together(writer, together).await);
        rest = later;
    }
    let mut written = written.into_iter();
    let missing = || Err(Error::corrupt("a commit was left without an answer"));
    answers.into_iter().map(|answer| answer.or_else(|| written.next()).unwrap_or_else(missing)).collect()
}

async fn write_together<W: Writer>(writer: &W, items: &[Item<'_, W::Table>]) -> Vec<Result<Committed>> {
    let error = match writer.transact(items).await {
        Ok(answers) => return answers,
        Err(error) => error,
    };
    if items.len() == 1 {
        return vec![Err(error)];
    }
    let mut answers = Vec::new();
    // Who was refused for the database's sake would be refused alone, too; and what may stand is not sent twice.
    let try_alone = !matches!(error.kind(), Kind::Unavailable | Kind::Ambiguous);
    for item in items {
        answers.push(if try_alone {
            match writer.transact(std::slice::from_ref(item)).await {
                Ok(mut answers) => answers.pop().unwrap_or_else(|| Ok(Committed::default())),
                Err(error) => Err(error),
            }
        } else {
            Err(Error::new(error.kind(), error.chain()).help(error.way_out().unwrap_or_default()))
        });
    }
    answers
}

/// Looks the streams up that a commit appends to.
async fn prepare<'a, W: Writer>(writer: &W, commit: &'a Commit) -> Result<Item<'a, W::Table>> {
    check(commit)?;
    let mut tables = HashMap::new();
    for Emit { stream, .. } in &commit.changes.emits {
        if !tables.contains_key(stream) {
            let table = writer.table(stream).await?;
            tables.insert(stream, table.ok_or_else(|| no_stream(stream))?);
        }
    }
    Ok(Item { commit, tables })
}

/// Which events are appended: all, but for those that a producer repeats.
pub(super) fn wanted<'a, T: Clone>(items: &[&'a Item<'a, T>], known: &HashSet<EventKey>) -> Wanted<'a, T> {
    let mut wanted = Wanted { counts: Vec::new(), keys: Vec::new(), streams: BTreeMap::new() };
    let mut seen = HashSet::new();
    for item in items {
        let before = wanted.keys.len();
        for emit in &item.commit.changes.emits {
            let fresh = seen.insert(emit.key) && !known.contains(&emit.key);
            let Some(table) = item.tables.get(&emit.stream).filter(|_| fresh || !item.skips()) else { continue };
            wanted.streams.entry(&emit.stream).or_insert_with(|| (table.clone(), Vec::new())).1.push(emit);
            wanted.keys.push(&emit.key);
        }
        wanted.counts.push((wanted.keys.len() - before) as u64);
    }
    wanted
}

/// A stream that is a table of another program's.
pub(super) fn not_ours(stream: &StreamId) -> Error {
    Error::invalid(format!("stream {stream} is another program's table")).help("delete its rows there")
}

/// A stream that nobody made.
pub(super) fn no_stream(stream: &StreamId) -> Error {
    Error::not_found(format!("there is no stream {stream}"))
}
