//! What the old server's database must look like to be written to (operations contract, section 8.1): its head schema,
//! which the server that will be started on it expects.

use sqlx::PgConnection;

use super::{Options, Refusal};
use crate::upstream::database::{self, Needed};
use crate::upstream::schema::{Column, Found, OURS, PASSKEYS, TABLES, columns, find};

/// Columns that must be allowed to hold nothing, and the migration since which they are.
const NULLABLE: [(&str, &str, &str); 1] = [("users", "password_hash", PASSKEYS)];
/// What is done there. The sequence is read and raised at the end, when everything else is written.
const NEEDED: Needed<'_> = Needed {
    tables: &[
        ("users", &["SELECT", "INSERT", "UPDATE"]),
        ("operations", &["SELECT", "INSERT", "DELETE"]),
        ("user_sync_state", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
        ("sync_devices", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
        ("passkeys", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
        (NEVER_FILLED, &["SELECT", "DELETE"]),
    ],
    numbers: &["USAGE, SELECT", "UPDATE"],
    temporary: true,
};
/// For accounts that were deleted here.
const NEEDED_TO_DELETE: Needed<'_> = Needed { tables: &[("users", &["DELETE"])], numbers: &[], temporary: false };
/// Nothing is put into it; rows are only deleted.
const NEVER_FILLED: &str = "pending_passkey_registrations";

/// Refuses every database but one of the old server at its newest schema, in which the role may do what is to be done.
pub(super) async fn check(connection: &mut PgConnection, options: &Options) -> Result<(), Refusal> {
    judge(&database::columns(connection).await?)?;
    let counts: bool = sqlx::query_scalar(
        "SELECT COALESCE(pg_get_serial_sequence('users', 'id')::regclass, to_regclass('users_id_seq')) IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !counts {
        return Err(Refusal::NoNumbers);
    }
    let mut lacking = database::missing_rights(connection, &NEEDED).await?;
    if options.delete_missing {
        lacking.extend(database::missing_rights(connection, &NEEDED_TO_DELETE).await?);
    }
    if lacking.is_empty() { Ok(()) } else { Err(Refusal::Rights(lacking)) }
}

fn judge(found: &[Found]) -> Result<(), Refusal> {
    if find(found, OURS.0, OURS.1).is_some() {
        return Err(Refusal::Ours);
    }
    if find(found, "users", "id").is_none() || find(found, "operations", "id").is_none() {
        return Err(Refusal::NotUpstream);
    }
    let missing: Vec<_> = columns().filter(|column| find(found, column.table, column.name).is_none()).collect();
    if let Some(Column { since: migration, .. }) = missing.iter().max_by_key(|column| column.since) {
        let names = missing.iter().map(|column| format!("{}.{}", column.table, column.name)).collect::<Vec<_>>();
        return Err(Refusal::Older { missing: names.join(", "), migration });
    }
    for Column { table, name, kind, .. } in columns() {
        let Some(known) = find(found, table, name).filter(|known| known.kind != kind) else { continue };
        let (column, found) = (format!("{table}.{name}"), known.kind.clone());
        return Err(Refusal::OtherType { column, found, expected: kind });
    }
    for (table, name, migration) in NULLABLE {
        if find(found, table, name).is_some_and(|known| known.not_null) {
            let missing = format!("{table}.{name} without NOT NULL");
            return Err(Refusal::Older { missing, migration });
        }
    }
    // Written by a newer server than is known: it would find nothing in a column that it relies on.
    let newer = found.iter().find(|known| {
        known.not_null
            && !known.has_default
            && TABLES.contains(&known.table.as_str())
            && known.table != NEVER_FILLED
            && !columns().any(|column| column.table == known.table && column.name == known.name)
    });
    match newer {
        Some(known) => Err(Refusal::Newer { column: format!("{}.{}", known.table, known.name) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Vec<Found> {
        let found = |column: Column| Found {
            table: column.table.to_owned(),
            name: column.name.to_owned(),
            kind: column.kind.to_owned(),
            not_null: false,
            has_default: false,
        };
        columns().map(found).collect()
    }

    fn said(found: &[Found]) -> String {
        judge(found).expect_err("refused").to_string()
    }

    #[test]
    fn other_databases_are_told_apart() {
        assert!(said(&[]).contains("no database of the old server"));
        let mut ours = head();
        ours[0].table = "operations".to_owned();
        ours[0].name = "op_id".to_owned();
        assert!(said(&ours).contains("of this server"));
        let mut older = head();
        older.retain(|column| column.name != "latest_state_replacement_seq" && column.name != "login_token");
        let text = said(&older);
        assert!(text.contains("user_sync_state.latest_state_replacement_seq"), "{text}");
        assert!(text.contains("users.login_token") && text.contains("20260727000000"), "{text}");
        let mut strict = head();
        strict.iter_mut().filter(|column| column.name == "password_hash").for_each(|column| column.not_null = true);
        assert!(said(&strict).contains("20260102000000"));
        let mut other = head();
        other.iter_mut().filter(|column| column.name == "server_seq").for_each(|column| column.kind = "bigint".into());
        assert!(said(&other).contains("operations.server_seq"));
        let mut newer = head();
        newer.push(Found {
            table: "operations".to_owned(),
            name: "shard".to_owned(),
            kind: "integer".to_owned(),
            not_null: true,
            has_default: false,
        });
        assert!(said(&newer).contains("operations.shard"));
        assert!(judge(&head()).is_ok());
    }
}
