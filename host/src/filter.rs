//! Which events a consumer is called with. The host decides, so an event that is left out never enters a guest.

use std::{borrow::Cow, collections::HashMap, fmt};

use bytestring::ByteString;
use cel::{
    Context, ExecutionError, IdedExpr, Program, Value,
    common::ast::{Expr, operators},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    event::Event,
};

/// Bytes that an expression may have.
pub const EXPRESSION_BYTES_MAX: usize = 1_024;

/// What an event must be for a consumer to be called with it: everything that is said here. Other events move the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Of one of these types, sorted; any where it is empty.
    pub types: Vec<i32>,
    /// About one of these foreign ids, sorted; any where it is empty.
    pub foreign_ids: Vec<ByteString>,
    /// Those for which this expression in CEL is true. It may name `id`, `type`, `foreign_id`, `metadata` (the payload, which
    /// must then be JSON) and `headers`.
    pub r#where: Option<String>,
}

impl fmt::Display for Filter {
    /// As an operator reads it: `type 1 or 2, foreign id a, where metadata.mag >= 4.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = |what: &str, of: Vec<String>| (!of.is_empty()).then(|| format!("{what} {}", of.join(" or ")));
        let parts = [
            any("type", self.types.iter().map(ToString::to_string).collect()),
            any("foreign id", self.foreign_ids.iter().map(ToString::to_string).collect()),
            self.r#where.as_ref().map(|expression| format!("where {expression}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// A filter that is ready to be asked.
pub struct Matcher {
    filter: Filter,
    /// Why the expression cannot be asked, if so: then every event that it is asked about fails.
    condition: Option<Result<Condition>>,
}

/// What a filter says of a row of events.
pub struct Selected<'e> {
    /// Those that match.
    pub matching: Cow<'e, [Event]>,
    /// How many were looked at: all of them, or those before the one that the filter has no answer for.
    pub seen: usize,
    /// How many of those do not belong here.
    pub others: usize,
    /// Why it has none.
    pub failure: Option<String>,
}

impl Matcher {
    /// Makes it ready.
    pub fn new(filter: &Filter) -> Self {
        Self { filter: filter.clone(), condition: filter.r#where.as_deref().map(Condition::new) }
    }

    /// Looks at events in their order.
    pub fn select<'e>(&self, events: &'e [Event]) -> Selected<'e> {
        if self.filter == Filter::default() {
            return Selected { matching: Cow::Borrowed(events), seen: events.len(), others: 0, failure: None };
        }
        self.select_of(events, |_, _| true)
    }

    /// The same, of those events alone that belong here, as their number in the row and they themselves say; the others do not
    /// match.
    pub fn select_of<'e>(&self, events: &'e [Event], belongs: impl Fn(usize, &Event) -> bool) -> Selected<'e> {
        let (mut matching, mut others) = (Vec::new(), 0);
        for (seen, event) in events.iter().enumerate() {
            if !belongs(seen, event) {
                others += 1;
                continue;
            }
            match self.matches(event) {
                Ok(true) => matching.push(event.clone()),
                Ok(false) => {}
                Err(failure) => return Selected { matching: matching.into(), seen, others, failure: Some(failure) },
            }
        }
        Selected { matching: matching.into(), seen: events.len(), others, failure: None }
    }

    fn matches(&self, event: &Event) -> Result<bool, String> {
        let Filter { types, foreign_ids, .. } = &self.filter;
        if !types.is_empty() && types.binary_search(&event.r#type).is_err()
            || !foreign_ids.is_empty() && foreign_ids.binary_search(&event.foreign_id).is_err()
        {
            return Ok(false);
        }
        match &self.condition {
            None => Ok(true),
            Some(Ok(condition)) => condition.is_true(event),
            Some(Err(error)) => Err(error.to_string()),
        }
    }
}

/// An expression that can be asked about events.
struct Condition {
    program: Program,
    /// The functions of the language, made once.
    root: Context<'static, 'static>,
    /// The variables that it names.
    reads: Vec<Variable>,
}

/// What of an event an expression can name.
#[derive(Clone, Copy, Debug)]
enum Variable {
    Id,
    Type,
    ForeignId,
    Metadata,
    Headers,
}

const VARIABLES: [(&str, Variable); 5] = [
    ("id", Variable::Id),
    ("type", Variable::Type),
    ("foreign_id", Variable::ForeignId),
    ("metadata", Variable::Metadata),
    ("headers", Variable::Headers),
];

/// Whether an expression can be asked about events; why not.
pub fn check(expression: &str) -> Result<()> {
    Condition::new(expression).map(|_| ())
}

impl Condition {
    fn new(expression: &str) -> Result<Self> {
        let bytes = expression.len();
        if bytes > EXPRESSION_BYTES_MAX {
            return Err(Error::limit(format!("it has {bytes} bytes, at most {EXPRESSION_BYTES_MAX}"))
                .help("compare less, or leave the choice to the component"));
        }
        let program = Program::compile(expression).map_err(|error| {
            Error::invalid(format!("it is no expression of CEL: {error}"))
                .help("write it like this: has(metadata.mag) && metadata.mag >= 4.5")
        })?;
        if !only_compares(program.expression()) {
            return Err(Error::invalid(
                "it loops, adds or makes maps: a filter only compares, so that its cost is bounded",
            )
            .help("`'a' in metadata.tags` looks for a value in a list"));
        }
        let root = Context::default();
        let references = program.references();
        let reads = references.variables().into_iter().map(variable).collect::<Result<_>>()?;
        references.functions().into_iter().try_for_each(|name| is_function(name, &root))?;
        Ok(Self { program, root, reads })
    }

