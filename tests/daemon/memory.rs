//! Memory is bounded, whatever the server sends.
#![cfg(target_os = "linux")]

use std::fs;
use std::time::Duration;

use heymarket_sync::sandbox::Fault;

use super::{Rig, reached};

/// Answers to pages, enough for every walker to hold some.
const ANSWERS: u64 = 20;
/// How long they may take.
const ANSWERED: Duration = Duration::from_secs(120);
/// How long after the fault history may stay incomplete: what could not be read is tried again 15 s apart at first.
const COMPLETE: Duration = Duration::from_secs(60);
/// What the limits add up to at the default `api.max_body` (ARCHITECTURE.md, Memory), and the code of a program that is not
/// optimized. Without them, 12 answers of 31 MiB are read at once.
const BOUND: u64 = 160 * MEBIBYTE;
const MEBIBYTE: u64 = 1024 * 1024;

/// The peak of its resident memory in bytes.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_too_much_does_not_make_it_grow() {
    for fault in [Fault::Endless, Fault::Oversized(31 * MEBIBYTE as usize)] {
        let rig = Rig::new(500).await;
        rig.source().set_lasting_fault(Some(fault));
        let daemon = rig.start(&["run"]);
        let answered = async || rig.pages() >= ANSWERS;
        if let Err(error) = reached("pages answered", ANSWERED, answered).await {
            panic!("{error}: {fault:?}, {}\n{}", rig.pages(), daemon.log());
        }
        let peak = peak(daemon.id());
        println!("peak {} MiB at {fault:?}", peak / MEBIBYTE);
        assert!(peak < BOUND, "{peak} bytes at {fault:?}");
        rig.source().set_lasting_fault(None);
        rig.complete_within(&daemon, COMPLETE).await;
        rig.catches_up(daemon).await;
    }
}
