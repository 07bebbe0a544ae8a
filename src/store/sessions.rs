//! Sessions with the server. Each statement has a bound on this side, too: the server's own ends nothing where the
//! server, its machine or the way to it has fallen silent, since its answer does not come then either.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, PgConnection, PgPool, Postgres, SqlStr};
use tracing::warn;

use super::{address::Address, error};

/// How long a statement may take, and how long it may take to begin or end a transaction; a little more than the
/// server lets it (`statement_timeout`), whose error says more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(65);
/// How long a session may take to be taken back: the pool asks the server whether it is still there.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections of a pool. A statement on it is bounded; so is each of a [`Transaction`].
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    pool: PgPool,
    /// Where it can be read again.
    address: Option<Arc<Address>>,
}

impl Sessions {
    pub fn of(pool: PgPool, address: Option<Arc<Address>>) -> Self {
        Self { pool, address }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A session of the pool, or a new one; the pool bounds the wait.
    pub async fn session(&self) -> sqlx::Result<Session> {
        let change = self.address.as_ref().map(|address| address.change());
        let mut acquired = self.pool.acquire().await;
        if let (Err(error), Some(address), Some(change)) = (&acquired, &self.address, change)
            && error::refuses_login(error)
            && address.is_other(change).await
        {
            acquired = self.pool.acquire().await;
        }
        let mut connection = acquired?;
        connection.close_on_drop();
        Ok(Session { connection })
    }

    /// Begins a transaction. It is undone unless it is committed.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        self.begin_with("BEGIN").await
    }

    /// The same, by these statements.
    pub async fn begin_with(&self, statements: &'static str) -> sqlx::Result<Transaction> {
        let mut session = self.session().await?;
        session.execute(sqlx::raw_sql(statements)).await?;
        Ok(Transaction { session })
    }
}

/// One session. It ends with this value unless it is given back: whoever drops it may have left it in any state.
#[derive(Debug)]
pub(super) struct Session {
    connection: PoolConnection<Postgres>,
}

impl Session {
    /// The session itself, for what is bounded as a whole.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Takes it out of the pool, which may make another one.
    pub fn detach(self) -> PgConnection {
        self.connection.detach()
    }

    /// Gives it back to the pool, in the background. Not with a transaction under way.
    pub fn release(mut self) {
        tokio::spawn(async move {
            let released = tokio::time::timeout(RELEASE_TIMEOUT, self.connection.return_to_pool());
            if released.await.is_err() {
                warn!("a session with the database has fallen silent, and was given up");
            }
        });
    }
}

/// A transaction on a session of its own. Dropped, it is undone with its session.
#[derive(Debug)]
pub(super) struct Transaction {
    session: Session,
}

impl Transaction {
    pub async fn commit(self) -> sqlx::Result<()> {
        self.end("COMMIT").await
    }

    pub async fn rollback(self) -> sqlx::Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> sqlx::Result<()> {
        self.session.execute(sqlx::raw_sql(statement)).await?;
        self.session.release();
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

/// What is done, or an error after [`ANSWER_TIMEOUT`].
async fn answered<T>(doing: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let late = |_| {
        let text = format!("the database did not answer within {} s", ANSWER_TIMEOUT.as_secs());
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))
    };
    tokio::time::timeout(ANSWER_TIMEOUT, doing).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

impl<'c> Executor<'c> for &'c mut Session {
    type Database = Postgres;

    /// Reads all results before it gives the first: they are few, and whoever reads them may wait for anything.
    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let connection = &mut *self.connection;
        stream::once(answered(connection.fetch_many(query).try_collect::<Vec<_>>()))
            .map_ok(|results| stream::iter(results.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let connection = &mut *self.connection;
        Box::pin(answered(connection.fetch_optional(query)))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        let connection = &mut *self.connection;
        Box::pin(answered(connection.prepare_with(sql, parameters)))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        let connection = &mut *self.connection;
        Box::pin(answered(connection.describe(sql)))
    }
}

impl<'c> Executor<'c> for &'c Sessions {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let results = async move {
            let mut session = self.session().await?;
            let results = session.fetch_many(query).try_collect::<Vec<_>>().await;
            give_back(session, &results);
            results
        };
        stream::once(results)
            .map_ok(|results| stream::iter(results.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut session = self.session().await?;
            let row = session.fetch_optional(query).await;
            give_back(session, &row);
            row
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let mut session = self.session().await?;
            let statement = session.prepare_with(sql, parameters).await;
            give_back(session, &statement);
            statement
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let mut session = self.session().await?;
            let described = session.describe(sql).await;
            give_back(session, &described);
            described
        })
    }
}

/// Keeps a session whose server has answered, be it by an error.
fn give_back<T>(session: Session, outcome: &sqlx::Result<T>) {
    if matches!(outcome, Ok(_) | Err(sqlx::Error::Database(_))) {
        session.release();
    }
}
