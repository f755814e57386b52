//! Assets, labels and keys: see `jobs::asset`.
use crate::jobs::asset::{Asset, CLAIMED, Claim, FindAsset, Used};
use crate::jobs::model::Time;
use crate::jobs::sqlite::failure::Failure;
use crate::jobs::sqlite::rows::{int, uint};
use crate::jobs::store::Keep;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};

type Done = Result<(), Failure>;

const COLUMNS: &str = "id, owner, hash, size, content_type, file_path, created, touched, lasts";

fn run(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> Done {
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// A new one, or the same again with what has changed.
pub fn keep(connection: &Connection, asset: &Asset) -> Done {
    let sql = "INSERT INTO asset (id, owner, hash, size, content_type, file_path, created, touched, lasts) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
               ON CONFLICT (id) DO UPDATE SET touched = excluded.touched, lasts = excluded.lasts";
    let (size, created, touched) = (int(asset.size), int(asset.created), int(asset.touched));
    let Asset { id, owner, hash, content_type, file_path, lasts, .. } = asset;
    run(
        connection,
        sql,
        params![id, owner, hash, size, content_type, file_path, created, touched, lasts.map(int)],
    )
}

/// An asset that a job needs is not deleted.
pub fn discard(connection: &Connection, id: &str) -> Done {
    if is_used(connection, id)? {
        return Err(Failure::Wrong(format!("asset {id} is needed by a job that has not ended")));
    }
    run(connection, "DELETE FROM asset WHERE id = ?1", [id])
}

pub fn note_uses(connection: &Connection, seq: u64, assets: &[(String, String)], at: Time) -> Done {
    for (asset, name) in assets {
        let found = connection
            .prepare_cached("UPDATE asset SET touched = max(touched, ?2) WHERE id = ?1")?
            .execute(params![asset, int(at)])?;
        if found == 0 {
            return Err(Failure::Wrong(format!("there is no asset {asset}")));
        }
        let sql = "INSERT INTO used (seq, asset, name, hash, size) SELECT ?1, id, ?3, hash, size FROM asset WHERE id = ?2";
        run(connection, sql, params![int(seq), asset, name])?;
    }
    Ok(())
}

pub fn note_labels<'a>(
    connection: &Connection,
    seq: u64,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
) -> Done {
    for (name, value) in labels {
        run(
            connection,
            "INSERT INTO label (seq, name, value) VALUES (?1, ?2, ?3)",
            params![int(seq), name, value],
        )?;
    }
    Ok(())
}

/// Fails where the key is another job's.
pub fn claim(connection: &Connection, claim: &Claim) -> Done {
    let Claim { owner, key, job, at } = claim;
    run(connection, "DELETE FROM claim WHERE at <= ?1", [int(at.saturating_sub(CLAIMED))])?;
    let insert = "INSERT INTO claim (owner, name, job, at) VALUES (?1, ?2, ?3, ?4)";
    run(connection, insert, params![owner, key, job, int(*at)]).map_err(|failure| match failure {
        Failure::Sqlite(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Failure::Wrong("the key is another job's".into())
        }
        other => other,
    })
}

fn asset(row: &Row) -> rusqlite::Result<Asset> {
    Ok(Asset {
        id: row.get(0)?,
        owner: row.get(1)?,
        hash: row.get(2)?,
        size: uint(row.get(3)?),
        content_type: row.get(4)?,
        file_path: row.get(5)?,
        created: uint(row.get(6)?),
        touched: uint(row.get(7)?),
        lasts: row.get::<_, Option<i64>>(8)?.map(uint),
    })
}

pub fn assets(connection: &Connection, find: &FindAsset) -> Result<Vec<Asset>, Failure> {
    let mut conditions = vec!["1 = 1".to_string()];
    let mut values: Vec<&String> = Vec::new();
    for (column, wanted) in [("id", &find.id), ("hash", &find.hash), ("owner", &find.owner)] {
        if let Some(wanted) = wanted {
            values.push(wanted);
            conditions.push(format!("{column} = ?{}", values.len()));
        }
    }
    let sql =
        format!("SELECT {COLUMNS} FROM asset WHERE {} ORDER BY created DESC, id", conditions.join(" AND "));
    let mut select = connection.prepare_cached(&sql)?;
    let found = select.query_map(rusqlite::params_from_iter(values), asset)?;
    Ok(found.collect::<Result<_, _>>()?)
}

pub fn is_used(connection: &Connection, asset: &str) -> Result<bool, Failure> {
    let sql = "SELECT 1 FROM used JOIN job ON job.seq = used.seq WHERE used.asset = ?1 AND job.ended IS NULL LIMIT 1";
    Ok(connection.prepare_cached(sql)?.exists([asset])?)
}

pub fn used_by(connection: &Connection, job: &str) -> Result<Vec<Used>, Failure> {
    let sql = "SELECT used.asset, used.hash, used.size, used.name FROM used JOIN job ON job.seq = used.seq WHERE job.id = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let read = |row: &Row| {
        Ok(Used { asset: row.get(0)?, hash: row.get(1)?, size: uint(row.get(2)?), name: row.get(3)? })
    };
    Ok(select.query_map([job], read)?.collect::<Result<_, _>>()?)
}

