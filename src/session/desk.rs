//! Where a handler finds its connection's output while it is polled: on its thread's desk, which
//! has no lock.
//!
//! To take the connection's lock and to give it back costs as much as to copy a small reply, so a
//! handler that answers many messages takes it once for all that were decoded together: with them
//! it is lent the output. When the lock is taken next in this poll, or the poll ends, the output
//! comes back. A handler that uses its connection in another task is lent nothing.

use std::cell::{Cell, RefCell};

use crate::{output::Output, peer::ConnectionId};

struct Desk {
    /// Whose handler is polled on this thread.
    whose: Cell<Option<ConnectionId>>,
    output: RefCell<Option<Box<Output>>>,
}

thread_local! {
    static DESK: Desk = const { Desk { whose: Cell::new(None), output: RefCell::new(None) } };
}

/// Polls a handler at the desk; returns with it what still lies there. One poll may stand in
/// another: a handler may run a runtime of its own.
pub(super) fn seat<T>(whose: ConnectionId, poll: impl FnOnce() -> T) -> (T, Option<Box<Output>>) {
    DESK.with(|desk| {
        let outer = (desk.whose.replace(Some(whose)), desk.output.take());
        let polled = poll();
        desk.whose.set(outer.0);
        (polled, desk.output.replace(outer.1))
    })
}

/// Lays an output down, if this connection's handler sits here; says whether it does.
pub(crate) fn lend(whose: ConnectionId, output: impl FnOnce() -> Box<Output>) -> bool {
    DESK.with(|desk| {
        let sits_here = desk.whose.get() == Some(whose);
        if sits_here {
            desk.output.replace(Some(output()));
        }
        sits_here
    })
}

/// Uses the output that lies here, if it is this connection's.
pub(crate) fn with_output<T>(
    whose: ConnectionId,
    on_it: impl FnOnce(&mut Output) -> T,
) -> Option<T> {
    DESK.with(|desk| {
        let mut output = desk.output.borrow_mut();
        let output = output.as_deref_mut().filter(|_| desk.whose.get() == Some(whose));
        output.map(on_it)
    })
}

/// Takes it up.
pub(super) fn take(whose: ConnectionId) -> Option<Box<Output>> {
    DESK.with(|desk| if desk.whose.get() == Some(whose) { desk.output.take() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_poll_in_another_has_a_desk_of_its_own() {
        let (outer, inner) = (ConnectionId::next(), ConnectionId::next());
        let ((), left) = seat(outer, || {
            assert!(lend(outer, Box::default));
            let ((), left) = seat(inner, || {
                assert!(take(outer).is_none() && with_output(outer, |_| ()).is_none());
                assert!(!lend(outer, Box::default) && lend(inner, Box::default));
            });
            assert!(left.is_some(), "the inner one's");
            assert!(with_output(inner, |_| ()).is_none() && with_output(outer, |_| ()).is_some());
        });
        assert!(left.is_some());
        assert!(!lend(outer, Box::default), "nobody sits here");
    }
}
