//! What can go wrong with the embedded PostgreSQL, and what to do about it.

use std::{io, path::PathBuf, process::ExitStatus};

use super::programs::OLDEST_MAJOR;

/// Commands that end the lack of server programs, ready to copy.
pub(super) const WAYS_OUT: &str = "\
ways out:
  Debian, Ubuntu:       sudo apt-get update && sudo apt-get install -y postgresql
  Fedora, RHEL:         sudo dnf install -y postgresql-server
  Alpine:               sudo apk add postgresql
  macOS:                brew install postgresql@17
  programs elsewhere:   export HEYMARKET_SYNC__EMBEDDED__BIN_DIR=/path/to/bin
  a server in Docker:   docker run -d --name heymarket-postgres -e POSTGRES_PASSWORD=heymarket \
-e POSTGRES_DB=heymarket -p 127.0.0.1:5432:5432 postgres:17
                        export DATABASE_URL=postgres://postgres:heymarket@127.0.0.1:5432/heymarket
  any other server:     export DATABASE_URL=postgres://USER:PASSWORD@HOST:5432/DATABASE";

/// Why there is no embedded PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error(
        "no PostgreSQL server programs (postgres and initdb, version {OLDEST_MAJOR} or newer) found; \
         looked in {searched}\n{WAYS_OUT}"
    )]
    NoPrograms { searched: String },

    #[error(
        "embedded.bin_dir = {} {reason}; it must hold postgres and initdb, version {OLDEST_MAJOR} or newer",
        bin_dir.display()
    )]
    BinDir { bin_dir: PathBuf, reason: String },

    #[error(
        "the data directory {} was made by PostgreSQL {made_by}, whose programs are not at hand (looked in \
         {searched}); nothing in it was touched. Install PostgreSQL {made_by} (Debian: sudo apt-get install \
         postgresql-{made_by}; macOS: brew install postgresql@{made_by}), or set embedded.data_dir to a new \
         directory and let the mirror fill again",
        data_dir.display()
    )]
    OtherVersion { data_dir: PathBuf, made_by: String, searched: String },

    #[error(
        "the data directory {} was made by PostgreSQL {made_by}; version {OLDEST_MAJOR} or newer is needed, \
         and nothing in it was touched. Set embedded.data_dir to a new directory and let the mirror fill again",
        data_dir.display()
    )]
    TooOld { data_dir: PathBuf, made_by: String },

    #[error(
        "embedded.data_dir = {} holds files that are not PostgreSQL's; nothing in it was touched. \
         Name an empty or a new directory",
        data_dir.display()
    )]
    NotOurs { data_dir: PathBuf },

    #[error(
        "the data directory {} belongs to user id {owner}, but this program runs as user id {we}; start it \
         as that user, or set embedded.data_dir to a directory of your own",
        data_dir.display()
    )]
    Owner { data_dir: PathBuf, owner: u32, we: u32 },

    #[error(
        "the data directory {} belongs to root, and PostgreSQL refuses to run as root; give it to the user \
         that shall run the server (chown -R postgres {0})",
        data_dir.display()
    )]
    OwnedByRoot { data_dir: PathBuf },

    #[error(
        "PostgreSQL refuses to run as root, and this system has neither a user heymarket-sync nor a user postgres to \
         run it as; make one (useradd --system heymarket-sync), start this program as another user, or set \
         DATABASE_URL"
    )]
    NoAccount,

    #[error(
        "{} can't be reached by user {account}, which runs PostgreSQL since root must not: {} is closed to it; \
         choose a place outside of it",
        path.display(), closed.display()
    )]
    Closed { path: PathBuf, closed: PathBuf, account: String },

    #[error("there is no home directory to keep the data in; set embedded.data_dir, or DATABASE_URL")]
    NoHome,

    #[error(
        "a server of user id {uid} still works in {}, which is to be given to another user; stop it and start again",
        data_dir.display()
    )]
    InUse { data_dir: PathBuf, uid: u32 },

    #[error("can't {doing} {}", path.display())]
    Files { doing: &'static str, path: PathBuf, source: io::Error },

    #[error("can't run {}", program.display())]
    Run { program: PathBuf, source: io::Error },

    #[error("initdb could not create {} ({status}); it said:\n{output}", data_dir.display())]
    Initdb { data_dir: PathBuf, status: ExitStatus, output: String },

    #[error("PostgreSQL ended while it started ({status}); the end of {}:\n{tail}", log.display())]
    Ended { status: ExitStatus, log: PathBuf, tail: String },

    #[error("PostgreSQL took no connections within {seconds} s; the end of {}:\n{tail}", log.display())]
    NotReady { seconds: u64, log: PathBuf, tail: String },

    #[error("another process has been starting PostgreSQL in {} for {seconds} s", data_dir.display())]
    Busy { data_dir: PathBuf, seconds: u64 },

    #[error(
        "no directory for PostgreSQL's socket: {} belongs to someone else or is open to others; remove it, or \
         set embedded.data_dir to a shorter path of plain letters",
        path.display()
    )]
    SocketDir { path: PathBuf },

    #[error("can't prepare the database {} in the embedded PostgreSQL", super::DATABASE)]
    Database { source: sqlx::Error },

    #[error("PostgreSQL did not end within {seconds} s; it goes on ending by itself")]
    StillEnding { seconds: u64 },

    #[error("the start of the embedded PostgreSQL was cancelled")]
    Cancelled,
}
