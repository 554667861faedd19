//! More than one node: what is said on one reaches those who are on the others.
//!
//! The nodes share an engine that exists already. It carries bytes by subject and knows nothing of
//! hubs; what the bytes say, and who has to hear it, is decided here.

mod engine;
mod subject;
