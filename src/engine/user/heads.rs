//! The latest operation per entity, as far as the actor knows: a cache of the heads that are stored, and the newer ones,
//! which are not stored yet.
//!
//! Storing a head costs half as much as storing the operation itself, and most are replaced soon after. So a commit
//! carries the heads of the last [`STORE_EVERY`] operations at once, each entity's newest only. What is not stored is in
//! the log: whoever takes an account up reads it there ([`crate::store::LogStore::heads_of_log`]).
//!
//! One operation may touch a thousand entities. So no commit carries much more than a slice of [`SLICE_HEADS`]: the
//! oldest operations first, each with all its heads, and the next commits carry the rest ([`slice()`]).
//!
//! In memory heads are packed ([`stamps`]), and an account's stored ones take at most [`MAX_BYTES`].

use foldhash::{HashMap, HashMapExt as _};

use self::stamps::{Place, Stamps, table_bytes};
use crate::protocol::{ClockOrdering, Seq, VectorClock};
use crate::store::{EntityHead, EntityKey};

mod stamps;

pub use self::stamps::Stamp;

/// An account with no more heads than this is loaded whole, so that new entities need no look-up.
pub const LOADED_WHOLE: usize = 2048;

/// Bytes that the stored heads of an account may take in memory. Those that were written longest ago go first.
pub const MAX_BYTES: usize = 192 * 1024;

/// By so many operations at most the stored heads lag behind the log, and one commit's. Tests reach it sooner.
pub const STORE_EVERY: Seq = if cfg!(test) { 8 } else { 256 };

/// So many heads go with one commit, and what is left of the last operation among them: some ten milliseconds.
pub const SLICE_HEADS: usize = if cfg!(test) { 6 } else { 2000 };

/// And so many bytes of clocks.
const SLICE_BYTES: usize = if cfg!(test) { 200 } else { 512 * 1024 };

/// Below this it is not worth repacking.
const SMALL_BYTES: usize = 2048;

/// The latest operation of an entity, wherever it is kept.
#[derive(Clone, Copy, Debug)]
pub enum Head<'a> {
    /// In a plan.
    Planned(&'a EntityHead),
    /// In an actor's memory.
    Packed(Stamp<'a>),
}

impl Head<'_> {
    /// Place in the log.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        match self {
            Self::Planned(head) => head.seq,
            Self::Packed(stamp) => stamp.seq,
        }
    }

    /// Who wrote it.
    #[must_use]
    pub fn client_id(&self) -> &str {
        match self {
            Self::Planned(head) => &head.client_id,
            Self::Packed(stamp) => stamp.client_id(),
        }
    }

    /// Whether it was an additive time delta.
    #[must_use]
    pub const fn is_time_delta(&self) -> bool {
        match self {
            Self::Planned(head) => head.is_time_delta,
            Self::Packed(stamp) => stamp.is_time_delta,
        }
    }

    /// How a newcomer's clock stands to its clock.
    #[must_use]
    pub fn compared_with(&self, clock: &VectorClock) -> ClockOrdering {
        match self {
            Self::Planned(head) => clock.compare(&head.clock),
            Self::Packed(stamp) => stamp.compared_with(clock),
        }
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> VectorClock {
        match self {
            Self::Planned(head) => head.clock.clone(),
            Self::Packed(stamp) => stamp.head().clock,
        }
    }
}

/// A bounded memory of stored heads that knows whether it knows all, and every newer head.
#[derive(Debug)]
pub struct HeadCache {
    heads: HashMap<EntityKey, Place>,
    stamps: Stamps,
    /// When the stamps are so heavy they are repacked: half of them may be of operations that are nobody's head any
    /// more.
    pack_at: usize,
    /// Heads of operations up to here are stored. The others are never forgotten.
    stored_to: Seq,
    /// How many others there are.
    recent: usize,
    /// Whether an absent entry means that there is no such head.
    complete: bool,
    /// Whether nothing has been loaded yet.
    unknown: bool,
}

