//! A message on its way out of the hub: to those who are here, and to those who are elsewhere.

use std::sync::MutexGuard;

#[cfg(feature = "backplane")]
use crate::frame::Message;
use crate::{
    close::CloseReason,
    fan_out::{FanOut, Sent},
    frame::{Form, Publication},
    hub::Hub,
    peer::{ConnectionId, Peer},
    relay::{Post, Room, Settling, Unreached},
    state::State,
    target::Target,
};

/// Who of a target does not get a message, in words that other nodes understand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Exceptions<'a> {
    /// The names of connections.
    pub(crate) excluded: &'a [String],
    /// An expression that a connection has to fulfil.
    pub(crate) filter: Option<&'a str>,
}

impl Hub {
    /// Queues a publication for all but one, here and on all other nodes.
    pub(crate) fn publish(
        &self,
        target: Target<'_>,
        exclude: Option<ConnectionId>,
        publication: &mut impl Publication,
    ) -> Sent {
        let wanted = |_: &State, peer: &Peer| exclude != Some(peer.id);
        // One who is excluded as the sender is here.
        self.publish_where(target, Exceptions::default(), publication, wanted)
    }

    /// [`publish`](Self::publish) for those that are `wanted`, which has to mean the same as
    /// `exceptions`.
    pub(crate) fn publish_where(
        &self,
        target: Target<'_>,
        exceptions: Exceptions<'_>,
        publication: &mut impl Publication,
        wanted: impl Fn(&State, &Peer) -> bool,
    ) -> Sent {
        let sent = self.deliver_where(target, publication, wanted);
        let unreached = self.tell_others(target, exceptions, None, publication).is_err();
        Sent { unreached, ..sent }
    }

    /// Ready once what other nodes send to this target is heard here; `None` if it is, or if there
    /// are none.
    pub(crate) fn settling(&self, target: Target<'_>) -> Option<Settling> {
        self.relay()?.settling(&self.name, target)
    }

    /// Makes room for messages of so many bytes to the other nodes: [`Hub::publish_in`] takes it.
    /// `None` if there are none.
    ///
    /// # Errors
    /// If they could not be reached.
    pub(crate) fn reserve(
        &self,
        target: Target<'_>,
        bytes: usize,
    ) -> Result<Option<Room>, Unreached> {
        self.relay().map(|relay| relay.reserve(target, bytes)).transpose()
    }

    /// [`publish`](Self::publish) with room from [`Hub::reserve`]; without, only to those who are
    /// here.
    pub(crate) fn publish_in(
        &self,
        room: Option<Room>,
        target: Target<'_>,
        exclude: Option<ConnectionId>,
        publication: &mut impl Publication,
    ) -> Sent {
        let sent = self.deliver_where(target, publication, |_, peer| exclude != Some(peer.id));
        let told = room
            .map(|room| self.tell_others(target, Exceptions::default(), Some(room), publication));
        Sent { unreached: told.is_some_and(|told| told.is_err()), ..sent }
    }

    fn tell_others(
        &self,
        target: Target<'_>,
        Exceptions { excluded, filter }: Exceptions<'_>,
        room: Option<Room>,
        publication: &mut impl Publication,
    ) -> Result<(), Unreached> {
        let Some(relay) = self.relay() else { return Ok(()) };
        let (hub, kind) = (&*self.name, publication.kind());
        let wire = publication.encode(Form::Envelope);
        relay.publish(&Post { hub, target, excluded, filter, kind, wire: &wire }, room)
    }

    /// Queues a frame for every client of the JSON protocol, whichever hub it is in.
    #[cfg(feature = "backplane")]
    pub(crate) fn tell_json_clients(&self, frame: &'static str) {
        let state = self.shared.lock();
        let clients: Vec<_> = state.peers().filter(|peer| peer.form == Form::Envelope).collect();
        let mut message = Message::from(frame);
        let mut fan_out = FanOut::new(&mut message, &self.shared.budget, clients.len());
        for peer in clients {
            fan_out.push(peer);
        }
        self.finish(fan_out, state);
    }

    /// Queues a publication for those of this node that are wanted. It is encoded once for each
    /// form that some receiver wants, and queued for all in one hold of the lock: that is what
    /// gives a group its one order.
    pub(crate) fn deliver_where(
        &self,
        target: Target<'_>,
        publication: &mut impl Publication,
        wanted: impl Fn(&State, &Peer) -> bool,
    ) -> Sent {
        let state = self.shared.lock();
        let here = state.members(&self.name);
        let most = here.map_or(0, |here| here.count(target));
        let mut fan_out = FanOut::new(publication, &self.shared.budget, most);
        if let Some(here) = here {
            here.receivers(target, |peer| {
                if wanted(&state, peer) {
                    fan_out.push(peer);
                }
            });
        }
        let sent = self.finish(fan_out, state);
        self.metrics().fan_out.record(sent.recipients as u64);
        if sent.recipients == 0 {
            self.metrics().unheard.add(1);
        }
        sent
    }

    /// Evicts those who are too slow, and wakes the others once the lock is gone.
    fn finish<P: Publication>(
        &self,
        fan_out: FanOut<'_, P>,
        mut state: MutexGuard<'_, State>,
    ) -> Sent {
        let (sent, slow, awaited) = fan_out.finish();
        for peer in slow {
            self.shared.evict(&mut state, &peer, CloseReason::SlowReader);
        }
        self.shared.relieve(&mut state);
        drop(state);
        drop(awaited);
        sent
    }
}
