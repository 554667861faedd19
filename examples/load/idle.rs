//! Mode `idle`: connections that are held open; what they cost in memory is the server's process's business to tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::echo::LOOK;
use crate::fault::Fault;
use crate::frame::{TEXT, mask_key, masked};
use crate::inbound::Piece;
use crate::opener::Opener;
use crate::options::{self, Common};
use crate::pool::Pool;
use crate::recorder::Recorder;
use crate::run::{Measured, Outcome, Stage, conduct};
use crate::session::{Mode, Session};
use crate::target::{Target, spread};

/// Runs the mode.
pub(crate) fn run(common: &Common, options: &options::Idle) -> Result<Outcome, Fault> {
    let target = Target::new(&options.url, &common.header, common.remote)?;
    let target =
        Arc::new(target.with_sources(common.sources.unwrap_or(spread(options.connections))));
    conduct(common, options.connections as usize, |thread, shared| {
        let pool = Pool::new(Arc::clone(&target), Vec::new())?;
        let opener = Opener::new(common, thread, options.connections);
        Ok((
            pool,
            Idle { recorder: Recorder::new(shared, thread), opener, say: options.say.clone() },
        ))
    })
}

struct Idle {
    recorder: Recorder,
    opener: Opener,
    say: Option<String>,
}

impl Mode for Idle {
    fn opened(&mut self, session: &mut Session, now: Instant) -> Result<(), Fault> {
        self.recorder.time(now - session.began);
        self.recorder.ready();
        if let Some(say) = &self.say {
            let text = say.replace("{id}", &session.number.to_string());
            session.outbound.put_first(&masked(TEXT, text.as_bytes(), mask_key(session.number)));
        }
        Ok(())
    }

    fn piece(&mut self, _: &mut Session, _: &Piece<'_>, _: Instant) -> Result<(), Fault> {
        Ok(())
    }

    fn turn(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault> {
        match self.recorder.turn() {
            Stage::Opening => {
                self.opener.open_more(pool, |_| ())?;
                Ok(Some(LOOK))
            }
            Stage::WarmUp | Stage::Measure => Ok(Some(LOOK)),
            Stage::Drain | Stage::End => Ok(None),
        }
    }
}

impl Measured for Idle {
    fn recorder(self) -> Recorder {
        self.recorder
    }
}
