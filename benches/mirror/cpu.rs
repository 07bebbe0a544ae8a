//! CPU time of processes, as the kernel counts it.

use std::fs;

use crate::Outcome;

/// Linux counts CPU time for user space in units of this; it is not a setting.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the kernel says of one process.
struct Stat {
    parent: i32,
    /// User and system time of all its threads, those that have ended among them.
    own: f64,
    /// The same of the children that it has waited for.
    children: f64,
}

/// Seconds that `pid` has spent, also when it has ended and was not waited for.
pub fn of_process(pid: i32) -> Outcome<f64> {
    Ok(stat(pid)?.own)
}

/// Seconds that `pid` and its children have spent, those that have ended among them.
pub fn of_family(pid: i32) -> Outcome<f64> {
    let parent = stat(pid)?;
    let mut seconds = parent.own + parent.children;
    for entry in fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since.
        let Ok(child) = stat(child) else { continue };
        if child.parent == pid {
            seconds += child.own;
        }
    }
    Ok(seconds)
}

/// Seconds that this process has spent.
pub fn of_this_process() -> Outcome<f64> {
    of_process(i32::try_from(std::process::id())?)
}

fn stat(pid: i32) -> Outcome<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name, may hold blanks and brackets. After it come the state, the parent, and as the
    // 12th to 15th utime, stime, cutime and cstime.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |at: usize| fields.get(at).ok_or("too few fields in /proc/PID/stat");
    let seconds = |at: usize| -> Outcome<f64> { Ok(field(at)?.parse::<f64>()? / TICKS_PER_SECOND) };
    Ok(Stat {
        parent: field(1)?.parse()?,
        own: seconds(11)? + seconds(12)?,
        children: seconds(13)? + seconds(14)?,
    })
}
