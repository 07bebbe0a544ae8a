//! Teams of the size that a test needs.

use heymarket_sync::sandbox::TeamOptions;

/// So many messages, and conversations and contacts in proportion.
pub fn team(messages: usize) -> TeamOptions {
    TeamOptions {
        messages,
        conversations: messages / 10,
        contacts: messages * 3 / 40,
        ..TeamOptions::default()
    }
}
