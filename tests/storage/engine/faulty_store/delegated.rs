//! The calls that never fail here: handed on, and counted where that matters.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use supersync::protocol::{Seq, StoredOp, UserId};
use supersync::store::adopt::{AdoptOutcome, AdoptStore, AdoptionRow, Portion, Resident};
use supersync::store::backup::{BackupStore, LoadOutcome, Piece};
use supersync::store::doctor::{NextRows, NumbersBehind, Orphans, Selection, VitalSigns};
use supersync::store::{
    AccountOverview, AccountStore, AddressChange, ArchiveStore, ArchivedRange, Authentication, Ceremony, Challenge,
    Charge, DatabaseFacts, DoctorStore, DueBefore, DueRows, FailureRule, GaugeStore, Holdings, InviteRow, KindUsage,
    KnownTime, LinkPace, LoginStanding, NewInvite, NewPasskey, NewUser, OlderTokens, OneTimeToken, OverviewStore,
    Parts, PasskeyRow, PasskeyUse, PeekedVerification, PoolUse, RecountStore, Result, RetentionRow, RetentionStore,
    SchemaDifference, SecurityEvent, SecurityStore, SessionId, SessionRow, SessionSeen, SessionStore, SignInStore,
    SignOut, SocketTicket, StagedPart, Standing, TableSize, TakenChallenge, TestStore, TokenPurpose, UndoLink, Unique,
    UsageStore, UserRow, VerificationLink,
};
use tokio::sync::mpsc;

use super::FaultyStore;

#[async_trait]
impl ArchiveStore for FaultyStore {
    async fn begin_staging(&self, user: UserId, range: &ArchivedRange) -> Result<bool> {
        self.inner.begin_staging(user, range).await
    }
    async fn stage(&self, user: UserId, part: StagedPart) -> Result<bool> {
        self.inner.stage(user, part).await
    }
    async fn abandon_staged(&self, user: UserId, staged_from: Seq) -> Result<bool> {
        self.inner.abandon_staged(user, staged_from).await
    }
}

#[async_trait]
impl RecountStore for FaultyStore {
    async fn charges(&self, after: UserId, up_to: UserId, limit: usize) -> Result<Vec<Charge>> {
        self.count();
        self.inner.charges(after, up_to, limit).await
    }
    async fn correct_charge(&self, user: UserId, revision: i64, bytes: i64) -> Result<bool> {
        self.count();
        self.inner.correct_charge(user, revision, bytes).await
    }
}

#[async_trait]
impl UsageStore for FaultyStore {
    async fn largest_accounts(&self, limit: usize) -> Result<Vec<UserId>> {
        self.count();
        self.inner.largest_accounts(limit).await
    }
    async fn parts(&self) -> Result<Parts> {
        self.count();
        self.inner.parts().await
    }
    async fn table_sizes(&self, read_at_most: i64) -> Result<Option<Vec<TableSize>>> {
        self.count();
        self.inner.table_sizes(read_at_most).await
    }
    async fn next_accounts(&self, after: UserId, limit: usize) -> Result<Option<(UserId, i64)>> {
        self.count();
        self.inner.next_accounts(after, limit).await
    }
    async fn kinds(&self, after: UserId, up_to: UserId, since: [i64; 3]) -> Result<Vec<KindUsage>> {
        self.count();
        self.inner.kinds(after, up_to, since).await
    }
    async fn kinds_of_newest(&self, accounts: usize, each: usize, since: [i64; 3]) -> Result<Vec<KindUsage>> {
        self.count();
        self.inner.kinds_of_newest(accounts, each, since).await
    }
    async fn packed_growth(&self, since: [i64; 3]) -> Result<[i64; 3]> {
        self.count();
        self.inner.packed_growth(since).await
    }
}

