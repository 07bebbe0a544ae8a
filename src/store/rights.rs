//! What the role may do, and what it needs.

use std::fmt;

use super::{Store, StoreError};

/// Tables named in an error.
const NAMED: usize = 3;

/// What the role lacks for keeping the mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The role, quoted as SQL wants it.
    pub role: String,
    /// The owner of the schema, quoted; `None` before the first migration.
    pub owner: Option<String>,
    /// Schemas that it may not use.
    pub schemas: Vec<String>,
    /// Tables, and which of SELECT, INSERT, UPDATE and DELETE it may not do.
    pub tables: Vec<(String, Vec<String>)>,
    /// Functions that it may not execute.
    pub functions: Vec<String>,
    /// Tables of which row-level security may hide rows from it.
    pub hidden: Vec<String>,
    /// It may apply migrations: it owns every table, or there is none yet and it may create schemas.
    pub can_migrate: bool,
}

impl Rights {
    /// Whether it may do all that `run` and `sync` do with a current schema.
    pub fn suffice(&self) -> bool {
        self.schemas.is_empty()
            && self.tables.is_empty()
            && self.functions.is_empty()
            && self.hidden.is_empty()
    }

    /// The statements that grant what is missing, for the schema's owner to run.
    pub fn grants(&self) -> String {
        let role = &self.role;
        let mut statements = Vec::new();
        if !self.schemas.is_empty() || !self.tables.is_empty() {
            statements.push(format!("GRANT USAGE ON SCHEMA heymarket, heymarket_sync TO {role};"));
            statements.push(format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA heymarket, heymarket_sync TO {role};"
            ));
        }
        if !self.functions.is_empty() {
            statements.push(format!(
                "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA heymarket, heymarket_sync TO {role};"
            ));
        }
        statements.extend(
            self.hidden.iter().map(|table| format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;")),
        );
        statements.join(" ")
    }
}

impl fmt::Display for Rights {
    /// What is missing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "role {} ", self.role)?;
        let mut lacks = Vec::new();
        if !self.schemas.is_empty() {
            lacks.push(format!("may not use schema {}", self.schemas.join(", ")));
        }
        if !self.tables.is_empty() {
            let named = self.tables.iter().take(NAMED);
            let named: Vec<_> =
                named.map(|(table, missing)| format!("{} on {table}", missing.join(", "))).collect();
            let rest = match self.tables.len().saturating_sub(NAMED) {
                0 => String::new(),
                rest => format!(" and more on {rest} other tables"),
            };
            lacks.push(format!("lacks {}{rest}", named.join("; ")));
        }
        if !self.functions.is_empty() {
            lacks.push(format!("may not execute {}", self.functions.join(", ")));
        }
        if !self.hidden.is_empty() {
            lacks.push(format!("does not see all rows of {}", self.hidden.join(", ")));
        }
        f.write_str(&lacks.join(", and "))
    }
}

impl Store {
    /// What the role may do with what there is of the schema, as PostgreSQL itself judges it: grants to the role,
    /// to roles whose rights it inherits and to all, and row-level security.
    pub async fn rights(&self) -> Result<Rights, StoreError> {
        let failed = || StoreError::query("reading the role's rights");
        let role = sqlx::query!(
            r#"
            SELECT quote_ident(current_user) AS "role!",
                   has_database_privilege(current_database(), 'CREATE') AS "can_create!",
                   (SELECT quote_ident(pg_get_userbyid(nspowner)) FROM pg_namespace
                    WHERE nspname = 'heymarket_sync') AS owner,
                   coalesce((SELECT bool_and(pg_has_role(c.relowner, 'USAGE'))
                             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                             WHERE n.nspname IN ('heymarket', 'heymarket_sync') AND c.relkind IN ('r', 'p')),
                            true) AS "owns!",
                   ARRAY(SELECT nspname::text FROM pg_namespace
                         WHERE nspname IN ('heymarket', 'heymarket_sync') AND NOT has_schema_privilege(oid, 'USAGE')
                         ORDER BY 1) AS "schemas!",
                   ARRAY(SELECT format('%I.%I', n.nspname, p.proname)
                         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                         WHERE n.nspname IN ('heymarket', 'heymarket_sync')
                           AND NOT has_function_privilege(p.oid, 'EXECUTE')
                         ORDER BY 1) AS "functions!"
            "#
        )
        .fetch_one(&self.pool)
        .await
        .map_err(failed())?;
        let tables = sqlx::query!(
            r#"
            SELECT t.name AS "name!", t.missing AS "missing!", t.hidden AS "hidden!"
            FROM (
                SELECT format('%I.%I', n.nspname, c.relname) AS name,
                       ARRAY(SELECT p FROM unnest(CASE WHEN c.relname = '_migrations' THEN '{SELECT}'
                                                       ELSE '{SELECT,INSERT,UPDATE,DELETE}' END::text[]) p
                             WHERE NOT has_table_privilege(c.oid, p)) AS missing,
                       row_security_active(c.oid) AS hidden
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname IN ('heymarket', 'heymarket_sync') AND c.relkind IN ('r', 'p')
            ) t
            WHERE t.missing <> '{}' OR t.hidden
            ORDER BY 1
            "#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed())?;
        let hidden = tables.iter().filter(|table| table.hidden).map(|table| table.name.clone()).collect();
        let tables = tables.into_iter().filter(|table| !table.missing.is_empty());
        Ok(Rights {
            role: role.role,
            can_migrate: role.owns && (role.owner.is_some() || role.can_create),
            owner: role.owner,
            schemas: role.schemas,
            tables: tables.map(|table| (table.name, table.missing)).collect(),
            functions: role.functions,
            hidden,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_the_statement_that_grants_it() {
        let table = |name: &str, missing: &[&str]| {
            (name.to_owned(), missing.iter().map(|right| (*right).to_owned()).collect())
        };
        let reader = Rights {
            role: "\"BI reader\"".to_owned(),
            tables: ["a", "b", "c", "d"].map(|name| table(name, &["INSERT", "UPDATE"])).to_vec(),
            ..Rights::default()
        };
        assert!(!reader.suffice() && Rights::default().suffice());
        assert_eq!(
            reader.to_string(),
            "role \"BI reader\" lacks INSERT, UPDATE on a; INSERT, UPDATE on b; INSERT, UPDATE on c and more on 1 \
             other tables"
        );
        assert_eq!(
            reader.grants(),
            "GRANT USAGE ON SCHEMA heymarket, heymarket_sync TO \"BI reader\"; GRANT SELECT, INSERT, UPDATE, DELETE ON \
             ALL TABLES IN SCHEMA heymarket, heymarket_sync TO \"BI reader\";"
        );
    }
}
