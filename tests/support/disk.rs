//! A disk that is soon full.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system of a few megabytes in memory; unmounted when dropped.
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    const SIZE: usize = 16 << 20;

    /// With a directory `data` in it that belongs to the owner of `like`; None for users who may not mount.
    pub fn mount(like: &Path) -> Option<Self> {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let size = format!("size={},mode=755", Self::SIZE);
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        if !mount.is_ok_and(|mount| mount.status.success()) {
            return None;
        }
        let disk = Self { dir };
        let data = disk.dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let owner = fs::metadata(like).unwrap();
        chown(&data, Some(owner.uid()), Some(owner.gid())).unwrap();
        Some(disk)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes all but some pages of it.
    pub fn fill(&self) -> PathBuf {
        let path = self.dir.path().join("ballast");
        let stat = rustix::fs::statvfs(self.dir.path()).unwrap();
        let free = usize::try_from(stat.f_bavail * stat.f_frsize).unwrap();
        fs::write(&path, vec![1; free - (64 << 10)]).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still hold files of it when a test fails.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}