#[async_trait]
impl RetentionStore for FaultyStore {
    async fn retention_rows(&self, after: UserId, limit: usize) -> Result<Vec<RetentionRow>> {
        self.count();
        self.inner.retention_rows(after, limit).await
    }
    async fn due_rows(&self, before: DueBefore) -> Result<DueRows> {
        self.count();
        self.inner.due_rows(before).await
    }
    async fn begin_sweep(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool> {
        self.count();
        self.inner.begin_sweep(owner, now_ms, ttl).await
    }
    async fn end_sweep(&self, owner: &str) -> Result<()> {
        self.count();
        self.inner.end_sweep(owner).await
    }
    async fn known_time(&self) -> Result<KnownTime> {
        self.count();
        self.inner.known_time().await
    }
    async fn note_right_time(&self, owner: &str, now_ms: i64) -> Result<()> {
        self.count();
        self.inner.note_right_time(owner, now_ms).await
    }
}

#[async_trait]
impl AccountStore for FaultyStore {
    async fn create_user(&self, user: &NewUser) -> Result<Option<UserId>> {
        self.count();
        self.inner.create_user(user).await
    }
    async fn user_by_email(&self, email: &str) -> Result<Option<UserRow>> {
        self.count();
        self.inner.user_by_email(email).await
    }
    async fn user_by_id(&self, id: UserId) -> Result<Option<UserRow>> {
        self.count();
        self.inner.user_by_id(id).await
    }
    async fn list_users(&self, after: UserId, limit: usize) -> Result<Vec<UserRow>> {
        self.count();
        self.inner.list_users(after, limit).await
    }
    async fn delete_user(&self, id: UserId) -> Result<bool> {
        self.count();
        self.inner.delete_user(id).await
    }
    async fn delete_all_users(&self) -> Result<()> {
        self.count();
        self.inner.delete_all_users().await
    }
    async fn set_password(&self, id: UserId, hash: &str, revoke: bool) -> Result<Option<i64>> {
        self.count();
        self.inner.set_password(id, hash, revoke).await
    }
    async fn set_verified(&self, id: UserId) -> Result<bool> {
        self.count();
        self.inner.set_verified(id).await
    }
    async fn bump_token_version(&self, id: UserId) -> Result<Option<i64>> {
        self.count();
        self.inner.bump_token_version(id).await
    }
    async fn set_quota(&self, id: UserId, bytes: i64) -> Result<bool> {
        self.count();
        self.inner.set_quota(id, bytes).await
    }
    async fn put_token(&self, token: &OneTimeToken) -> Result<()> {
        self.count();
        self.inner.put_token(token).await
    }
    async fn count_tokens(&self, user: UserId, purpose: TokenPurpose, since_ms: i64) -> Result<i64> {
        self.count();
        self.inner.count_tokens(user, purpose, since_ms).await
    }
    async fn peek_token(&self, hash: &[u8; 32], purpose: TokenPurpose) -> Result<Option<OneTimeToken>> {
        self.count();
        self.inner.peek_token(hash, purpose).await
    }
    async fn delete_expired_tokens(&self, now_ms: i64) -> Result<u64> {
        self.count();
        self.inner.delete_expired_tokens(now_ms).await
    }
}

#[async_trait]
impl SessionStore for FaultyStore {
    async fn open_session(&self, session: &SessionRow, keep: usize) -> Result<bool> {
        self.count();
        self.inner.open_session(session, keep).await
    }
    async fn replace_sessions(&self, session: &SessionRow, replaced: Option<SessionId>) -> Result<Option<i64>> {
        self.count();
        self.inner.replace_sessions(session, replaced).await
    }
    async fn standing(&self, user: UserId, session: Option<SessionId>) -> Result<Option<Standing>> {
        self.count();
        self.inner.standing(user, session).await
    }
    async fn authentication(&self, user: UserId, session: SessionId) -> Result<Option<Authentication>> {
        self.count();
        self.inner.authentication(user, session).await
    }
    async fn authenticate_session(&self, user: UserId, session: SessionId, now: &Authentication) -> Result<bool> {
        self.count();
        self.inner.authenticate_session(user, session, now).await
    }
    async fn sessions(&self, user: UserId, now_ms: i64) -> Result<Vec<SessionRow>> {
        self.count();
        self.inner.sessions(user, now_ms).await
    }
    async fn older_tokens(&self, user: UserId) -> Result<Option<OlderTokens>> {
        self.count();
        self.inner.older_tokens(user).await
    }
    async fn rename_session(&self, user: UserId, id: SessionId, name: &str) -> Result<bool> {
        self.count();
        self.inner.rename_session(user, id, name).await
    }
    async fn revoke_session(&self, user: UserId, id: SessionId) -> Result<bool> {
        self.count();
        self.inner.revoke_session(user, id).await
    }
    async fn revoke_older_tokens(&self, user: UserId, now_ms: i64) -> Result<bool> {
        self.count();
        self.inner.revoke_older_tokens(user, now_ms).await
    }
    async fn revoke_other_sessions(&self, user: UserId, others: SignOut) -> Result<u64> {
        self.count();
        self.inner.revoke_other_sessions(user, others).await
    }
    async fn touch_sessions(&self, seen: &[SessionSeen]) -> Result<()> {
        self.count();
        self.inner.touch_sessions(seen).await
    }
    async fn delete_expired_sessions(&self, now_ms: i64, limit: usize) -> Result<u64> {
        self.count();
        self.inner.delete_expired_sessions(now_ms, limit).await
    }
    async fn put_ticket(&self, ticket: &SocketTicket, keep: usize) -> Result<()> {
        self.count();
        self.inner.put_ticket(ticket, keep).await
    }
    async fn take_ticket(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<SocketTicket>> {
        self.count();
        self.inner.take_ticket(hash, now_ms).await
    }
    async fn delete_expired_tickets(&self, now_ms: i64) -> Result<u64> {
        self.count();
        self.inner.delete_expired_tickets(now_ms).await
    }
    async fn set_locked(&self, user: UserId, locked_at: Option<i64>) -> Result<bool> {
        self.count();
        self.inner.set_locked(user, locked_at).await
    }
    async fn set_admin(&self, user: UserId, is_admin: bool) -> Result<bool> {
        self.count();
        self.inner.set_admin(user, is_admin).await
    }
}

#[async_trait]
impl SecurityStore for FaultyStore {
    async fn record_security_event(
        &self,
        user: UserId,
        event: &SecurityEvent,
        joins_since_ms: Option<i64>,
        keep: usize,
    ) -> Result<()> {
        self.count();
        self.inner.record_security_event(user, event, joins_since_ms, keep).await
    }
    async fn security_events(&self, user: UserId, limit: usize) -> Result<Vec<SecurityEvent>> {
        self.count();
        self.inner.security_events(user, limit).await
    }
    async fn delete_old_security_events(&self, before_ms: i64, limit: usize) -> Result<u64> {
        self.count();
        self.inner.delete_old_security_events(before_ms, limit).await
    }
}

#[async_trait]
impl SignInStore for FaultyStore {
    async fn put_verification_link(&self, new: &VerificationLink<'_>, pace: &LinkPace) -> Result<bool> {
        self.count();
        self.inner.put_verification_link(new, pace).await
    }
    async fn peek_verification_link(&self, hash: &[u8; 32]) -> Result<Option<PeekedVerification>> {
        self.count();
        self.inner.peek_verification_link(hash).await
    }
    async fn take_verification_link(
        &self,
        hash: &[u8; 32],
        now_ms: i64,
        registrant: Option<&[u8; 32]>,
        password_hash: Option<&str>,
    ) -> Result<Option<UserId>> {
        self.count();
        self.inner.take_verification_link(hash, now_ms, registrant, password_hash).await
    }
    async fn put_link(&self, link: &OneTimeToken, new_email: Option<&str>, gap_ms: i64, most: i64) -> Result<bool> {
        self.count();
        self.inner.put_link(link, new_email, gap_ms, most).await
    }
    async fn take_login_link(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<UserRow>> {
        self.count();
        self.inner.take_login_link(hash, now_ms).await
    }
    async fn take_reset_link(&self, hash: &[u8; 32], now_ms: i64, password_hash: &str) -> Result<Option<UserId>> {
        self.count();
        self.inner.take_reset_link(hash, now_ms, password_hash).await
    }
    async fn take_recovery_link(&self, hash: &[u8; 32], now_ms: i64, key: &NewPasskey) -> Result<Unique<UserId>> {
        self.count();
        self.inner.take_recovery_link(hash, now_ms, key).await
    }
    async fn take_address_link(&self, hash: &[u8; 32], now_ms: i64, undo: &UndoLink) -> Result<Unique<AddressChange>> {
        self.count();
        self.inner.take_address_link(hash, now_ms, undo).await
    }
    async fn take_undo_link(&self, hash: &[u8; 32], now_ms: i64) -> Result<Unique<AddressChange>> {
        self.count();
        self.inner.take_undo_link(hash, now_ms).await
    }
    async fn change_password(&self, user: UserId, password_hash: &str, others: Option<SignOut>) -> Result<bool> {
        self.count();
        self.inner.change_password(user, password_hash, others).await
    }
    async fn login_standing(&self, email: &str, places: [&str; 2], now_ms: i64) -> Result<LoginStanding> {
        self.count();
        self.inner.login_standing(email, places, now_ms).await
    }
    async fn count_failed_login(&self, email: &str, place: &str, rule: &FailureRule, now_ms: i64) -> Result<()> {
        self.count();
        self.inner.count_failed_login(email, place, rule, now_ms).await
    }
    async fn forget_failed_logins(&self, email: &str, place: Option<&str>) -> Result<()> {
        self.count();
        self.inner.forget_failed_logins(email, place).await
    }
    async fn put_challenge(&self, challenge: &Challenge, most: i64) -> Result<()> {
        self.count();
        self.inner.put_challenge(challenge, most).await
    }
    async fn take_challenge(
        &self,
        value: &[u8; 32],
        ceremony: Ceremony,
        subject: &[u8; 32],
        now_ms: i64,
    ) -> Result<Option<TakenChallenge>> {
        self.count();
        self.inner.take_challenge(value, ceremony, subject, now_ms).await
    }
    async fn find_passkey(&self, credential_id: &[u8]) -> Result<Option<PasskeyRow>> {
        self.count();
        self.inner.find_passkey(credential_id).await
    }
    async fn passkeys_of(&self, user: UserId) -> Result<Vec<PasskeyRow>> {
        self.count();
        self.inner.passkeys_of(user).await
    }
    async fn add_passkey(&self, user: UserId, key: &NewPasskey, most: i64) -> Result<Unique<i64>> {
        self.count();
        self.inner.add_passkey(user, key, most).await
    }
    async fn rename_passkey(&self, user: UserId, id: i64, name: &str) -> Result<bool> {
        self.count();
        self.inner.rename_passkey(user, id, name).await
    }
    async fn remove_passkey(&self, user: UserId, id: i64) -> Result<bool> {
        self.count();
        self.inner.remove_passkey(user, id).await
    }
    async fn use_passkey(&self, id: i64, used: &PasskeyUse<'_>, now_ms: i64) -> Result<bool> {
        self.count();
        self.inner.use_passkey(id, used, now_ms).await
    }
    async fn put_invite(&self, invite: &NewInvite) -> Result<Option<i64>> {
        self.count();
        self.inner.put_invite(invite).await
    }
    async fn invites(&self, limit: usize) -> Result<Vec<InviteRow>> {
        self.count();
        self.inner.invites(limit).await
    }
    async fn delete_invite(&self, id: i64) -> Result<bool> {
        self.count();
        self.inner.delete_invite(id).await
    }
    async fn find_invite(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<InviteRow>> {
        self.count();
        self.inner.find_invite(hash, now_ms).await
    }
    async fn use_invite(&self, hash: &[u8; 32], user: UserId, now_ms: i64) -> Result<bool> {
        self.count();
        self.inner.use_invite(hash, user, now_ms).await
    }
    async fn register_invited(
        &self,
        hash: &[u8; 32],
        user: &NewUser,
        passkey: Option<&NewPasskey>,
        now_ms: i64,
    ) -> Result<Unique<UserId>> {
        self.count();
        self.inner.register_invited(hash, user, passkey, now_ms).await
    }
    async fn delete_expired_sign_in(&self, now_ms: i64, long_ago_ms: i64) -> Result<u64> {
        self.count();
        self.inner.delete_expired_sign_in(now_ms, long_ago_ms).await
    }
}

#[async_trait]
impl GaugeStore for FaultyStore {
    async fn folders(&self) -> Result<Vec<std::path::PathBuf>> {
        self.inner.folders().await
    }
    fn pools(&self) -> Vec<PoolUse> {
        self.inner.pools()
    }
    async fn holdings(&self) -> Result<Holdings> {
        self.count();
        self.inner.holdings().await
    }
}

#[async_trait]
impl OverviewStore for FaultyStore {
    async fn account_overviews(
        &self,
        search: Option<&str>,
        after: UserId,
        limit: usize,
        since_ms: i64,
    ) -> Result<Vec<AccountOverview>> {
        self.count();
        self.inner.account_overviews(search, after, limit, since_ms).await
    }
    async fn account_overview(&self, user: UserId, since_ms: i64) -> Result<Option<AccountOverview>> {
        self.count();
        self.inner.account_overview(user, since_ms).await
    }
    async fn database_facts(&self) -> Result<DatabaseFacts> {
        self.count();
        self.inner.database_facts().await
    }
}

#[async_trait]
impl BackupStore for FaultyStore {
    async fn dump(&self, to: mpsc::Sender<Piece>) -> Result<()> {
        self.count();
        self.inner.dump(to).await
    }
    async fn is_in_use(&self) -> Result<bool> {
        self.count();
        self.inner.is_in_use().await
    }
    async fn load(&self, from: mpsc::Receiver<Piece>, replace: bool) -> Result<LoadOutcome> {
        self.count();
        self.inner.load(from, replace).await
    }
}

#[async_trait]
impl DoctorStore for FaultyStore {
    async fn vital_signs(&self) -> Result<VitalSigns> {
        self.count();
        self.inner.vital_signs().await
    }
    async fn schema_differences(&self) -> Result<Vec<SchemaDifference>> {
        self.count();
        self.inner.schema_differences().await
    }
    async fn mend_schema(&self, difference: &SchemaDifference) -> Result<bool> {
        self.count();
        self.inner.mend_schema(difference).await
    }
    async fn damage(&self) -> Result<Vec<String>> {
        self.count();
        self.inner.damage().await
    }
    async fn rebuild_indexes(&self) -> Result<()> {
        self.count();
        self.inner.rebuild_indexes().await
    }
    async fn orphans(&self) -> Result<Vec<Orphans>> {
        self.count();
        self.inner.orphans().await
    }
    async fn delete_orphans(&self, table: &str) -> Result<u64> {
        self.count();
        self.inner.delete_orphans(table).await
    }
    async fn numbers_behind(&self) -> Result<Vec<NumbersBehind>> {
        self.count();
        self.inner.numbers_behind().await
    }
    async fn raise_numbers(&self, behind: NumbersBehind) -> Result<()> {
        self.count();
        self.inner.raise_numbers(behind).await
    }
    async fn overdue(&self, before_ms: i64) -> Result<i64> {
        self.count();
        self.inner.overdue(before_ms).await
    }
    async fn read_side_by_side(&self, tables: Vec<Selection>, asked: mpsc::Receiver<NextRows>) -> Result<()> {
        self.count();
        self.inner.read_side_by_side(tables, asked).await
    }
}

#[async_trait]
impl AdoptStore for FaultyStore {
    async fn is_adopting(&self) -> Result<bool> {
        self.inner.is_adopting().await
    }
    async fn adoptions(&self) -> Result<(Vec<AdoptionRow>, Vec<Resident>)> {
        self.count();
        self.inner.adoptions().await
    }
    async fn adopt(&self, from: mpsc::Receiver<Portion>, stored: Arc<AtomicU64>) -> Result<AdoptOutcome> {
        self.count();
        self.inner.adopt(from, stored).await
    }
}

#[async_trait]
impl TestStore for FaultyStore {
    async fn reset_log(&self, user: UserId) -> Result<()> {
        self.count();
        self.inner.reset_log(user).await
    }
    async fn truncate_log(&self, user: UserId, after: Seq) -> Result<u64> {
        self.count();
        self.inner.truncate_log(user, after).await
    }
    async fn newest_ops(&self, user: UserId, op_type: Option<&str>, limit: usize) -> Result<Vec<StoredOp>> {
        self.count();
        self.inner.newest_ops(user, op_type, limit).await
    }
}
