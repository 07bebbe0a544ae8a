//! What to read next, walking it, and handing it to the database: planner, walkers, writer, scheduler.

mod catch_up;
mod counted;
pub mod detect;
mod doubt;
mod emptiness;
mod ended;
pub mod fill;
mod handed;
pub mod ids;
mod known;
pub mod line;
mod line_task;
mod lines;
mod passes;
pub mod planner;
pub mod progress;
pub mod readings;
mod recorded;
pub mod requests;
pub mod retry;
pub mod scheduler;
mod survey;
mod sweeps;
pub mod walk;
pub mod walker;
pub mod writer;
