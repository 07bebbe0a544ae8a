//! Where PostgreSQL's server programs are on this machine.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::EmbeddedError;

/// The oldest major version that the schema is written for.
pub const OLDEST_MAJOR: u32 = 14;

/// Folders in which packages put one directory per version: (parent, what comes before the version, what
/// comes after it).
const VERSIONED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/usr/libexec", "postgresql", ""),
];

/// A directory with `postgres` and `initdb` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    pub bin_dir: PathBuf,
    pub major: u32,
}

impl Programs {
    /// `embedded.bin_dir`, taken at its word: nothing else is looked at.
    pub async fn at(bin_dir: &Path) -> Result<Programs, EmbeddedError> {
        let refuse = |reason: String| EmbeddedError::BinDir { bin_dir: bin_dir.to_owned(), reason };
        let bin_dir = std::path::absolute(bin_dir).map_err(|_| refuse("is not a path".to_owned()))?;
        if !has_programs(&bin_dir) {
            return Err(refuse("lacks postgres or initdb".to_owned()));
        }
        match major_of(&bin_dir).await {
            Some(major) if major >= OLDEST_MAJOR => Ok(Programs { bin_dir, major }),
            Some(major) => Err(refuse(format!("holds PostgreSQL {major}"))),
            None => Err(refuse("holds a postgres that does not tell its version".to_owned())),
        }
    }

    /// The first fit ones in `places`: of the version `wanted` if given, else not older than [`OLDEST_MAJOR`].
    pub async fn find(places: &Places, wanted: Option<u32>) -> Option<Programs> {
        for bin_dir in places.candidates().await {
            if let Some(major) = major_of(&bin_dir).await
                && wanted.map_or(major >= OLDEST_MAJOR, |wanted| major == wanted)
            {
                return Some(Programs { bin_dir, major });
            }
        }
        None
    }

    pub fn path(&self, program: &str) -> PathBuf {
        self.bin_dir.join(program)
    }
}

/// Where to look when `embedded.bin_dir` is not set.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The directories of `PATH`.
    pub path: Vec<PathBuf>,
    /// What the folders of packages are below; `/` but in tests.
    pub root: PathBuf,
}

impl Places {
    pub fn of_this_machine() -> Places {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Places { path: std::env::split_paths(&path).collect(), root: PathBuf::from("/") }
    }

    /// The places in words, for an error.
    pub fn searched(&self) -> String {
        let folders = VERSIONED.map(|(parent, before, after)| {
            Path::new(parent).join(format!("{before}N")).join(after).display().to_string()
        });
        let folders = folders.map(|folder| folder.trim_end_matches('/').to_owned()).join(", ");
        format!("PATH, pg_config --bindir, {folders}")
    }

    /// Whether `program` is found by its bare name.
    pub fn on_path(&self, program: &str) -> bool {
        self.path.iter().any(|dir| dir.join(program).is_file())
    }

    /// Directories that hold the programs, in the order of preference: PATH, what pg_config says, then the
    /// packages' folders from the highest version down.
    async fn candidates(&self) -> Vec<PathBuf> {
        let mut found = self.path.clone();
        found.retain(|dir| dir.is_absolute());
        if let Some(pg_config) = found.iter().map(|dir| dir.join("pg_config")).find(|file| file.is_file())
            && let Ok(output) = Command::new(pg_config).arg("--bindir").output().await
        {
            found.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        }
        let mut versioned = Vec::new();
        for (parent, before, after) in VERSIONED {
            let parent = self.root.join(parent.trim_start_matches('/'));
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let version = name.to_str().and_then(|name| name.strip_prefix(before)?.parse::<u32>().ok());
                versioned.extend(version.map(|version| (version, entry.path().join(after))));
            }
        }
        versioned.sort_by_key(|(version, _)| Reverse(*version));
        found.extend(versioned.into_iter().map(|(_, dir)| dir));
        found.retain(|dir| has_programs(dir));
        found
    }
}

fn has_programs(dir: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|program| dir.join(program).is_file())
}

