//! One reading at a time, so that a failure names it.
