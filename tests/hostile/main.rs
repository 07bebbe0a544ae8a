//! The real engine against a hostile API, under every reading of its documents: whatever happens, the mirror ends
//! equal to the source, or what is missing lies in an interval that the ledger shows as open.

mod examples;
mod history;
mod judge;
mod lasting;
mod random;
mod rig;
#[path = "../support/mod.rs"]
mod support;
mod trouble;
