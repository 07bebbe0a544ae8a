//! JSON numbers of any size.

/// The most digits before and after the point of a number that is kept as a number in `jsonb`: a
/// little below what PostgreSQL's `numeric` holds, 131,072 and 16,383 (its documentation of "Numeric Types").
const MAX_INTEGER_DIGITS: i64 = 131_000;
const MAX_FRACTION_DIGITS: i64 = 16_300;

/// The most characters that the numbers of one row print beyond those they are written in. PostgreSQL keeps `1e130000` in
/// a few bytes, prints all of its digits, and prints nothing of 1 GiB: 8,200 such numbers make a row that no query can
/// output.
const MAX_PRINTED_GROWTH: i64 = 1024 * 1024;

/// The most digits that an `i64` can have.
const MAX_I64_DIGITS: i64 = 19;

/// A number taken apart, as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal<'a> {
    negative: bool,
    integer: &'a [u8],
    fraction: &'a [u8],
    /// The power of ten, cut to what an `i64` holds.
    exponent: i64,
}

/// Why a number is no integer of the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoInteger {
    Fraction,
    OutOfRange,
}

impl<'a> Decimal<'a> {
    /// Takes `text` apart if it is one number by JSON's grammar.
    #[inline]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let (integer, rest) = digits(text.strip_prefix(b"-").unwrap_or(text));
        if integer.is_empty() || (integer.len() > 1 && integer[0] == b'0') {
            return None;
        }
        let mut decimal = Self { negative: text[0] == b'-', integer, fraction: b"", exponent: 0 };
        if rest.is_empty() {
            return Some(decimal);
        }
        let mut rest = rest;
        if let Some(after) = rest.strip_prefix(b".") {
            (decimal.fraction, rest) = digits(after);
            if decimal.fraction.is_empty() {
                return None;
            }
        }
        match rest {
            [] => Some(decimal),
            [b'e' | b'E', power @ ..] => {
                decimal.exponent = exponent(power)?;
                Some(decimal)
            }
            _ => None,
        }
    }

    /// The integer that this number is.
    pub fn to_i64(self) -> Result<i64, NoInteger> {
        let written = || self.integer.iter().chain(self.fraction);
        // Without leading and trailing zeros, the number is its digits times a power of ten.
        let mut nonzero = written().enumerate().filter(|(_, digit)| **digit != b'0').map(|(index, _)| index);
        let Some(first) = nonzero.next() else { return Ok(0) };
        let last = nonzero.last().unwrap_or(first);
        let all = (self.integer.len() + self.fraction.len()) as i64;
        let dropped = all - 1 - last as i64;
        let power = self.exponent.saturating_add(dropped - self.fraction.len() as i64);
        let significant = (last - first + 1) as i64;
        if power < 0 {
            return Err(NoInteger::Fraction);
        }
        if power.saturating_add(significant) > MAX_I64_DIGITS {
            return Err(NoInteger::OutOfRange);
        }
        let digits = written().skip(first).take(significant as usize);
        let magnitude = digits.chain(std::iter::repeat_n(&b'0', power as usize));
        let magnitude = magnitude.fold(0_i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
        let value = if self.negative { -magnitude } else { magnitude };
        i64::try_from(value).map_err(|_| NoInteger::OutOfRange)
    }

    /// Digits before and after the point, if PostgreSQL's `numeric`, and so `jsonb`, surely holds this number.
    fn digits_printed(self) -> Option<(i64, i64)> {
        let before = (self.integer.len() as i64).saturating_add(self.exponent);
        let after = (self.fraction.len() as i64).saturating_sub(self.exponent);
        let fits = before <= MAX_INTEGER_DIGITS && after <= MAX_FRACTION_DIGITS;
        fits.then_some((before.max(1), after.max(0)))
    }
}

/// How much longer than they are written the numbers of a row may yet be printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrintRoom(i64);

impl Default for PrintRoom {
    fn default() -> Self {
        Self(MAX_PRINTED_GROWTH)
    }
}

impl PrintRoom {
    /// Whether `jsonb` holds the number written in `text`, and prints it with its row; takes the room for that.
    #[inline]
    pub fn admits(&mut self, text: &[u8]) -> bool {
        let Some(number) = Decimal::parse(text) else { return false };
        let Some((before, after)) = number.digits_printed() else { return false };
        let point = i64::from(after > 0);
        let printed = i64::from(number.negative) + before + point + after;
        let growth = (printed - text.len() as i64).max(0);
        let fits = growth <= self.0;
        if fits {
            self.0 -= growth;
        }
        fits
    }
}

#[inline]
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()))
}

/// The signed digits after an `e`.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (power, rest) = digits(text);
    if power.is_empty() || !rest.is_empty() {
        return None;
    }
    let power =
        power.iter().fold(0_i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    Some(if negative { -power } else { power })
}
