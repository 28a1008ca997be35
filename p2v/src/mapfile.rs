//! The map of what could be read, as GNU ddrescue writes it (its manual, "Mapfile structure"), so
//! that other tools read it too.

use std::fmt::Write as _;

use vdisk::Ranges;

/// The map of a disk of `len` bytes: what could not be read is `-`, what was left out as free `?`,
/// the rest `+`.
pub(crate) fn mapfile(len: u64, bad: &Ranges, left_out: &Ranges) -> String {
    let mut parts: Vec<(u64, u64, char)> =
        bad.iter().map(|one| (one.start, one.end, '-')).collect();
    let left_out = left_out.without(bad);
    parts.extend(left_out.iter().map(|one| (one.start, one.end, '?')));
    parts.sort_unstable();
    let mut text = String::from("# Mapfile. Written by vdisk p2v\n# current_pos  current_status\n");
    let _ = writeln!(text, "0x{len:08X}     +\n#      pos        size  status");
    let mut at = 0;
    let mut line = |start: u64, end: u64, status: char| {
        if end > start {
            let _ = writeln!(text, "0x{start:08X}  0x{:08X}  {status}", end - start);
        }
    };
    for (start, end, status) in parts {
        line(at, start, '+');
        line(start, end.min(len), status);
        at = end;
    }
    line(at, len, '+');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_the_disk_without_gaps() {
        let bad: Ranges = [512..1024, 8192..9000].into_iter().collect();
        let free: Ranges = std::iter::once(4096..8192).collect();
        let text = mapfile(10_000, &bad, &free);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "0x00002710     +",
                "0x00000000  0x00000200  +",
                "0x00000200  0x00000200  -",
                "0x00000400  0x00000C00  +",
                "0x00001000  0x00001000  ?",
                "0x00002000  0x00000328  -",
                "0x00002328  0x000003E8  +",
            ]
        );
    }
}
