//! Which user runs the server: PostgreSQL refuses root.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::EmbeddedError;

/// Users that may run the server when this program is root, the best first.
const STAND_INS: [&str; 2] = ["postgres", "nobody"];

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
        };
        if in_use {
            let meta = fs::metadata(data_dir).map_err(|source| EmbeddedError::Files {
                doing: "look at",
                path: data_dir.to_owned(),
                source,
            })?;
            return match (we, meta.uid()) {
                (0, 0) => Err(EmbeddedError::OwnedByRoot { data_dir: data_dir.to_owned() }),
                (0, uid) => Ok(Account { name: uid.to_string(), uid, gid: meta.gid(), switch: true }),
                (we, owner) if we == owner => Ok(ourselves),
                (we, owner) => Err(EmbeddedError::Owner { data_dir: data_dir.to_owned(), owner, we }),
            };
        }
        if we != 0 {
            return Ok(ourselves);
        }
        for name in STAND_INS {
            if let (Some(uid @ 1..), Some(gid)) = (id("-u", name).await, id("-g", name).await) {
                return Ok(Account { name: name.to_owned(), uid, gid, switch: true });
            }
        }
        Err(EmbeddedError::NoAccount)
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
async fn id(flag: &str, user: &str) -> Option<u32> {
    let output = Command::new("id").args([flag, user]).output().await.ok()?;
    output.status.success().then_some(())?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
