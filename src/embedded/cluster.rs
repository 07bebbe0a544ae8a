//! The data directory: whose it is, which version made it, and how a new one comes to be.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    DATABASE, Durability, EmbeddedError,
    account::Account,
    programs::{OLDEST_MAJOR, Places, Programs},
    socket::{ROLE, Socket, short_base},
};

/// Held while a process creates or starts the server, so that two never do at once.
const LOCK_FILE: &str = "heymarket-sync.lock";

/// What initdb writes goes to a directory of this name, and our process id.
const UNFINISHED: &str = ".initdb-";

/// Where finished work of initdb lies until it is moved up; there is no data in it yet.
const FINISHED: &str = ".initdb";

/// How long another process may take to start the server.
const LOCK_TIMEOUT: Duration = Duration::from_secs(300);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of initdb's output in an error.
const OUTPUT_SHOWN: usize = 4096;

/// One data directory with all that is needed to run a server on it.
#[derive(Debug)]
pub(super) struct Cluster {
    data_dir: PathBuf,
    bin_dir: Option<PathBuf>,
    places: Places,
    account: Account,
    socket: Socket,
    durability: Durability,
}

/// What is in a data directory.
#[derive(Debug, PartialEq, Eq)]
enum Contents {
    /// Nothing, or what an interrupted creation left.
    Nothing,
    /// A cluster made by this version, as `PG_VERSION` has it.
    Cluster(String),
    /// Files of someone else.
    Foreign,
}

