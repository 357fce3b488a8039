//! The file: its tables, and the statements that touch them.
//!
//! One table per partition, named `topic:number`, so that appending always extends the right edge of a tree (SQLite then fills its pages
//! to the brim instead of splitting them) and so that `sqlite3 log.db` shows what is there. Offsets are the integer primary key.
//!
//! The next offset of a partition is not stored: it is one more than the last record, which is therefore never deleted, or the partition's
//! first offset as long as it never had a record.

use std::{path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, config::DbConfig, params};

use super::partition::Partition;
use crate::{
    log::{Cleanup, LogError, Record},
    model::{Position, Text},
};

/// "post" in ASCII, so that `file` and we know the file as ours.
const APPLICATION_ID: i32 = 0x706f_7374;
const FORMAT: i32 = 1;

/// Bytes that are written until the write-ahead log is copied into the main file, beside the writer. Less costs more fsyncs, more makes those that
/// wait for the same disk wait longer.
pub(super) const CHECKPOINT: usize = 4 << 20;

/// Pages of the write-ahead log (64 MiB) at which a commit copies it itself. Beside a writer that never pauses, copying never reaches the end, and
/// only at its end can the write-ahead log begin anew; what is left to copy then is little.
const COMMIT_CHECKPOINT_PAGES: i32 = 16_384;

/// Pages of the write-ahead log (256 MiB) at which readers are waited for: readers that never pause would let it grow for ever.
const RESTART_PAGES: i64 = 65_536;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    retain_ms INTEGER,              -- NULL: compacted
    max_record INTEGER NOT NULL,
    first_offset INTEGER NOT NULL   -- where its partitions began: microseconds since the epoch at its creation
) STRICT;
CREATE TABLE IF NOT EXISTS commits (
    consumers TEXT NOT NULL,        -- the group
    topic TEXT NOT NULL,
    number INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (consumers, topic, number)
) STRICT, WITHOUT ROWID;
";

/// What went wrong, so that it can be told to everybody whose records were in the transaction.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub fatal: bool,
    pub text: String,
}

impl Fault {
    pub fn fatal(text: impl Into<String>) -> Fault {
        Fault { fatal: true, text: text.into() }
    }

    pub fn unavailable(text: impl Into<String>) -> Fault {
        Fault { fatal: false, text: text.into() }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Fault::unavailable(
                "the log has no room: the disk of log.data_directory is full, or log.max_size is reached; appends go on when there is room",
            ),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Fault::fatal(format!("the log's file is damaged ({error}): restore log.db in log.data_directory from a backup"))
            }
            // Two writers, or a bug: going on would overwrite what somebody else was told is stored.
            Some(ErrorCode::ConstraintViolation) => Fault::fatal(format!("the log refuses to write an offset twice ({error})")),
            _ => Fault::unavailable(format!("the log's file in log.data_directory: {error}")),
        }
    }
}

impl From<Fault> for LogError {
    fn from(fault: Fault) -> LogError {
        if fault.fatal { LogError::Fatal(fault.text) } else { LogError::Unavailable(fault.text) }
    }
}

/// Opens the file for the writer, makes it if it is missing, and brings back what a crash left in the write-ahead log.
pub(super) fn open_writer(file: &Path, max_size: Option<u64>) -> Result<Connection, Fault> {
    let db = Connection::open(file)?;
    db.busy_timeout(Duration::from_secs(5))?;
    let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if version > FORMAT || (application != 0 && application != APPLICATION_ID) {
        return Err(Fault::fatal(format!(
            "{} was written by another program or a newer posthaste (format {version}, this one knows {FORMAT}): use that one, or another log.data_directory",
            file.display()
        )));
    }
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::fatal(format!(
            "{} can not have a write-ahead log (journal mode {mode}): log.data_directory must be on a local disk",
            file.display()
        )));
    }
    // FULL: a commit returns after the write-ahead log is on the disk. NORMAL would lose acknowledged records with the power.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "wal_autocheckpoint", COMMIT_CHECKPOINT_PAGES)?;
    // A burst may make the write-ahead log larger; give it back afterwards.
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    db.pragma_update(None, "cache_size", -4096)?;
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    db.pragma_update(None, "user_version", FORMAT)?;
    db.execute_batch(SCHEMA)?;
    if let Some(bytes) = max_size {
        let page: u64 = db.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?.unsigned_abs();
        db.pragma_update(None, "max_page_count", (bytes / page).max(1) as i64)?;
    }
    db.set_prepared_statement_cache_capacity(512);
    Ok(db)
}

