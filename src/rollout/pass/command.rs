//! The words that people give by annotation, see [`crate::api::Command`]: each is answered once, by doing it or by saying why not, and the
//! answer stands in the status. Whatever the word, the rules that keep traffic served are the same: a promotion still waits for ready pods.

use super::{Pass, clear_wait};
use crate::api::command::{COMMAND_ANNOTATION, Command, CommandWord};
use crate::api::{CommandAnswer, Pause, Phase};
use crate::rollout::decision::{Severity, Tally};
use crate::rollout::stage::Stage;
use crate::rollout::view::{Identity, View};
use jiff::SignedDuration;

/// A word older than this is not honoured any more: it comes from a backup, or from before a long silence.
const STALE: SignedDuration = SignedDuration::from_hours(1);
/// How many words a run remembers.
const REMEMBERED: usize = 10;
/// What a paused run waits for.
pub(super) const WAIT_RESUME: &str = "a person to resume";

impl<'a> Pass<'a> {
    /// Answers a word that was not answered yet. True if there was one: then this pass does nothing more.
    pub(super) fn obey(&mut self, view: &View<'a>) -> bool {
        let Some(text) = self.canary.metadata.annotations.get(COMMAND_ANNOTATION) else {
            return false;
        };
        let id = Command::id(text);
        if self
            .status
            .command
            .as_ref()
            .is_some_and(|known| known.id == id)
        {
            return false;
        }
        let (command, answer) = match Command::parse(text) {
            Ok(command) => {
                let stale = command
                    .at
                    .is_some_and(|at| at.checked_add(STALE).is_ok_and(|end| end <= self.now));
                let answer = if stale {
                    Err("it was given more than an hour ago".to_owned())
                } else {
                    self.carry_out(view, &command)
                };
                (command, answer)
            }
            Err(why) => (Command::default(), Err(why)),
        };
        let (outcome, message) = match answer {
            Ok(message) => ("Honoured", message),
            Err(message) => ("Refused", message),
        };
        let word = command.word.as_str();
        if outcome == "Refused" {
            let text = format!("{word} by {} is refused: {message}", command.signature());
            self.tell(Severity::Warn, "CommandRefused", text);
        } else {
            let text = format!("{word} by {}: {message}", command.signature());
            self.tell(Severity::Info, "Command", text);
        }
        self.status.command = Some(CommandAnswer {
            id,
            word: word.to_owned(),
            by: command.by.clone(),
            at: command.at,
            reason: command.reason.chars().take(300).collect(),
            outcome: outcome.to_owned(),
            message,
            answered_at: Some(self.now),
        });
        true
    }

    fn carry_out(&mut self, view: &View<'a>, command: &Command) -> Result<String, String> {
        match command.word {
            CommandWord::Promote => self.promote_by_word(view, command),
            CommandWord::SkipAnalysis => self.skip_by_word(view, command),
            CommandWord::Abort => self.abort_by_word(view, command),
            CommandWord::Retry => self.retry_by_word(view, command),
            CommandWord::Pause => self.pause_by_word(command),
            CommandWord::Resume => self.resume_by_word(command),
        }
    }

    /// Whether a run is at a point from which it can still go either way; the error says where it is instead.
    fn undecided(&self, view: &View<'a>) -> Result<(), String> {
        match (self.status.phase, self.stage()) {
            (Phase::Waiting | Phase::Progressing | Phase::WaitingPromotion, stage) => match stage {
                Some(Stage::RollingBack | Stage::Cancelling) => {
                    Err("the run is on its way back already".to_owned())
                }
                None => Err("no run is under way".to_owned()),
                Some(_) if !self.is_ours(&view.identity) => {
                    Err("the target carries another revision than the run; look again".to_owned())
                }
                Some(_) => Ok(()),
            },
            (Phase::Promoting | Phase::Finalising, _) => {
                Err("the revision is being promoted already".to_owned())
            }
            (Phase::Failed, Some(Stage::Held)) => Err(
                "the promotion failed and the canary keeps the traffic; retry it, or release another revision"
                    .to_owned(),
            ),
            (phase, _) => Err(format!(
                "no run is under way, the phase is {}",
                if phase == Phase::Unset { "unset" } else { phase.as_str() }
            )),
        }
    }

    fn promote_by_word(&mut self, view: &View<'a>, command: &Command) -> Result<String, String> {
        self.undecided(view)?;
        if self.status.phase == Phase::Waiting {
            self.start_run(view);
        }
        self.status.paused = None;
        self.note(command);
        self.with_run(|run| {
            clear_wait(run);
            run.skip_analysis = true;
        });
        Ok("the revision is promoted as soon as its pods are ready, without further checks and gates".to_owned())
    }

