//! Paths that are not what they should be. Codes E001 to E004.

use crate::config::Overlay;
use std::path::Path;
use std::process::Command;

use super::super::{Diagnostics, MAX_BYTES, load};

fn refused(path: &Path) -> Diagnostics {
    match load(path, &Overlay::default(), &|_| None) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(found) => found,
    }
}

fn one(path: &Path, code: &str, message: &str, hint: &str) {
    let found = refused(path);
    assert_eq!(found.0.len(), 1, "{found}");
    assert_eq!(found.0[0].code, code);
    assert!(found.0[0].message.contains(message), "{found}");
    assert!(found.0[0].hint.as_deref().unwrap_or_default().contains(hint), "{found}");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"))
}

fn file(folder: &tempfile::TempDir, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.path().join("a.yaml");
    std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{error}"));
    path
}

#[test]
fn a_missing_file_is_named_and_init_is_suggested() {
    let folder = folder();
    one(&folder.path().join("no.yaml"), "E001", "no.yaml` does not exist", "arriero init");
    let link = folder.path().join("link.yaml");
    assert!(std::os::unix::fs::symlink("nowhere", &link).is_ok());
    one(&link, "E001", "is a link to a file that does not exist", "");
}

#[test]
fn a_folder_a_fifo_a_socket_and_a_device_are_refused_at_once() {
    let folder = folder();
    one(folder.path(), "E002", "is a directory", "name the file");
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().is_ok_and(|status| status.success()));
    one(&fifo, "E002", "is a FIFO", "regular file");
    let socket = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket);
    assert!(listener.is_ok());
    one(&socket, "E002", "is a socket", "regular file");
    one(Path::new("/dev/zero"), "E002", "is a device", "regular file");
}

#[test]
fn a_file_of_more_than_eight_mebibytes_is_refused() {
    let folder = folder();
    one(&file(&folder, &vec![b'#'; MAX_BYTES + 1]), "E003", "larger than 8 MiB", "right file");
    let path = folder.path().join("noise.yaml");
    let sparse = std::fs::File::create(&path).and_then(|file| file.set_len(50 << 20));
    assert!(sparse.is_ok());
    one(&path, "E003", "larger than 8 MiB", "right file");
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_position() {
    let folder = folder();
    let wide: Vec<u8> = super::GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = super::GOOD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for bytes in [[b"\xff\xfe".as_slice(), &wide].concat(), [b"\xfe\xff".as_slice(), &big].concat(), wide, big] {
        one(&file(&folder, &bytes), "E004", "UTF-16", "iconv");
    }
    let found = refused(&file(&folder, b"version: 1\n# \xe4\n"));
    assert_eq!((found.0[0].code, found.0[0].line, found.0[0].column), ("E004", 2, 3));
    let found = refused(&file(&folder, b"version: 1\nx: \0\n"));
    assert_eq!((found.0[0].code, found.0[0].line, found.0[0].column), ("E004", 2, 4));
    assert!(found.0[0].message.contains("NUL"));
}

#[test]
fn a_good_file_is_loaded() {
    let folder = folder();
    assert!(load(&file(&folder, super::GOOD.as_bytes()), &Overlay::default(), &|_| None).is_ok());
}
