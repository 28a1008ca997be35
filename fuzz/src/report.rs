//! What takes an edit of a guest back, or finishes one: reports and journals with changes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use vdisk::{ErrorKind, Format, OpenOptions};
use vdisk_core::{Change, MemStore, Store};
use vdisk_testkit::exercise::{assert_error, patch};

use crate::Head;
use crate::chain::shared_memory;

const IMAGE: &str = "disk.img";
const SIZE: usize = 64 << 10;
const TEXT: &str = r#"{"schema":"vdisk.report/1","command":"strip","image":"disk.img","places":2,
"bytes":8192,"undo":"disk.img.strip-1.undo","actions":[{"id":"windows.driver.start",
"what":"w","where":"p","why":"y","before":null,"after":"0","reversible":true}],
"warnings":[],"refusals":[{"id":"i","message":"m","hint":"h"}]}"#;

fn raw() -> OpenOptions {
    OpenOptions::new().format(Format::Raw)
}

/// A folder with an image that was edited: the image before and after, and the way back.
struct Edited {
    _folder: TempDir,
    image: PathBuf,
    before: Vec<u8>,
    after: Vec<u8>,
    undo: Vec<u8>,
}

impl Edited {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(shared_memory()).expect("a folder");
        let image = folder.path().canonicalize().expect("a folder").join(IMAGE);
        let before: Vec<u8> = (0..SIZE).map(|at| (at / 512) as u8).collect();
        std::fs::write(&image, &before).expect("an image");
        let changes = [
            Change { offset: 4000, bytes: vec![0xAA; 200] },
            Change { offset: 40_000, bytes: vec![0xBB; 512] },
        ];
        let undo = image.with_file_name("made.undo");
        vdisk::edit_undoable(&image, &raw(), &changes, false, &undo, |_| Ok(())).expect("an edit");
        let read = |path: &Path| std::fs::read(path).expect("it was made");
        let (after, undo) = (read(&image), read(&undo));
        Self { _folder: folder, image, before, after, undo }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.image.with_file_name(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    fn now(&self) -> Vec<u8> {
        std::fs::read(&self.image).expect("the image")
    }
}

/// The text of a report, or its file with the way back, or the journal of an edit that was cut off:
/// it is done as it says, or nothing is.
pub fn report(input: &[u8]) {
    static EDITED: OnceLock<Edited> = OnceLock::new();
    let edited = EDITED.get_or_init(Edited::new);
    let Some(head) = Head::parse(input) else { return };
    match head.image % 3 {
        0 => by_report(edited, head.rest, &edited.undo),
        1 => by_report(edited, TEXT.as_bytes(), &changed(&edited.undo, &head)),
        _ => by_journal(edited, &changed(&edited.undo, &head)),
    }
}

/// A journal with the changes of an input.
fn changed(journal: &[u8], head: &Head<'_>) -> Vec<u8> {
    let store = MemStore::from_bytes("journal", journal);
    // The first line, the changes, the sum, and the bytes.
    patch(&store, &[0, 13, 20, 25, 95, 100, 105, 175, 180, 4096, 8192, 12_288], head.rest);
    if store.len().expect("memory") > 1 << 20 {
        return journal.to_vec();
    }
    let mut bytes = store.to_bytes();
    if head.seal {
        seal(&mut bytes);
    }
    bytes
}

/// Puts the digests of a journal right, as far as it can be read.
fn seal(journal: &mut [u8]) {
    let Some(end) = journal.windows(5).position(|window| window == b"\nsum ") else { return };
    let Ok(text) = std::str::from_utf8(&journal[..=end]) else { return };
    let mut at = (end + 1 + "sum \n".len() + 64).next_multiple_of(4096);
    let mut sealed = String::new();
    for line in text.split_inclusive('\n') {
        let mut words: Vec<_> = line.trim_end().split(' ').map(str::to_owned).collect();
        let len =
            words.get(2).and_then(|len| len.parse::<usize>().ok()).filter(|_| words.len() == 4);
        if let Some(both) = len.and_then(|len| journal.get(at..)?.get(..len.checked_mul(2)?)) {
            at += both.len();
            words[3] = digest(both);
        }
        sealed += &(words.join(" ") + "\n");
    }
    sealed += &format!("sum {}\n", digest(sealed.as_bytes()));
    if let Some(place) = journal.get_mut(..sealed.len()) {
        place.copy_from_slice(sealed.as_bytes());
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn by_report(edited: &Edited, text: &[u8], undo: &[u8]) {
    edited.put(IMAGE, &edited.after);
    edited.put("disk.img.strip-1.undo", undo);
    let report = edited.put("disk.img.strip-1.json", text);
    match vdisk_fixup::undo(&edited.image, &raw(), &report, false) {
        Ok(_) => {
            let again = vdisk_fixup::undo(&edited.image, &raw(), &report, false);
            let error = again.expect_err("it was taken back");
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            assert_eq!(edited.now().len(), SIZE);
            if undo == edited.undo {
                assert!(edited.now() == edited.before, "not as it was before the edit");
            }
        }
        Err(error) => {
            assert_error(&error);
            assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
            assert!(edited.now() == edited.after, "it failed, and the image was changed");
        }
    }
}

fn by_journal(edited: &Edited, journal: &[u8]) {
    edited.put(IMAGE, &edited.before);
    let path = edited.put(".disk.img.vdisk-edit", journal);
    match vdisk::finish_edit(&edited.image, &raw()) {
        Ok(done) => {
            assert!(done.is_some() && !path.exists());
            assert_eq!(edited.now().len(), SIZE);
            if journal == edited.undo {
                assert!(edited.now() == edited.after, "not as the edit has it");
            }
        }
        Err(error) => {
            assert_error(&error);
            assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
            assert!(edited.now() == edited.before, "it failed, and the image was changed");
            std::fs::remove_file(&path).expect("it is kept");
        }
    }
}
