//! Where values come from, and the laying of one source over the other.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::error::Problem;

/// The keys that exist, with their defaults and documentation.
const DEFAULTS: &str = include_str!("../../config/default.toml");

const SYSTEM_FILE: &str = "/etc/heymarket-sync/config.toml";
const LOCAL_FILE: &str = "config/local.toml";

/// A configuration file above this is a mistake, such as a device.
const MAX_CONFIG_FILE_BYTES: u64 = 1 << 20;

const ENVIRONMENT_PREFIX: &str = "HEYMARKET_SYNC__";

/// The names that people know, and the keys they stand for.
const WELL_KNOWN: [(&str, &str); 9] = [
    ("HEYMARKET_API_SECRET_ID", "api.secret_id"),
    ("HEYMARKET_API_SECRET_ID_FILE", "api.secret_id_file"),
    ("HEYMARKET_API_SECRET_KEY", "api.secret_key"),
    ("HEYMARKET_API_SECRET_KEY_FILE", "api.secret_key_file"),
    ("HEYMARKET_API_KEY", "api.key"),
    ("HEYMARKET_API_KEY_FILE", "api.key_file"),
    ("HEYMARKET_API_BASE_URL", "api.base_url"),
    ("DATABASE_URL", "database.url"),
    ("DATABASE_URL_FILE", "database.url_file"),
];

/// Where [`load`](super::load) looks. Holds secrets, so it has no `Debug`.
pub struct Sources {
    /// `--config FILE`: must exist, and is read instead of the two usual files.
    pub config_file: Option<PathBuf>,
    /// Relative paths start here, `config/local.toml` among them.
    pub working_dir: PathBuf,
    /// Read if present, below `config/local.toml`.
    pub system_file: PathBuf,
    /// Name and value of every variable; those of others are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// The strongest layer; a later flag wins over an earlier one.
    pub flags: Vec<Flag>,
}

impl Sources {
    /// The sources of this process: its environment and its working directory.
    pub fn from_process(config_file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        Self {
            config_file,
            // Without one (it was removed), paths stay relative and fail with a message of their own.
            working_dir: env::current_dir().unwrap_or_default(),
            system_file: PathBuf::from(SYSTEM_FILE),
            environment: env::vars_os().collect(),
            flags,
        }
    }
}

/// A value given on the command line: `key` as in `default.toml`, `value` as in an environment variable,
/// `name` as the user typed it (`--listen`). May hold a secret, so it has no `Debug`.
pub struct Flag {
    pub key: String,
    pub value: String,
    pub name: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A key's value in force; may be a secret.
pub(super) struct Given {
    pub value: Value,
    pub origin: Origin,
}

/// Every key of `default.toml` with the strongest value given for it.
pub(super) struct Layers {
    defaults: BTreeMap<String, Value>,
    given: BTreeMap<String, Given>,
    problems: Vec<Problem>,
}

impl Layers {
    /// Lays all of `sources` over the defaults, and tells what could not be read or is not known.
    pub fn collect(sources: &Sources) -> (Self, Vec<Problem>) {
        let table =
            DEFAULTS.parse().expect("invariant: config/default.toml is valid TOML; every test loads it");
        let mut defaults = BTreeMap::new();
        flatten("", table, &mut defaults);
        let given = defaults
            .iter()
            .map(|(key, value)| (key.clone(), Given { value: value.clone(), origin: Origin::Default }))
            .collect();
        let mut layers = Self { defaults, given, problems: Vec::new() };

        match &sources.config_file {
            Some(path) => layers.add_file(&sources.working_dir.join(path), true),
            None => {
                layers.add_file(&sources.system_file, false);
                layers.add_file(&sources.working_dir.join(LOCAL_FILE), false);
            }
        }
        layers.add_well_known(&sources.environment);
        layers.add_environment(&sources.environment);
        for Flag { key, value, name } in &sources.flags {
            layers.add_text(key, value, Origin::Flag(name.clone()));
        }
        let problems = std::mem::take(&mut layers.problems);
        (layers, problems)
    }

    /// The value in force; `key` is one of `default.toml`.
    pub fn given(&self, key: &str) -> &Given {
        self.given
            .get(key)
            .expect("invariant: code reads only keys of config/default.toml; every test loads them all")
    }

    /// The compiled default; `key` is one of `default.toml`.
    pub fn default(&self, key: &str) -> &Value {
        self.defaults.get(key).expect("invariant: code reads only keys of config/default.toml")
    }

    /// Every key with its value in force, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Given)> {
        self.given.iter()
    }

