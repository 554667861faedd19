//! The keys that a backend signs its calls with, and the tokens of its clients.

use std::{fmt, fs::File, io::Read, sync::Arc};

use data_encoding::BASE64;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use crate::error::Error;

/// The least that a key may have (RFC 7518 section 3.2 for HS256).
const MIN_KEY: usize = 32;

/// One or more access keys: several at once, so that one can follow another. Cheap to clone.
///
/// The first one signs what the server itself signs. `Debug` shows how many there are, never one.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKeys(Arc<[String]>);

impl AccessKeys {
    /// These keys.
    ///
    /// # Errors
    /// [`Error::AccessKey`] if there is none, or one has less than 32 bytes, or a character that a
    /// connection string cannot hold: `;`, white space or a control character.
    pub fn new(keys: Vec<String>) -> Result<Self, Error> {
        if keys.is_empty() {
            return Err(Error::AccessKey("there must be one"));
        }
        if keys.iter().any(|key| key.len() < MIN_KEY) {
            return Err(Error::AccessKey("an access key needs at least 32 bytes"));
        }
        let fits = |letter: char| letter.is_ascii_graphic() && letter != ';';
        if !keys.iter().all(|key| key.chars().all(fits)) {
            return Err(Error::AccessKey("an access key is of visible ASCII without ;"));
        }
        Ok(Self(keys.into()))
    }

    /// A new one, of 32 bytes that the system's random number generator gives.
    ///
    /// # Errors
    /// [`Error::AccessKey`] if it gives none.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = [0; MIN_KEY];
        let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
        read.map_err(|_| Error::AccessKey("/dev/urandom cannot be read"))?;
        Self::new(vec![BASE64.encode(&bytes)])
    }

    /// What a service SDK wants to know, in its form: `Endpoint=...;AccessKey=...;Version=1.0;`.
    /// It holds the first key.
    #[must_use]
    pub fn connection_string(&self, endpoint: &str) -> String {
        format!("Endpoint={endpoint};AccessKey={};Version=1.0;", self.0[0])
    }

    /// All of them, the first one first.
    #[must_use]
    pub fn all(&self) -> &[String] {
        &self.0
    }

    /// A token with these claims; `None` if they cannot be said in JSON.
    pub(crate) fn sign(&self, claims: &impl Serialize) -> Option<String> {
        let key = EncodingKey::from_secret(self.0[0].as_bytes());
        jsonwebtoken::encode(&Header::default(), claims, &key).ok()
    }
}

impl fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_and_fit_a_connection_string() {
        let key = |key: &str| AccessKeys::new(vec![key.to_owned()]);
        assert!(key(&"x".repeat(32)).is_ok());
        for wrong in ["", &"x".repeat(31), &format!("{}; ", "x".repeat(32)), &"ä".repeat(32)] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
        assert!(AccessKeys::new(Vec::new()).is_err());
    }

    #[test]
    fn generated_keys_differ_and_no_debug_form_shows_them() {
        let (one, other) = (AccessKeys::generate().unwrap(), AccessKeys::generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(format!("{one:?}"), "AccessKeys(1)");
        assert!(one.connection_string("http://h").contains(&one.all()[0]));
    }
}
