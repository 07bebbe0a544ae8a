//! Weak evidence, with the settings that the program comes with: lists that are empty for a while, a clock that lies.

use chrono::TimeDelta;

use super::*;

/// How soon after the end of the fault the mirror is to be equal.
const WITHIN: Duration = Duration::from_secs(90);

async fn rig() -> Rig {
    Rig::new(2_000).await.set(EMPTY_APART, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_does_not_believe_lists_that_are_empty_for_a_while() {
    // While it finds out how the API reads its documents, and while it reads.
    for nth in [4, 12, 20] {
        let rig = rig().await;
        rig.source().set_all_empty(true);
        rig.source().on_request(nth, |state| state.set_all_empty(false));
        let ended = rig.start(&["sync"]).ended(WITHIN).await;
        assert_eq!(ended.code(), Some(0), "{nth}: {}", ended.stderr);
        assert_equals(rig.source(), &rig.pool).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_does_not_believe_lists_that_are_empty_for_a_while() {
    let rig = rig().await;
    rig.source().set_all_empty(true);
    rig.source().on_request(40, |state| state.set_all_empty(false));
    let daemon = rig.start(&["run"]);
    reached("the fault's end", WITHIN, async || rig.source().counters().all_requests() >= 40).await.unwrap();
    let equal = async || differences(rig.source(), &rig.pool).await.is_empty();
    reached("an equal mirror", WITHIN, equal).await.unwrap();
    rig.catches_up(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_lies_for_a_while_costs_no_row() {
    for days in [1, -1] {
        let rig = rig().await;
        rig.source().set_date_lie(TimeDelta::days(days));
        rig.source().on_request(30, |state| state.set_date_lie(TimeDelta::zero()));
        let daemon = rig.start(&["run"]);
        rig.source().set_live_rate(20.0);
        let equal = async || differences(rig.source(), &rig.pool).await.is_empty();
        rig.complete(&daemon).await;
        rig.source().set_live_rate(0.0);
        reached("an equal mirror", WITHIN, equal).await.unwrap();
        rig.catches_up(daemon).await;
    }
}