    fn skip_by_word(&mut self, view: &View<'a>, command: &Command) -> Result<String, String> {
        self.undecided(view)?;
        self.note(command);
        self.with_run(|run| run.skip_analysis = true);
        Ok(if self.status.phase == Phase::Waiting {
            "once the gate opens, the revision is promoted without being judged".to_owned()
        } else {
            self.with_run(clear_wait);
            "the revision is promoted as soon as its pods are ready, without further checks"
                .to_owned()
        })
    }

    fn abort_by_word(&mut self, view: &View<'a>, command: &Command) -> Result<String, String> {
        self.undecided(view).or_else(|why| {
            // A newer revision restarts the analysis with the next pass anyway; the word is about the run that people saw.
            if self.run_ref().is_some()
                && !self.is_ours(&view.identity)
                && why.contains("another revision")
            {
                Ok(())
            } else {
                Err(why)
            }
        })?;
        self.note(command);
        let cause = format!("Aborted by {}", command.signature());
        let text = format!("Rolling back {} {}", self.full_name(), lower_first(&cause));
        self.tell_and_alert(Severity::Warn, "Aborted", text, cause.clone());
        if self.status.phase == Phase::Waiting {
            if let Some(identity) = self.run_ref().map(|run| Identity {
                revision: run.revision.clone(),
                configs: run.tracked_configs.clone(),
            }) {
                self.record_applied(&identity);
            }
            self.tallies.push(Tally::Failed);
            self.end_run(Phase::Failed, "RolledBack", &cause);
            return Ok("the revision that waited is not started".to_owned());
        }
        self.begin_rollback(view, Stage::RollingBack, cause);
        Ok("all traffic goes back to the primary".to_owned())
    }

    fn retry_by_word(&mut self, view: &View<'a>, command: &Command) -> Result<String, String> {
        if self.status.phase != Phase::Failed {
            return Err(format!(
                "nothing has failed, the phase is {}",
                self.status.phase
            ));
        }
        if self.is_promoted(&view.identity) {
            return Err("the target carries what is promoted already".to_owned());
        }
        if self.stage() == Some(Stage::Held) {
            if !self.is_ours(&view.identity) {
                return Err(
                    "the target carries a newer revision, which is judged by itself".to_owned(),
                );
            }
            let (now, number) = (self.now, self.next_number());
            self.with_run(|run| {
                run.number = number;
                run.started_at = Some(now);
            });
            self.note(command);
            self.start_promotion(view);
            return Ok("the promotion is tried again".to_owned());
        }
        if self.status.promoted.is_none() {
            return Err("the primary was never made; it is tried again by itself".to_owned());
        }
        // What was applied is forgotten, so the target looks new; its gate is asked again too.
        self.status.last_applied_spec = None;
        self.status.run = None;
        Ok("the revision of the target is judged once more".to_owned())
    }

    fn pause_by_word(&mut self, command: &Command) -> Result<String, String> {
        if let Some(paused) = &self.status.paused {
            return Err(format!("it is paused already, by {}", paused.by));
        }
        self.status.paused = Some(Pause {
            since: Some(self.now),
            by: command.who().chars().take(100).collect(),
            reason: command.reason.chars().take(300).collect(),
        });
        self.note(command);
        Ok("no further step is taken and no run started until resume; checks go on".to_owned())
    }

    fn resume_by_word(&mut self, command: &Command) -> Result<String, String> {
        if self.status.paused.take().is_none() {
            return Err("it is not paused".to_owned());
        }
        self.note(command);
        self.with_run(|run| {
            if run.waiting_for.as_deref() == Some(WAIT_RESUME) {
                clear_wait(run);
                run.message = Some("The pause is over.".to_owned());
            }
        });
        Ok("the pause is over".to_owned())
    }

    /// Keeps the word with the run, for its history.
    fn note(&mut self, command: &Command) {
        let text = format!(
            "{} {} by {}",
            self.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            command.word,
            command.signature()
        );
        self.with_run(|run| {
            run.commands.push(text);
            let surplus = run.commands.len().saturating_sub(REMEMBERED);
            run.commands.drain(..surplus);
        });
    }

    /// Whether a person has paused the canary; then what would come next is held, and the run says so.
    pub(super) fn held_by_pause(&mut self) -> bool {
        let Some(paused) = self.status.paused.clone() else {
            return false;
        };
        let why = match paused.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        let text = format!("Paused by {}{why}", paused.by);
        self.with_run(|run| {
            if run.waiting_for.is_none() {
                run.waiting_for = Some(WAIT_RESUME.to_owned());
                run.waiting_since = paused.since;
                run.message = Some(text.clone());
            }
        });
        self.remarks.stalled.get_or_insert(("Paused", text));
        true
    }
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).collect()
    })
}