impl Cluster {
    /// Finds out whether a server can run on `data_dir`, then makes the directory if it is not there. On an
    /// error nothing was touched.
    pub async fn prepare(
        data_dir: &Path,
        bin_dir: Option<PathBuf>,
        durability: Durability,
        places: Places,
    ) -> Result<Cluster, EmbeddedError> {
        let files = |source| EmbeddedError::Files { doing: "find", path: data_dir.to_owned(), source };
        let data_dir = std::path::absolute(data_dir).map_err(files)?;
        let contents = contents(&data_dir)?;
        let account = Account::choose(&data_dir, matches!(contents, Contents::Cluster(_))).await?;
        if let Some(closed) = account.closed_on_the_way(&data_dir) {
            return Err(EmbeddedError::Closed { path: data_dir, closed, account: account.name });
        }
        let is_root = rustix::process::geteuid().is_root();
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let socket = Socket::of(&data_dir, &account, &short_base(is_root, runtime_dir));
        let cluster = Cluster { data_dir, bin_dir, places, account, socket, durability };
        if Socket::in_use(&cluster.data_dir).is_none() {
            cluster.programs().await?;
        }
        cluster.make_data_dir()?;
        Ok(cluster)
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The server listens at `socket`, since another process started it so.
    pub fn listens_at(&mut self, socket: Socket) {
        self.socket = socket;
    }

    /// The programs to run the server with: of the version that made the data directory, if it is made.
    pub async fn programs(&self) -> Result<Programs, EmbeddedError> {
        let made_by = match contents(&self.data_dir)? {
            Contents::Foreign => return Err(EmbeddedError::NotOurs { data_dir: self.data_dir.clone() }),
            Contents::Cluster(version) => Some(version),
            Contents::Nothing => None,
        };
        let major = made_by.as_deref().map(|version| version.parse::<u32>().unwrap_or(0));
        if let Some(made_by) = &made_by
            && major < Some(OLDEST_MAJOR)
        {
            return Err(EmbeddedError::TooOld { data_dir: self.data_dir.clone(), made_by: made_by.clone() });
        }
        let found = match &self.bin_dir {
            Some(bin_dir) => Some(Programs::at(bin_dir).await?),
            None => Programs::find(&self.places, major).await,
        };
        let searched =
            || self.bin_dir.as_ref().map_or_else(|| self.places.searched(), |dir| dir.display().to_string());
        match (found, made_by) {
            (Some(found), _) if major.is_none_or(|major| major == found.major) => {
                match self.account.closed_on_the_way(&found.path("postgres")) {
                    Some(closed) => Err(EmbeddedError::Closed {
                        path: found.bin_dir,
                        closed,
                        account: self.account.name.clone(),
                    }),
                    None => Ok(found),
                }
            }
            (_, Some(made_by)) => {
                let data_dir = self.data_dir.clone();
                Err(EmbeddedError::OtherVersion { data_dir, made_by, searched: searched() })
            }
            (_, None) => Err(EmbeddedError::NoPrograms { searched: searched() }),
        }
    }

    /// The sole right to create or start the server, until the file is dropped.
    pub async fn lock(&self) -> Result<File, EmbeddedError> {
        let path = self.data_dir.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        // The directory is another user's when we are root: follow no link that it may have put there.
        options.create(true).truncate(false).write(true).mode(0o600).custom_flags(no_follow());
        let files = |source| EmbeddedError::Files { doing: "open", path: path.clone(), source };
        let file = options.open(&path).map_err(files)?;
        if self.account.switch {
            lchown(&path, Some(self.account.uid), Some(self.account.gid)).map_err(files)?;
        }
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(files(source)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_PAUSE).await,
                Err(TryLockError::WouldBlock) => {
                    let seconds = LOCK_TIMEOUT.as_secs();
                    return Err(EmbeddedError::Busy { data_dir: self.data_dir.clone(), seconds });
                }
            }
        }
    }

    /// Makes the cluster if there is none. A process killed at any point of this leaves what the next one
    /// either completes or throws away: `PG_VERSION` arrives last.
    pub async fn create(&self, programs: &Programs, lock: &File) -> Result<(), EmbeddedError> {
        if contents(&self.data_dir)? != Contents::Nothing {
            return Ok(());
        }
        let finished = self.data_dir.join(FINISHED);
        let is_anothers = |meta: fs::Metadata| meta.uid() != self.account.uid;
        if fs::symlink_metadata(&finished).is_ok_and(is_anothers) {
            let files = |source| EmbeddedError::Files { doing: "remove", path: finished.clone(), source };
            fs::remove_dir_all(&finished).map_err(files)?;
        }
        if !finished.is_dir() {
            let unfinished = self.data_dir.join(format!("{UNFINISHED}{}", std::process::id()));
            self.initdb(programs, lock, &unfinished).await?;
            fs::rename(&unfinished, &finished).map_err(|source| EmbeddedError::Files {
                doing: "rename",
                path: unfinished,
                source,
            })?;
        }
        move_up(&finished, &self.data_dir).map_err(|source| EmbeddedError::Files {
            doing: "move the new cluster into",
            path: self.data_dir.clone(),
            source,
        })
    }

    /// The command that opens the database.
    pub fn psql_command(&self) -> String {
        let beside = self.bin_dir.as_ref().map(|dir| dir.join("psql")).filter(|psql| psql.is_file());
        let psql = match beside {
            Some(psql) if !self.places.on_path("psql") => format!("'{}'", psql.display()),
            _ => "psql".to_owned(),
        };
        let Socket { dir, port } = &self.socket;
        format!("{psql} -h {} -p {port} -U {ROLE} -d {DATABASE}", dir.display())
    }

    async fn initdb(&self, programs: &Programs, lock: &File, into: &Path) -> Result<(), EmbeddedError> {
        self.clear_unfinished();
        let program = programs.path("initdb");
        let mut command = self.account.command(&program);
        command.arg("--pgdata").arg(into).args(["--username", ROLE, "--encoding=UTF8", "--locale=C"]);
        // Only who may enter the socket's directory gets as far as the server.
        command.args(["--auth-local=trust", "--auth-host=reject", "--no-instructions"]);
        if programs.major >= 17 {
            // Sorted by code point like C, but knows upper and lower case of all letters.
            command.args(["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]);
        }
        if self.durability == Durability::Fast {
            command.arg("--no-sync");
        }
        let run = |source| EmbeddedError::Run { program: program.clone(), source };
        // With the lock as its input it keeps others out even when we are killed before it ends.
        command.stdin(Stdio::from(lock.try_clone().map_err(run)?)).kill_on_drop(true);
        let output = command.output().await.map_err(run)?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let output_shown = &text[text.ceil_char_boundary(text.len().saturating_sub(OUTPUT_SHOWN))..];
        Err(EmbeddedError::Initdb {
            data_dir: self.data_dir.clone(),
            status: output.status,
            output: output_shown.trim().to_owned(),
        })
    }

    /// Removes what killed initdbs left; a failure only costs space.
    fn clear_unfinished(&self) {
        for entry in fs::read_dir(&self.data_dir).into_iter().flatten().flatten() {
            if is_unfinished(&entry.file_name().to_string_lossy()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// The directory closed to others, and open ones above it as far as they are missing.
    fn make_data_dir(&self) -> Result<(), EmbeddedError> {
        let dir = &self.data_dir;
        let make = || {
            let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
            let is_new = !missing.is_empty();
            for missing in missing.into_iter().rev() {
                fs::create_dir(missing)?;
                fs::set_permissions(missing, fs::Permissions::from_mode(0o755))?;
            }
            if is_new || contents_are_nothing(dir) {
                if self.account.switch {
                    lchown(dir, Some(self.account.uid), Some(self.account.gid))?;
                }
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
            }
            Ok(())
        };
        make().map_err(|source| EmbeddedError::Files { doing: "make", path: dir.clone(), source })
    }
}

/// Where the data goes when nothing is set; `None` without a home directory.
pub fn default_data_dir() -> Option<PathBuf> {
    let directory = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let is_root = rustix::process::geteuid().is_root();
    default_data_dir_of(is_root, directory("XDG_DATA_HOME"), directory("HOME"))
}

fn default_data_dir_of(is_root: bool, data_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The server runs as a user that may not enter root's home.
    let base = if is_root { Some(PathBuf::from("/var/lib")) } else { data_home };
    Some(base.or_else(|| Some(home?.join(".local/share")))?.join("heymarket-sync/postgres"))
}

/// The flag that makes opening a symbolic link an error.
pub(super) fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

fn contents(data_dir: &Path) -> Result<Contents, EmbeddedError> {
    let files = |source| EmbeddedError::Files { doing: "look into", path: data_dir.to_owned(), source };
    match fs::read_to_string(data_dir.join("PG_VERSION")) {
        Ok(version) => return Ok(Contents::Cluster(version.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(files(error)),
    }
    if data_dir.join(FINISHED).is_dir() {
        return Ok(Contents::Nothing);
    }
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::Nothing),
        Err(error) => return Err(files(error)),
    };
    for entry in entries {
        let name = entry.map_err(files)?.file_name();
        let name = name.to_string_lossy();
        if name != LOCK_FILE && name != "lost+found" && !is_unfinished(&name) {
            return Ok(Contents::Foreign);
        }
    }
    Ok(Contents::Nothing)
}

fn contents_are_nothing(data_dir: &Path) -> bool {
    contents(data_dir).is_ok_and(|contents| contents == Contents::Nothing)
}

fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED)
}

/// Moves all entries of `from` into `to`, `PG_VERSION` last, and removes `from`.
fn move_up(from: &Path, to: &Path) -> io::Result<()> {
    let mut names =
        fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_by_key(|name| name == "PG_VERSION");
    for name in names {
        fs::rename(from.join(&name), to.join(&name))?;
    }
    fs::remove_dir(from)?;
    File::open(to)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_data_directories() {
        let path = |text: &str| Some(PathBuf::from(text));
        let cases = [
            (true, path("/x"), path("/root"), path("/var/lib/heymarket-sync/postgres")),
            (false, path("/x"), path("/home/a"), path("/x/heymarket-sync/postgres")),
            (false, None, path("/home/a"), path("/home/a/.local/share/heymarket-sync/postgres")),
            (false, None, None, None),
        ];
        for (is_root, data_home, home, expected) in cases {
            assert_eq!(default_data_dir_of(is_root, data_home, home), expected);
        }
    }

    #[test]
    fn tells_what_a_directory_holds() {
        let cases: [(&[&str], Contents); 7] = [
            (&[], Contents::Nothing),
            (&[LOCK_FILE, "lost+found"], Contents::Nothing),
            (&[".initdb-17/PG_VERSION"], Contents::Nothing),
            (&[".initdb/PG_VERSION", "base/1"], Contents::Nothing),
            (&["PG_VERSION", "base/1"], Contents::Cluster("15".to_owned())),
            (&["letters.txt"], Contents::Foreign),
            (&["base/1"], Contents::Foreign),
        ];
        for (files, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            for file in files {
                fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
                fs::write(dir.path().join(file), "15\n").unwrap();
            }
            assert_eq!(contents(dir.path()).unwrap(), expected, "{files:?}");
        }
        assert_eq!(contents(Path::new("/nonexistent/data")).unwrap(), Contents::Nothing);
    }

    #[test]
    fn an_interrupted_move_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let finished = dir.path().join(FINISHED);
        fs::create_dir_all(finished.join("global")).unwrap();
        fs::create_dir_all(dir.path().join("base")).unwrap();
        fs::write(finished.join("PG_VERSION"), "15\n").unwrap();
        move_up(&finished, dir.path()).unwrap();
        assert_eq!(contents(dir.path()).unwrap(), Contents::Cluster("15".to_owned()));
        assert!(dir.path().join("global").is_dir() && !finished.exists());
    }
}
