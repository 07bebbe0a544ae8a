//! The `heymarket-sync` program: arguments in, exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    allocator::give_back();
    heymarket_sync::cli::main()
}

/// The GNU allocator's settings.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator {
    /// A piece this large, in bytes, is mapped apart from others and given back as soon as it is freed. Unless it is
    /// set, it grows to the size of the largest piece that was ever freed, up to 32 MiB: then bodies of pages, the
    /// vectors of their rows and buffers of connections lie among small pieces, and each thread keeps what it frees.
    const MAPPED_APART: i32 = 64 * 1024;

    /// Call it before there are other threads.
    #[expect(unsafe_code, reason = "there is no safe door to the allocator's settings")]
    pub fn give_back() {
        // SAFETY: mallopt takes two integers, and changes nothing but the allocator's settings, which it locks.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_APART) };
    }
}
