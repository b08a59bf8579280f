//! What a run comes to: a finding per requirement a case judged, a verdict per case, and the rules
//! by which a missed requirement is a failure, a warning or a note.

use std::fmt;

use opamp_spec::{Requirement, Weight};
use serde::{Deserialize, Serialize};

/// What became of a case, or of one requirement in it.
///
/// Ordered by what a reader has to look at first: the greatest of several verdicts stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The requirement does not concern this subject: it lacks the capability, or the release of
    /// the specification it implements has no such requirement.
    NotApplicable,
    /// It could not be seen: a hook or a setting is missing, or the conversation did not get there.
    /// Never a pass.
    Untestable,
    /// What is required was seen.
    Pass,
    /// Something that is only recommended was missed.
    NonStrict,
    /// Something that is mandatory was missed.
    Fail,
    /// The tester itself could not go on; says nothing of the subject.
    HarnessError,
}

impl Verdict {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::NotApplicable,
        Self::Untestable,
        Self::Pass,
        Self::NonStrict,
        Self::Fail,
        Self::HarnessError,
    ];

    /// The name used in reports, for example `non-strict`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotApplicable => "not-applicable",
            Self::Untestable => "untestable",
            Self::Pass => "pass",
            Self::NonStrict => "non-strict",
            Self::Fail => "fail",
            Self::HarnessError => "harness-error",
        }
    }

    /// What a miss of the requirement amounts to. A miss of what is only noted is still a pass; the
    /// finding says what was seen.
    #[must_use]
    pub fn of_miss(requirement: &Requirement) -> Self {
        match requirement.weight() {
            Weight::Must => Self::Fail,
            Weight::Should => Self::NonStrict,
            Weight::Note => Self::Pass,
        }
    }

    /// Whether it is a miss: [`NonStrict`](Self::NonStrict) or [`Fail`](Self::Fail).
    #[must_use]
    pub fn is_miss(self) -> bool {
        matches!(self, Self::NonStrict | Self::Fail)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a case found about one requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Id of the requirement's row in the catalogue.
    pub row: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Whether something was missed that is only worth a note; the verdict is a pass then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub noted: bool,
    /// What was expected, in words.
    pub expected: String,
    /// What was seen instead, or as well.
    pub actual: String,
    /// Index into the transcript of the entry that decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<usize>,
}
