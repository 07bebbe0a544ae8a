//! The `config` verb: the configuration in force, and where each value came from.

use std::io::{self, Write};

use crate::config::Loaded;

/// Writes the configuration as TOML, each value with its origin as a comment, secrets as `***`.
///
/// # Errors
/// Those of `out`.
pub fn print(loaded: &Loaded, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "# The configuration in force, and where each value came from. Secrets are shown as \"***\"."
    )?;
    let mut current = "";
    for shown in loaded.origins.iter() {
        let (section, name) = shown.key.rsplit_once('.').unwrap_or(("", &shown.key));
        if section != current {
            writeln!(out, "\n[{section}]")?;
            current = section;
        }
        // A path may hold characters that would end the comment.
        let origin = shown.origin.to_string().replace(char::is_control, "\u{fffd}");
        writeln!(out, "{name} = {}  # {origin}", shown.value)?;
    }
    Ok(())
}
