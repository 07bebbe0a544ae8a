//! Which field carries the cursor and which way, and how many rows a page has.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use crate::api::endpoints::CursorField;
use crate::api::error::{ApiError, ErrorKind};

use super::comparison::Comparisons;
use super::{Answer, Finding, Probe, Question, Seen};
use crate::sync::line::Line;
use crate::sync::walk::Place;

/// How often a field is tried before it counts as ignored, or as obeyed by empty pages.
const TRIES: usize = 2;

/// Which field carries the cursor and which way, and the page that the test began with.
pub(super) struct CursorTest {
    pub findings: Vec<Finding>,
    /// Rows that came where [`Probe::limit`] were asked for.
    pub elements: usize,
}

impl CursorTest {
    /// The field that is obeyed as a cursor, where one is.
    pub fn field(&self) -> Option<CursorField> {
        self.findings.iter().find_map(|finding| match finding.answer {
            Answer::Field(field) => Some(field),
            _ => None,
        })
    }
}

impl Probe<'_> {
    /// `top` is the line's newest page, of [`Probe::limit`] rows at most.
    pub(super) async fn cursor_field(self, line: &Line, top: &Seen) -> Result<CursorTest, ApiError> {
        let elements = top.elements;
        let test = |answer, evidence: String| CursorTest {
            findings: vec![Finding::new(Question::CursorField, answer, evidence)],
            elements,
        };
        let mut comparisons = Comparisons::new(&top.placed);
        let Some(cursor) = comparisons.telling_cursor().or_else(|| cursor_below(&top.placed)) else {
            return Ok(test(Answer::Undecided, "there are no rows".to_owned()));
        };
        let documented = line.cursor_field();
        let other = match documented {
            CursorField::CreatedAt => CursorField::Date,
            CursorField::Date => CursorField::CreatedAt,
        };
        for field in [documented, other] {
            if let Some(below) = self.obeys(line, field, cursor).await? {
                comparisons.saw(cursor, &below);
                if let Some(cursor) = comparisons.telling_cursor() {
                    let below = self.page(line, Some(field), Some(cursor), 2).await?.placed;
                    comparisons.saw(cursor, &below);
                }
                let evidence = "nothing newer than the cursor came back".to_owned();
                let mut obeyed = test(Answer::Field(field), evidence);
                obeyed.findings.extend(comparisons.findings());
                return Ok(obeyed);
            }
        }
        let evidence =
            format!("rows newer than the cursor came back, in {} as in {}", documented.name(), other.name());
        Ok(test(Answer::NoField, evidence))
    }

    /// The rows that come below the cursor, if `field` is obeyed as one. An empty page may be a slip, and so may one
    /// newer row.
    async fn obeys(
        self,
        line: &Line,
        field: CursorField,
        cursor: DateTime<Utc>,
    ) -> Result<Option<Vec<Place>>, ApiError> {
        let mut empty = 0;
        for _ in 0..TRIES {
            let below = match self.page(line, Some(field), Some(cursor), 2).await {
                Ok(rows) => rows.placed,
                Err(error) if error.kind() == ErrorKind::BadRequest => return Ok(None),
                Err(error) => return Err(error),
            };
            if below.is_empty() {
                empty += 1;
            } else if below.iter().all(|row| row.0 <= cursor) {
                return Ok(Some(below));
            }
        }
        Ok((empty == TRIES).then(Vec::new))
    }
}

/// A cursor below the page: where it is ignored, rows newer than it come back. A whole second, and not the next
/// one, so that it tells however times are cut.
fn cursor_below(top: &[Place]) -> Option<DateTime<Utc>> {
    let second = TimeDelta::seconds(1);
    let oldest = top.iter().map(|place| place.0).min()?;
    Some(oldest.duration_trunc(second).unwrap_or(oldest) - second)
}

pub(super) fn page_rows(came: usize, asked: u32, total: Option<u64>) -> Finding {
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
    use super::*;

    #[test]
    fn the_cursor_lies_below_the_page() {
        let at = |millis| DateTime::from_timestamp_millis(millis).unwrap();
        assert_eq!(cursor_below(&[]), None);
        assert_eq!(cursor_below(&[(at(9_000), 3), (at(5_900), 1), (at(7_000), 2)]), Some(at(4_000)));
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
