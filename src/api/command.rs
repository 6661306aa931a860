//! A person's word to the controller, as an annotation on the Canary. GitOps tools leave it alone, since no manifest has it; who may give it
//! is who may change the Canary. It is honoured once: the status says which word was answered last.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::string_enum::string_enum;
use crate::object::short_digest;

/// The annotation that carries a word.
pub const COMMAND_ANNOTATION: &str = "serin.dev/command";

string_enum! {
    /// What a person can ask for.
    pub enum CommandWord {
        /// Promote the revision of the present run, whatever gates and checks are still to come.
        #[default]
        Promote = "promote",
        /// End the present run on the safe side.
        Abort = "abort",
        /// Judge the revision that failed once more, or try a failed promotion again.
        Retry = "retry",
        /// Take no further step and start no run until `resume`. Checks go on, and may still roll back.
        Pause = "pause",
        /// End a pause.
        Resume = "resume",
        /// Promote the revision of the present run without judging it; a gate before the run stays closed.
        SkipAnalysis = "skip-analysis",
    }
}

/// A word, with who gave it, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Command {
    /// What is asked for.
    #[serde(rename = "do")]
    pub word: CommandWord,
    /// Who asks, as the API server knows them. What a person says of themselves: the audit log knows for sure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// When. Also what makes the same word said twice two words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Why, in their own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Command {
    /// Reads the annotation: JSON as the command line writes it, or the bare word as a person may set it with kubectl.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with('{') {
            return serde_json::from_str(text).map_err(|error| {
                format!("the annotation {COMMAND_ANNOTATION} is not understood: {error}")
            });
        }
        let word = text.parse().map_err(|expected| {
            let found: String = text.chars().take(40).collect();
            format!("the annotation {COMMAND_ANNOTATION} says {found:?}; expected {expected}")
        })?;
        Ok(Self {
            word,
            ..Self::default()
        })
    }

    /// The annotation's text.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// By which a word is told from any other; `text` is the annotation.
    #[must_use]
    pub fn id(text: &str) -> String {
        short_digest(&Value::String(text.to_owned()))
    }

    /// `alice`, or `somebody` where nobody said.
    #[must_use]
    pub fn who(&self) -> &str {
        if self.by.is_empty() {
            "somebody"
        } else {
            &self.by
        }
    }

    /// `alice: the new checkout is broken`, for sentences that go on from a verb.
    #[must_use]
    pub fn signature(&self) -> String {
        // What people write goes into events and conditions; a novel does not fit there.
        let reason: String = self.reason.chars().take(300).collect();
        let who: String = self.who().chars().take(100).collect();
        if reason.is_empty() {
            who
        } else {
            format!("{who}: {reason}")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_json_or_bare() {
        let bare = Command::parse(" skip-analysis ").unwrap();
        assert_eq!(
            (bare.word, bare.who()),
            (CommandWord::SkipAnalysis, "somebody")
        );
        let command = Command {
            word: CommandWord::Abort,
            by: "alice".to_owned(),
            at: Some("2026-05-04T08:00:00Z".parse().unwrap()),
            reason: "broken".to_owned(),
        };
        assert_eq!(Command::parse(&command.encode()).unwrap(), command);
        assert_eq!(command.signature(), "alice: broken");
        let error = Command::parse("explode").unwrap_err();
        assert!(
            error.contains("\"explode\"") && error.contains("\"retry\""),
            "{error}"
        );
        assert!(Command::parse("{\"do\": 1}").is_err());
    }

    #[test]
    fn the_same_word_at_another_time_is_another_word() {
        assert_eq!(Command::id("abort"), Command::id("abort"));
        assert_ne!(Command::id("abort"), Command::id("abort "));
    }
}
