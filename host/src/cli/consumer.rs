//! `tendon consumer list|show|pause|resume|skip|reset|remove`.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::{
    Ctx,
    client::{Client, escape},
    problem::Exit,
};
use crate::{
    config::{show_duration, show_limits},
    error::{Error, Result},
    filter::Filter,
    host::reset::Done,
    limits::Limits,
    server::views::{ConsumerDetail, ConsumerView, ParkedView, ShardView, known},
};

/// What about consumers.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with consumers.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the consumers: status, lag, component
    #[command(visible_alias = "ls")]
    List,
    /// Show everything about one: why it stands still, its spec, which components made its commits
    Show {
        /// The consumer
        name: String,
    },
    /// Stop one where it is, until it is resumed
    Pause {
        /// The consumer
        name: String,
        /// Why, for whoever finds it paused
        #[arg(long, value_name = "TEXT", default_value = "an operator paused it")]
        reason: String,
    },
    /// Let one go on that is paused or blocked; attempts start anew
    Resume {
        /// The consumer
        name: String,
    },
    /// Let one go on without the event that blocks it, which is set aside: see `tendon dlq`
    Skip {
        /// The consumer
        name: String,
        /// The event's id, as `tendon consumer show` names it
        event: String,
    },
    /// Send one to another place of its stream, back or ahead; it stops meanwhile
    Reset(Reset),
    /// Remove one that is in no host's config any more, with its position, state, dead letters and deployments
    Remove {
        /// The consumer
        name: String,
        /// That this is meant: nothing of it comes back
        #[arg(long)]
        yes: bool,
    },
}

/// Where one goes, and what becomes of what it did beyond that.
#[derive(Debug, clap::Args)]
pub struct Reset {
    /// The consumer
    name: String,
    /// Where to: earliest, latest, @2026-11-24T08:30:00Z, @-10m, +100, -100 or id:EVENT
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    to: String,
    /// What becomes of its state
    #[arg(long, value_parser = ["keep", "clear"])]
    state: String,
    /// suppress: nothing is emitted for what its shards have passed so far, but for what was set aside or parked; again: everything
    /// is emitted once more
    #[arg(long, value_parser = ["suppress", "again"])]
    emits: String,
    /// Only say what that would do
    #[arg(long)]
    dry_run: bool,
}

/// Asks the host, and shows what it says.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let client = Client::connect(ctx).await?;
    let tenant = || vec![("tenant", ctx.tenant().to_string())];
    let path = |name: &str| format!("/v1/consumers/{}", escape(name));
    match args.verb {
        Verb::List => {
            let all: Vec<ConsumerView> = client.get("/v1/consumers", ctx.one_tenant()).await?;
            ctx.out.list(&all, &["consumer", "stream", "status", "lag", "behind", "cursor", "component"], row)?;
            for (consumer, problem) in all.iter().filter_map(|one| Some((one, one.problem.as_ref()?))) {
                ctx.out.talk(format!("{}: {problem}", consumer.name));
            }
        }
        Verb::Show { name } => show(ctx, &client.get(&path(&name), tenant()).await?)?,
        Verb::Pause { name, reason } => {
            let body = json!({ "reason": reason }).to_string().into_bytes();
            show(ctx, &client.post(&format!("{}/pause", path(&name)), tenant(), body).await?)?;
        }
        Verb::Resume { name } => {
            show(ctx, &client.post(&format!("{}/resume", path(&name)), tenant(), Vec::new()).await?)?;
        }
        Verb::Skip { name, event } => {
            let body = json!({ "event": event }).to_string().into_bytes();
            show(ctx, &client.post(&format!("{}/skip", path(&name)), tenant(), body).await?)?;
        }
        Verb::Reset(Reset { name, to, state, emits, dry_run }) => {
            let body = json!({ "to": to, "state": state, "emits": emits, "dry_run": dry_run });
            let body = body.to_string().into_bytes();
            let done: Done = client.post(&format!("{}/reset", path(&name)), tenant(), body).await?;
            ctx.out.object(&done, reset_lines)?;
        }
        Verb::Remove { name, yes } => {
            if !yes {
                return Err(Error::invalid(format!("removing {name} cannot be undone"))
                    .help(format!("if that is meant: `tendon consumer remove {name} --yes`")));
            }
            let removed: serde_json::Value =
                client.post(&format!("{}/remove", path(&name)), tenant(), Vec::new()).await?;
            ctx.out.object(&removed, |_| vec![("removed", name.clone())])?;
        }
    }
    Ok(Exit::Ok)
}

fn reset_lines(done: &Done) -> Vec<(&'static str, String)> {
    vec![
        (if done.dry_run { "would go to" } else { "is now at" }, done.cursor.clone()),
        ("handles again", format!("{} events", done.again)),
        ("passes over", format!("{} events", done.skipped)),
        ("dead letters", format!("{} are no longer set aside", done.dead_letters)),
        ("parked events", format!("{} wait no longer", done.parked)),
    ]
}

fn row(consumer: &ConsumerView) -> Vec<String> {
    vec![
        consumer.name.clone(),
        consumer.stream.clone(),
        consumer.status.clone(),
        known(consumer.lag_events),
        behind(consumer.lag_seconds),
        consumer.cursor.clone(),
        short(consumer.digest.as_deref()),
    ]
}

