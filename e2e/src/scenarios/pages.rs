//! Pages of `docs/` as a newcomer follows them: their `yaml` blocks, in order, each with the sentence that leads to it.
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::tools::project_root;

/// One `yaml` block of a page.
#[derive(Debug, Clone)]
pub struct Block {
    /// Where it begins, for messages.
    pub line: usize,
    /// The paragraph before it, on one line.
    pub lead: String,
    pub value: Value,
}

impl Block {
    /// Whether it is a whole object, and not a part that is to be put into one.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.value["apiVersion"].is_string() && self.value["kind"].is_string()
    }

    #[must_use]
    pub fn is_kind(&self, kind: &str) -> bool {
        self.is_object() && self.value["kind"] == kind
    }
}

/// The `yaml` blocks of a page.
pub fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut paragraph = String::new();
    let mut over = false;
    let mut inside: Option<(usize, String)> = None;
    for (number, line) in page.lines().enumerate() {
        if let Some((begin, text)) = &mut inside {
            if line.starts_with("```") {
                let value = serde_saphyr::from_str(text)
                    .with_context(|| format!("the yaml block of line {begin}"))?;
                blocks.push(Block {
                    line: *begin,
                    lead: std::mem::take(&mut paragraph),
                    value,
                });
                inside = None;
            } else {
                text.push_str(line);
                text.push('\n');
            }
        } else if line == "```yaml" {
            inside = Some((number + 1, String::new()));
        } else if line.trim().is_empty() {
            over = true;
        } else {
            if over {
                paragraph.clear();
                over = false;
            }
            paragraph.push_str(line.trim());
            paragraph.push(' ');
        }
    }
    Ok(blocks)
}

/// The rows of a page's tables whose first heading is this one: their cells.
#[must_use]
pub fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        // A bar in a cell is written `\|`.
        let line = line.replace("\\|", "\u{0}");
        line.split('|')
            .map(|cell| cell.trim().replace('\u{0}', "|"))
            .collect()
    };
    let mut rows = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if !line.starts_with('|') {
            inside = false;
        } else if inside {
            let row = cells(line);
            if !row.iter().all(|cell| cell.starts_with("---")) {
                rows.push(row);
            }
        } else {
            inside = cells(line).first().is_some_and(|first| first == heading);
        }
    }
    rows
}

/// What stands in backquotes in a text.
#[must_use]
pub fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The pages of a folder of `docs/`, each with its name, without the one that lists them.
pub fn of_folder(folder: &str) -> Result<Vec<(String, String)>> {
    let folder: PathBuf = project_root()?.join("docs").join(folder);
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|found| found == "md") && name != "README" {
            pages.push((name.into_owned(), std::fs::read_to_string(&path)?));
        }
    }
    ensure!(
        pages.len() > 5,
        "{} has {} pages",
        folder.display(),
        pages.len()
    );
    pages.sort();
    Ok(pages)
}

/// What a live object lacks of what a page shows of it: each place, what is shown and what is there. Further fields are no matter, further
/// entries of a list are.
#[must_use]
pub fn lacking(live: &Value, shown: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(live, shown, "", &mut found);
    found
}

fn compare(live: &Value, shown: &Value, place: &str, found: &mut Vec<String>) {
    match (live, shown) {
        (Value::Object(live), Value::Object(shown)) => {
            for (key, shown) in shown {
                let live = live.get(key).unwrap_or(&Value::Null);
                compare(live, shown, &format!("{place}.{key}"), found);
            }
        }
        (Value::Array(live), Value::Array(shown)) if live.len() == shown.len() => {
            for (index, (live, shown)) in live.iter().zip(shown).enumerate() {
                compare(live, shown, &format!("{place}[{index}]"), found);
            }
        }
        (live, shown) if live == shown => {}
        (live, shown) => found.push(format!("{place}: the page shows {shown}, there is {live}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_block_has_the_paragraph_before_it() {
        let page = "# Title\n\nOne\nparagraph.\n\nAt a weight\nof 10 it says:\n\n```yaml\na: 1\n```\n\n```yaml\nb: 2\n```\n```sh\nc: 3\n```\n";
        let found = blocks(page).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].lead.trim(), "At a weight of 10 it says:");
        assert_eq!((found[0].line, &found[0].value), (9, &json!({"a": 1})));
        assert_eq!(found[1].lead, "");
    }

    #[test]
    fn a_table_is_found_by_its_first_heading() {
        let page = "| a | b |\n|---|---|\n| 1 | `x \\| y` |\n\n| c |\n|---|\n| 2 |\n";
        assert_eq!(rows(page, "a"), [["1", "`x | y`"]]);
        assert_eq!(quoted("`x` and `y`"), ["x", "y"]);
    }

    #[test]
    fn what_a_page_shows_and_is_not_there_is_named_by_its_place() {
        let live = json!({"a": [{"b": 1, "c": 2}], "d": 3});
        assert!(lacking(&live, &json!({"a": [{"b": 1}]})).is_empty());
        assert_eq!(
            lacking(&live, &json!({"a": [{"b": 2}], "e": 1})),
            [
                ".a[0].b: the page shows 2, there is 1",
                ".e: the page shows 1, there is null"
            ]
        );
        assert_eq!(lacking(&live, &json!({"a": []})).len(), 1);
    }
}
