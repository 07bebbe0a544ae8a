//! Whether and when a failed attempt is tried again, and when an outage is suspected. Pure: no clock, no randomness
//! of its own.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::error::ErrorKind;

/// Requests sent for one call at most; then the error goes up.
pub const MAX_ATTEMPTS: u32 = 7;

/// Time that one call may spend in attempts and waits before it stops trying again.
pub const RETRY_BUDGET: Duration = Duration::from_secs(60);

/// The longest time that a `Retry-After` is believed.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How long a call waits for the end of an outage if its caller is not patient.
pub const OUTAGE_PATIENCE: Duration = Duration::from_secs(15);

/// A failure that took this long, or after which the server wants this long a pause, is reason enough to suspect an
/// outage.
pub const LONG_WAIT: Duration = Duration::from_secs(5);

/// Failures in a row, of one call, from which on an outage is suspected.
const SUSPICIOUS_FAILURES: u32 = 2;

const FIRST_PROBE: Duration = Duration::from_secs(1);
/// Probes of an outage are this far apart at most, unless the server asks for more ([`MAX_RETRY_AFTER`]).
pub const MAX_PROBE_WAIT: Duration = Duration::from_secs(15);

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(16);

/// A failed attempt, and what came before it.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    pub kind: ErrorKind,
    /// The server's `Retry-After`, read by [`retry_after`].
    pub retry_after: Option<Duration>,
    /// How many requests were sent for the call, this one included.
    pub attempts: u32,
    /// Time spent on the call so far, without waits for the rate limiter.
    pub spent: Duration,
    /// A fresh token was already made for this call.
    pub renewed: bool,
    /// The call asks for a page of a stream.
    pub lists_pages: bool,
    /// The caller waits outages out.
    pub patient: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Retry {
        after: Duration,
    },
    /// At once, with a fresh token.
    Renew,
    GiveUp,
}

/// What to do after `failure`. `jitter` in `[0, 1)` spreads the waits of several callers.
pub fn decide(failure: Failure, jitter: f64) -> Decision {
    let waits_for_quota = failure.patient && failure.kind == ErrorKind::RateLimited;
    if failure.attempts >= MAX_ATTEMPTS && !waits_for_quota {
        return Decision::GiveUp;
    }
    if failure.kind == ErrorKind::Unauthorized && !failure.renewed {
        return Decision::Renew;
    }
    let after = failure.retry_after.unwrap_or_else(|| backoff(failure.attempts, jitter));
    let within_budget = failure.spent + after <= RETRY_BUDGET || waits_for_quota;
    if may_pass(failure) && within_budget { Decision::Retry { after } } else { Decision::GiveUp }
}

/// Whether another try of the same call can help. What ends the call of an impatient caller at once may have been
/// mended when an outage that a patient one waited for has ended.
fn may_pass(failure: Failure) -> bool {
    match failure.kind {
        ErrorKind::RateLimited
        | ErrorKind::Server
        | ErrorKind::Timeout
        | ErrorKind::Connect
        | ErrorKind::Body
        | ErrorKind::NotJson => true,
        ErrorKind::Unauthorized | ErrorKind::Credentials | ErrorKind::Tls | ErrorKind::Redirect => {
            failure.patient
        }
        ErrorKind::Forbidden | ErrorKind::NotFound => failure.patient && failure.lists_pages,
        ErrorKind::BadRequest | ErrorKind::TooLarge | ErrorKind::Cancelled | ErrorKind::Setup => false,
    }
}

/// Whether it is worth finding out if others fail as well.
pub fn suspects(failure: Failure) -> bool {
    match failure.kind {
        ErrorKind::Server
        | ErrorKind::Timeout
        | ErrorKind::Connect
        | ErrorKind::Body
        | ErrorKind::NotJson => {
            failure.attempts >= SUSPICIOUS_FAILURES
                || failure.spent >= LONG_WAIT
                || failure.patient && failure.retry_after.is_some_and(|wait| wait >= LONG_WAIT)
        }
        ErrorKind::RateLimited => false,
        _ => may_pass(failure),
    }
}

/// Whether a call that is given up would have failed with any other request. What a patient caller is told is the
/// request's own failure.
pub fn is_outage(failure: Failure) -> bool {
    let own = match failure.kind {
        ErrorKind::Server => failure.retry_after.is_none_or(|wait| wait < LONG_WAIT),
        ErrorKind::Timeout
        | ErrorKind::Connect
        | ErrorKind::Body
        | ErrorKind::NotJson
        | ErrorKind::BadRequest
        | ErrorKind::TooLarge => true,
        ErrorKind::Forbidden | ErrorKind::NotFound => !failure.lists_pages,
        _ => false,
    };
    !failure.patient && !own
}

