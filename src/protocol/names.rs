//! The rules for names: of hubs, users, groups and events.
//!
//! Each error names the field and the rule, and never repeats the name.

/// Bytes in a hub's name.
const MAX_HUB: usize = 128;

/// Bytes in the name of a user who names itself.
const MAX_USER: usize = 128;

/// Characters in a group's name.
const MAX_GROUP: usize = 1024;

/// Characters in an event's name.
const MAX_EVENT: usize = 128;

/// The rule for the names of hubs.
pub(crate) fn check_hub(name: &str) -> Result<(), &'static str> {
    let mut bytes = name.bytes();
    let letter = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_`,.[]".contains(&byte);
    if !letter || name.len() > MAX_HUB || !bytes.all(fits) {
        return Err("hub must match [A-Za-z][A-Za-z0-9_`,.[]]{0,127}");
    }
    Ok(())
}

/// The rule for the names that users have in a path. A token's may be any.
pub(crate) fn check_user(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_USER || name.chars().any(char::is_control) {
        return Err("user_id must be 1 to 128 bytes without control characters");
    }
    Ok(())
}

/// The rule for the names of groups.
pub(crate) fn check_group(name: &str) -> Result<(), String> {
    if !is_group_name(name) {
        return Err(format!("group: must be 1 to {MAX_GROUP} characters, not blank"));
    }
    Ok(())
}

/// 1 to 1,024 characters, not blank.
pub(crate) fn is_group_name(name: &str) -> bool {
    !name.trim().is_empty() && is_within(name, MAX_GROUP)
}

/// The rule for the names of events. A name may become a segment of a path, and dots are steps in
/// one (RFC 3986 section 5.2.4).
pub(super) fn check_event(name: &str) -> Result<(), String> {
    let dots = name == "." || name == "..";
    if name.is_empty() || dots || !is_within(name, MAX_EVENT) {
        return Err(format!("event: must be 1 to {MAX_EVENT} characters, not . or .."));
    }
    Ok(())
}

/// Whether a name has so many characters at most. They are counted only where its bytes are more.
fn is_within(name: &str, characters: usize) -> bool {
    name.len() <= characters || name.chars().count() <= characters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_begin_with_a_letter_and_have_128_bytes_at_most() {
        for name in ["a", "Chat_1`,.[]", &"h".repeat(128)] {
            assert_eq!(check_hub(name), Ok(()), "{name}");
        }
        for name in ["", "1", "_a", "a-b", "a b", "ä", &"h".repeat(129)] {
            assert!(check_hub(name).is_err(), "{name}");
        }
    }

    #[test]
    fn users_have_128_bytes_at_most_and_no_control_characters() {
        for name in ["a", " ", "Jürgen", &"u".repeat(128)] {
            assert_eq!(check_user(name), Ok(()), "{name}");
        }
        for name in ["", "a\nb", "\u{7f}", "\u{85}", &"u".repeat(129), &"ü".repeat(65)] {
            assert!(check_user(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn groups_and_events_are_counted_in_characters() {
        assert!(is_group_name(&"ü".repeat(1024)) && !is_group_name(&"ü".repeat(1025)));
        assert!(is_group_name(" g") && !is_group_name("") && !is_group_name(" \t"));
        assert!(check_event(&"ü".repeat(128)).is_ok());
        assert!(check_event(&"ü".repeat(129)).is_err());
        assert!(check_event("...").is_ok() && check_event("..").is_err());
    }
}
