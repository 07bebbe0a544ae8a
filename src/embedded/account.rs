//! Which user runs the server: PostgreSQL refuses root.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::EmbeddedError;

/// Users that may run the server when this program is root, the best first. Never `nobody`: whatever else runs as
/// `nobody` could read the data.
const STAND_INS: [&str; 2] = ["heymarket-sync", "postgres"];

/// Whom earlier versions let run the server where there was no user postgres.
const SHARED: &str = "nobody";

/// Variables of ours that the server's programs get; the others may hold secrets.
const PASSED_ON: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "TZ"];

/// The user that runs the server and owns its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Whether it is another user than the one this program runs as.
    pub switch: bool,
    /// Whose files the data directory holds, where they are to be given to this user.
    pub former: Option<u32>,
    /// Others use this user as well: it is `nobody`.
    pub shared: bool,
}

impl Account {
    /// The user for `data_dir`: its owner if it exists as a data directory (`in_use`), else ourselves, else,
    /// for root, a stand-in.
    pub async fn choose(data_dir: &Path, in_use: bool) -> Result<Account, EmbeddedError> {
        let we = rustix::process::geteuid().as_raw();
        let ourselves = Account {
            name: we.to_string(),
            uid: we,
            gid: rustix::process::getegid().as_raw(),
            switch: false,
            former: None,
            shared: false,
        };
        if in_use {
            let meta = fs::metadata(data_dir).map_err(|source| EmbeddedError::Files {
                doing: "look at",
                path: data_dir.to_owned(),
                source,
            })?;
            return match (we, meta.uid()) {
                (0, 0) => Err(EmbeddedError::OwnedByRoot { data_dir: data_dir.to_owned() }),
                (0, uid) => Self::of_owner(data_dir, uid, meta.gid()).await,
                (we, owner) if we == owner => Ok(ourselves),
                (we, owner) => Err(EmbeddedError::Owner { data_dir: data_dir.to_owned(), owner, we }),
            };
        }
        if we != 0 {
            return Ok(ourselves);
        }
        Self::stand_in().await.ok_or(EmbeddedError::NoAccount)
    }

    async fn stand_in() -> Option<Account> {
        for name in STAND_INS {
            if let (Some(uid @ 1..), Some(gid)) = (number("-u", name).await, number("-g", name).await) {
                return Some(Account {
                    name: name.to_owned(),
                    uid,
                    gid,
                    switch: true,
                    former: None,
                    shared: false,
                });
            }
        }
        None
    }

    /// The owner of a data directory; for `nobody`'s, a stand-in that it is to be given to.
    async fn of_owner(data_dir: &Path, uid: u32, gid: u32) -> Result<Account, EmbeddedError> {
        let name = id("-un", &uid.to_string()).await.unwrap_or_else(|| uid.to_string());
        let owner = Account { name, uid, gid, switch: true, former: None, shared: false };
        let Some(shared) = number("-u", SHARED).await else { return Ok(owner) };
        // The last file to change hands: one that is still nobody's tells of a change that was interrupted.
        let last = fs::metadata(data_dir.join("PG_VERSION")).map_or(uid, |meta| meta.uid());
        if uid != shared && last != shared {
            return Ok(owner);
        }
        match Self::stand_in().await {
            Some(stand_in) => Ok(Account { former: Some(shared), ..stand_in }),
            None => {
                tracing::warn!(
                    data_dir = %data_dir.display(),
                    "the data of the embedded PostgreSQL can be read by all that runs as nobody; make a user for it \
                     (useradd --system heymarket-sync), and it is given to that user"
                );
                Ok(Account { shared: true, ..owner })
            }
        }
    }

    /// The name of root, by which the server knows it.
    pub async fn root() -> String {
        id("-un", "0").await.unwrap_or_else(|| "root".to_owned())
    }

    /// `program` as this user, in a process group of its own (Ctrl-C in a terminal reaches only ours), and
    /// without our environment.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // An unknown locale in the environment would stop initdb; messages are for our own log.
        command.env("LC_ALL", "C").current_dir("/").process_group(0);
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// The nearest directory on the way to `path` that this user may not pass, by the permission bits.
    pub fn closed_on_the_way(&self, path: &Path) -> Option<PathBuf> {
        let may_pass = |dir: &Path| {
            fs::metadata(dir).is_ok_and(|meta| {
                let class = match (meta.uid() == self.uid, meta.gid() == self.gid) {
                    (true, _) => 6,
                    (false, true) => 3,
                    (false, false) => 0,
                };
                meta.mode() >> class & 1 == 1
            })
        };
        if !self.switch {
            return None;
        }
        path.ancestors().skip(1).filter(|dir| dir.exists() && !may_pass(dir)).last().map(Path::to_owned)
    }
}

/// What `id FLAG USER` says: unlike `/etc/passwd` it also knows the users of directory services.
async fn id(flag: &str, user: &str) -> Option<String> {
    let output = Command::new("id").args([flag, user]).output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn number(flag: &str, user: &str) -> Option<u32> {
    id(flag, user).await?.parse().ok()
}