    fn is_true(&self, event: &Event) -> Result<bool, String> {
        let mut context = self.root.new_inner_scope();
        for variable in &self.reads {
            match variable {
                Variable::Id => context.add_variable_from_value("id", event.id.0.to_string()),
                Variable::Type => context.add_variable_from_value("type", i64::from(event.r#type)),
                Variable::ForeignId => context.add_variable_from_value("foreign_id", event.foreign_id.to_string()),
                Variable::Metadata => {
                    let metadata = serde_json::from_slice(&event.metadata);
                    let metadata = metadata.map_err(|error| format!("the payload is not JSON: {error}"))?;
                    context.add_variable_from_value("metadata", value(metadata));
                }
                Variable::Headers => {
                    let headers = event.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
                    context.add_variable_from_value("headers", headers.collect::<HashMap<String, String>>());
                }
            }
        }
        match self.program.execute(&context) {
            Ok(Value::Bool(answer)) => Ok(answer),
            Ok(other) => Err(format!("it is {other:?}, neither true nor false")),
            Err(error) => Err(format!("{error}; `has(metadata.x) && …` asks whether there is an x")),
        }
    }
}

fn variable(name: &str) -> Result<Variable> {
    let known = VARIABLES.iter().find(|(known, _)| *known == name);
    known.map(|(_, variable)| *variable).ok_or_else(|| {
        let names = VARIABLES.map(|(name, _)| name).join(", ");
        Error::invalid(format!("an event has no `{name}`")).help(format!("it has {names}; a text is in quotes"))
    })
}

/// JSON, as the language has it: a whole number is an `int` where it has room there, as the ones in an expression are.
fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(is_so) => Value::Bool(is_so),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(uint)) => Value::UInt(uint),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(values) => values.into_iter().map(value).collect::<Vec<_>>().into(),
        serde_json::Value::Object(fields) => {
            fields.into_iter().map(|(name, field)| (name, value(field))).collect::<HashMap<_, _>>().into()
        }
    }
}

/// Whether there is such a function. The language is asked: a call with too few arguments is a mistake of another kind where
/// there is one, by itself or of a text.
fn is_function(name: &str, root: &Context<'_, '_>) -> Result<()> {
    let is_unknown = |call: &str| {
        let answer = Program::compile(call).map(|call| call.execute(root));
        matches!(answer, Ok(Err(ExecutionError::UndeclaredReference(_))))
    };
    let is_operator = !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if is_operator || !is_unknown(&format!("{name}()")) || !is_unknown(&format!("''.{name}()")) {
        return Ok(());
    }
    Err(Error::invalid(format!("there is no function `{name}`"))
        .help("there are size, contains, startsWith, endsWith, int, uint, double, string, has and the operators"))
}

/// Whether an expression does nothing whose cost or memory grows beyond that of what it is given.
fn only_compares(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Ident(_) | Expr::Literal(_) => true,
        Expr::Select(select) => only_compares(&select.operand),
        // What is in a list is copied: a payload in it a hundred times would be a hundred payloads.
        Expr::List(list) => list.elements.iter().all(is_small),
        Expr::Call(call) => {
            call.func_name != operators::ADD
                && call.target.iter().all(|target| only_compares(target))
                && call.args.iter().all(only_compares)
        }
        Expr::Unspecified | Expr::Comprehension(_) | Expr::Map(_) | Expr::Struct(_) => false,
    }
}

