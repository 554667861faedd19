//! The expressions in `OData` with which a backend picks connections, such as
//! `userId eq 'a' and not ('g' in groups)`.
//!
//! A parser by recursive descent, one function for each rule:
//!
//! ```text
//! either     = both *("or" both)
//! both       = single *("and" single)
//! single     = "not" single | "(" either ")" | function | comparison
//! function   = ("startswith" | "endswith" | "contains") "(" operand "," operand ")"
//! comparison = operand ("eq" | "ne") operand | operand "in" "groups"
//! operand    = "userId" | "connectionId" | "null" | "'" text "'"      ; '' in text is one quote
//! ```

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

use crate::peer::ConnectionId;

/// Longer filters are refused: they are asked for each connection, under the hub's lock.
const MAX_LENGTH: usize = 8 << 10;

/// Parentheses and `not`s inside each other. The parser calls itself for each.
const MAX_DEPTH: usize = 32;

/// A filter that makes sense, and its text: other nodes are asked with that.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Filter {
    text: String,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Any(Vec<Rule>),
    All(Vec<Rule>),
    Not(Box<Rule>),
    Equal(Operand, Operand),
    InGroup(Operand),
    Text(Test, Operand, Operand),
}

/// What is asked of two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    UserId,
    ConnectionId,
    Null,
    Literal(String),
}

/// Where a filter stops to make sense.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FilterError {
    /// Counted in characters, from 1.
    position: usize,
    rule: &'static str,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter: {} at character {}", self.rule, self.position)
    }
}

/// A connection as a filter sees it.
pub(crate) struct Subject<'a> {
    pub(crate) id: ConnectionId,
    pub(crate) user: Option<&'a str>,
    pub(crate) groups: &'a [Arc<str>],
}

impl Filter {
    /// # Errors
    /// Where it stops to make sense, and what was expected there.
    pub(crate) fn parse(text: &str) -> Result<Self, FilterError> {
        let mut parser = Parser { text, rest: text, depth: 0 };
        if text.len() > MAX_LENGTH {
            return Err(parser.expected("at most 8 KiB of text are allowed, it begins"));
        }
        let rule = parser.either()?;
        if parser.peek().is_empty() {
            return Ok(Self { text: text.to_owned(), rule });
        }
        Err(parser.expected("expected and, or, or the end"))
    }

    /// What it was made of.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn matches(&self, subject: &Subject<'_>) -> bool {
        self.rule.matches(subject)
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        Self::parse(&text)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Rule {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any(rules) => rules.iter().any(|rule| rule.matches(subject)),
            Self::All(rules) => rules.iter().all(|rule| rule.matches(subject)),
            Self::Not(rule) => !rule.matches(subject),
            Self::Equal(one, other) => one.value(subject) == other.value(subject),
            Self::InGroup(operand) => operand
                .value(subject)
                .is_some_and(|name| subject.groups.iter().any(|group| **group == *name)),
            Self::Text(test, whole, part) => {
                let values = whole.value(subject).zip(part.value(subject));
                values.is_some_and(|(whole, part)| match test {
                    Test::StartsWith => whole.starts_with(&*part),
                    Test::EndsWith => whole.ends_with(&*part),
                    Test::Contains => whole.contains(&*part),
                })
            }
        }
    }
}

