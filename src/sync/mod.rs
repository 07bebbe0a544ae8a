//! What to read next, walking it, and handing it to the database: planner, walkers, writer, scheduler.

pub mod detect;
mod detour;
pub mod fill;
pub mod line;
mod line_task;
pub mod planner;
pub mod progress;
pub mod retry;
pub mod scheduler;
pub mod walk;
pub mod walker;
pub mod writer;