    fn add_file(&mut self, path: &Path, required: bool) {
        let text = match read_text(path, MAX_CONFIG_FILE_BYTES) {
            Ok(text) => text,
            Err(error) if !required && is_absence(&error) => return,
            Err(error) => return self.problems.push(Problem::File { path: path.to_owned(), error }),
        };
        match text.parse() {
            Ok(table) => self.add("", Value::Table(table), &Origin::File(path.to_owned())),
            Err(error) => {
                // The parser's own display quotes the line, which may hold a secret.
                let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
                let reason = error.message().to_owned();
                self.problems.push(Problem::Syntax { path: path.to_owned(), line, column, reason });
            }
        }
    }

    fn add_well_known(&mut self, environment: &[(OsString, OsString)]) {
        for (name, key) in WELL_KNOWN {
            let variable = environment.iter().find(|(found, _)| found == OsStr::new(name));
            let Some((_, value)) = variable.filter(|(_, value)| !value.is_empty()) else { continue };
            self.add_variable(key, name.to_owned(), value);
        }
    }

    fn add_environment(&mut self, environment: &[(OsString, OsString)]) {
        // By name, so that a key's own variable comes after one that gives its whole section as a table.
        let mut ours = BTreeMap::<String, Vec<(String, &OsString)>>::new();
        for (name, value) in environment {
            let name = name.to_string_lossy().into_owned();
            if let Some(path) = name.to_ascii_uppercase().strip_prefix(ENVIRONMENT_PREFIX) {
                let key = path.to_ascii_lowercase().replace("__", ".");
                ours.entry(key).or_default().push((name, value));
            }
        }
        for (key, mut variables) in ours {
            variables.sort();
            if let [(first, _), (second, _), ..] = &variables[..] {
                let [first, second] =
                    [first, second].map(|name| (key.clone(), Origin::Environment(name.clone())));
                self.problems.push(Problem::Conflict(first, second));
            }
            for (name, value) in variables {
                self.add_variable(&key, name, value);
            }
        }
    }

    fn add_variable(&mut self, key: &str, name: String, value: &OsStr) {
        match value.to_str() {
            Some(text) => self.add_text(key, text, Origin::Environment(name)),
            None => self.problems.push(Problem::NotUtf8 { name }),
        }
    }

    /// Text is taken as it is where the key takes text, and read as a TOML value elsewhere.
    fn add_text(&mut self, key: &str, text: &str, origin: Origin) {
        let verbatim = matches!(self.defaults.get(key), Some(Value::String(_)));
        let value = if verbatim { None } else { text.trim().parse().ok() };
        self.add(key, value.unwrap_or_else(|| Value::String(text.to_owned())), &origin);
    }

    fn add(&mut self, path: &str, value: Value, origin: &Origin) {
        if let Some(given) = self.given.get_mut(path) {
            *given = Given { value, origin: origin.clone() };
        } else if !self.is_section(path) {
            let suggestion = self.nearest(path).map(|name| match origin {
                Origin::Environment(_) => environment_name(name),
                _ => name.to_owned(),
            });
            self.problems.push(Problem::UnknownKey {
                key: path.to_owned(),
                origin: origin.clone(),
                suggestion,
            });
        } else if let Value::Table(table) = value {
            for (name, value) in table {
                self.add(&join(path, &name), value, origin);
            }
        } else {
            self.problems.push(Problem::NotASection { key: path.to_owned(), origin: origin.clone() });
        }
    }

    fn is_section(&self, path: &str) -> bool {
        path.is_empty() || self.sections().any(|section| section == path)
    }

    fn sections(&self) -> impl Iterator<Item = &str> {
        self.defaults.keys().flat_map(|key| key.match_indices('.').map(|(dot, _)| &key[..dot]))
    }

    /// The key or section that `path` was probably meant to be.
    fn nearest(&self, path: &str) -> Option<&str> {
        let known = self.defaults.keys().map(String::as_str).chain(self.sections());
        nearest(path, known)
    }
}

/// The text of a file of at most `max_bytes`.
pub(super) fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(max_bytes + 1).read_to_string(&mut text)?;
    if text.len() as u64 > max_bytes {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {max_bytes} bytes"),
        ));
    }
    Ok(text)
}

/// The one of `known` that `name` was probably meant to be: few letters differ, or it lacks only its section.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// One wrong letter always counts as near, and one more for each so many letters.
    const LETTERS_PER_SLIP: usize = 6;
    known
        .map(|candidate| match candidate.rsplit_once('.') {
            Some((_, last)) if last == name => (1, candidate),
            _ => (distance(name, candidate), candidate),
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / LETTERS_PER_SLIP)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out or replaced to make `from` into `to` (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

fn flatten(path: &str, table: Table, into: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let path = join(path, &name);
        match value {
            Value::Table(table) => flatten(&path, table, into),
            value => {
                into.insert(path, value);
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn environment_name(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Line and column of a byte offset, both counted from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
