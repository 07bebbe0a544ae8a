//! Finds where JSON values begin and end without reading them.
//!
//! Strict on structure, tolerant of content: strings may hold invalid UTF-8, raw control characters
//! and any escape; a bare word that JSON does not know is a value of its own kind.

use std::borrow::Cow;

use super::{number::Decimal, text};

/// The deepest nesting of arrays and objects in one value; deeper input is refused as a whole.
pub const MAX_DEPTH: usize = 1024;

/// A value that was found, not yet read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub kind: Kind,
    /// The value's bytes as they came, without the whitespace around it.
    pub raw: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    True,
    False,
    Number,
    /// A string; `plain` if it has no escapes and no control characters.
    Text {
        plain: bool,
    },
    Array,
    Object,
    /// A bare word that is no JSON: `NaN`, `01`, `True`.
    Malformed,
}

/// Where the structure breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Bytes from the beginning of what was scanned.
    pub offset: usize,
    pub reason: &'static str,
}

pub(super) const ENDS_EARLY: &str = "it ends inside a value";
const NO_VALUE: &str = "a value is missing";
const NO_KEY: &str = "a field name is missing";
const NO_COLON: &str = "a colon is missing after a field name";
const NO_COMMA: &str = "a comma or a closing bracket is missing";
const TOO_DEEP: &str = "it is nested too deeply";
const NOT_OBJECT: &str = "not an object";
const NOT_ARRAY: &str = "it does not begin with a bracket";
const TRAILING: &str = "something follows the end";

/// A position in JSON text.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next byte, which is not passed.
    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub fn advance(&mut self) {
        self.at += 1;
    }

    #[inline]
    pub fn whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Passes one value of any kind.
    #[inline]
    pub fn value(&mut self) -> Result<Value<'a>, Fault> {
        self.whitespace();
        let start = self.at;
        let kind = match self.peek() {
            None => return Err(self.fault(ENDS_EARLY)),
            Some(b'"') => Kind::Text { plain: self.string()? },
            Some(b'{') => {
                self.container()?;
                Kind::Object
            }
            Some(b'[') => {
                self.container()?;
                Kind::Array
            }
            Some(_) => self.word()?,
        };
        Ok(Value { kind, raw: &self.bytes[start..self.at] })
    }

    /// Passes the string that begins here; tells whether it is plain.
    #[inline]
    fn string(&mut self) -> Result<bool, Fault> {
        self.at += 1;
        let mut plain = true;
        loop {
            self.at += run_of_plain_bytes(&self.bytes[self.at..]);
            match self.peek() {
                None => return Err(self.fault(ENDS_EARLY)),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(plain);
                }
                Some(b'\\') => {
                    plain = false;
                    if self.at + 1 == self.bytes.len() {
                        return Err(self.fault(ENDS_EARLY));
                    }
                    self.at += 2;
                }
                Some(_) => {
                    plain = false;
                    self.at += 1;
                }
            }
        }
    }

    /// Passes the bare word that begins here: a number, a literal, or something malformed.
    #[inline]
    fn word(&mut self) -> Result<Kind, Fault> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| ends_word(*byte)).unwrap_or(rest.len());
        self.at += length;
        match &rest[..length] {
            b"" => Err(self.fault(NO_VALUE)),
            b"null" => Ok(Kind::Null),
            b"true" => Ok(Kind::True),
            b"false" => Ok(Kind::False),
            word if Decimal::parse(word).is_some() => Ok(Kind::Number),
            _ => Ok(Kind::Malformed),
        }
    }

    /// Passes the array or object that begins here, without recursion.
    fn container(&mut self) -> Result<(), Fault> {
        let mut open = Nesting::default();
        loop {
            self.whitespace();
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(bracket @ (b'{' | b'[')) => {
                    let object = bracket == b'{';
                    if !open.push(object) {
                        return Err(self.fault(TOO_DEEP));
                    }
                    self.at += 1;
                    self.whitespace();
                    if self.peek() != Some(closing(object)) {
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(_) => {
                    self.word()?;
                }
                None => return Err(self.fault(ENDS_EARLY)),
            }
            // A value has ended: close all that ends with it, or go on to the next value.
            while let Some(object) = open.innermost() {
                self.whitespace();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(bracket) if bracket == closing(object) => {
                        self.at += 1;
                        open.pop();
                    }
                    Some(_) => return Err(self.fault(NO_COMMA)),
                    None => return Err(self.fault(ENDS_EARLY)),
                }
            }
            if open.innermost().is_none() {
                return Ok(());
            }
        }
    }

    /// Passes a field name and its colon.
    #[inline]
    fn key(&mut self) -> Result<Value<'a>, Fault> {
        self.whitespace();
        let start = self.at;
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return Err(self.fault(NO_KEY)),
            None => return Err(self.fault(ENDS_EARLY)),
        }
        let plain = self.string()?;
        let key = Value { kind: Kind::Text { plain }, raw: &self.bytes[start..self.at] };
        self.whitespace();
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return Err(self.fault(NO_COLON)),
            None => return Err(self.fault(ENDS_EARLY)),
        }
        Ok(key)
    }

    fn fault(&self, reason: &'static str) -> Fault {
        Fault { offset: self.at, reason }
    }
}