/// The wait for the next probe after `failed` ones: doubling from 1 s to 15 s, of which `jitter` takes away up to a
/// half.
pub fn probe_wait(failed: u32, jitter: f64) -> Duration {
    let full = FIRST_PROBE.saturating_mul(1 << failed.min(16)).min(MAX_PROBE_WAIT);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

/// How long nobody is to send after `failure`: what the server asks for or, where it only says that the
/// limit is reached, the backoff of this call.
pub fn pause(failure: Failure, jitter: f64) -> Option<Duration> {
    match failure.kind {
        ErrorKind::RateLimited => {
            Some(failure.retry_after.unwrap_or_else(|| backoff(failure.attempts, jitter)))
        }
        ErrorKind::Server => failure.retry_after,
        _ => None,
    }
}

/// The wait after the `attempts`-th failure: doubling from 0.5 s to 16 s, of which `jitter` takes away up
/// to a half.
pub fn backoff(attempts: u32, jitter: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    let full = FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

/// Reads a `Retry-After` header, seconds or an HTTP date, at most [`MAX_RETRY_AFTER`]. `now` is the
/// server's time. `None` where it cannot be read.
pub fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<f64>() {
        Ok(seconds) if seconds.is_nan() || seconds < 0.0 => return None,
        Ok(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
        Err(_) => (http_date(value)? - now).to_std().unwrap_or(Duration::ZERO),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Reads an HTTP date (`Sun, 06 Nov 1994 08:49:37 GMT`).
pub(super) fn http_date(value: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(value.trim()).ok().map(|time| time.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Failure = Failure {
        kind: ErrorKind::Server,
        retry_after: None,
        attempts: 1,
        spent: Duration::ZERO,
        renewed: false,
        lists_pages: true,
        patient: false,
    };

    #[test]
    fn what_is_tried_again() {
        use ErrorKind::*;
        let again = Decision::Retry { after: FIRST_BACKOFF };
        let cases = [
            (again, vec![RateLimited, Server, Timeout, Connect, Body, NotJson]),
            (Decision::Renew, vec![Unauthorized]),
            (
                Decision::GiveUp,
                vec![BadRequest, Forbidden, NotFound, Tls, TooLarge, Redirect, Cancelled, Credentials, Setup],
            ),
        ];
        for (decision, kinds) in cases {
            for kind in kinds {
                assert_eq!(decide(Failure { kind, ..FIRST }, 0.0), decision, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_was_mended_is_tried_again_for_a_patient_caller() {
        use ErrorKind::*;
        let patient = Failure { patient: true, renewed: true, ..FIRST };
        for kind in [Unauthorized, Credentials, Tls, Redirect, Forbidden, NotFound] {
            let again = Decision::Retry { after: FIRST_BACKOFF };
            assert_eq!(decide(Failure { kind, ..patient }, 0.0), again, "{kind:?}");
        }
        for kind in [Forbidden, NotFound] {
            let one = Failure { kind, lists_pages: false, ..patient };
            assert_eq!(decide(one, 0.0), Decision::GiveUp, "{kind:?}");
        }
    }

    #[test]
    fn when_an_outage_is_suspected() {
        use ErrorKind::*;
        let second = Failure { attempts: 2, ..FIRST };
        let slow = Failure { spent: LONG_WAIT, ..FIRST };
        let patient = Failure { patient: true, ..FIRST };
        let one = Failure { lists_pages: false, ..patient };
        let told = Failure { retry_after: Some(LONG_WAIT), ..patient };
        let busy = vec![Server, Timeout, Connect, Body, NotJson];
        let never = vec![BadRequest, RateLimited, TooLarge, Cancelled, Setup];
        let to_mend = vec![Unauthorized, Credentials, Tls, Redirect];
        let refused = vec![Forbidden, NotFound];
        // Of these failures, what they are suspected for: busy, never, to_mend, refused.
        let cases = [
            ("the first", FIRST, [false, false, false, false]),
            ("the second in a row", second, [true, false, false, false]),
            ("one that took long", slow, [true, false, false, false]),
            ("a patient caller's first", patient, [false, false, true, true]),
            ("a patient caller's first for no page", one, [false, false, true, false]),
            ("a patient caller's that is told to wait", told, [true, false, true, true]),
        ];
        for (case, failure, suspected) in cases {
            for (kinds, suspected) in [&busy, &never, &to_mend, &refused].into_iter().zip(suspected) {
                for kind in kinds {
                    assert_eq!(suspects(Failure { kind: *kind, ..failure }), suspected, "{case}: {kind:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_given_up_is_an_outage_or_the_requests_own_failure() {
        use ErrorKind::*;
        let own = [Server, Timeout, Connect, Body, NotJson, BadRequest, TooLarge];
        let of_all = [Unauthorized, Credentials, Tls, Redirect, RateLimited, Setup, Forbidden, NotFound];
        for (kinds, expected) in [(&own[..], false), (&of_all[..], true)] {
            for kind in kinds {
                assert_eq!(is_outage(Failure { kind: *kind, ..FIRST }), expected, "{kind:?}");
                assert!(!is_outage(Failure { kind: *kind, patient: true, ..FIRST }), "{kind:?}");
            }
        }
        assert!(is_outage(Failure { retry_after: Some(LONG_WAIT), ..FIRST }));
        assert!(!is_outage(Failure { kind: NotFound, lists_pages: false, ..FIRST }));
    }

    #[test]
    fn probes_are_further_and_further_apart_to_a_bound() {
        let cases = [(0, 0.0, 1_000), (0, 1.0, 500), (1, 0.0, 2_000), (3, 0.5, 6_000), (4, 0.0, 15_000)];
        for (failed, jitter, milliseconds) in cases {
            assert_eq!(probe_wait(failed, jitter), Duration::from_millis(milliseconds), "{failed} {jitter}");
        }
        assert_eq!(probe_wait(u32::MAX, 0.0), MAX_PROBE_WAIT);
    }

    #[test]
    fn a_patient_caller_waits_for_quota_however_often_it_is_refused() {
        let refused = Failure { kind: ErrorKind::RateLimited, attempts: 100, spent: RETRY_BUDGET, ..FIRST };
        assert_eq!(decide(refused, 0.0), Decision::GiveUp);
        let waits = Decision::Retry { after: MAX_BACKOFF };
        assert_eq!(decide(Failure { patient: true, ..refused }, 0.0), waits);
    }

    #[test]
    fn when_trying_ends() {
        let seconds = Duration::from_secs;
        let cases = [
            ("a second 401", Failure { kind: ErrorKind::Unauthorized, renewed: true, ..FIRST }),
            ("the last attempt", Failure { attempts: MAX_ATTEMPTS, ..FIRST }),
            ("the budget is spent", Failure { spent: RETRY_BUDGET, ..FIRST }),
            (
                "asked to wait beyond the budget",
                Failure { spent: seconds(31), retry_after: Some(seconds(30)), ..FIRST },
            ),
        ];
        for (case, failure) in cases {
            assert_eq!(decide(failure, 0.0), Decision::GiveUp, "{case}");
        }
        let last_but_one = Failure { attempts: MAX_ATTEMPTS - 1, ..FIRST };
        assert_eq!(decide(last_but_one, 0.0), Decision::Retry { after: seconds(16) });
    }

    #[test]
    fn retry_after_is_honoured_before_backoff() {
        for seconds in [0, 1, 60] {
            let after = Duration::from_secs(seconds);
            let failure = Failure { kind: ErrorKind::RateLimited, retry_after: Some(after), ..FIRST };
            assert_eq!(decide(failure, 0.7), Decision::Retry { after });
        }
    }

    #[test]
    fn everybody_waits_for_a_used_up_limit_and_where_the_server_asks_for_it() {
        let minute = Some(Duration::from_secs(60));
        let cases = [
            (ErrorKind::RateLimited, None, Some(FIRST_BACKOFF)),
            (ErrorKind::RateLimited, minute, minute),
            (ErrorKind::Server, None, None),
            (ErrorKind::Server, minute, minute),
            (ErrorKind::Timeout, None, None),
            (ErrorKind::BadRequest, minute, None),
        ];
        for (kind, retry_after, wait) in cases {
            assert_eq!(pause(Failure { kind, retry_after, ..FIRST }, 0.0), wait, "{kind:?} {retry_after:?}");
        }
    }

    #[test]
    fn backoff_doubles_to_a_cap_and_jitter_takes_at_most_half() {
        let cases = [
            (1, 0.0, 500),
            (1, 1.0, 250),
            (2, 0.0, 1_000),
            (4, 0.5, 3_000),
            (6, 0.0, 16_000),
            (u32::MAX, 0.0, 16_000),
        ];
        for (attempts, jitter, milliseconds) in cases {
            assert_eq!(backoff(attempts, jitter), Duration::from_millis(milliseconds), "{attempts} {jitter}");
        }
    }

    #[test]
    fn all_waits_of_a_call_fit_its_budget() {
        let total: Duration = (1..MAX_ATTEMPTS).map(|attempts| backoff(attempts, 0.0)).sum();
        assert!(total <= RETRY_BUDGET, "{total:?}");
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |n| Some(Duration::from_secs(n));
        let cases = [
            ("0", seconds(0)),
            (" 12 ", seconds(12)),
            ("1.5", Some(Duration::from_millis(1_500))),
            ("Sun, 06 Nov 1994 08:49:50 GMT", seconds(13)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", seconds(0)),
            ("99999999", Some(MAX_RETRY_AFTER)),
            ("1e300", Some(MAX_RETRY_AFTER)),
            ("Sat, 06 Nov 2094 08:49:50 GMT", Some(MAX_RETRY_AFTER)),
            ("-1", None),
            ("NaN", None),
            ("soon", None),
            ("", None),
        ];
        for (value, wait) in cases {
            assert_eq!(retry_after(value, now), wait, "{value:?}");
        }
    }
}