impl HeadCache {
    /// A cache that knows nothing yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            heads: HashMap::new(),
            stamps: Stamps::default(),
            pack_at: SMALL_BYTES,
            stored_to: 0,
            recent: 0,
            complete: false,
            unknown: true,
        }
    }

    /// Whether nothing has been loaded yet.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// A cache that knows that there are no heads at all.
    #[must_use]
    pub fn of_empty_data_set() -> Self {
        Self { complete: true, unknown: false, ..Self::unknown() }
    }

    /// A cache of all stored heads of an account, or of none of them (`None`: there are too many), and of those of the
    /// operations after `stored_to`, which are not stored yet.
    #[must_use]
    pub fn loaded(
        stored: Option<Vec<(EntityKey, EntityHead)>>,
        recent: Vec<(EntityKey, EntityHead)>,
        stored_to: Seq,
    ) -> Self {
        let mut cache = Self { complete: stored.is_some(), unknown: false, stored_to, ..Self::unknown() };
        cache.take_in(stored.unwrap_or_default());
        cache.take_in(recent);
        cache.forget_old();
        cache
    }

    /// What is known of an entity: `None` = not known, `Some(None)` = it has no head.
    #[must_use]
    pub fn peek(&self, key: &EntityKey) -> Option<Option<Head<'_>>> {
        match self.heads.get(key) {
            Some(place) => Some(Some(Head::Packed(self.stamps.stamp(*place)))),
            None => self.complete.then_some(None),
        }
    }

    /// A head that is known.
    #[must_use]
    pub fn get(&self, key: &EntityKey) -> Option<EntityHead> {
        self.heads.get(key).map(|place| self.stamps.stamp(*place).head())
    }

    /// How many heads are not stored yet.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.recent
    }

    /// Which ones are not stored yet.
    pub fn recent(&self) -> impl Iterator<Item = (Seq, EntityKey)> {
        let seqs = self.heads.iter().map(|(key, place)| (self.stamps.seq(*place), *key));
        seqs.filter(|(seq, _)| self.recent > 0 && *seq > self.stored_to)
    }

    /// Whether there is too much, which can only be forgotten when it has been stored.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.recent > 0 && self.weight() > MAX_BYTES
    }

    /// Takes in the heads of operations that have been committed, and that those up to `stored_to` have been stored.
    pub fn advance(&mut self, heads: Vec<(EntityKey, EntityHead)>, stored_to: Seq) {
        // What has not been loaded will be loaded with these.
        if self.unknown {
            return;
        }
        self.take_in(heads);
        if stored_to > self.stored_to {
            self.stored_to = stored_to;
            self.recent = self.heads.values().filter(|place| self.stamps.seq(**place) > stored_to).count();
        }
        if self.stamps.weight() > self.pack_at {
            self.pack();
        }
        self.forget_old();
    }

    /// Bytes that this takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        table_bytes(self.heads.capacity(), size_of::<(EntityKey, Place)>()) + self.stamps.weight()
    }

    fn take_in(&mut self, mut heads: Vec<(EntityKey, EntityHead)>) {
        heads.sort_unstable_by_key(|(_, head)| head.seq);
        let mut last: Option<(Seq, Place)> = None;
        for (key, head) in heads {
            let place = match last {
                Some((seq, place)) if seq == head.seq => place,
                _ => self.stamps.add(&head),
            };
            last = Some((head.seq, place));
            let replaced = self.heads.insert(key, place);
            let was_recent = replaced.is_some_and(|place| self.stamps.seq(place) > self.stored_to);
            if head.seq > self.stored_to && !was_recent {
                self.recent += 1;
            }
        }
    }

    fn pack(&mut self) {
        self.stamps = self.stamps.kept(self.heads.values_mut());
        self.pack_at = SMALL_BYTES.max(2 * self.stamps.weight());
    }

    /// Forgets the older half of what is stored, until it is little enough.
    fn forget_old(&mut self) {
        while self.heads.len() > self.recent && self.weight() > MAX_BYTES {
            let seqs = self.heads.values().map(|place| self.stamps.seq(*place));
            let mut stored: Vec<Seq> = seqs.filter(|seq| *seq <= self.stored_to).collect();
            let middle = stored.len() / 2;
            let (_, newest_to_go, _) = stored.select_nth_unstable(middle);
            self.heads.retain(|_, place| self.stamps.seq(*place) > *newest_to_go);
            self.heads.shrink_to_fit();
            self.complete = false;
            self.pack();
        }
    }
}