impl Operand {
    /// `None` for `null`, and for the user of an anonymous connection.
    fn value<'a>(&'a self, subject: &Subject<'a>) -> Option<Cow<'a, str>> {
        match self {
            Self::UserId => subject.user.map(Cow::Borrowed),
            Self::ConnectionId => Some(Cow::Owned(subject.id.to_string())),
            Self::Null => None,
            Self::Literal(text) => Some(Cow::Borrowed(text)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    depth: usize,
}

type Parsed<T> = Result<T, FilterError>;

impl<'a> Parser<'a> {
    fn either(&mut self) -> Parsed<Rule> {
        let mut rules = vec![self.both()?];
        while self.take("or") {
            rules.push(self.both()?);
        }
        Ok(one_or(rules, Rule::Any))
    }

    fn both(&mut self) -> Parsed<Rule> {
        let mut rules = vec![self.single()?];
        while self.take("and") {
            rules.push(self.single()?);
        }
        Ok(one_or(rules, Rule::All))
    }

    fn single(&mut self) -> Parsed<Rule> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.expected("at most 32 parentheses inside each other are allowed"));
        }
        let rule = if self.take("not") {
            Rule::Not(Box::new(self.single()?))
        } else if self.take("(") {
            let inner = self.either()?;
            self.require(")", "expected )")?;
            inner
        } else if let Some(test) = self.test() {
            self.function(test)?
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(rule)
    }

    fn test(&mut self) -> Option<Test> {
        let tests = [
            ("startswith", Test::StartsWith),
            ("endswith", Test::EndsWith),
            ("contains", Test::Contains),
        ];
        tests.into_iter().find_map(|(name, test)| self.take(name).then_some(test))
    }

    fn function(&mut self, test: Test) -> Parsed<Rule> {
        self.require("(", "expected (")?;
        let whole = self.operand()?;
        self.require(",", "expected ,")?;
        let part = self.operand()?;
        self.require(")", "expected )")?;
        Ok(Rule::Text(test, whole, part))
    }

    fn comparison(&mut self) -> Parsed<Rule> {
        let one = self.operand()?;
        if self.take("in") {
            self.require("groups", "expected groups")?;
            return Ok(Rule::InGroup(one));
        }
        let differs = self.take("ne");
        if !differs {
            self.require("eq", "expected eq, ne or in")?;
        }
        let equal = Rule::Equal(one, self.operand()?);
        Ok(if differs { Rule::Not(Box::new(equal)) } else { equal })
    }

    fn operand(&mut self) -> Parsed<Operand> {
        if self.take("userId") {
            Ok(Operand::UserId)
        } else if self.take("connectionId") {
            Ok(Operand::ConnectionId)
        } else if self.take("null") {
            Ok(Operand::Null)
        } else if self.peek() == "'" {
            self.literal()
        } else {
            Err(self.expected("expected userId, connectionId, null or a text in single quotes"))
        }
    }

    fn literal(&mut self) -> Parsed<Operand> {
        let mut value = String::new();
        let mut rest = &self.rest[1..];
        while let Some((part, behind)) = rest.split_once('\'') {
            value.push_str(part);
            let Some(more) = behind.strip_prefix('\'') else {
                self.rest = behind;
                return Ok(Operand::Literal(value));
            };
            value.push('\'');
            rest = more;
        }
        Err(self.expected("a text without its closing quote begins"))
    }

    /// The next word or sign, and nothing at the end.
    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
        let word = self.rest.find(|letter: char| !letter.is_ascii_alphanumeric());
        match word.unwrap_or(self.rest.len()) {
            0 => &self.rest[..self.rest.chars().next().map_or(0, char::len_utf8)],
            end => &self.rest[..end],
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        if found {
            self.rest = &self.rest[token.len()..];
        }
        found
    }

    fn require(&mut self, token: &str, rule: &'static str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { Err(self.expected(rule)) }
    }

    fn expected(&self, rule: &'static str) -> FilterError {
        let read = &self.text[..self.text.len() - self.rest.len()];
        FilterError { position: read.chars().count() + 1, rule }
    }
}

fn one_or(mut rules: Vec<Rule>, many: impl FnOnce(Vec<Rule>) -> Rule) -> Rule {
    match rules.pop() {
        Some(only) if rules.is_empty() => only,
        last => {
            rules.extend(last);
            many(rules)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_filter_picks_by_user_connection_and_group() {
        let (id, groups) = (ConnectionId::next(), groups(&["g", "it's"]));
        let user = Subject { id, user: Some("ann"), groups: &groups };
        let nobody = Subject { id, user: None, groups: &[] };
        let this = format!("connectionId eq '{id}'");
        for (text, of_user, of_nobody) in [
            ("userId eq 'ann'", true, false),
            ("'ann' eq userId", true, false),
            ("userId ne 'ann'", false, true),
            ("userId eq null", false, true),
            ("userId ne null", true, false),
            ("'g' in groups", true, false),
            ("'it''s' in groups", true, false),
            ("not ('g' in groups)", false, true),
            ("not not userId eq null", false, true),
            ("userId in groups", false, false),
            ("startswith(userId, 'a') and endswith(userId,'n')", true, false),
            ("contains(userId, 'x')", false, false),
            ("contains('annie', userId)", true, false),
            ("startswith(null, 'a')", false, false),
            ("userId eq 'x' or userId eq 'ann' and 'g' in groups", true, false),
            ("(userId eq 'ann' or userId eq null) and not('g' in groups)", false, true),
            ("connectionId eq null", false, false),
            ("startswith(connectionId, '')", true, true),
            (&this, true, true),
        ] {
            let filter = Filter::parse(text).unwrap();
            assert_eq!(
                (filter.matches(&user), filter.matches(&nobody)),
                (of_user, of_nobody),
                "{text}"
            );
        }
    }

    #[test]
    fn an_error_says_where_and_what() {
        for (text, position, rule) in [
            ("", 1, "expected userId"),
            ("userId", 7, "expected eq, ne or in"),
            ("userId eq", 10, "expected userId"),
            ("userId eq 'a", 11, "closing quote"),
            ("userId eq 'a''", 11, "closing quote"),
            ("userId eq 'ä' xor", 15, "expected and, or"),
            ("(userId eq 'a'", 15, "expected )"),
            ("userId eq 'a')", 14, "expected and, or"),
            ("user eq 'a'", 1, "expected userId"),
            ("'g' in group", 8, "expected groups"),
            ("contains userId", 10, "expected ("),
            ("contains(userId 'a')", 17, "expected ,"),
            ("userId eq \"a\"", 11, "single quotes"),
            ("userId eq 'a' and", 18, "expected userId"),
            ("length(userId) gt 3", 1, "expected userId"),
        ] {
            let error = Filter::parse(text).expect_err(text);
            assert_eq!(error.position, position, "{text}: {error}");
            assert!(error.to_string().contains(rule), "{text}: {error}");
        }
    }

    #[test]
    fn a_filter_travels_as_its_text() {
        let filter = Filter::parse("userId eq 'it''s'").unwrap();
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(text, r#""userId eq 'it''s'""#);
        assert_eq!(serde_json::from_str::<Filter>(&text).unwrap(), filter);
        let error = serde_json::from_str::<Filter>(r#""userId""#).unwrap_err().to_string();
        assert!(error.starts_with("filter: expected eq"), "{error}");
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |depth| format!("{}userId eq null{}", "(".repeat(depth), ")".repeat(depth));
        assert!(Filter::parse(&nested(MAX_DEPTH - 1)).is_ok());
        assert!(Filter::parse(&nested(MAX_DEPTH)).is_err());
        assert!(Filter::parse(&"(".repeat(MAX_LENGTH)).is_err());
        assert!(Filter::parse(&format!("userId eq '{}'", "x".repeat(MAX_LENGTH))).is_err());
        let wide = "userId eq 'a' or ".repeat(100) + "userId eq 'a'";
        assert!(Filter::parse(&wide).is_ok());
    }
}
