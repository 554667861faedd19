//! `/ws/{user_id}`: path patterns and the parameters they capture.

use percent_encoding::percent_decode_str;

/// The parameters that a pattern captured, percent-decoded, in the order of the pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// The parameter of that name, or `None` if the pattern has none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// `params["user_id"]`.
///
/// # Panics
/// If the pattern has no parameter of that name: a mistake of the program, not of the peer.
impl std::ops::Index<&str> for Params {
    type Output = str;

    fn index(&self, name: &str) -> &str {
        self.get(name).unwrap_or_else(|| panic!("the route has no parameter {{{name}}}"))
    }
}

/// What a path came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The pattern does not fit.
    No,
    /// It fits, with these parameters.
    Yes(Params),
    /// It fits, but the named parameter is empty, not UTF-8, or wrongly percent-encoded.
    Bad(String),
}

/// A path pattern: segments between slashes, each literal or one `{parameter}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
}

impl Pattern {
    /// # Panics
    /// If the template does not start with `/`, or a parameter is malformed or named twice.
    pub(crate) fn new(template: &str) -> Self {
        let path = template.strip_prefix('/');
        let path = path.unwrap_or_else(|| panic!("route {template:?} must start with /"));
        let segments: Vec<_> = path.split('/').map(|text| segment(text, template)).collect();
        for (index, one) in segments.iter().enumerate() {
            let twice = matches!(one, Segment::Parameter(_)) && segments[..index].contains(one);
            assert!(!twice, "route {template:?} names a parameter twice");
        }
        Self { segments }
    }

    /// Matches the raw path of a request URI, before percent-decoding, so that `%2F` in a
    /// parameter is a slash of the parameter and not of the path.
    pub(crate) fn matches(&self, path: &str) -> Match {
        let Some(path) = path.strip_prefix('/') else { return Match::No };
        let mut parts = path.split('/');
        let mut params = Vec::new();
        let mut bad = None;
        for segment in &self.segments {
            let Some(part) = parts.next() else { return Match::No };
            match segment {
                Segment::Literal(literal) if literal == part => {}
                Segment::Literal(_) => return Match::No,
                Segment::Parameter(name) => match decode(part) {
                    // Dots that a proxy before us may take for steps in the path (RFC 3986
                    // section 5.2.4), written out or not.
                    Some(dots) if dots == "." || dots == ".." => return Match::No,
                    Some(value) => params.push((name.clone(), value)),
                    None => bad = bad.or(Some(name.clone())),
                },
            }
        }
        match (parts.next(), bad) {
            (Some(_), _) => Match::No,
            (None, Some(name)) => Match::Bad(name),
            (None, None) => Match::Yes(Params(params)),
        }
    }
}

fn segment(text: &str, template: &str) -> Segment {
    match text.strip_prefix('{').map(|rest| rest.strip_suffix('}')) {
        None if text.contains(['{', '}']) => panic!("route {template:?} has a stray brace"),
        None => Segment::Literal(text.to_owned()),
        Some(Some(name)) if !name.is_empty() && !name.contains(['{', '}']) => {
            Segment::Parameter(name.to_owned())
        }
        Some(_) => panic!("route {template:?} has a malformed parameter"),
    }
}

/// `None` for an empty value, a stray `%`, or bytes that are not UTF-8.
fn decode(part: &str) -> Option<String> {
    let bytes = part.as_bytes();
    let hex = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_hexdigit);
    let escaped = |index: usize| hex(index + 1) && hex(index + 2);
    let clean = (0..bytes.len()).all(|index| bytes[index] != b'%' || escaped(index));
    if part.is_empty() || !clean {
        return None;
    }
    percent_decode_str(part).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pattern: &str, path: &str) -> Match {
        Pattern::new(pattern).matches(path)
    }

    #[test]
    fn parameters_are_percent_decoded() {
        for (path, user) in [
            ("/ws/alice", "alice"),
            ("/ws/J%C3%BCrgen", "Jürgen"),
            ("/ws/a%2Fb", "a/b"),
            ("/ws/a%20b", "a b"),
            ("/ws/a+b", "a+b"),
        ] {
            let Match::Yes(params) = params("/ws/{user_id}", path) else { panic!("{path}") };
            assert_eq!(&params["user_id"], user);
        }
    }

    #[test]
    fn what_cannot_be_decoded_names_the_parameter() {
        for path in ["/ws/", "/ws/%", "/ws/%4", "/ws/%zz", "/ws/%ff", "/ws/a%C3"] {
            assert_eq!(params("/ws/{user_id}", path), Match::Bad("user_id".into()), "{path}");
        }
    }

    #[test]
    fn other_paths_do_not_match() {
        for path in [
            "",
            "/",
            "/ws",
            "/ws/a/b",
            "/ws//",
            "//ws/a",
            "/WS/a",
            "/ws/..",
            "/ws/%2e",
            "/ws/.%2E",
            "/x/../ws/a",
        ] {
            assert_eq!(params("/ws/{user_id}", path), Match::No, "{path}");
        }
    }

    #[test]
    fn the_root_is_a_route() {
        assert_eq!(params("/", "/"), Match::Yes(Params::default()));
        assert_eq!(params("/", "//"), Match::No);
    }

    #[test]
    #[should_panic(expected = "names a parameter twice")]
    fn a_parameter_has_one_place() {
        Pattern::new("/{a}/{a}");
    }
}
