//! The flags of the control port, and what they come to.

use std::{
    convert::Infallible,
    fmt,
    io::{self, Write},
    str::FromStr,
};

use hubnerite::{AccessKeys, Address, Error, Listener, Server, Sharing};

/// How backends reach the daemon.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Control port")]
pub(crate) struct ControlFlags {
    /// Address of the REST API: HOST:PORT or unix:PATH; or off
    #[arg(long, env = "HUBNERITE_CONTROL", value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:8001")]
    pub(crate) control: ControlAddress,

    /// A key that backends sign their calls with, and client tokens; may be repeated [default: one
    /// that is made at start and printed]
    #[arg(long, env = "HUBNERITE_ACCESS_KEY", value_name = "KEY", value_delimiter = ',')]
    #[arg(value_parser = parse_secret)]
    access_key: Vec<Secret>,
}

/// Where the control port is, if it is anywhere.
#[derive(Debug, Clone)]
pub(crate) enum ControlAddress {
    Off,
    On(Address),
}

impl FromStr for ControlAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::On).map_err(|rule: String| format!("{rule}, or off"))
    }
}

/// A text that nobody is shown. What is wrong with it is said later, because clap would repeat it.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what clap asks for")]
fn parse_secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret(text.to_owned()))
}

/// The access keys of this run.
pub(crate) enum Keys {
    /// Given by the operator, who wants tokens to be asked for.
    Given(AccessKeys),
    /// Made at start, so that an SDK can be tried at once: a daemon that is open stays open.
    Made(AccessKeys),
}

impl Keys {
    pub(crate) fn keys(&self) -> &AccessKeys {
        match self {
            Self::Given(keys) | Self::Made(keys) => keys,
        }
    }
}

impl ControlFlags {
    pub(crate) fn has_key(&self) -> bool {
        !self.access_key.is_empty()
    }

    /// The address that others than this machine reach, although nobody could know the key.
    pub(crate) fn keyless_address(&self) -> Option<&Address> {
        match &self.control {
            ControlAddress::On(address) if !self.has_key() && !address.is_local() => Some(address),
            _ => None,
        }
    }

    /// `None` if nobody could use one.
    pub(crate) fn keys(&self) -> Result<Option<Keys>, Error> {
        if self.has_key() {
            let keys = self.access_key.iter().map(|key| key.0.clone()).collect();
            return Ok(Some(Keys::Given(AccessKeys::new(keys)?)));
        }
        match self.control {
            ControlAddress::On(_) => Ok(Some(Keys::Made(AccessKeys::generate()?))),
            ControlAddress::Off => Ok(None),
        }
    }

    /// Binds the control port. `secure` makes it speak `scheme`; on loopback it speaks HTTP.
    pub(crate) async fn serve(
        &self,
        server: Server,
        keys: Option<&Keys>,
        sharing: Sharing,
        scheme: &str,
        secure: impl FnOnce(Vec<Listener>) -> Result<Vec<Listener>, Error>,
    ) -> Result<Server, Error> {
        let (ControlAddress::On(address), Some(keys)) = (&self.control, keys) else {
            return Ok(server);
        };
        let listener = Listener::bind(address, sharing).await?;
        let endpoint = listener.local_address();
        let listeners = vec![listener];
        let (listeners, scheme) =
            if address.is_local() { (listeners, "http") } else { (secure(listeners)?, scheme) };
        let endpoint = match address {
            Address::Tcp(_) => format!("{scheme}://{endpoint}"),
            Address::Unix(_) => endpoint,
        };
        if let Keys::Made(keys) = keys {
            // Whoever started us reads it here, and nowhere else.
            let _ = writeln!(io::stdout(), "{}", keys.connection_string(&endpoint));
        }
        log::info!(target: "hubnerite", "control on {endpoint}");
        Ok(server.control(keys.keys().clone(), listeners))
    }
}
