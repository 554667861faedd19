//! What stands behind the `?` of a call.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use percent_encoding::percent_decode_str;

use super::reply::Problem;

/// Names and values in their order, decoded as in a form: `+` is a space.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let decoded = pairs.map(|(name, value)| Some((decode(name)?, decode(value)?)));
        let decoded = decoded.collect::<Option<_>>().map(Self);
        decoded.ok_or_else(|| Problem::bad("query: must be percent-encoded UTF-8"))
    }

    /// The first value of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A number within these bounds, or `None` if there is none of that name.
    pub(super) fn number<T>(
        &self,
        name: &str,
        bounds: &RangeInclusive<T>,
    ) -> Result<Option<T>, Problem>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.map(Some).ok_or_else(|| {
            let (first, last) = (bounds.start(), bounds.end());
            Problem::bad(format!("{name}: must be a whole number from {first} to {last}"))
        })
    }
}

fn decode(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_come_again_and_values_are_decoded() {
        let query =
            Query::parse("excluded=a&filter=userId+eq+%27%C3%A4%27&excluded=b&x&top=3").unwrap();
        assert!(query.all("excluded").eq(["a", "b"]));
        assert_eq!(query.get("filter"), Some("userId eq 'ä'"));
        assert_eq!((query.get("x"), query.get("y")), (Some(""), None));
        assert_eq!(query.number("top", &(1..=3)).unwrap(), Some(3));
        assert!(query.number("top", &(1..=2)).is_err() && query.number("x", &(1..=2)).is_err());
        assert!(Query::parse("filter=%ff").is_err());
    }
}
