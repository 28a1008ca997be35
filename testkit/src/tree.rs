//! Trees of files: what a volume is filled with, and what stands in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::tools::sha256;

/// A tree with what file systems keep in different ways: empty and small files, files of many
/// blocks, holes, long names, a directory of many names, links.
///
/// # Panics
/// Where it cannot be written.
pub fn fill(root: &Path) {
    fill_with(root, 300);
}

/// The same with so many names in its largest directory.
///
/// # Panics
/// As [`fill`].
pub fn fill_with(root: &Path, many: usize) {
    let mut rng = fastrand::Rng::with_seed(7);
    fs::create_dir_all(root.join("many")).unwrap();
    fs::create_dir_all(root.join("deep/er/and/deeper")).unwrap();
    fs::create_dir_all(root.join("links")).unwrap();
    fs::write(root.join("small.txt"), "small\n").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    let mut bytes = |len: usize| -> Vec<u8> { (0..len).map(|_| rng.u8(..)).collect() };
    fs::write(root.join("medium.bin"), bytes(70_001)).unwrap();
    fs::write(root.join("big.bin"), bytes(3 << 20)).unwrap();
    fs::write(root.join("deep/er/and/deeper/Größe_und_Länge.txt"), bytes(700)).unwrap();
    fs::write(root.join(format!("deep/{}", "n".repeat(200))), bytes(5000)).unwrap();
    for number in 0..many {
        fs::write(root.join(format!("many/file_number_{number}")), bytes(number)).unwrap();
    }
    let hole = fs::File::create(root.join("hole")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", 600_000).unwrap();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, root.join("links").join(name)).unwrap();
    };
    link("../small.txt", "relative");
    link("/small.txt", "absolute");
    link("/../../../../passwd", "outside");
    link("circle", "circle");
    link(&"long/".repeat(40), "long");
}

/// What stands at each path: `dir`, `link TARGET`, or the digest of a file.
pub type Tree = BTreeMap<String, String>;

/// The tree below a folder of this machine.
///
/// # Panics
/// Where it cannot be read.
#[must_use]
pub fn tree_on_host(root: &Path) -> Tree {
    fn walk(root: &Path, path: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("/{}", path.strip_prefix(root).unwrap().to_str().unwrap());
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let node = if kind.is_symlink() {
                format!("link {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                walk(root, &path, tree);
                "dir".to_owned()
            } else {
                digest(&fs::read(&path).unwrap())
            };
            tree.insert(name, node);
        }
    }
    let mut tree = Tree::new();
    walk(root, root, &mut tree);
    tree
}

/// A file's content, as [`Tree`] has it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("{} {}", bytes.len(), sha256(bytes))
}

/// Asserts that two trees are the same.
///
/// # Panics
/// With the first path that differs.
pub fn assert_same_tree(found: &Tree, expected: &Tree, context: &str) {
    for (path, node) in expected {
        assert_eq!(found.get(path), Some(node), "{context}: {path}");
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{context}: {path} should not be there");
    }
}
