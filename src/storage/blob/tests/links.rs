//! Links below a blob directory, as a client with a shared directory can make them, lead no removal anywhere.

use std::os::unix::fs::symlink;

use super::packed::{Host, Packed};
use super::*;

/// Of an object that is not on the list of what a pack has removed.
const EARLIER: Tid = Tid(0x0200_0000_0000_0001);

/// Moves a directory out of the tree, and leaves a link to it.
fn lead_away(path: &Path, outside: &Path) {
    std::fs::rename(path, outside).expect("move");
    symlink(outside, path).expect("link");
}

/// A link in the place of an object's directory, and in that of the one above.
#[test]
fn a_pack_removes_nothing_behind_a_link() {
    for keeps_old in [false, true] {
        for above in [0, 1] {
            let packed = Packed::new(keeps_old);
            let outside = TempDir::new().expect("make a directory");
            for (n, oid) in [BLOB, OTHER].into_iter().enumerate() {
                let object = packed.storage.directory.object(oid);
                lead_away(object.ancestors().nth(above).expect("a directory"), &outside.path().join(n.to_string()));
            }
            // An object whose directory is empty.
            let list = packed.base().join(".removed");
            let lines = std::fs::read_to_string(&list).expect("a list");
            std::fs::remove_file(&packed.gone[1]).expect("remove");
            std::fs::write(&list, format!("{lines}{:016x}{EARLIER}\n", OTHER.0)).expect("write");
            removal::remove_listed(&packed.storage, &mut Host::default());
            assert_eq!(files(outside.path()).len(), 2, "{above} above");
            assert!(packed.storage.directory.object(OTHER).is_dir(), "an empty directory behind a link");
            assert!(list.exists(), "to be tried again");
        }
    }
}

#[test]
fn a_start_removes_nothing_behind_a_link() {
    let mut t = Bench::new(over_file);
    let tid = store(&t, BLOB, Tid::ZERO, b"content");
    let outside = TempDir::new().expect("make a directory");
    let file = plant(&base(&t), OTHER, "0x0300000000000001.blob");
    let marker = base(&t).join(format!("tmp/zeolite-pending-{:016x}-{GONE}-{tid}", OTHER.0));
    std::fs::write(&marker, b"").expect("write");
    lead_away(file.parent().expect("a directory"), &outside.path().join("object"));
    t.reopen();
    assert!(file.exists() && marker.exists());
}

/// What an earlier pack has kept goes, a link in it or in its place as well, and nothing behind that.
#[test]
fn nothing_goes_behind_a_link_beside() {
    for in_place in [false, true] {
        let packed = Packed::new(true);
        let outside = TempDir::new().expect("make a directory");
        std::fs::write(outside.path().join("0x01.blob"), b"precious").expect("write");
        let link = if in_place { PathBuf::new() } else { PathBuf::from("0x00") };
        let link = packed.kept(&packed.base().join(link));
        std::fs::create_dir_all(link.parent().expect("a parent")).expect("make directories");
        symlink(outside.path(), link.components().as_path()).expect("link");
        removal::remove_listed(&packed.storage, &mut Host::default());
        packed.check();
        assert_eq!(files(outside.path()).into_values().collect::<Vec<_>>(), [b"precious"]);
        assert!(packed.gone.iter().all(|path| packed.kept(path).exists()));
    }
}

/// What is none of the directories with blobs is nobody's business: a mount point has `lost+found`.
#[test]
fn other_directories_are_left_alone() {
    let packed = Packed::new(true);
    let other = packed.base().join("lost+found");
    std::fs::create_dir(&other).expect("make a directory");
    std::fs::write(other.join("0x01.blob"), b"found").expect("write");
    removal::remove_listed(&packed.storage, &mut Host::default());
    assert!(other.join("0x01.blob").exists() && !packed.kept(&other).exists());
}

/// Not even one that is in the place of the list itself.
#[test]
fn no_list_is_written_through_a_link() {
    let t = Bench::new(over_file);
    let first = store(&t, BLOB, Tid::ZERO, b"first");
    store(&t, BLOB, first, b"second");
    let outside = TempDir::new().expect("make a directory");
    let precious = outside.path().join("precious");
    std::fs::write(&precious, b"precious").expect("write");
    symlink(&precious, base(&t).join(".removed")).expect("link");
    let request = PackRequest { stop: Tid::MAX, gc: Some(false) };
    Arc::clone(&t.storage).pack(&request, &mut Host::default()).expect("pack");
    assert_eq!(std::fs::read(&precious).expect("read"), b"precious");
    assert_eq!(files(&base(&t)).len(), 1, "the first revision is gone");
}
