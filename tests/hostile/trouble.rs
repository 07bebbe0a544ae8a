//! Trouble that lasts: from some request on, for many, or until the case ends it.

use std::fmt;

use bytes::Bytes;
use chrono::TimeDelta;
use heymarket_sync::sandbox::{Endpoint, Fault, SandboxState, Slip, Slips};
use proptest::{prelude::*, sample::Index, sample::select};

/// What a body of the engine may have at most, where there is trouble: many pages of ordinary rows.
pub const MAX_BODY: &str = "512KiB";
/// A row larger than that.
const LARGE: usize = 600 * 1024;

#[derive(Clone, Debug)]
pub enum Trouble {
    /// Every list is empty, and every count zero.
    AllEmpty,
    /// One list is empty; what is counted stays right.
    Empty(Endpoint),
    /// Requests of one kind are refused.
    Refused(Endpoint),
    /// The `Date` of answers is wrong by so many seconds.
    Date(i64),
    /// The team is another one, if only in the next answer that tells it.
    Team(i64),
    /// A row is larger than any body may be.
    Large(Endpoint, Index),
    /// Each page goes wrong in this way.
    Slips(Slip),
}

/// Trouble, the request at which it begins, and the one at which it ends of itself.
#[derive(Clone)]
pub struct Spell {
    begins: u64,
    ends: Option<u64>,
    trouble: Trouble,
}

impl fmt::Debug for Spell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {} to {:?}", self.trouble, self.begins, self.ends)
    }
}

impl Spell {
    /// To be called before the first request.
    pub fn plan(&self, state: &SandboxState) {
        let trouble = self.trouble.clone();
        state.on_request(self.begins, move |state| trouble.begin(state));
        if let Some(ends) = self.ends {
            let trouble = self.trouble.clone();
            state.on_request(ends, move |state| trouble.end(state));
        }
    }

    pub fn end(&self, state: &SandboxState) {
        self.trouble.end(state);
    }

    /// Whether lists are empty that are not, again and again: what is believed after two of them without a count, or
    /// with one that is wrong, too, may be wrong for as long.
    pub fn may_be_believed(&self) -> bool {
        matches!(self.trouble, Trouble::AllEmpty | Trouble::Empty(_))
    }
}

impl Trouble {
    fn begin(&self, state: &SandboxState) {
        match self {
            Self::AllEmpty => state.set_all_empty(true),
            Self::Empty(list) => state.set_lasting_fault_on(*list, Some(Fault::EmptyArray)),
            Self::Refused(endpoint) => state.set_lasting_fault_on(*endpoint, Some(Fault::Status(403))),
            Self::Date(seconds) => state.set_date_lie(TimeDelta::seconds(*seconds)),
            Self::Team(id) => state.push_fault_on(Endpoint::Team, Fault::OtherTeam(*id)),
            Self::Large(list, index) => {
                if let Some(id) = chosen(state, *list, index) {
                    state.set_raw(*list, id, Some(large(id)));
                }
            }
            Self::Slips(kind) => {
                let kinds = vec![*kind];
                state.set_slips(Slips { probability: 1.0, most: u32::MAX, kinds, ..Slips::default() });
            }
        }
    }

    fn end(&self, state: &SandboxState) {
        match self {
            Self::AllEmpty => state.set_all_empty(false),
            Self::Empty(endpoint) | Self::Refused(endpoint) => state.set_lasting_fault_on(*endpoint, None),
            Self::Date(_) => state.set_date_lie(TimeDelta::zero()),
            Self::Team(_) => {}
            // Rows may have come since: whichever it was.
            Self::Large(list, _) => {
                for id in ids(state, *list) {
                    state.set_raw(*list, id, None);
                }
            }
            Self::Slips(_) => state.set_slips(Slips::default()),
        }
    }
}

fn ids(state: &SandboxState, list: Endpoint) -> Vec<i64> {
    match list {
        Endpoint::Messages => state.messages().into_keys().collect(),
        Endpoint::Conversations => state.conversations().into_keys().collect(),
        _ => state.contacts().into_keys().collect(),
    }
}

fn chosen(state: &SandboxState, list: Endpoint, index: &Index) -> Option<i64> {
    let ids = ids(state, list);
    (!ids.is_empty()).then(|| ids[index.index(ids.len())])
}

fn large(id: i64) -> Bytes {
    format!(r#"{{"id": {id}, "text": "{}"}}"#, "x".repeat(LARGE)).into()
}

pub fn any_spell() -> impl Strategy<Value = Spell> {
    let list = || select(vec![Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts]);
    let slip = select(vec![Slip::Repeated, Slip::Overlapping, Slip::Outdated, Slip::Stale]);
    let trouble = prop_oneof![
        Just(Trouble::AllEmpty),
        list().prop_map(Trouble::Empty),
        list().prop_map(Trouble::Refused),
        select(vec![-86_400, -60, 60, 86_400, 31_536_000]).prop_map(Trouble::Date),
        (1..9i64).prop_map(Trouble::Team),
        (list(), any::<Index>()).prop_map(|(list, index)| Trouble::Large(list, index)),
        slip.prop_map(Trouble::Slips),
    ];
    let begins = prop_oneof![1..10u64, 1..200u64];
    (begins, prop::option::of(1..200u64), trouble).prop_map(|(begins, lasts, trouble)| Spell {
        begins,
        ends: lasts.map(|lasts| begins + lasts),
        trouble,
    })
}
