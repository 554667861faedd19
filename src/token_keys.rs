//! The keys that access tokens are checked with, read again on demand, and what a token says.

use std::{
    fmt, fs,
    path::PathBuf,
    str::FromStr,
    sync::{PoisonError, RwLock},
};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

#[cfg(feature = "control")]
use crate::access_keys::AccessKeys;
use crate::error::Error;

/// How far the clocks of the issuer and of this machine may differ, in seconds.
const LEEWAY: u64 = 5;

/// The least that a shared secret may have (RFC 7518 section 3.2 for HS256).
const MIN_SECRET: usize = 32;

/// A key and the one algorithm that it is for: `HS256:PATH`, likewise `HS384`, `HS512`, `RS256`,
/// `ES256` and `EdDSA`. A file for `HS…` holds the secret itself, a final line break aside; the
/// others hold a public key in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKeyFile {
    algorithm: Algorithm,
    path: PathBuf,
}

impl FromStr for TokenKeyFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALGORITHMS: [(&str, Algorithm); 6] = [
            ("HS256", Algorithm::HS256),
            ("HS384", Algorithm::HS384),
            ("HS512", Algorithm::HS512),
            ("RS256", Algorithm::RS256),
            ("ES256", Algorithm::ES256),
            ("EdDSA", Algorithm::EdDSA),
        ];
        let (name, path) = text.split_once(':').unwrap_or((text, ""));
        let found = ALGORITHMS.iter().find(|(known, _)| *known == name);
        match found {
            Some((_, algorithm)) if !path.is_empty() => {
                Ok(Self { algorithm: *algorithm, path: path.into() })
            }
            _ => {
                Err("expected ALGORITHM:PATH with HS256, HS384, HS512, RS256, ES256 or EdDSA"
                    .into())
            }
        }
    }
}

impl TokenKeyFile {
    fn load(&self) -> Result<Key, Error> {
        let fail = |reason: String| Error::TokenKey { path: self.path.clone(), reason };
        let bytes = fs::read(&self.path).map_err(|error| fail(error.to_string()))?;
        let key = match self.algorithm {
            Algorithm::RS256 => DecodingKey::from_rsa_pem(&bytes),
            Algorithm::ES256 => DecodingKey::from_ec_pem(&bytes),
            Algorithm::EdDSA => DecodingKey::from_ed_pem(&bytes),
            _ => Ok(secret(&bytes).map_err(|rule| fail(rule.to_owned()))?),
        };
        let key = key.map_err(|_| fail("it holds no public key of this kind in PEM".to_owned()))?;
        Ok(Key { algorithm: self.algorithm, key })
    }
}

/// A public key is no secret: taken for one, everybody could sign.
fn secret(bytes: &[u8]) -> Result<DecodingKey, &'static str> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.starts_with(b"-----BEGIN") {
        return Err("it holds a PEM key, which is no shared secret");
    }
    if bytes.len() < MIN_SECRET {
        return Err("a shared secret needs at least 32 bytes");
    }
    Ok(DecodingKey::from_secret(bytes))
}

struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The keys that tokens are checked with: several at once, so that one can follow another.
#[derive(Default)]
pub struct TokenKeys {
    files: Vec<TokenKeyFile>,
    keys: RwLock<Vec<Key>>,
    /// Keys that come from no file, and stay.
    #[cfg(feature = "control")]
    access_keys: Vec<Key>,
}

impl TokenKeys {
    /// Reads all files.
    ///
    /// # Errors
    /// [`Error::TokenKey`] names the first file that cannot be used, and why.
    pub fn load(files: Vec<TokenKeyFile>) -> Result<Self, Error> {
        let keys = Self { files, ..Self::default() };
        keys.reload()?;
        Ok(keys)
    }

    /// These access keys too, for HS256: a backend signs the tokens of its clients with them.
    #[cfg(feature = "control")]
    #[must_use]
    pub fn with_access_keys(mut self, keys: &AccessKeys) -> Self {
        let key = |key: &String| DecodingKey::from_secret(key.as_bytes());
        let key = |secret| Key { algorithm: Algorithm::HS256, key: key(secret) };
        self.access_keys = keys.all().iter().map(key).collect();
        self
    }

    /// Reads all files again. Connections that are open stay open.
    ///
    /// # Errors
    /// Like [`TokenKeys::load`]; then the keys stay as they were.
    pub fn reload(&self) -> Result<(), Error> {
        let keys = self.files.iter().map(TokenKeyFile::load).collect::<Result<_, _>>()?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The claims of a token that one of the keys has signed and whose time is now.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        let algorithm = decode_header(token).ok()?.alg;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let keys = keys.iter();
        #[cfg(feature = "control")]
        let keys = keys.chain(&self.access_keys);
        // The algorithm is the key's; the token only says which keys need not be tried.
        let candidates = keys.filter(|key| key.algorithm == algorithm);
        let mut verified = candidates.filter_map(|key| {
            let mut validation = Validation::new(key.algorithm);
            validation.leeway = LEEWAY;
            validation.validate_nbf = true;
            // Audiences are addresses here, and compared with the one that is asked for.
            validation.validate_aud = false;
            decode::<Claims>(token, &key.key, &validation).ok()
        });
        verified.next().map(|token| token.claims)
    }
}

/// Shows which files, never what is in them.
impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeys").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What a token says, as far as it matters here.
#[derive(Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: Option<String>,
    /// Seconds since 1970.
    pub(crate) exp: f64,
    #[serde(default)]
    pub(crate) aud: OneOrMany,
    #[serde(default)]
    pub(crate) role: OneOrMany,
    #[serde(default, rename = "webpubsub.group")]
    pub(crate) group: OneOrMany,
}

/// A claim that may be one text or a list of them.
#[derive(Deserialize, Default)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_an_algorithm_and_a_path() {
        assert!("HS256:/etc/key".parse::<TokenKeyFile>().is_ok());
        for text in ["", "HS256", "HS256:", "none:/etc/key", "hs256:/etc/key", "/etc/key"] {
            assert!(text.parse::<TokenKeyFile>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_public_key_is_no_secret() {
        assert!(secret(b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n").is_err());
        assert!(secret(&[b'x'; 31]).is_err());
        assert!(secret(&[b'x'; 32]).is_ok());
    }
}
