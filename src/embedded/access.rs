//! Keeps others out of the data, when root has another user run the server.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, lchown},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    EmbeddedError,
    account::Account,
    cluster::{Cluster, no_follow},
    socket::ROLE,
};

const HBA_FILE: &str = "heymarket-sync.hba.conf";
const IDENT_FILE: &str = "heymarket-sync.ident.conf";

/// How long the processes of a server that was killed may go on in its directory.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_LOOK: Duration = Duration::from_millis(100);

impl Cluster {
    /// Settings of the server. Where the user that runs it is shared, others get as far as the socket: then root alone
    /// is the superuser, by the kernel's word for who connects, and any other role logs in by its password.
    pub async fn access(&self) -> Result<Vec<String>, EmbeddedError> {
        let account = self.account();
        if !account.shared {
            return Ok(Vec::new());
        }
        let hba = format!("local all {ROLE} peer map=owner\nlocal all all scram-sha-256\n");
        let ident = format!("owner \"{}\" {ROLE}\n", Account::root().await);
        let mut settings = Vec::new();
        for (setting, file, text) in [("hba_file", HBA_FILE, hba), ("ident_file", IDENT_FILE, ident)] {
            let path = self.data_dir().join(file);
            write(&path, &text, account).map_err(|source| EmbeddedError::Files {
                doing: "write",
                path: path.clone(),
                source,
            })?;
            settings.push(format!("{setting}={}", path.display()));
        }
        Ok(settings)
    }

    /// Gives the files of a data directory to the user that is to run the server, where they are another's. Nothing
    /// may run there. Cut off at any point, the next start completes it.
    pub async fn hand_over(&self) -> Result<(), EmbeddedError> {
        let Some(former) = self.account().former else { return Ok(()) };
        let deadline = Instant::now() + LINGER;
        while works_in(former, self.data_dir()) {
            if Instant::now() >= deadline {
                return Err(EmbeddedError::InUse { data_dir: self.data_dir().to_owned(), uid: former });
            }
            sleep(LINGER_LOOK).await;
        }
        let files =
            |source| EmbeddedError::Files { doing: "give away", path: self.data_dir().to_owned(), source };
        give(self.data_dir(), former, self.account()).map_err(files)?;
        tracing::warn!(
            data_dir = %self.data_dir().display(),
            user = self.account().name,
            "the data of the embedded PostgreSQL could be read by all that runs as nobody; it belongs to another user now"
        );
        Ok(())
    }
}

/// The directory itself first, which closes it to the former owner; `PG_VERSION` last.
fn give(data_dir: &Path, former: u32, account: &Account) -> io::Result<()> {
    let give_one = |path: &Path| lchown(path, Some(account.uid), Some(account.gid));
    give_one(data_dir)?;
    let mut rest = vec![data_dir.to_owned()];
    let version = data_dir.join("PG_VERSION");
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.uid() == former && path != version {
                give_one(&path)?;
            }
            if meta.is_dir() {
                rest.push(path);
            }
        }
    }
    give_one(&version)
}

/// Whether a process of the user has the directory as its own: a server's processes do, as long as they live.
fn works_in(uid: u32, data_dir: &Path) -> bool {
    let Ok(data_dir) = fs::canonicalize(data_dir) else { return false };
    let works = |process: PathBuf| {
        fs::metadata(&process).is_ok_and(|meta| meta.uid() == uid)
            && fs::read_link(process.join("cwd")).is_ok_and(|dir| dir == data_dir)
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| works(entry.path()))
}

/// Replaces the file: the directory is another user's, who may have put a link there.
fn write(path: &Path, text: &str, account: &Account) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).custom_flags(no_follow()).open(path)?;
    file.write_all(text.as_bytes())?;
    lchown(path, Some(account.uid), Some(account.gid))
}
