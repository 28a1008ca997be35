//! The text of INF files: encoding, comments, quotes.

use super::Line;

/// The bytes as text.
pub(super) fn decode(bytes: &[u8]) -> String {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes
            .chunks_exact(2)
            .filter_map(|pair| pair.first_chunk().copied().map(unit))
            .collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().copied().map(char::from).collect(),
        },
    }
}

/// Lines without comments; a backslash at the end joins the next one. Empty ones are left out.
pub(super) fn lines(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut whole = String::new();
    for line in text.lines() {
        let line = without_comment(line).trim();
        match line.strip_suffix('\\') {
            Some(begin) => whole.push_str(begin.trim_end()),
            None => {
                whole.push_str(line);
                all.push(std::mem::take(&mut whole));
            }
        }
    }
    all.push(whole);
    all.retain(|line| !line.trim().is_empty());
    all
}

fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ';' if !quoted => return line.get(..at).unwrap_or_default(),
            _ => {}
        }
    }
    line
}

pub(super) fn section_name(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?.split(']').next()?;
    Some(name.trim().trim_matches('"'))
}

/// `key = field, field`.
pub(super) fn line(line: &str) -> Line {
    let (mut key, mut fields, mut part) = (None, Vec::new(), String::new());
    let (mut quoted, mut was_quoted) = (false, false);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                part.push('"');
            }
            '"' => {
                // What stands around the quotes of a field is no part of it.
                if !was_quoted && part.trim().is_empty() {
                    part.clear();
                }
                quoted = !quoted;
                was_quoted = true;
            }
            '=' if !quoted && key.is_none() && fields.is_empty() => {
                key = Some(finished(&mut part, &mut was_quoted));
            }
            ',' if !quoted => fields.push(finished(&mut part, &mut was_quoted)),
            c if !quoted && was_quoted && c.is_whitespace() => {}
            c => part.push(c),
        }
    }
    fields.push(finished(&mut part, &mut was_quoted));
    Line { key, fields }
}

fn finished(part: &mut String, quoted: &mut bool) -> String {
    let part = std::mem::take(part);
    if std::mem::take(quoted) { part } else { part.trim().to_owned() }
}
