//! What is to change, as data.

use serde::{Deserialize, Serialize};
use vdisk_core::{Error, Result};

/// Everything that is to change in a guest, in the order in which it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// The guest, as it calls itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system: Option<String>,
    /// What changes.
    pub actions: Vec<Action>,
    /// What does not stop anything, and should be known.
    pub warnings: Vec<Notice>,
    /// What stops everything.
    pub refusals: Vec<Notice>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Action {
    /// Which rule it comes from, such as `windows.driver.start`; stable.
    pub id: String,
    /// What is done, in a few words.
    pub what: String,
    /// The file, or the hive and key in it.
    #[serde(rename = "where")]
    pub place: String,
    /// The reason.
    pub why: String,
    /// What stands there now; absent where nothing does.
    pub before: Option<String>,
    /// What will stand there; absent where nothing will.
    pub after: Option<String>,
    /// Whether `--undo` brings the old state back in full.
    pub reversible: bool,
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Notice {
    /// Which rule it comes from; stable.
    pub id: String,
    /// What is the matter.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Action {
    /// A change by rule `id` at `place`; reversible, with nothing before or after yet.
    #[must_use]
    pub fn new(id: &str, what: impl Into<String>, place: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            what: what.into(),
            place: place.into(),
            why: String::new(),
            before: None,
            after: None,
            reversible: true,
        }
    }

    /// The same, with its reason.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// The same, with what stands there now.
    #[must_use]
    pub fn before(mut self, before: impl Into<String>) -> Self {
        self.before = Some(before.into());
        self
    }

    /// The same, with what will stand there.
    #[must_use]
    pub fn after(mut self, after: impl Into<String>) -> Self {
        self.after = Some(after.into());
        self
    }
}

impl Plan {
    /// Notes a change.
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Notes what should be known.
    pub fn warn(&mut self, id: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push(notice(id, message.into(), hint.into()));
    }

    /// Notes what stops everything.
    pub fn stop(&mut self, id: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.refusals.push(notice(id, message.into(), hint.into()));
    }

    /// Notes an error as what stops everything.
    pub fn stop_for(&mut self, id: &str, error: &Error) {
        self.stop(id, error.to_string(), error.advice().unwrap_or_default());
    }

    /// Adds the plan of another disk of the same machine.
    pub fn join(&mut self, other: &Self) {
        self.system = self.system.take().or_else(|| other.system.clone());
        self.actions.extend_from_slice(&other.actions);
        self.warnings.extend_from_slice(&other.warnings);
        self.refusals.extend_from_slice(&other.refusals);
    }

    /// Fails if anything stops the plan.
    ///
    /// # Errors
    /// [`Refused`](vdisk_core::ErrorKind::Refused) with the first refusal.
    pub fn refuse(&self) -> Result<()> {
        let Some(first) = self.refusals.first() else { return Ok(()) };
        let more = self.refusals.len() - 1;
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        let error = Error::refused(format!("{}{more}", first.message));
        Err(match &first.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        })
    }
}

fn notice(id: &str, message: String, hint: String) -> Notice {
    Notice { id: id.to_owned(), message, hint: (!hint.is_empty()).then_some(hint) }
}