/// Whether it is a value that is written out, or one of an event's own short texts and numbers.
fn is_small(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Literal(_) => true,
        Expr::Ident(name) => !matches!(variable(name), Ok(Variable::Metadata | Variable::Headers)),
        Expr::Call(call) => call.func_name == operators::NEGATE && call.args.iter().all(is_small),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cursor, EventId, Timestamp};

    fn event(r#type: i32, foreign_id: &'static str, metadata: &'static str) -> Event {
        Event {
            id: EventId("7".into()),
            cursor: Cursor::START,
            r#type,
            foreign_id: foreign_id.into(),
            timestamp: Timestamp(0),
            metadata: metadata.into(),
            headers: vec![("source".into(), "us".into())],
        }
    }

    fn asked(expression: &str, event: &Event) -> Result<bool, String> {
        Condition::new(expression).unwrap().is_true(event)
    }

    #[test]
    fn expressions_compare_what_an_event_has() {
        let quake = event(
            3,
            "us1",
            r#"{"mag":5,"depth":10.5,"tags":["a","b"],"at":{"place":"Amboy"},"none":null,"big":18446744073709551615,"small":-1}"#,
        );
        for yes in [
            "metadata.mag >= 4.5",
            "metadata.mag == 5 && metadata.depth > 10",
            "metadata.at.place == 'Amboy'",
            "metadata['at']['place'].startsWith('Am')",
            "'a' in metadata.tags && size(metadata.tags) == 2 && metadata.tags[1] == 'b'",
            "metadata.none == null",
            "has(metadata.mag) && !has(metadata.magnitude)",
            "type == 3 && foreign_id in ['us1', 'us2'] && id == '7'",
            "headers.source == 'us'",
            "has(metadata.x) ? metadata.x == 1 : true",
            "metadata.depth * 2.0 == 21.0 && metadata.mag - 1 == 4 && metadata.mag in [4, 5]",
            "metadata.big > 9223372036854775807 && metadata.mag == 5.0 && metadata.small < 0",
        ] {
            assert_eq!(asked(yes, &quake), Ok(true), "{yes}");
            assert_eq!(asked(&format!("!({yes})"), &quake), Ok(false), "{yes}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        for (expression, metadata, what) in [
            ("metadata.mag > 1", "{}", "mag"),
            ("metadata.mag > 1", "no json", "not JSON"),
            ("metadata.mag > 1", "", "not JSON"),
            ("metadata.mag > 'x'", r#"{"mag":1}"#, "_>_"),
            ("metadata.mag", r#"{"mag":1}"#, "neither true nor false"),
        ] {
            let error = asked(expression, &event(1, "", metadata)).unwrap_err();
            assert!(error.contains(what), "{expression}: {error}");
        }
    }

    #[test]
    fn expressions_that_say_nothing_are_refused() {
        let long = format!("type == 1{}", " ".repeat(EXPRESSION_BYTES_MAX));
        for (expression, what) in [
            ("", "no expression"),
            ("metadata.mag >", "no expression"),
            ("mag > 1", "no `mag`"),
            ("type == 9 && unheard > 1", "no `unheard`"),
            ("type == 9 && unheard(1)", "no function `unheard`"),
            ("metadata.tags.all(id, id > 1)", "only compares"),
            ("metadata.tags.map(t, t) == []", "only compares"),
            ("metadata.a + metadata.a == 'aa'", "only compares"),
            ("{'a': 1}.a == 1", "only compares"),
            ("size([metadata, metadata]) == 2", "only compares"),
            ("_unheard(1)", "no function `_unheard`"),
            (long.as_str(), "at most"),
        ] {
            let error = check(expression).unwrap_err();
            assert!(error.to_string().contains(what), "{expression}: {error}");
            assert!(error.way_out().is_some(), "{expression}");
        }
        check(&"(".repeat(EXPRESSION_BYTES_MAX)).unwrap_err();
        check(&"!".repeat(EXPRESSION_BYTES_MAX)).unwrap_err();
    }

    /// However deep an expression of the longest length is, a thread's stack is deeper: what overflows it ends the host.
    #[test]
    fn the_deepest_expressions_fit_on_a_stack() {
        for (begin, again, end) in [
            ("type", "-1", " == 0"),
            ("metadata", "[0]", " == 0"),
            ("metadata", ".a", " == 0"),
            ("type == 1", " || type == 1", ""),
            ("type == 1", "?true:false", ""),
            ("1", "<1", ""),
            ("", "!", "true"),
            ("", "-", "1 == 1"),
        ] {
            let times = (EXPRESSION_BYTES_MAX - begin.len() - end.len()) / again.len();
            let deep = format!("{begin}{}{end}", again.repeat(times));
            let ask = move || {
                // Refused or not, answered or not: it must come back.
                if let Ok(condition) = Condition::new(&deep) {
                    let _ = condition.is_true(&event(1, "a", "[[1]]"));
                }
            };
            // As small as a thread's stack is anywhere in the host, and this is a build that needs the most of it.
            std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(ask).unwrap().join().unwrap();
        }
    }

    #[test]
    fn a_filter_takes_what_is_all_that_it_says_and_stops_where_it_has_no_answer() {
        let events = [
            event(1, "a", "1"),
            event(2, "a", "1"),
            event(1, "b", "1"),
            event(1, "a", "2"),
            event(1, "a", ""),
            event(1, "a", "1"),
        ];
        let select = |filter: &Filter, events: &[Event]| {
            let selected = Matcher::new(filter).select(events);
            (selected.matching.len(), selected.seen, selected.failure.is_some())
        };
        assert_eq!(select(&Filter::default(), &events), (6, 6, false));
        let mut filter = Filter { types: vec![1, 7], ..Filter::default() };
        assert_eq!(select(&filter, &events), (5, 6, false));
        filter.foreign_ids = vec!["a".into(), "c".into()];
        assert_eq!(select(&filter, &events), (4, 6, false));
        filter.r#where = Some("metadata == 1".to_owned());
        assert_eq!(select(&filter, &events), (1, 4, true));
        assert_eq!(filter.to_string(), "type 1 or 7, foreign id a or c, where metadata == 1");
        // Nobody asks what the rest of the filter leaves out.
        filter.foreign_ids = vec!["b".into()];
        assert_eq!(select(&filter, &events), (1, 6, false));
    }
}
