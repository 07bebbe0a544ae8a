//! Talking to Heymarket: one place sends, and what comes back is read row by row.
//!
//! Knows nothing of SQL. Facts about the source are cited as `[S]` (the vendor's
//! endpoint pages), `[V]` (the vendor's other documentation) or `[C]` (seen in
//! public client code).

pub mod auth;
pub mod availability;
pub mod client;
pub mod endpoints;
pub mod error;
pub mod lenient;
pub mod limiter;
pub mod model;
pub mod retry;
pub mod server_clock;
