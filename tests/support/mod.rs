//! What several test files share.
#![allow(dead_code, reason = "each test file uses some of it")]

pub mod database;
pub mod mirror;
pub mod process;
pub mod server;