pub fn claimed(
    connection: &Connection,
    owner: &str,
    key: &str,
    now: Time,
) -> Result<Option<String>, Failure> {
    let sql = "SELECT job FROM claim WHERE owner = ?1 AND name = ?2 AND at > ?3";
    let values = params![owner, key, int(now.saturating_sub(CLAIMED))];
    Ok(connection.prepare_cached(sql)?.query_row(values, |row| row.get(0)).optional()?)
}

pub fn labels(connection: &Connection, seqs: &[u64]) -> Result<Vec<(u64, String, String)>, Failure> {
    let mut select =
        connection.prepare_cached("SELECT name, value FROM label WHERE seq = ?1 ORDER BY name")?;
    let mut all = Vec::new();
    for seq in seqs {
        for found in select.query_map([int(*seq)], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (name, value) = found?;
            all.push((*seq, name, value));
        }
    }
    Ok(all)
}

/// The longest untouched first, as long as one is too old, one too many or a byte too much.
pub fn expire(connection: &mut Connection, keep: &Keep, now: Time, most: u64) -> Result<u64, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut gone: Vec<String> = Vec::new();
    {
        let mut sums = transaction.prepare_cached("SELECT count(*), coalesce(sum(size), 0) FROM asset")?;
        let (mut count, mut bytes) = sums.query_row([], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
        let free = "NOT EXISTS (SELECT 1 FROM used JOIN job ON job.seq = used.seq \
                    WHERE used.asset = asset.id AND job.ended IS NULL)";
        // First whose own time is over, whenever that was; then by how long nobody has wanted it.
        let sql = format!(
            "SELECT id, size, touched + coalesce(lasts, ?1) AS until FROM asset WHERE {free} \
             ORDER BY CASE WHEN touched + coalesce(lasts, ?1) < ?2 THEN 0 ELSE 1 END, touched, id LIMIT ?3"
        );
        let mut oldest = transaction.prepare_cached(&sql)?;
        let limit = |number: u64| int(number.min(i64::MAX as u64 / 4));
        let mut rows = oldest.query(params![limit(keep.age_ms), int(now), limit(most)])?;
        while let Some(row) = rows.next()? {
            let (id, size, until): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if until >= int(now) && count <= keep.count && bytes <= keep.bytes {
                break;
            }
            gone.push(id);
            count -= 1;
            bytes = bytes.saturating_sub(uint(size));
        }
        let mut delete = transaction.prepare_cached("DELETE FROM asset WHERE id = ?1")?;
        for id in &gone {
            delete.execute([id])?;
        }
    }
    transaction.commit()?;
    Ok(gone.len() as u64)
}

pub fn unknown_hashes(connection: &Connection, hashes: &[String]) -> Result<Vec<String>, Failure> {
    // What a job still needs is known, whatever became of its record.
    let sql = "SELECT 1 WHERE EXISTS (SELECT 1 FROM asset WHERE hash = ?1) OR EXISTS (SELECT 1 FROM used \
               JOIN job ON job.seq = used.seq WHERE used.hash = ?1 AND job.ended IS NULL)";
    let mut select = connection.prepare_cached(sql)?;
    let mut unknown = Vec::new();
    for hash in hashes {
        if !select.exists([hash])? {
            unknown.push(hash.clone());
        }
    }
    Ok(unknown)
}
