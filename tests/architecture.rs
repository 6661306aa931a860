//! Holds the code to the table of rooms in `docs/architecture.md`: every room is in it, a room uses only rooms that stand before it, and the
//! rooms above its line know no client, no runtime, no HTTP library, no clock and no files.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a pure room must not name, and why: each would bring in a second source of truth beside the snapshot.
const IMPURE: [(&str, &str); 13] = [
    ("kube::", "a Kubernetes client"),
    ("tokio::", "a runtime"),
    ("futures::", "a runtime's vocabulary"),
    ("reqwest::", "an HTTP client"),
    ("hyper::", "an HTTP library"),
    ("axum::", "an HTTP server"),
    ("std::net", "the network"),
    ("std::fs", "files"),
    ("std::env", "the environment"),
    ("SystemTime", "the clock"),
    ("Instant::now", "the clock"),
    ("Timestamp::now", "the clock"),
    ("rand::", "chance"),
];

struct Room {
    name: String,
    pure: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rooms in the order of the table, the lowest first; those before the line of the table are pure.
fn rooms() -> Vec<Room> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut pure = true;
    let mut rooms = Vec::new();
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let first = row.split('|').nth(1).unwrap_or_default();
        pure &= !first.contains("I/O below");
        // Odd pieces are what stands between backticks.
        for path in first.split('`').skip(1).step_by(2) {
            if let Some(name) = path.strip_prefix("src/") {
                rooms.push(Room {
                    name: name.trim_end_matches('/').to_owned(),
                    pure,
                });
            }
        }
    }
    assert!(
        rooms.iter().any(|room| room.pure) && rooms.iter().any(|room| !room.pure),
        "docs/architecture.md should have a table of rooms with a line `── I/O below ──`"
    );
    rooms
}

/// The Rust files below a folder, without those that hold only tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The numbered lines of a file that are code of the product: no comments, no module of tests at its end.
fn code(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut test_only = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line == "#[cfg(test)]" {
            test_only = true;
        } else if test_only && line.ends_with('{') {
            break;
        } else if !(line.starts_with("//") || test_only && line.starts_with('#')) {
            if !test_only {
                lines.push((number, line));
            }
            test_only = false;
        }
    }
    lines
}

/// Whether a line names `what` as a word of its own and not as the end of a longer path or name.
fn names(line: &str, what: &str) -> bool {
    line.match_indices(what).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

/// The rooms that a line reaches by `crate::…`, also in `crate::{a, b}`.
fn used(line: &str) -> Vec<String> {
    line.match_indices("crate::")
        .flat_map(|(at, found)| {
            let rest = &line[at + found.len()..];
            let paths = rest
                .strip_prefix('{')
                .map_or(vec![rest], |group| group.split(',').collect());
            paths.into_iter().map(|path| {
                path.trim()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect()
            })
        })
        .collect()
}

/// Every line of a room's product code, with where it is.
fn each_line(room: &str, mut look: impl FnMut(&str, &str)) {
    for file in sources(&root().join("src").join(room)) {
        let text = fs::read_to_string(&file).unwrap();
        let shown = file.strip_prefix(root()).unwrap().display().to_string();
        for (number, line) in code(&text) {
            look(&format!("{shown}:{number}"), line);
        }
    }
}

#[test]
fn every_room_is_in_the_table() {
    let listed: BTreeSet<String> = rooms().into_iter().map(|room| room.name).collect();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                listed.contains(&name),
                "src/{name}/ should have a row in the table of rooms in docs/architecture.md"
            );
        }
    }
}

#[test]
fn a_room_uses_only_rooms_that_stand_before_it() {
    let order: Vec<String> = rooms().into_iter().map(|room| room.name).collect();
    let mut wrong = Vec::new();
    for (place, room) in order.iter().enumerate() {
        each_line(room, |at, line| {
            for other in used(line) {
                if order[place + 1..].contains(&other) {
                    wrong.push(format!(
                        "{at}: {room} uses {other}, which stands after it: {line}"
                    ));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_pure_room_names_nothing_that_does_io() {
    let mut wrong = Vec::new();
    for room in rooms().iter().filter(|room| room.pure) {
        each_line(&room.name, |at, line| {
            for (what, why) in IMPURE {
                if names(line, what) {
                    wrong.push(format!("{at}: {} knows {why}: {line}", room.name));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_what_it_looks_for() {
    let text = "\
use crate::{api, rollout::Decision};
// tokio::spawn is only spoken of
#[cfg(test)]
mod tests;
use tokio::spawn;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
";
    let lines = code(text);
    assert_eq!(
        lines,
        [
            (1, "use crate::{api, rollout::Decision};"),
            (5, "use tokio::spawn;")
        ]
    );
    assert_eq!(used(lines[0].1), ["api", "rollout"]);
    assert!(names(lines[1].1, "tokio::"));
    assert!(!names("use my_tokio::spawn;", "tokio::"));
}
