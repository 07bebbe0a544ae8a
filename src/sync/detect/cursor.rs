//! Which field carries the cursor, and how many rows a page has.

use chrono::{DurationRound, TimeDelta};

use crate::api::endpoints::CursorField;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::model::Stream;

use super::{Answer, Finding, Probe, Question};
use crate::sync::line::Line;
use crate::sync::walk::Place;

/// How often a field is tried before it counts as ignored: one page may be out of order by accident.
const TRIES: usize = 2;

impl Probe<'_> {
    pub(super) async fn cursor_field(
        self,
        stream: Stream,
        total: Option<u64>,
    ) -> Result<Vec<Finding>, ApiError> {
        let line = Line::main(stream);
        let top = self.page(&line, None, None, self.limit).await?;
        let rows = page_rows(top.elements, self.limit, total);
        let finding = |answer, evidence: String| Finding::new(Question::CursorField, answer, evidence);
        let Some(cursor) = telling_cursor(&top.placed) else {
            let evidence = "the newest rows lie too close together in time".to_owned();
            return Ok(vec![finding(Answer::Undecided, evidence), rows]);
        };
        let documented = line.cursor_field();
        let other = match documented {
            CursorField::CreatedAt => CursorField::Date,
            CursorField::Date => CursorField::CreatedAt,
        };
        let mut silent = false;
        for field in [documented, other] {
            for _ in 0..TRIES {
                let below = match self.page(&line, Some(field), Some(cursor.0), 2).await {
                    Ok(rows) => rows.placed,
                    Err(error) if error.kind() == ErrorKind::BadRequest => break,
                    Err(error) => return Err(error),
                };
                match judge(&below, cursor) {
                    Obeyed::Inclusive => {
                        let evidence = "the row at the cursor and nothing newer came back".to_owned();
                        return Ok(vec![finding(Answer::Field(field), evidence), rows]);
                    }
                    Obeyed::Exclusive => {
                        let evidence = "only rows older than the cursor came back".to_owned();
                        return Ok(vec![finding(Answer::Field(field), evidence), rows]);
                    }
                    Obeyed::Silent => silent = true,
                    Obeyed::No => {}
                }
            }
        }
        let undecided = "nothing came back below a cursor that has rows below it".to_owned();
        let ignored =
            format!("rows newer than the cursor came back, in {} as in {}", documented.name(), other.name());
        let field =
            if silent { finding(Answer::Undecided, undecided) } else { finding(Answer::NoField, ignored) };
        Ok(vec![field, rows])
    }
}

/// A row of the page, as a cursor, with rows on both sides of it even where times are cut to seconds.
fn telling_cursor(top: &[Place]) -> Option<Place> {
    let second = TimeDelta::seconds(1);
    let newest = top.iter().map(|place| place.0).max()?;
    let oldest = top.iter().map(|place| place.0).min()?;
    let tells = |place: &&Place| {
        let floor = place.0.duration_trunc(second).unwrap_or(place.0);
        newest > floor + second && oldest < floor
    };
    top.iter().filter(tells).max().copied()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obeyed {
    Inclusive,
    Exclusive,
    No,
    /// Nothing came back.
    Silent,
}

fn judge(below: &[Place], cursor: Place) -> Obeyed {
    match below {
        [] => Obeyed::Silent,
        rows if rows.iter().any(|row| row.0 > cursor.0) => Obeyed::No,
        rows if rows.iter().any(|row| row.0 == cursor.0) => Obeyed::Inclusive,
        _ => Obeyed::Exclusive,
    }
}

fn page_rows(came: usize, asked: u32, total: Option<u64>) -> Finding {
    let rows = u32::try_from(came).unwrap_or(u32::MAX);
    let finding = |answer, evidence: String| Finding::new(Question::PageRows, answer, evidence);
    match total {
        _ if rows == asked => finding(Answer::Rows(rows), "as many as were asked for".to_owned()),
        _ if rows > asked => finding(Answer::Rows(rows), format!("{asked} were asked for")),
        Some(total) if rows > 0 && total > u64::from(rows) => {
            finding(Answer::Rows(rows), format!("{asked} of {total} were asked for"))
        }
        _ => finding(Answer::Undecided, "there are too few rows to tell".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn place(id: i64, millis: i64) -> Place {
        (DateTime::from_timestamp_millis(millis).unwrap(), id)
    }

    #[test]
    fn a_cursor_tells_where_rows_lie_on_both_sides_of_its_second() {
        let cases: &[(&str, &[i64], Option<i64>)] = &[
            ("nothing", &[], None),
            ("one time", &[5_000, 5_000], None),
            ("one second", &[5_900, 5_500, 5_100], None),
            ("nothing below", &[9_000, 5_000], None),
            ("both sides", &[9_000, 5_000, 1_000], Some(5_000)),
            ("the newest that tells", &[9_000, 8_000, 7_500, 7_000, 1_000], Some(7_500)),
            ("any order", &[1_000, 9_000, 5_000], Some(5_000)),
        ];
        for (name, times, cursor) in cases {
            let top: Vec<_> =
                times.iter().enumerate().map(|(id, millis)| place(id as i64, *millis)).collect();
            let found = telling_cursor(&top).map(|place| place.0.timestamp_millis());
            assert_eq!(found, *cursor, "{name}");
        }
    }

    #[test]
    fn a_cursor_is_judged_by_what_comes_back() {
        let cursor = place(5, 5_000);
        let cases = [
            ("inclusive", vec![place(5, 5_000), place(4, 4_000)], Obeyed::Inclusive),
            ("exclusive", vec![place(4, 4_000), place(3, 3_000)], Obeyed::Exclusive),
            ("ignored", vec![place(9, 9_000), place(5, 5_000)], Obeyed::No),
            ("empty", vec![], Obeyed::Silent),
        ];
        for (name, below, obeyed) in cases {
            assert_eq!(judge(&below, cursor), obeyed, "{name}");
        }
    }

    #[test]
    fn the_size_of_a_page_is_known_only_where_more_rows_exist() {
        let cases = [
            (200, 200, None, Answer::Rows(200)),
            (100, 200, Some(5_000), Answer::Rows(100)),
            (100, 200, Some(100), Answer::Undecided),
            (100, 200, None, Answer::Undecided),
            (500, 200, None, Answer::Rows(500)),
            (0, 200, Some(5), Answer::Undecided),
        ];
        for (came, asked, total, answer) in cases {
            assert_eq!(page_rows(came, asked, total).answer, answer, "{came} of {asked}, {total:?}");
        }
    }
}
