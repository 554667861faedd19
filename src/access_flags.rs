//! The flags that say who may connect, and what they come to: guards and TLS.

use std::net::IpAddr;
#[cfg(feature = "tls")]
use std::path::PathBuf;
#[cfg(feature = "jwt")]
use std::sync::Arc;

use hubnerite::{AllowedOrigin, Error, Expiry, Listener, Server};
use ipnet::IpNet;

#[cfg(feature = "control")]
use crate::control_flags::Keys;
use crate::signals::Reloads;

/// Who may connect, and from where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessFlags {
    /// A key that access tokens are checked with: ALGORITHM:PATH; may be repeated
    #[cfg(feature = "jwt")]
    #[arg(long, env = "HUBNERITE_TOKEN_KEY", value_name = "KEY", value_delimiter = ',')]
    token_key: Vec<hubnerite::TokenKeyFile>,

    /// A cookie that may hold the token; believed with an allowed Origin only
    #[cfg(feature = "jwt")]
    #[arg(long, env = "HUBNERITE_TOKEN_COOKIE", value_name = "NAME")]
    #[cfg_attr(not(feature = "control"), arg(requires = "token_key"))]
    token_cookie: Option<String>,

    /// Close a connection with 1008 when its token expires
    #[cfg(feature = "jwt")]
    #[arg(long, env = "HUBNERITE_CLOSE_ON_EXPIRY")]
    #[cfg_attr(not(feature = "control"), arg(requires = "token_key"))]
    close_on_expiry: bool,

    /// Listen on other addresses than loopback without any token key
    #[arg(long, env = "HUBNERITE_ALLOW_OPEN")]
    pub(crate) allow_open: bool,

    /// A web origin whose pages may connect, beside the server's own, or *; may be repeated
    #[arg(long, env = "HUBNERITE_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub(crate) allow_origin: Vec<AllowedOrigin>,

    /// A host name that the daemon answers under [default: any]; may be repeated
    #[arg(long, env = "HUBNERITE_ALLOW_HOST", value_name = "HOST", value_delimiter = ',')]
    pub(crate) allow_host: Vec<String>,

    /// A proxy whose word on client addresses is believed: ADDRESS or NETWORK; may be repeated
    #[arg(long, env = "HUBNERITE_TRUSTED_PROXY", value_name = "NETWORK", value_delimiter = ',')]
    #[arg(value_parser = parse_network)]
    pub(crate) trusted_proxy: Vec<IpNet>,

    /// The certificate chain in PEM; TCP addresses then speak TLS
    #[cfg(feature = "tls")]
    #[arg(long, env = "HUBNERITE_TLS_CERT", value_name = "PATH", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key in PEM
    #[cfg(feature = "tls")]
    #[arg(long, env = "HUBNERITE_TLS_KEY", value_name = "PATH", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Authorities in PEM; a client must have a certificate of theirs, whose subject is the user
    #[cfg(feature = "tls")]
    #[arg(long, env = "HUBNERITE_TLS_CLIENT_CA", value_name = "PATH", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
}

/// An address stands for the network that it alone is.
fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "expected an address or ADDRESS/BITS".to_owned())
}

/// There is no control port, so there are no keys for it.
#[cfg(not(feature = "control"))]
pub(crate) enum Keys {}

#[cfg_attr(
    not(all(feature = "jwt", feature = "tls")),
    allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the full build needs them")
)]
impl AccessFlags {
    #[cfg(feature = "jwt")]
    fn has_token_key(&self) -> bool {
        !self.token_key.is_empty()
    }

    #[cfg(not(feature = "jwt"))]
    fn has_token_key(&self) -> bool {
        false
    }

    #[cfg(feature = "jwt")]
    pub(crate) fn expiry(&self) -> Expiry {
        if self.close_on_expiry { Expiry::Close } else { Expiry::Ignore }
    }

    #[cfg(not(feature = "jwt"))]
    pub(crate) fn expiry(&self) -> Expiry {
        Expiry::Ignore
    }

    #[cfg(feature = "tls")]
    pub(crate) fn has_key(&self) -> bool {
        self.has_token_key() || self.tls_client_ca.is_some()
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn has_key(&self) -> bool {
        self.has_token_key()
    }

    /// Asks for tokens if there are keys, or else for the names in client certificates. With a
    /// key that was made at start, a token is only asked what it says if there is one.
    pub(crate) fn guard(
        &self,
        server: Server,
        keys: Option<&Keys>,
        reloads: &mut Reloads,
    ) -> Result<Server, Error> {
        #[cfg(feature = "jwt")]
        if self.has_token_key() || keys.is_some() {
            let guard = self.token_guard(keys, reloads)?;
            #[cfg(feature = "control")]
            if !self.has_token_key() && matches!(keys, Some(Keys::Made(_))) {
                #[cfg(feature = "tls")]
                if self.tls_client_ca.is_some() {
                    return Ok(server.guard(guard.or_else(hubnerite::certificate_guard)));
                }
                return Ok(server.guard(guard.or_else(everybody)));
            }
            return Ok(server.guard(guard));
        }
        #[cfg(feature = "tls")]
        if self.tls_client_ca.is_some() {
            return Ok(server.guard(hubnerite::certificate_guard));
        }
        let _ = (keys, reloads);
        Ok(server)
    }

    #[cfg(feature = "jwt")]
    fn token_guard(
        &self,
        keys: Option<&Keys>,
        reloads: &mut Reloads,
    ) -> Result<hubnerite::TokenGuard, Error> {
        let tokens = hubnerite::TokenKeys::load(self.token_key.clone())?;
        #[cfg(feature = "control")]
        let tokens = match keys {
            Some(keys) => tokens.with_access_keys(keys.keys()),
            None => tokens,
        };
        #[cfg(not(feature = "control"))]
        let _ = keys;
        let tokens = Arc::new(tokens);
        let guard = hubnerite::TokenGuard::new(Arc::clone(&tokens));
        reloads.add(move || tokens.reload());
        Ok(match &self.token_cookie {
            Some(name) => guard.cookie(name),
            None => guard,
        })
    }

    /// What addresses that are not for this machine alone are spoken to with.
    #[cfg(all(feature = "control", feature = "tls"))]
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls_cert.is_some() { "https" } else { "http" }
    }

    #[cfg(all(feature = "control", not(feature = "tls")))]
    pub(crate) fn scheme(&self) -> &'static str {
        "http"
    }

    #[cfg(feature = "tls")]
    pub(crate) fn secure(
        &self,
        listeners: Vec<Listener>,
        reloads: &mut Reloads,
    ) -> Result<Vec<Listener>, Error> {
        let Some((certificate, key)) = self.tls_cert.clone().zip(self.tls_key.clone()) else {
            return Ok(listeners);
        };
        let client_authorities = self.tls_client_ca.clone();
        let files = hubnerite::TlsFiles { certificate, key, client_authorities };
        let tls = hubnerite::Tls::load(files)?;
        let listeners = listeners.into_iter().map(|listener| listener.with_tls(tls.clone()));
        let listeners = listeners.collect();
        reloads.add(move || tls.reload());
        Ok(listeners)
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn secure(
        &self,
        listeners: Vec<Listener>,
        _: &mut Reloads,
    ) -> Result<Vec<Listener>, Error> {
        Ok(listeners)
    }
}

/// The guard of a daemon that is open.
#[cfg(feature = "control")]
async fn everybody(_: &hubnerite::Request) -> Result<hubnerite::Identity, hubnerite::Rejection> {
    Ok(hubnerite::Identity::anonymous())
}
