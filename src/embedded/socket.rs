//! The Unix socket of the server: where it can be, and how to reach it.

use std::{
    fs::{self, DirBuilder},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, lchown},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};

use super::{EmbeddedError, account::Account};

/// The superuser of the server, and the only role there is at first.
pub(super) const ROLE: &str = "postgres";

/// Names the socket file; no network port is opened.
const PORT: u16 = 5432;

/// Bytes in the path of a Unix socket, without the closing NUL.
const LONGEST_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The server accepts a connection at once or not at all; more means that it hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub dir: PathBuf,
    pub port: u16,
}

impl Socket {
    /// The data directory itself if its path is fit, else a directory in `short_base` named after it.
    pub fn of(data_dir: &Path, account: &Account, short_base: &Path) -> Socket {
        if is_fit(data_dir, PORT) {
            return Socket { dir: data_dir.to_owned(), port: PORT };
        }
        let mut hasher = DefaultHasher::new();
        data_dir.hash(&mut hasher);
        let name = format!("heymarket-sync-{}-{:016x}", account.uid, hasher.finish());
        Socket { dir: short_base.join(name), port: PORT }
    }

    /// Where the server that wrote the `postmaster.pid` in `data_dir` listens: its lines 4 and 5.
    pub fn in_use(data_dir: &Path) -> Option<Socket> {
        let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
        let mut lines = text.lines().skip(3);
        let port = lines.next()?.trim().parse().ok()?;
        let dir = PathBuf::from(lines.next()?.trim());
        is_fit(&dir, port).then_some(Socket { dir, port })
    }

    /// Makes the directory unless it is the data directory: closed to all but `account`, and refused when it
    /// exists and is not, since anyone may write in the directory for temporary files.
    pub fn make_dir(&self, account: &Account) -> Result<(), EmbeddedError> {
        let made = match DirBuilder::new().mode(0o700).create(&self.dir) {
            Ok(()) if account.switch => lchown(&self.dir, Some(account.uid), Some(account.gid)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        };
        let files = |source| EmbeddedError::Files { doing: "make", path: self.dir.clone(), source };
        made.map_err(files)?;
        let meta = fs::symlink_metadata(&self.dir).map_err(files)?;
        if !meta.is_dir() || meta.uid() != account.uid || meta.mode() & 0o077 != 0 {
            return Err(EmbeddedError::SocketDir { path: self.dir.clone() });
        }
        Ok(())
    }

    /// Every part that the environment could set otherwise (PGPORT, PGSSLMODE, ...) is spelled out.
    pub fn url(&self, database: &str) -> String {
        let Socket { dir, port } = self;
        format!("postgres://{ROLE}@localhost:{port}/{database}?host={}&sslmode=disable", dir.display())
    }

    /// A new session in `database`.
    pub async fn connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        let options: PgConnectOptions = self.url(database).parse()?;
        tokio::time::timeout(CONNECT_TIMEOUT, options.disable_statement_logging().connect())
            .await
            .unwrap_or_else(|elapsed| Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, elapsed))))
    }
}

/// Where short socket directories go: closed to others anyway if the session has such a place.
pub(super) fn short_base(is_root: bool, xdg_runtime_dir: Option<PathBuf>) -> PathBuf {
    xdg_runtime_dir
        .filter(|dir| {
            !is_root && dir.is_dir() && is_fit(&dir.join("heymarket-sync-4294967295-0123456789abcdef"), PORT)
        })
        .unwrap_or_else(|| PathBuf::from("/tmp"))
}

/// Whether a server can listen in `dir`: short enough, and of bytes that need quoting neither in the server's
/// list of directories, nor in a URL, nor in a shell.
fn is_fit(dir: &Path, port: u16) -> bool {
    let bytes = dir.as_os_str().as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let file = dir.join(format!(".s.PGSQL.{port}"));
    dir.is_absolute() && bytes.iter().all(plain) && file.as_os_str().len() <= LONGEST_PATH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            name: "postgres".to_owned(),
            uid: 101,
            gid: 104,
            switch: false,
            former: None,
            shared: false,
        }
    }

    #[test]
    fn stays_in_the_data_directory_while_the_path_fits() {
        let file = "/.s.PGSQL.5432".len();
        let of_length = |length: usize| PathBuf::from(format!("/{}", "d".repeat(length - 1)));
        let cases = [
            (of_length(LONGEST_PATH - file), true),
            (of_length(LONGEST_PATH - file + 1), false),
            (PathBuf::from("/data/with space"), false),
            (PathBuf::from("/data/a,b"), false),
            (PathBuf::from("/data/é"), false),
            (PathBuf::from("relative"), false),
        ];
        for (data_dir, stays) in cases {
            let socket = Socket::of(&data_dir, &account(), Path::new("/tmp"));
            assert_eq!(socket.dir == data_dir, stays, "{}", data_dir.display());
            assert!(stays || socket.dir.starts_with("/tmp"), "{}", socket.dir.display());
        }
    }

    #[test]
    fn two_data_directories_never_share_a_short_directory() {
        let short = |name| Socket::of(Path::new(name), &account(), Path::new("/tmp")).dir;
        assert_ne!(short("/data/with space 1"), short("/data/with space 2"));
        assert_eq!(short("/data/with space 1"), short("/data/with space 1"));
    }

    #[test]
    fn refuses_a_short_directory_that_is_open_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let base = tempfile::tempdir().unwrap();
        let meta = fs::metadata(base.path()).unwrap();
        let account = Account {
            name: String::new(),
            uid: meta.uid(),
            gid: meta.gid(),
            switch: false,
            former: None,
            shared: false,
        };
        let socket = Socket::of(Path::new("/data/with space"), &account, base.path());
        socket.make_dir(&account).unwrap();
        socket.make_dir(&account).unwrap();
        fs::set_permissions(&socket.dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(socket.make_dir(&account), Err(EmbeddedError::SocketDir { .. })));
    }

    #[test]
    fn the_address_is_read_back_by_sqlx() {
        let socket = Socket { dir: PathBuf::from("/run/heymarket"), port: 5433 };
        let options: PgConnectOptions = socket.url("heymarket").parse().unwrap();
        assert_eq!(options.get_socket(), Some(&PathBuf::from("/run/heymarket")));
        assert_eq!((options.get_port(), options.get_username()), (5433, ROLE));
        assert_eq!(options.get_database(), Some("heymarket"));
    }
}
