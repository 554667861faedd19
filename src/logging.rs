//! Logs go to standard error, and their end is not the daemon's.

use std::{
    io::{self, IsTerminal},
    panic::{self, AssertUnwindSafe},
};

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};
use simple_logger::SimpleLogger;

/// Sets the logger and, so that a panic is logged like everything else, the panic hook.
pub(crate) fn start(level: LevelFilter) -> Result<(), SetLoggerError> {
    let logger = SimpleLogger::new()
        .with_level(level)
        // It logs each close frame that it sees; the end of a connection is logged once, by us.
        .with_module_level("tungstenite", level.min(LevelFilter::Warn))
        .with_utc_timestamps()
        .with_colors(io::stderr().is_terminal());
    log::set_max_level(logger.max_level());
    log::set_boxed_logger(Box::new(Unstoppable(logger)))?;
    panic::set_hook(Box::new(|panic| log::error!("{}", panic.to_string().escape_debug())));
    Ok(())
}

/// The logger panics when it cannot write: its pipe is closed, the disk is full. Whoever logs must
/// not end by that.
struct Unstoppable(SimpleLogger);

impl Log for Unstoppable {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // The hook logs too, and would end up here again.
        if !std::thread::panicking() {
            let _ = panic::catch_unwind(AssertUnwindSafe(|| self.0.log(record)));
        }
    }

    fn flush(&self) {}
}
