//! What to read next, walking it, and handing it to the database: planner, walkers, writer, scheduler.

pub mod walk;
