//! heymarket-sync mirrors a Heymarket team's messages, conversations and
//! contacts into PostgreSQL and keeps them current.
//!
//! `ARCHITECTURE.md` tells the one idea (monotone facts), the way of a page
//! through the modules, and which module may know which.

// A failure is an error with a cause; where an invariant rules it out, `expect` names it. Tests may unwrap.
#![warn(clippy::unwrap_used)]

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
mod crash;
pub mod embedded;
pub mod http;
pub mod interval;
pub mod sandbox;
pub mod store;
pub mod sync;
pub mod telemetry;
