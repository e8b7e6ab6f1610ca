//! Where a consumer begins: a place that an operator names, and the cursor that it stands for.

use futures_util::StreamExt as _;

use crate::{
    clock::Clock,
    config::start::Start,
    error::{Error, Result},
    event::{Cursor, Event, Timestamp},
    source::{Source, Until},
};

/// The cursor of a place, as the stream is now.
pub async fn resolve(start: &Start, source: &dyn Source) -> Result<Cursor> {
    match start {
        Start::Earliest => Ok(Cursor::START),
        Start::Latest => source.head().await,
        Start::AfterEarliest(events) => nth(source, *events).await,
        Start::BeforeHead(events) => {
            let all = source.lag(&Cursor::START, u64::MAX).await?.events;
            nth(source, all.saturating_sub(*events)).await
        }
        Start::At(time) => since(source, *time).await,
        Start::Ago(ago) => {
            let micros = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
            since(source, Timestamp(Clock::System.now().0.saturating_sub(micros))).await
        }
        Start::After(id) => match before(source, |event| event.id == *id).await? {
            (_, Some(event)) => Ok(event.cursor),
            (_, None) => Err(Error::invalid(format!("the stream has no event {id}"))
                .help("look at its ids with `tendon event list STREAM`")),
        },
    }
}

async fn since(source: &dyn Source, time: Timestamp) -> Result<Cursor> {
    before(source, |event| event.timestamp >= time).await.map(|(cursor, _)| cursor)
}

/// The place before the first event that is wanted, with that event; the head where there is none.
async fn before(source: &dyn Source, is_wanted: impl Fn(&Event) -> bool) -> Result<(Cursor, Option<Event>)> {
    let mut chunks = source.stream(Cursor::START, Until::Head).await?;
    let mut before = Cursor::START;
    while let Some(chunk) = chunks.next().await {
        for event in chunk?.events {
            if is_wanted(&event) {
                return Ok((before, Some(event)));
            }
            before = event.cursor;
        }
    }
    Ok((before, None))
}

/// The place after the n-th event, or the head where there are fewer.
async fn nth(source: &dyn Source, events: u64) -> Result<Cursor> {
    let mut left = events;
    let mut chunks = source.stream(Cursor::START, Until::Head).await?;
    let mut place = Cursor::START;
    while left > 0 {
        let Some(chunk) = chunks.next().await else { break };
        for event in chunk?.events.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            place = event.cursor;
            left -= 1;
        }
    }
    Ok(place)
}