/// A connection that copies the write-ahead log into the main file beside the writer.
pub(super) fn open_checkpointer(file: &Path) -> Result<Connection, Fault> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // The write-ahead log must be on the disk before what it holds is written elsewhere, and the main file before it begins anew.
    db.pragma_update(None, "synchronous", "FULL")?;
    Ok(db)
}

/// Copies what is committed, as far as no reader needs the old pages; neither waits for the writer nor makes it wait.
pub(super) fn checkpoint(db: &Connection) -> Result<(), Fault> {
    Ok(db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?)
}

/// Copies the write-ahead log into the main file and begins it anew, if readers have kept the commits from doing it. Blocks for as long as they read
/// one batch.
pub(super) fn bound_wal(db: &Connection) -> Result<(), Fault> {
    let pages: i64 = db.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
    if pages > RESTART_PAGES {
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(())
}

/// A connection for a consumer or reader: it sees what is committed, and never writes.
pub(super) fn open_reader(file: &Path) -> Result<Connection, Fault> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "query_only", true)?;
    // Plans do not depend on the values that are bound, else every poll would parse its statement again because of its limit.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.pragma_update(None, "cache_size", -1024)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// A topic as it is stored.
pub(super) struct StoredTopic {
    pub name: String,
    pub partitions: u32,
    pub cleanup: Cleanup,
    pub max_record: usize,
    pub first_offset: i64,
}

