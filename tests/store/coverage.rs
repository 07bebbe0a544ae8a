//! The coverage ledger.

use heymarket_sync::interval::Interval;
use heymarket_sync::store::{Batch, STANDING, StoreError};

use crate::Database;
use crate::rows::{at, line, span};

#[tokio::test]
async fn coverage_joins_what_touches_and_tells_the_gaps() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let key = line("date", STANDING);
    assert_eq!(store.gaps(&key, span(0, 10)).await.unwrap(), [span(0, 10)], "before the pass began");
    let begun = store.begin_pass(&lease, &key, None, None, at(7)).await.unwrap();
    assert_eq!((begun.started_at, begun.wanted_from, begun.wanted_to), (at(7), None, None));
    assert_eq!(begun.covered, []);

    let prove = |intervals: &[Interval]| {
        let proofs = intervals.iter().map(|interval| (key.clone(), *interval)).collect();
        Batch { proofs, ..Batch::default() }
    };
    let cases: [(&[Interval], &[Interval], &[Interval]); 5] = [
        (&[span(2, 4)], &[span(2, 4)], &[span(4, 10), until(2)]),
        (&[span(6, 8), span(4, 5)], &[span(6, 8), span(2, 5)], &[span(8, 10), span(5, 6), until(2)]),
        (&[span(3, 5)], &[span(6, 8), span(2, 5)], &[span(8, 10), span(5, 6), until(2)]),
        (&[until(1)], &[span(6, 8), span(2, 5), until(1)], &[span(8, 10), span(5, 6), span(1, 2)]),
        (&[span(1, 2), span(5, 20)], &[until(20)], &[]),
    ];
    for (proved, covered, gaps) in cases {
        store.commit(&lease, &prove(proved)).await.unwrap();
        assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, covered, "after {proved:?}");
        assert_eq!(store.gaps(&key, until(10)).await.unwrap(), gaps, "after {proved:?}");
    }

    assert_eq!(store.withdraw(&lease, &key, span(5, 30), "a hole").await.unwrap(), [span(5, 20)]);
    assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, [until(5)]);
    assert_eq!(store.withdraw(&lease, &key, span(5, 30), "again").await.unwrap(), []);
    assert_eq!(store.gaps(&key, span(3, 7)).await.unwrap(), [span(5, 7)]);
    database.drop().await;
}

#[tokio::test]
async fn a_pass_goes_on_where_it_was_and_leaves_the_others_alone() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let (standing, recheck) = (line("date", STANDING), line("date", "recheck 2d"));
    store.begin_pass(&lease, &standing, None, None, at(1)).await.unwrap();
    store.begin_pass(&lease, &recheck, Some(at(2)), Some(at(9)), at(9)).await.unwrap();
    let batch = Batch { proofs: vec![(recheck.clone(), span(5, 9))], ..Batch::default() };
    store.commit(&lease, &batch).await.unwrap();

    let again = store.begin_pass(&lease, &recheck, Some(at(4)), Some(at(20)), at(20)).await.unwrap();
    assert_eq!((again.wanted_from, again.wanted_to, again.started_at), (Some(at(2)), Some(at(9)), at(9)));
    assert_eq!(again.covered, [span(5, 9)]);
    let standing_again = store.begin_pass(&lease, &standing, Some(at(3)), None, at(30)).await.unwrap();
    assert_eq!((standing_again.wanted_from, standing_again.started_at), (Some(at(3)), at(1)));
    assert_eq!(standing_again.covered, []);

    store.restart_pass(&lease, &recheck, Some(at(4)), Some(at(20)), at(20)).await.unwrap();
    let fresh = store.pass(&recheck).await.unwrap().unwrap();
    assert_eq!((fresh.wanted_from, fresh.wanted_to, fresh.started_at), (Some(at(4)), Some(at(20)), at(20)));
    assert_eq!(fresh.covered, []);

    assert_eq!(store.coverage().await.unwrap().len(), 2);
    store.end_pass(&lease, &recheck).await.unwrap();
    store.end_pass(&lease, &standing).await.unwrap();
    assert_eq!(store.pass(&recheck).await.unwrap(), None);
    assert!(store.pass(&standing).await.unwrap().is_some(), "the standing pass never ends");
    store.commit(&lease, &batch).await.unwrap();
    assert_eq!(store.pass(&recheck).await.unwrap(), None, "a late proof of a pass that ended is dropped");

    let error = store.begin_pass(&lease, &recheck, Some(at(4)), Some(at(4)), at(9)).await.unwrap_err();
    assert!(matches!(error, StoreError::EmptyWindow { .. }), "{error}");
    database.drop().await;
}

#[tokio::test]
async fn what_was_proved_since_the_last_confirmation_can_be_withdrawn() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let key = line("date", STANDING);
    store.begin_pass(&lease, &key, None, None, at(100)).await.unwrap();
    let prove = async |interval| {
        let batch = Batch { proofs: vec![(key.clone(), interval)], ..Batch::default() };
        store.commit(&lease, &batch).await.unwrap();
    };
    prove(span(40, 60)).await;
    store.confirm(&lease, &key).await.unwrap();
    prove(span(20, 50)).await;
    prove(span(60, 70)).await;
    let withdrawn = store.withdraw_unconfirmed(&lease, &key, "another reading").await.unwrap();
    assert_eq!(withdrawn, [span(60, 70), span(20, 40)]);
    assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, [span(40, 60)]);
    assert_eq!(store.withdraw_unconfirmed(&lease, &key, "again").await.unwrap(), []);
    database.drop().await;
}

fn until(end: i64) -> Interval {
    Interval::new(None, at(end)).unwrap()
}
