//! What a distribution calls itself.

use crate::tree::Tree;

/// What a distribution calls itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) product: Option<String>,
    pub(super) version: Option<String>,
    pub(super) id: Option<String>,
    pub(super) id_like: Vec<String>,
}

/// Files of distributions from before os-release: with their name in a line, or their version.
const OLD: [(&str, &str); 7] = [
    ("/etc/centos-release", "centos"),
    ("/etc/fedora-release", "fedora"),
    ("/etc/redhat-release", "rhel"),
    ("/etc/SuSE-release", "suse"),
    ("/etc/arch-release", "arch"),
    ("/etc/alpine-release", "alpine"),
    ("/etc/debian_version", "debian"),
];

/// None where the volume is not the root of a Linux.
pub(super) fn read(tree: &Tree<'_>) -> Option<Release> {
    let new = ["/etc/os-release", "/usr/lib/os-release"];
    if let Some(text) = new.iter().find_map(|path| tree.text(path)) {
        return Some(parse(&text));
    }
    OLD.iter().find_map(|(path, id)| Some(old(&tree.text(path)?, id)))
}

/// The lines of os-release(5): shell assignments.
fn parse(text: &str) -> Release {
    let value = |name: &str| {
        let lines = text.lines().filter_map(|line| line.trim().split_once('='));
        // The last one counts, as for a shell.
        let found = lines.rev().find(|(key, _)| *key == name).map(|(_, value)| unquoted(value));
        found.filter(|value| !value.is_empty())
    };
    Release {
        product: value("PRETTY_NAME").or_else(|| value("NAME")),
        version: value("VERSION_ID").or_else(|| value("BUILD_ID")),
        id: value("ID"),
        id_like: value("ID_LIKE")
            .map(|list| list.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
    }
}

/// As a shell reads it: in quotes or not, with what follows a backslash as it is.
fn unquoted(value: &str) -> String {
    let inside = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    if let Some(text) = inside('\'') {
        return text.to_owned();
    }
    let mut text = String::new();
    let mut rest = inside('"').unwrap_or(value).chars();
    while let Some(letter) = rest.next() {
        let next = if letter == '\\' { rest.next() } else { Some(letter) };
        text.extend(next);
    }
    text
}

/// Such as `CentOS release 6.10 (Final)`, or a version alone.
fn old(text: &str, id: &str) -> Release {
    let line = text.lines().next().unwrap_or_default().trim();
    let begins_version = |word: &&str| word.starts_with(|letter: char| letter.is_ascii_digit());
    let name =
        if line.starts_with(|letter: char| letter.is_ascii_alphabetic()) && line.contains(' ') {
            line.to_owned()
        } else {
            format!("{id} {line}").trim().to_owned()
        };
    Release {
        product: Some(name),
        version: line.split_whitespace().find(begins_version).map(str::to_owned),
        id: Some(id.to_owned()),
        id_like: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_assignments_as_a_shell_does() {
        let text = "# comment\nPRETTY_NAME=\"A \\\"B\\\" 12\"\nVERSION_ID='12'\nID=debian\n\
                    ID_LIKE=\"rhel fedora\"\nVARIANT=\n";
        let found = parse(text);
        assert_eq!(found.product.as_deref(), Some("A \"B\" 12"));
        assert_eq!(found.version.as_deref(), Some("12"));
        assert_eq!(found.id.as_deref(), Some("debian"));
        assert_eq!(found.id_like, ["rhel", "fedora"]);
        assert_eq!(parse(""), Release::default());
        assert_eq!(unquoted("\""), "\"");
    }

    #[test]
    fn reads_what_was_before() {
        let found = old("CentOS release 6.10 (Final)\n", "centos");
        assert_eq!(found.product.as_deref(), Some("CentOS release 6.10 (Final)"));
        assert_eq!(found.version.as_deref(), Some("6.10"));
        let found = old("7.11\n", "debian");
        assert_eq!(found.product.as_deref(), Some("debian 7.11"));
        assert_eq!(found.version.as_deref(), Some("7.11"));
        assert_eq!(old("", "arch").product.as_deref(), Some("arch"));
    }
}
