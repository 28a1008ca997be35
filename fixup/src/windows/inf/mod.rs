//! INF files: how a driver says what it drives and what is to be installed for it.
//!
//! [`Inf::parse`] takes the text apart: sections, lines, fields, with `%strings%` put in. What a
//! driver means by them is in [`Inf::header`], [`Inf::models`] and [`Inf::install`], for one
//! version of Windows and one processor: INF files have sections for many of them, told apart by
//! what their names end in ([`Os`]).
//!
//! Nothing of an INF file is run, and a damaged one is an error or lacks something, no more.
//!
//! Source: the Windows driver documentation, "INF file sections and directives".

mod driver;
mod os;
mod registry;
mod text;

use std::collections::BTreeMap;

use vdisk_core::{Error, Result};

#[cfg(test)]
use super::Data;

pub use driver::{Fit, Header, Install, Model, Service};
pub use os::Os;
pub use registry::{AddReg, Root};

/// Bytes of an INF file, at most.
pub const MOST: usize = 4 << 20;
/// Characters that putting in strings may make of one field, and of one section, at most.
const MOST_FIELD: usize = 16 << 10;
const MOST_SECTION: usize = 4 << 20;
/// Sections that one line or section may name, at most.
const MOST_NAMED: usize = 256;
/// Characters of a string, at most.
const MOST_STRING: usize = 4096;
/// The language of strings that are put in where there are several: English.
const ENGLISH: &str = "strings.0409";

/// An INF file, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Inf {
    /// Lines by section, whose names are in lower case. Sections of one name are one.
    sections: BTreeMap<String, Vec<Line>>,
    strings: BTreeMap<String, String>,
}

/// A line of a section: `key = field, field`, or fields alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    key: Option<String>,
    fields: Vec<String>,
}

impl Inf {
    /// Takes an INF file apart: UTF-16 or UTF-8 by its mark, else UTF-8 or Latin-1.
    ///
    /// # Errors
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for more than [`MOST`] bytes, or what
    /// has no `[Version]` with a signature of Windows.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MOST {
            return Err(Error::unsupported(format!("an INF file of more than {MOST} bytes")));
        }
        let mut inf = Self::default();
        let mut section = None;
        for line in text::lines(&text::decode(bytes)) {
            if let Some(name) = text::section_name(&line) {
                let name = name.to_lowercase();
                inf.sections.entry(name.clone()).or_default();
                section = Some(name);
            } else if let Some(lines) = section.as_ref().and_then(|at| inf.sections.get_mut(at)) {
                lines.push(text::line(&line));
            }
        }
        for section in ["strings", ENGLISH] {
            for line in inf.sections.get(section).into_iter().flatten() {
                if let (Some(key), Some(value)) = (&line.key, line.fields.first()) {
                    let value = value.chars().take(MOST_STRING).collect();
                    inf.strings.insert(key.to_lowercase(), value);
                }
            }
        }
        let signature = inf.value("version", "Signature").unwrap_or_default();
        if !["$WINDOWS NT$", "$CHICAGO$"].contains(&signature.to_uppercase().as_str()) {
            return Err(Error::unsupported("it is no INF file: it has no signature of Windows"));
        }
        Ok(inf)
    }

    /// Whether there is a section of that name.
    fn has(&self, section: &str) -> bool {
        self.sections.contains_key(&section.to_lowercase())
    }

    /// The lines of a section with their strings put in; none where it is not there.
    fn lines(&self, section: &str) -> Vec<Line> {
        let mut done = Vec::new();
        let mut len = 0;
        for line in self.sections.get(&section.to_lowercase()).into_iter().flatten() {
            let line = Line {
                key: line.key.as_deref().map(|key| self.put_in(key)),
                fields: line.fields.iter().map(|field| self.put_in(field)).collect(),
            };
            len += line.key.iter().chain(&line.fields).map(String::len).sum::<usize>();
            if len > MOST_SECTION {
                break;
            }
            done.push(line);
        }
        done
    }

    /// The fields of all lines with that key.
    fn fields(&self, section: &str, key: &str) -> Vec<Vec<String>> {
        let is_it = |line: &Line| line.key.as_ref().is_some_and(|it| it.eq_ignore_ascii_case(key));
        self.lines(section).into_iter().filter(is_it).map(|line| line.fields).collect()
    }

    /// The first field of the first line with that key, where it is not empty.
    fn value(&self, section: &str, key: &str) -> Option<String> {
        let first = self.fields(section, key).into_iter().next()?.into_iter().next()?;
        (!first.is_empty()).then_some(first)
    }

    /// Puts strings in for `%name%`; `%%` is a percent sign, and a name that is not known stays,
    /// for so the numbers of folders do (`%12%`).
    fn put_in(&self, text: &str) -> String {
        let mut done = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            done.push_str(before);
            let Some((name, behind)) = after.split_once('%') else {
                done.push('%');
                rest = after;
                continue;
            };
            match self.strings.get(&name.to_lowercase()) {
                _ if name.is_empty() => done.push('%'),
                Some(value) => done.push_str(value),
                None => done.push_str(&format!("%{name}%")),
            }
            rest = behind;
            if done.len() > MOST_FIELD {
                return done;
            }
        }
        done.push_str(rest);
        done
    }
}

#[cfg(test)]
mod tests;
