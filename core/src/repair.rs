//! What mending an image did, or would do.
//!
//! A format mends with ordinary writing code, in an order that leaves an image that opens at every
//! step. Run on a [`Recorder`](crate::Recorder) it changes nothing: the changes recorded are the
//! plan, which can be shown, proven and saved before it is carried out.

/// One thing that was mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mend {
    /// The code of the finding that it takes away.
    pub code: &'static str,
    /// Byte offset in the file, where there is one.
    pub offset: Option<u64>,
    /// What was done, for a person: the past of a verb, then what.
    pub what: String,
}

/// What was mended, in order.
#[derive(Debug, Default)]
pub struct Mends {
    list: Vec<Mend>,
}

impl Mends {
    /// Nothing mended yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn add(
        &mut self,
        code: &'static str,
        offset: impl Into<Option<u64>>,
        what: impl Into<String>,
    ) {
        self.list.push(Mend { code, offset: offset.into(), what: what.into() });
    }

    /// What was mended.
    #[must_use]
    pub fn list(&self) -> &[Mend] {
        &self.list
    }
}

/// What may be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only space that nothing refers to is given back.
    Leaks,
    /// Also whatever has one right answer.
    All,
}