/// Seconds as people say them: the two largest units.
fn behind(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else { return "?".to_owned() };
    if seconds <= 0.0 {
        return "-".to_owned();
    }
    let whole = humantime::format_duration(Duration::from_secs(seconds as u64)).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The first digits of a digest.
fn short(digest: Option<&str>) -> String {
    let digits = digest.and_then(|digest| digest.strip_prefix("sha256:"));
    digits.map_or("-".to_owned(), |digits| digits.chars().take(8).collect())
}

fn show(ctx: &Ctx, detail: &ConsumerDetail) -> Result<()> {
    ctx.out.object(detail, lines)
}

fn lines(detail: &ConsumerDetail) -> Vec<(&'static str, String)> {
    let consumer = &detail.summary;
    let mut lines =
        vec![("consumer", format!("{}/{}", consumer.tenant, consumer.name)), ("status", consumer.status.clone())];
    if let Some(reason) = &consumer.reason {
        let event = reason.event.as_ref().map(|event| format!(" at event {event}")).unwrap_or_default();
        lines.push(("reason", format!("{}{event}, since {}", reason.code, reason.since)));
        lines.push(("", reason.message.clone()));
        lines.push(("attempts", consumer.attempts.to_string()));
        lines.extend(reason.retry_at.map(|at| ("next attempt", at.to_string())));
        lines.extend(reason.logs.lines().map(|line| ("logged", line.to_owned())));
    }
    if let Some(refused) = &consumer.refused {
        lines.push(("refused", format!("what its files propose, since {}: {}", refused.since, refused.message)));
        lines.extend(refused.help.clone().map(|help| ("help", help)));
    }
    lines.extend(consumer.held_up.as_ref().map(|by| ("held up by", by.to_string())));
    lines.extend(consumer.problem.clone().map(|problem| ("problem", problem)));
    let letters = || ("set aside", format!("some events: `tendon dlq list {}`", consumer.name));
    lines.extend(detail.has_dead_letters.then(letters));
    lines.extend(consumer.next_step.clone().map(|step| ("next step", step)));
    lines.extend([
        ("stream", consumer.stream.clone()),
        ("cursor", consumer.cursor.clone()),
        ("lag", format!("{} events, {}", known(consumer.lag_events), behind(consumer.lag_seconds))),
        ("component", consumer.digest.clone().unwrap_or_else(|| "none has committed yet".into())),
        ("epoch", consumer.epoch.to_string()),
        ("revision", format!("{}, fence {}", consumer.revision, consumer.fence)),
    ]);
    if let Some(spec) = &detail.spec {
        let limits = &spec.limits;
        lines.extend((spec.filter != Filter::default()).then(|| ("filter", spec.filter.to_string())));
        lines.extend((!spec.lag.is_zero()).then(|| ("handles", format!("what is {} old", show_duration(spec.lag)))));
        if spec.shards.count > 1 {
            lines.push(("shards", format!("{} by {}", spec.shards.count, spec.shards.by)));
        }
        lines.push(("state", spec.state.word().to_owned()));
        lines.extend(limit_lines(limits));
        let granted = spec.grants_emit.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        lines.push(("may emit to", if granted.is_empty() { "nothing".into() } else { granted }));
    }
    if let Some(parked) = &detail.parked {
        lines.push(("parked", format!("keys {}, events {}", parked.keys, parked.events)));
        lines.extend(parked.first.iter().map(|parked| ("", parked_line(parked))));
    }
    lines.extend(detail.shards.iter().map(|shard| ("shard", shard_line(shard))));
    for swap in &detail.history {
        let shard = if consumer.shards > 1 { format!("shard {}: ", swap.shard) } else { String::new() };
        let line = format!("{shard}{} from revision {}, {}", short(Some(&swap.digest)), swap.revision, swap.at);
        lines.push(("history", line));
    }
    lines
}

/// All limits by their names, as the config has them, some in a line.
fn limit_lines(limits: &Limits) -> Vec<(&'static str, String)> {
    let named = serde_json::to_value(show_limits(limits)).unwrap_or_default();
    let named = named.as_object().into_iter().flatten();
    let all: Vec<String> =
        named.map(|(name, limit)| format!("{name} {}", limit.to_string().trim_matches('"'))).collect();
    let label = |n: usize| if n == 0 { "limits" } else { "" };
    all.chunks(4).enumerate().map(|(n, some)| (label(n), some.join(", "))).collect()
}

fn parked_line(ParkedView { key, events, reason, attempts }: &ParkedView) -> String {
    let event = reason.event.as_ref().map(|event| format!(" at event {event}")).unwrap_or_default();
    let again = reason.retry_at.map_or("until somebody helps".to_owned(), |at| format!("again at {at}"));
    let first = reason.message.lines().next().unwrap_or_default();
    format!("{key}: events {events}, {}{event}, attempts {attempts}, {again}: {first}", reason.code)
}

fn shard_line(shard: &ShardView) -> String {
    let lag = format!("{} events, {}", known(shard.lag_events), behind(shard.lag_seconds));
    let reason = shard.reason.as_ref().map(|reason| {
        let event = reason.event.as_ref().map(|event| format!(" at event {event}")).unwrap_or_default();
        format!(": {}{event}, {} attempts", reason.code, shard.attempts)
    });
    format!("{} {}, at {}, lag {lag}{}", shard.index, shard.status, shard.cursor, reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_two_units_at_the_most() {
        assert_eq!(behind(Some(0.0)), "-");
        assert_eq!(behind(Some(59.9)), "59s");
        assert_eq!(behind(Some(3_600.0 * 49.0 + 61.0)), "2days 1h");
        assert_eq!(behind(None), "?");
    }
}
