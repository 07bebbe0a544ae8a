//! What several test files share.
#![allow(dead_code, reason = "each test file uses some of it")]

pub mod database;
pub mod disk;
pub mod front;
pub mod mirror;
pub mod pgbouncer;
pub mod process;
pub mod reader;
pub mod relay;
pub mod server;
pub mod settings;
pub mod team;
pub mod tls;
