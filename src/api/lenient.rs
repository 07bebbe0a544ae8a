//! lenient