/// The values between one pair of brackets, in turn, up to the end of the text.
struct Items<'a> {
    scanner: Scanner<'a>,
    close: u8,
    started: bool,
    ended: bool,
}

impl<'a> Items<'a> {
    fn open(raw: &'a [u8], open: u8, close: u8, otherwise: &'static str) -> Result<Self, Fault> {
        let mut scanner = Scanner::new(raw);
        scanner.whitespace();
        if scanner.peek() != Some(open) {
            return Err(scanner.fault(otherwise));
        }
        scanner.advance();
        Ok(Self { scanner, close, started: false, ended: false })
    }

    /// Moves to the next item; false at the end, when nothing but whitespace may follow.
    #[inline]
    fn advance(&mut self) -> Result<bool, Fault> {
        if self.ended {
            return Ok(false);
        }
        self.scanner.whitespace();
        match self.scanner.peek() {
            Some(byte) if byte == self.close => {
                self.scanner.advance();
                self.scanner.whitespace();
                if self.scanner.peek().is_some() {
                    return Err(self.scanner.fault(TRAILING));
                }
                self.ended = true;
                return Ok(false);
            }
            None => return Err(self.scanner.fault(ENDS_EARLY)),
            Some(b',') if self.started => self.scanner.advance(),
            Some(_) if self.started => return Err(self.scanner.fault(NO_COMMA)),
            Some(_) => self.started = true,
        }
        Ok(true)
    }
}

/// A field's name, decoded, and its value.
pub(super) type Field<'a> = (Cow<'a, [u8]>, Value<'a>);

/// The fields of an object, in the order they came; a name may come twice.
pub(super) struct Fields<'a>(Items<'a>);

impl<'a> Fields<'a> {
    /// `raw` must be one object with nothing but whitespace around it.
    pub fn of(raw: &'a [u8]) -> Result<Self, Fault> {
        Items::open(raw, b'{', b'}', NOT_OBJECT).map(Self)
    }

    #[inline]
    pub fn next(&mut self) -> Result<Option<Field<'a>>, Fault> {
        if !self.0.advance()? {
            return Ok(None);
        }
        let key = self.0.scanner.key()?;
        let name = match key.kind {
            Kind::Text { plain: true } => Cow::Borrowed(text::content(key.raw)),
            _ => Cow::Owned(text::decode(key).text.into_owned().into_bytes()),
        };
        Ok(Some((name, self.0.scanner.value()?)))
    }
}

/// The elements of an array.
pub(super) struct Elements<'a>(Items<'a>);

impl<'a> Elements<'a> {
    /// `raw` must be one array with nothing but whitespace around it.
    pub fn of(raw: &'a [u8]) -> Result<Self, Fault> {
        Items::open(raw, b'[', b']', NOT_ARRAY).map(Self)
    }

    #[inline]
    pub fn next(&mut self) -> Result<Option<Value<'a>>, Fault> {
        if self.0.advance()? { self.0.scanner.value().map(Some) } else { Ok(None) }
    }

    /// Bytes passed so far.
    pub fn offset(&self) -> usize {
        self.0.scanner.at
    }
}

/// Which brackets are open: one bit each, set for an object.
struct Nesting {
    bits: [u64; MAX_DEPTH / 64],
    depth: usize,
}

impl Default for Nesting {
    fn default() -> Self {
        Self { bits: [0; MAX_DEPTH / 64], depth: 0 }
    }
}

impl Nesting {
    /// False if the bound is reached.
    #[inline]
    fn push(&mut self, object: bool) -> bool {
        if self.depth == MAX_DEPTH {
            return false;
        }
        let bit = 1 << (self.depth % 64);
        let word = &mut self.bits[self.depth / 64];
        *word = if object { *word | bit } else { *word & !bit };
        self.depth += 1;
        true
    }

    #[inline]
    fn pop(&mut self) {
        self.depth -= 1;
    }

    /// Whether the innermost open bracket is an object's; none if all are closed.
    #[inline]
    fn innermost(&self) -> Option<bool> {
        let last = self.depth.checked_sub(1)?;
        Some(self.bits[last / 64] & (1 << (last % 64)) != 0)
    }
}

#[inline]
fn closing(object: bool) -> u8 {
    if object { b'}' } else { b']' }
}

#[inline]
fn ends_word(byte: u8) -> bool {
    matches!(byte, b',' | b'}' | b']' | b':' | b'"' | b'{' | b'[' | b' ' | b'\n' | b'\r' | b'\t')
}

/// How many bytes come before the first quote, backslash or control character; eight at a time,
/// because most of a page is text.
#[inline]
fn run_of_plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        // The lowest high bit of each term marks the first zero, or the first byte below a space;
        // bits above it may be wrong, but only the lowest one is used.
        let found = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * b' ' as u64) & !word);
        let found = found & HIGH;
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    bytes.len() - rest.len() + rest.iter().position(special).unwrap_or(rest.len())
}
