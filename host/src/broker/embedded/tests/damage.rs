//! What is left after a crash, and after worse.

use super::*;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};

fn write_at(file: &Path, at: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Ten messages, each in a commit of its own.
async fn ten(directory: &Directory) -> (PathBuf, PathBuf) {
    let broker = directory.open();
    for number in 0..10 {
        publish(&broker, number.to_string()).await;
    }
    (directory.0.join("messages.db"), directory.0.join("messages.db-wal"))
}

/// What comes, without acknowledging it.
async fn all_of(source: &mut Box<dyn Source>) -> Vec<String> {
    let mut held = Vec::new();
    while let Ok(taken) = tokio::time::timeout(QUIET / 3, source.next()).await {
        held.push(taken.unwrap());
    }
    held.into_iter().map(|taken| taken.message.id).collect()
}

async fn ids_of(broker: &Embedded, name: &str) -> Vec<String> {
    let mut source = broker.consume(&subscription(name)).await.unwrap();
    all_of(&mut source).await
}

#[tokio::test]
async fn garbage_behind_the_log_is_no_message() {
    let directory = Directory::new("garbage");
    let (_, log) = ten(&directory).await;
    let end = std::fs::metadata(&log).unwrap().len();
    assert!(end > 0, "what was confirmed is in the log");
    write_at(&log, end, &[0x5a; 7000]);
    let broker = directory.open();
    assert_eq!(ids_of(&broker, "all").await.len(), 10);
    publish(&broker, "and on").await;
    drop(broker);
    assert_eq!(ids_of(&directory.open(), "all").await.len(), 11);
}

#[tokio::test]
async fn a_torn_log_has_all_that_was_confirmed_before_the_tear() {
    let directory = Directory::new("torn");
    let (file, log) = ten(&directory).await;
    let (file_bytes, log_bytes) = (std::fs::read(&file).unwrap(), std::fs::read(&log).unwrap());
    let mut seen = Vec::new();
    for part in [3, 10, 30, 60, 90, 97, 100] {
        std::fs::write(&file, &file_bytes).unwrap();
        // As after a crash in the middle of a write: the end is missing, or not what was meant.
        let cut = log_bytes.len() * part / 100;
        let mut torn = log_bytes[..cut].to_vec();
        torn.extend(std::iter::repeat_n(0, if part % 2 == 0 { 0 } else { log_bytes.len() - cut }));
        std::fs::write(&log, torn).unwrap();
        let ids = ids_of(&directory.open(), "all").await;
        let expected: Vec<_> = (0..ids.len()).map(|number| number.to_string()).collect();
        assert_eq!(ids, expected, "all up to the tear, whole and in order");
        seen.push(ids.len());
    }
    assert!(seen.is_sorted() && seen.last() == Some(&10) && seen.contains(&9), "{seen:?}");
}

#[tokio::test]
async fn a_damaged_file_is_told_and_no_crash() {
    let directory = Directory::new("damaged");
    let (file, log) = ten(&directory).await;
    let broker = directory.open();
    // All of it is in the file then.
    on_writer(&broker, |store| store.empty_log().unwrap()).await;
    drop(broker);
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(std::fs::metadata(&log).map_or(0, |log| log.len()), 0);

    write_at(&file, 0, &[0xa5; 100]);
    let error = Embedded::open(&directory.0).unwrap_err();
    assert!(error.contains("damaged") && error.contains("move it away") && error.contains("messages.db"), "{error}");

    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let error = Embedded::open(&directory.0).unwrap_err();
    assert!(error.contains("damaged"), "{error}");

    // Somewhere inside: at the opening, or when it is read, but always told.
    for page in 1..whole.len() / 4096 {
        let _ = std::fs::remove_file(&log);
        std::fs::write(&file, &whole).unwrap();
        write_at(&file, page as u64 * 4096, &[0xa5; 4096]);
        let broker = match Embedded::open(&directory.0) {
            Ok(broker) => broker,
            Err(error) => {
                assert!(error.contains("damaged") || error.contains("malformed"), "{error}");
                continue;
            }
        };
        let consumed = match broker.consume(&subscription("all")).await {
            Ok(mut source) => all_of(&mut source).await.len(),
            Err(error) => {
                assert!(error.message.contains("damaged"), "{error}");
                continue;
            }
        };
        assert!(consumed == 10 || broker.trouble().is_some(), "page {page}: {consumed} messages, and nobody knows why");
    }
}

#[tokio::test]
async fn what_is_not_weirs_is_left_alone() {
    let directory = Directory::new("other");
    std::fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join("messages.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE mail (text TEXT)").unwrap();
    drop(other);
    let error = Embedded::open(&directory.0).unwrap_err();
    assert!(error.contains("another program") && error.contains("another directory"), "{error}");

    std::fs::remove_file(&file).unwrap();
    let broker = directory.open();
    on_writer(&broker, |store| store.tell("PRAGMA user_version = 9")).await;
    drop(broker);
    let error = Embedded::open(&directory.0).unwrap_err();
    assert!(error.contains("format 9"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_is_told() {
    let directory = Directory::new("file");
    std::fs::write(&directory.0, b"a file").unwrap();
    let error = Embedded::open(&directory.0.join("below")).unwrap_err();
    assert!(error.contains("cannot make the directory") && error.contains("below"), "{error}");
    std::fs::remove_file(&directory.0).unwrap();
}
