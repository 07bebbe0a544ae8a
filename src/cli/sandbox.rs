//! The `sandbox` verb.