pub(super) fn topics(db: &Connection) -> Result<Vec<StoredTopic>, Fault> {
    let mut statement = db.prepare("SELECT name, partitions, retain_ms, max_record, first_offset FROM topics ORDER BY id")?;
    let rows = statement.query_map([], |row| {
        Ok(StoredTopic {
            name: row.get(0)?,
            partitions: row.get(1)?,
            cleanup: match row.get::<_, Option<i64>>(2)? {
                None => Cleanup::Compact,
                Some(ms) => Cleanup::Retain(Duration::from_millis(ms.unsigned_abs())),
            },
            max_record: row.get::<_, i64>(3)?.unsigned_abs() as usize,
            first_offset: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) struct StoredCommit {
    pub group: String,
    pub topic: String,
    pub number: i32,
    pub offset: i64,
    pub metadata: String,
}

pub(super) fn commits(db: &Connection) -> Result<Vec<StoredCommit>, Fault> {
    let mut statement = db.prepare("SELECT consumers, topic, number, next_offset, metadata FROM commits")?;
    let rows = statement.query_map([], |row| {
        Ok(StoredCommit { group: row.get(0)?, topic: row.get(1)?, number: row.get(2)?, offset: row.get(3)?, metadata: row.get(4)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Makes a topic or changes the settings of one that exists; the caller commits.
pub(super) fn put_topic(db: &Connection, topic: &StoredTopic) -> Result<(), Fault> {
    let retain = match topic.cleanup {
        Cleanup::Compact => None,
        Cleanup::Retain(duration) => Some(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
    };
    db.execute(
        "INSERT INTO topics (name, partitions, retain_ms, max_record, first_offset) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (name) DO UPDATE SET retain_ms = ?3, max_record = ?4",
        params![topic.name, topic.partitions, retain, topic.max_record as i64, topic.first_offset],
    )?;
    for number in 0..topic.partitions {
        let name = &topic.name;
        db.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS \"{name}:{number}\" (
                 id INTEGER PRIMARY KEY, appended_ms INTEGER NOT NULL, key BLOB, headers BLOB, value BLOB) STRICT;"
        ))?;
        // A compacted topic finds the older records of a key, and its tombstones.
        db.execute_batch(&match topic.cleanup {
            Cleanup::Compact => format!(
                "CREATE INDEX IF NOT EXISTS \"{name}:{number}:key\" ON \"{name}:{number}\" (key) WHERE key IS NOT NULL;
                 CREATE INDEX IF NOT EXISTS \"{name}:{number}:tombstone\" ON \"{name}:{number}\" (appended_ms) WHERE value IS NULL;"
            ),
            Cleanup::Retain(_) => {
                format!("DROP INDEX IF EXISTS \"{name}:{number}:key\"; DROP INDEX IF EXISTS \"{name}:{number}:tombstone\";")
            }
        })?;
    }
    Ok(())
}

pub(super) fn put_commit(db: &Connection, group: &str, partition: &Partition, offset: i64, metadata: &str) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT INTO commits (consumers, topic, number, next_offset, metadata) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (consumers, topic, number) DO UPDATE SET next_offset = ?4, metadata = ?5",
    )?
    .execute(params![group, &*partition.name.topic, partition.name.partition, offset, metadata])?;
    Ok(())
}

/// Inserts records at `offset` and up; the caller commits.
pub(super) fn insert<'a>(
    db: &Connection,
    partition: &Partition,
    mut offset: i64,
    appended_ms: i64,
    compact: bool,
    records: impl Iterator<Item = (Option<&'a Bytes>, &'a [u8], Option<&'a Bytes>)>,
) -> Result<(), Fault> {
    let mut insert =
        db.prepare_cached(&format!("INSERT INTO {} (id, appended_ms, key, headers, value) VALUES (?1, ?2, ?3, ?4, ?5)", partition.table))?;
    let mut supersede = match compact {
        true => Some(db.prepare_cached(&format!("DELETE FROM {} WHERE key = ?1 AND id < ?2", partition.table))?),
        false => None,
    };
    for (key, headers, value) in records {
        let headers = (!headers.is_empty()).then_some(headers);
        insert.execute(params![offset, appended_ms, key.map(|key| &**key), headers, value.map(|value| &**value)])?;
        if let (Some(delete), Some(key)) = (&mut supersede, key) {
            delete.execute(params![&**key, offset])?;
        }
        offset += 1;
    }
    Ok(())
}

/// The last record of a partition: its offset and when it was appended.
pub(super) fn last(db: &Connection, partition: &Partition) -> Result<Option<(i64, i64)>, Fault> {
    let sql = format!("SELECT id, appended_ms FROM {} ORDER BY id DESC LIMIT 1", partition.table);
    Ok(db.prepare_cached(&sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// The first record at or behind an offset: its offset and when it was appended.
pub(super) fn first_from(db: &Connection, partition: &Partition, offset: i64) -> Result<Option<(i64, i64)>, Fault> {
    let sql = format!("SELECT id, appended_ms FROM {} WHERE id >= ?1 ORDER BY id LIMIT 1", partition.table);
    Ok(db.prepare_cached(&sql)?.query_row([offset], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// The lowest offset such that all records of `from..end` before it were appended before `ms`; times never fall along a partition.
pub(super) fn offset_at(db: &Connection, partition: &Partition, from: i64, end: i64, ms: i64) -> Result<i64, Fault> {
    let (mut low, mut high) = (from, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match first_from(db, partition, middle)? {
            Some((offset, appended)) if offset < high && appended < ms => low = offset + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Deletes `from..to`; the caller commits.
pub(super) fn delete_range(db: &Connection, partition: &Partition, from: i64, to: i64) -> Result<usize, Fault> {
    Ok(db.prepare_cached(&format!("DELETE FROM {} WHERE id >= ?1 AND id < ?2", partition.table))?.execute([from, to])?)
}

/// Deletes at most `limit` tombstones that are older than `before_ms`, and not the record at `last`.
pub(super) fn delete_tombstones(db: &Connection, partition: &Partition, last: i64, before_ms: i64, limit: i64) -> Result<usize, Fault> {
    let table = &partition.table;
    let sql =
        format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE value IS NULL AND appended_ms < ?1 AND id < ?2 LIMIT ?3)");
    Ok(db.prepare_cached(&sql)?.execute([before_ms, last, limit])?)
}

/// Reads records of `from..to` until there are `max` in `into` or `bytes` are used up; returns the offset to go on at.
pub(super) fn read(
    db: &Connection,
    partition: &Partition,
    from: i64,
    to: i64,
    max: usize,
    bytes: &mut usize,
    into: &mut Vec<Record>,
) -> Result<i64, Fault> {
    let room = max.saturating_sub(into.len());
    let sql =
        format!("SELECT id, appended_ms, key, headers, value FROM {} WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3", partition.table);
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![from, to, i64::try_from(room).unwrap_or(i64::MAX)])?;
    let mut next = from;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let record = record(row, partition)?;
        next = record.position.offset + 1;
        *bytes = bytes.saturating_sub(weight(&record));
        into.push(record);
        count += 1;
        if *bytes == 0 {
            return Ok(next);
        }
    }
    Ok(if count < room { to } else { next })
}

/// Bytes of memory that a record holds.
pub(super) fn weight(record: &Record) -> usize {
    const STRUCTURES: usize = 256;
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
    record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers + STRUCTURES
}

fn record(row: &Row<'_>, partition: &Partition) -> Result<Record, Fault> {
    let key = row.get_ref(2)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
    let headers = row.get_ref(3)?.as_blob_or_null().map_err(rusqlite::Error::from)?.unwrap_or_default();
    let value = row.get_ref(4)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
    // One allocation per record, shared by its parts.
    let mut buffer = BytesMut::with_capacity(key.map_or(0, <[u8]>::len) + headers.len() + value.map_or(0, <[u8]>::len));
    let mut put = |part: &[u8]| {
        buffer.extend_from_slice(part);
        buffer.split().freeze()
    };
    let position = Position { topic: partition.name.topic.clone(), partition: partition.name.partition, offset: row.get(0)? };
    Ok(Record {
        key: key.map(&mut put),
        headers: decode_headers(&put(headers))
            .ok_or_else(|| Fault::fatal(format!("the log's file is damaged: headers of {position}; restore it from a backup")))?,
        value: value.map(&mut put),
        appended_ms: row.get(1)?,
        position,
    })
}

/// Headers as they are stored: for each the lengths of name (2 bytes) and value (4 bytes), little endian, then both.
pub(super) fn encode_headers(headers: &[(Text, Bytes)]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(headers.iter().map(|(name, value)| 6 + name.len() + value.len()).sum());
    for (name, value) in headers {
        out.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value);
    }
    Some(out)
}

fn decode_headers(stored: &Bytes) -> Option<Vec<(Text, Bytes)>> {
    let mut headers = Vec::new();
    let mut rest = stored.clone();
    while !rest.is_empty() {
        let (lengths, _) = rest.split_first_chunk::<6>()?;
        let name = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
        let value = u32::from_le_bytes([lengths[2], lengths[3], lengths[4], lengths[5]]) as usize;
        let end = 6usize.checked_add(name)?.checked_add(value)?;
        if rest.len() < end {
            return None;
        }
        headers.push((Text::try_from(rest.slice(6..6 + name)).ok()?, rest.slice(6 + name..end)));
        rest = rest.slice(end..);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_come_back_as_they_were(headers in proptest::collection::vec((".{0,40}", proptest::collection::vec(any::<u8>(), 0..100)), 0..8)) {
            let headers: Vec<(Text, Bytes)> = headers.into_iter().map(|(name, value)| (Text::from(name), Bytes::from(value))).collect();
            let stored = encode_headers(&headers).expect("short");
            prop_assert_eq!(decode_headers(&Bytes::from(stored)), Some(headers));
        }

        #[test]
        fn damaged_headers_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            decode_headers(&Bytes::from(bytes));
        }
    }
}