/// Cuts what waits to be stored down to what one commit carries: the oldest operations, each with all its heads, and all
/// those up to `required`. Gives the operation up to which everything is among them; `None`: nothing was cut off.
pub fn slice(waiting: &mut Vec<(Seq, EntityKey)>, required: Seq) -> Option<Seq> {
    if waiting.len() <= SLICE_HEADS {
        return None;
    }
    let (_, (last, _), _) = waiting.select_nth_unstable_by_key(SLICE_HEADS - 1, |(seq, _)| *seq);
    let up_to = required.max(*last);
    let all = waiting.len();
    waiting.retain(|(seq, _)| *seq <= up_to);
    (waiting.len() < all).then_some(up_to)
}

/// The same by the bytes of their clocks.
pub fn slice_bytes(heads: &mut Vec<(EntityKey, EntityHead)>, required: Seq) -> Option<Seq> {
    let mut bytes = 0;
    let too_heavy = heads.iter().any(|(_, head)| {
        bytes += head.clock.weight();
        bytes > SLICE_BYTES
    });
    if !too_heavy {
        return None;
    }
    heads.sort_unstable_by_key(|(_, head)| head.seq);
    let (mut bytes, mut up_to) = (0, None);
    let cut = heads.iter().position(|(_, head)| {
        if up_to != Some(head.seq) {
            bytes += head.clock.weight();
            if bytes > SLICE_BYTES && up_to.is_some_and(|seq| seq >= required) {
                return true;
            }
            up_to = Some(head.seq);
        }
        false
    })?;
    heads.truncate(cut);
    up_to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> EntityKey {
        EntityKey::new("TASK", &n.to_string())
    }

    fn head(seq: Seq, client: &str) -> EntityHead {
        let clock = VectorClock::from_entries([(client.into(), 1), ("other".into(), 7)]);
        EntityHead { seq, client_id: client.into(), clock, is_time_delta: false }
    }

    fn heads(seqs: std::ops::Range<Seq>, client: &str) -> Vec<(EntityKey, EntityHead)> {
        seqs.map(|seq| (key(usize::try_from(seq).unwrap()), head(seq, client))).collect()
    }

    fn seq_of(cache: &HeadCache, n: usize) -> Option<Option<Seq>> {
        cache.peek(&key(n)).map(|head| head.map(|head| head.seq()))
    }

    #[test]
    fn a_head_of_the_usual_shape_takes_eighty_bytes_at_most() {
        let mut worst: f64 = 0.0;
        let mut cache = HeadCache::of_empty_data_set();
        for n in 1..=2000 {
            let clock = ["B_dK3x", "A_9f2c", "B_77qW"].map(|client| (client.into(), 1000 + u32::try_from(n).unwrap()));
            let clock = VectorClock::from_entries(clock);
            let head = EntityHead { seq: 100_000 + n, client_id: "B_dK3x".into(), clock, is_time_delta: false };
            cache.advance(vec![(key(usize::try_from(n).unwrap()), head)], 0);
            if n >= 200 {
                worst =
                    worst.max(f64::from(u32::try_from(cache.weight()).unwrap()) / f64::from(i32::try_from(n).unwrap()));
            }
        }
        assert!(worst <= 80.0, "{worst} bytes");
    }

    #[test]
    fn what_is_stored_is_forgotten_oldest_first_and_what_is_not_never() {
        let mut cache = HeadCache::of_empty_data_set();
        cache.advance(heads(1..3001, "A"), 0);
        cache.advance(heads(3001..6001, "A"), 0);
        assert_eq!((cache.waiting(), seq_of(&cache, 1)), (6000, Some(Some(1))));
        assert!(cache.is_overfull(), "so it is stored soon");
        assert_eq!(seq_of(&cache, 7000), Some(None), "all is known");
        cache.advance(Vec::new(), 4000);
        assert!(cache.weight() <= MAX_BYTES, "{} bytes", cache.weight());
        assert_eq!((cache.waiting(), seq_of(&cache, 1), seq_of(&cache, 4001)), (2000, None, Some(Some(4001))));
        assert_eq!(seq_of(&cache, 7000), None, "not any more");
        assert_eq!(cache.recent().count(), 2000);
        assert_eq!(cache.get(&key(5000)), Some(head(5000, "A")));
    }

    #[test]
    fn one_account_takes_its_share_whatever_its_clocks_look_like() {
        let mut cache = HeadCache::of_empty_data_set();
        for round in 0..200 {
            let names = (0..19).map(|n| (format!("{round}-{n}-{}", "x".repeat(240)).into(), 1));
            let clock = VectorClock::from_entries(names);
            let head = EntityHead { seq: round + 1, client_id: "A".into(), clock, is_time_delta: false };
            let all = (0..1000).map(|n| (key(usize::try_from(round).unwrap() * 1000 + n), head.clone())).collect();
            cache.advance(all, round + 1);
            assert!(cache.weight() <= MAX_BYTES, "{} bytes", cache.weight());
        }
        assert_eq!(seq_of(&cache, 199_999), Some(Some(200)), "the newest are kept");
    }

    #[test]
    fn heads_that_are_replaced_leave_nothing_behind() {
        let mut cache = HeadCache::of_empty_data_set();
        for round in 0..1000 {
            let changed = (0..10).map(|n| (key(n), head(round + 1, &format!("client-{round}")))).collect();
            cache.advance(changed, round);
        }
        assert_eq!((cache.heads.len(), cache.waiting()), (10, 10));
        assert!(cache.weight() < 8 * 1024, "{} bytes", cache.weight());
    }

    #[test]
    fn a_slice_is_whole_operations_and_everything_that_is_required() {
        let of = |seqs: &[Seq]| seqs.iter().enumerate().map(|(n, seq)| (*seq, key(n))).collect::<Vec<_>>();
        let mut few = of(&[3, 1, 2]);
        assert_eq!((slice(&mut few, 0), few.len()), (None, 3));
        let many = of(&[9, 1, 2, 7, 3, 3, 4, 5, 5, 5, 8]);
        for (required, up_to, left) in [(0, 5, 8), (7, 7, 9), (8, 8, 10)] {
            let mut waiting = many.clone();
            assert_eq!((slice(&mut waiting, required), waiting.len()), (Some(up_to), left));
        }
        let mut all = many.clone();
        assert_eq!((slice(&mut all, 9), all.len()), (None, many.len()));
    }

    #[test]
    fn long_clocks_make_a_slice_shorter() {
        let long =
            |seq| EntityHead { clock: VectorClock::from_entries([("y".repeat(60).into(), 1)]), ..head(seq, "A") };
        let heads: Vec<_> = [4, 1, 1, 2, 3].into_iter().enumerate().map(|(n, seq)| (key(n), long(seq))).collect();
        let mut cut = heads.clone();
        assert_eq!((slice_bytes(&mut cut, 0), cut.len()), (Some(1), 2));
        let mut required = heads.clone();
        assert_eq!((slice_bytes(&mut required, 3), required.len()), (Some(3), 4));
        let mut all = heads;
        assert_eq!((slice_bytes(&mut all, 4), all.len()), (None, 5));
    }
}
