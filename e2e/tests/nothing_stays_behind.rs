//! However a run ends, nothing that it started in its namespace lives on.
#![allow(clippy::unwrap_used)]
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a shell inside that leaves a grandchild in a session of its own, and says when it has.
fn run_with_grandchild(marker: &str) -> Child {
    let script = format!("setsid sleep {marker} & echo started; wait");
    let mut run = Command::new(env!("CARGO_BIN_EXE_serin-e2e"))
        .args(["inside", "--", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(
        line, "started\n",
        "the namespace was not made: are unshare, setpriv and user namespaces there?"
    );
    eventually(|| sleeping(marker) == 1);
    run
}

/// How many processes of this machine sleep for exactly that long.
fn sleeping(marker: &str) -> usize {
    let wanted = format!("sleep\0{marker}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| {
            std::fs::read_to_string(process.path().join("cmdline"))
                .is_ok_and(|command| command == wanted)
        })
        .count()
}

fn eventually(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "it did not come true in time"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn when_a_run_is_killed_then_what_it_started_is_gone() {
    for (number, signal) in ["-KILL", "-TERM", "-INT"].into_iter().enumerate() {
        let marker = format!("86400.{}{number}", std::process::id());
        let mut run = run_with_grandchild(&marker);
        Command::new("kill")
            .args([signal, &run.id().to_string()])
            .status()
            .unwrap();
        run.wait().unwrap();
        eventually(|| sleeping(&marker) == 0);
    }
}

#[test]
fn when_the_first_program_inside_ends_then_its_grandchildren_end_too() {
    let marker = format!("86400.{}9", std::process::id());
    let script = format!("setsid sleep {marker} & exit 7");
    let status = Command::new(env!("CARGO_BIN_EXE_serin-e2e"))
        .args(["inside", "--", "sh", "-c", &script])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(7));
    eventually(|| sleeping(&marker) == 0);
}
