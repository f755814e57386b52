//! A job as a row, and what is too large for one as a zstd frame of JSON.
use crate::jobs::model::{Job, State};
use crate::jobs::sqlite::failure::Failure;
use rusqlite::types::Type;
use rusqlite::{Connection, Params, Row, Statement, named_params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

/// zstd's own default: prompts are small, and kept for weeks.
const LEVEL: i32 = 3;
/// What claims to be larger is read bit by bit: the claim may be what is damaged.
const AT_ONCE: usize = 16 << 20;

/// In the order in which `job` reads them.
pub const COLUMNS: &str = "id, seq, number, priority, owner, client, workflow, digest, warmth, retry, state, \
     accepted, dispatched, started, ended, instance, generation, tries, reason, cancelled";

pub const INSERT: &str = "INSERT INTO job (id, seq, number, priority, owner, client, workflow, digest, warmth, \
     retry, state, accepted, dispatched, started, ended, duration, instance, generation, tries, reason, cancelled, bytes) \
     VALUES (:id, :seq, :number, :priority, :owner, :client, :workflow, :digest, :warmth, :retry, :state, \
     :accepted, :dispatched, :started, :ended, :duration, :instance, :generation, :tries, :reason, :cancelled, :bytes)";

/// A number of ours is a signed one there. A time or a size never comes near the sign; a hash comes back as it was.
pub fn int(number: u64) -> i64 {
    number as i64
}

pub fn uint(number: i64) -> u64 {
    number as u64
}

pub fn insert(statement: &mut Statement, job: &Job, bytes: usize) -> Result<usize, Failure> {
    let reason = job.reason.as_ref().map(text).transpose()?;
    let values = named_params! {
        ":id": job.id, ":seq": int(job.seq), ":number": job.number, ":priority": job.priority,
        ":owner": job.owner, ":client": job.client, ":workflow": job.workflow, ":digest": job.sum,
        ":warmth": int(job.warmth), ":retry": job.retry, ":state": job.state.name(),
        ":accepted": int(job.accepted), ":dispatched": job.dispatched.map(int),
        ":started": job.started.map(int), ":ended": job.ended.map(int), ":duration": duration(job.started, job.ended),
        ":instance": job.instance, ":generation": job.generation.map(int),
        ":tries": text(&job.tries)?, ":reason": reason, ":cancelled": job.cancelled, ":bytes": int(bytes as u64),
    };
    Ok(statement.execute(values)?)
}

pub fn duration(started: Option<u64>, ended: Option<u64>) -> i64 {
    started.zip(ended).map_or(0, |(started, ended)| int(ended.saturating_sub(started)))
}

pub fn job(row: &Row) -> rusqlite::Result<Job> {
    let time = |at: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(uint));
    let reason: Option<String> = row.get(18)?;
    Ok(Job {
        id: row.get(0)?,
        seq: uint(row.get(1)?),
        number: row.get(2)?,
        priority: row.get(3)?,
        owner: row.get(4)?,
        client: row.get(5)?,
        workflow: row.get(6)?,
        sum: row.get(7)?,
        warmth: uint(row.get(8)?),
        retry: row.get(9)?,
        state: state(row, 10)?,
        accepted: uint(row.get(11)?),
        dispatched: time(12)?,
        started: time(13)?,
        ended: time(14)?,
        instance: row.get(15)?,
        generation: time(16)?,
        tries: read_text(&row.get::<_, String>(17)?, 17)?,
        reason: reason.map(|reason| read_text(&reason, 18)).transpose()?,
        cancelled: row.get(19)?,
    })
}

pub fn state(row: &Row, at: usize) -> rusqlite::Result<State> {
    let name: String = row.get(at)?;
    State::of_name(&name).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, format!("there is no state {name}").into())
    })
}

pub fn text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::Wrong(format!("a job cannot be written as JSON: {e}")))
}

pub fn read_text<T: DeserializeOwned>(text: &str, at: usize) -> rusqlite::Result<T> {
    from_json(text).map_err(|e| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(e)))
}

pub struct Packer(Compressor<'static>);

impl Packer {
    pub fn new() -> std::io::Result<Packer> {
        let mut compressor = Compressor::new(LEVEL)?;
        // A frame that is damaged without being broken is seen by its sum.
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Packer(compressor))
    }

    pub fn pack(&mut self, value: &impl Serialize) -> Result<Vec<u8>, Failure> {
        let cannot = |e: &dyn std::fmt::Display| Failure::Wrong(format!("a job cannot be packed: {e}"));
        let json = serde_json::to_vec(value).map_err(|e| cannot(&e))?;
        self.0.compress(&json).map_err(|e| cannot(&e))
    }
}

pub fn unpack<T: DeserializeOwned>(frame: &[u8]) -> Result<T, Failure> {
    from_json(&unpacked(frame)?).map_err(Failure::damaged)
}

/// The JSON of what was packed.
pub fn unpacked(frame: &[u8]) -> Result<String, Failure> {
    let json = match Decompressor::upper_bound(frame) {
        Some(size) if size <= AT_ONCE => zstd::bulk::decompress(frame, size),
        _ => zstd::stream::decode_all(frame),
    };
    String::from_utf8(json.map_err(Failure::damaged)?).map_err(Failure::damaged)
}

/// Without serde_json's limit of depth, which who parsed it first has held it to: ours are wrapped once more.
pub fn from_json<T: DeserializeOwned>(json: &str) -> serde_json::Result<T> {
    let mut reader = serde_json::Deserializer::from_str(json);
    reader.disable_recursion_limit();
    let value = T::deserialize(&mut reader)?;
    reader.end().map(|()| value)
}

pub fn change(connection: &Connection, sql: &str, values: impl Params) -> Result<(), Failure> {
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}
