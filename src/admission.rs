//! What one connection takes up: a place on its port, and one among those of its address.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
#[cfg(feature = "control")]
use tokio::sync::Semaphore;

#[cfg(feature = "control")]
use crate::control::Port;
use crate::{
    address_limits::{Admitted, TooMany},
    answer::Answer,
    auth::Rejection,
    server::Shared,
    socket::PeerAddr,
};

/// Held until the connection's end.
#[derive(Debug)]
pub(crate) struct Admission {
    #[cfg(feature = "control")]
    port: Port,
    _place: OwnedSemaphorePermit,
    pub(crate) of_address: Option<Admitted>,
}

impl Admission {
    /// Asks what can be asked on the data port before anything is read: is there room, and has
    /// this address had enough?
    pub(crate) fn on_data(server: &Shared, peer: PeerAddr) -> Result<Self, Answer> {
        let place = Arc::clone(&server.permits).try_acquire_owned().map_err(|_| no_room())?;
        let address = peer.ip().filter(|address| !server.proxies.contain(*address));
        let admitted = address.map(|address| server.addresses.admit(address)).transpose();
        let of_address = admitted.map_err(|TooMany| too_many_of_one())?.flatten();
        Ok(Self {
            #[cfg(feature = "control")]
            port: Port::Data,
            _place: place,
            of_address,
        })
    }

    /// Is there room on the control port?
    #[cfg(feature = "control")]
    pub(crate) fn on_control(places: &Arc<Semaphore>) -> Result<Self, Answer> {
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| no_room())?;
        Ok(Self { port: Port::Control, _place: place, of_address: None })
    }

    /// Where the connection came in.
    #[cfg(feature = "control")]
    pub(crate) fn port(&self) -> Port {
        self.port
    }
}

fn no_room() -> Answer {
    Answer::from(Rejection::new(503, "too many connections")).with("retry-after", "5")
}

/// The client's address has had what it may have for now.
pub(crate) fn too_many_of_one() -> Answer {
    let rejection = Rejection::new(429, "too many connections from this address");
    Answer::from(rejection).with("retry-after", "1")
}