/// The major version that `postgres --version` tells; it tells root too.
async fn major_of(bin_dir: &Path) -> Option<u32> {
    let output = Command::new(bin_dir.join("postgres")).arg("--version").output().await.ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// The number in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also for `19beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Makes programs in `dir` that call themselves `version`.
    fn install(dir: &Path, version: &str) {
        fs::create_dir_all(dir).unwrap();
        for program in ["postgres", "initdb"] {
            let script = format!("#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n");
            fs::write(dir.join(program), script).unwrap();
            fs::set_permissions(dir.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn reads_what_servers_call_themselves() {
        let cases = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18\n", Some(18)),
            ("postgres (PostgreSQL) 19beta1\n", Some(19)),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("postgres (EnterpriseDB) 15.1\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_major(text), expected, "{text:?}");
        }
    }

    #[tokio::test]
    async fn takes_the_highest_packaged_version_or_the_one_wanted() {
        let root = tempfile::tempdir().unwrap();
        install(&root.path().join("usr/lib/postgresql/9.6/bin"), "9.6.24");
        install(&root.path().join("usr/lib/postgresql/13/bin"), "13.9");
        install(&root.path().join("usr/lib/postgresql/15/bin"), "15.18");
        install(&root.path().join("usr/pgsql-17/bin"), "17.5");
        install(&root.path().join("opt/homebrew/opt/postgresql@16/bin"), "16.2");
        fs::create_dir_all(root.path().join("usr/lib/postgresql/18/bin")).unwrap();
        let places = Places { path: Vec::new(), root: root.path().to_owned() };
        let cases = [
            (None, Some("usr/pgsql-17/bin")),
            (Some(15), Some("usr/lib/postgresql/15/bin")),
            (Some(16), Some("opt/homebrew/opt/postgresql@16/bin")),
            (Some(18), None),
        ];
        for (wanted, expected) in cases {
            let found = Programs::find(&places, wanted).await.map(|programs| programs.bin_dir);
            assert_eq!(found, expected.map(|dir| root.path().join(dir)), "{wanted:?}");
        }
    }

    #[tokio::test]
    async fn prefers_path_then_pg_config_but_not_below_the_oldest() {
        let root = tempfile::tempdir().unwrap();
        let (on_path, told) = (root.path().join("on-path"), root.path().join("told"));
        install(&on_path, "14.1");
        install(&told, "15.1");
        install(&root.path().join("usr/lib/postgresql/16/bin"), "16.1");
        let pg_config = on_path.join("pg_config");
        fs::write(&pg_config, format!("#!/bin/sh\necho '{}'\n", told.display())).unwrap();
        fs::set_permissions(&pg_config, fs::Permissions::from_mode(0o755)).unwrap();
        let places = Places { path: vec![on_path.clone()], root: root.path().to_owned() };

        assert_eq!(Programs::find(&places, None).await.unwrap().bin_dir, on_path);
        install(&on_path, "13.1");
        assert_eq!(Programs::find(&places, None).await.unwrap().bin_dir, told);
        assert_eq!(Programs::find(&places, Some(16)).await.unwrap().major, 16);
    }

    #[tokio::test]
    async fn a_bin_dir_is_taken_at_its_word() {
        let root = tempfile::tempdir().unwrap();
        let (empty, old, fit) = (root.path().to_owned(), root.path().join("old"), root.path().join("fit"));
        install(&old, "13.4");
        install(&fit, "18.0");
        let empty = Programs::at(&empty).await.unwrap_err().to_string();
        assert!(empty.contains("lacks postgres or initdb"), "{empty}");
        let old = Programs::at(&old).await.unwrap_err().to_string();
        assert!(old.contains("holds PostgreSQL 13"), "{old}");
        assert_eq!(Programs::at(&fit).await.unwrap(), Programs { bin_dir: fit, major: 18 });
    }

    #[tokio::test]
    async fn without_programs_the_error_lists_commands_to_copy() {
        let root = tempfile::tempdir().unwrap();
        let places = Places { path: Vec::new(), root: root.path().to_owned() };
        assert_eq!(Programs::find(&places, None).await, None);
        let message = EmbeddedError::NoPrograms { searched: places.searched() }.to_string();
        for expected in [
            "/usr/lib/postgresql/N/bin, /usr/pgsql-N/bin, /opt/homebrew/opt/postgresql@N/bin",
            "apt-get install -y postgresql",
            "dnf install -y postgresql-server",
            "apk add postgresql",
            "brew install postgresql@",
            "docker run -d",
            "export DATABASE_URL=postgres://postgres:heymarket@127.0.0.1:5432/heymarket",
        ] {
            assert!(message.contains(expected), "{expected} in {message}");
        }
    }
}
