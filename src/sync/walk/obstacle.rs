//! Why a part of a time line stays open.

use std::fmt;

/// Why a part of the line could not be proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// Only rows above the cursor came back.
    CursorIgnored,
    /// The page was not sorted by the line's time, again and again.
    Disorder,
    /// No row seen before came back where pages meet.
    SeamLost,
    /// More rows share one time than can be listed.
    Run,
    /// Pages held rows, but not one whose time could be read.
    Unplaced,
    /// The API refused the request that would have told.
    Refused,
    /// One row is larger than `api.max_body`.
    TooLarge,
    /// The answer was no JSON array, even of one row.
    Unreadable,
    /// The API failed at the request again and again, and answered others meanwhile.
    Failing,
}

impl Obstacle {
    /// Whether it may well be gone soon: a fault of the API rather than a property of the rows.
    pub fn may_pass(self) -> bool {
        match self {
            Self::CursorIgnored
            | Self::Disorder
            | Self::SeamLost
            | Self::Refused
            | Self::Unreadable
            | Self::Failing => true,
            Self::Run | Self::Unplaced | Self::TooLarge => false,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CursorIgnored => "the API returned only rows newer than the cursor",
            Self::Disorder => "the API returned pages out of order",
            Self::SeamLost => "no row of the page above came back where two pages meet",
            Self::Run => "more rows share one time than the API lists",
            Self::Unplaced => "no row of a page had a readable time",
            Self::Refused => "the API refused the request that would have told",
            Self::TooLarge => "a row is larger than api.max_body",
            Self::Unreadable => "the API's answer was no JSON array, again and again",
            Self::Failing => "the API failed at the request again and again, but not at others",
        })
    }
}
