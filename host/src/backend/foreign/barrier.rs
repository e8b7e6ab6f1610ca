//! When the holes below an id are final: a hole is an id that was drawn and is not there, because its transaction was rolled
//! back, or is still open. Whoever inserts locks the table before the id is drawn, and lets go after the commit is
//! visible. So the holes that were seen are final once all that held a lock then have ended: no clock has a say in it.

/// A transaction that holds a lock on a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Holder {
    /// The session, or the transaction where that has a name of its own.
    pub(in crate::backend) name: String,
    /// Its number, where a session has had many; none where that is not known yet.
    pub(in crate::backend) transaction: Option<u64>,
    /// Whether it is prepared for a two-phase commit: it goes on without the session that began it.
    pub(in crate::backend) is_detached: bool,
}

impl Holder {
    /// Whether it is still open, by those that are now. A transaction whose number was not known may show it later.
    fn is_still_among(&mut self, now: &[Self]) -> bool {
        let Some(found) = now.iter().find(|holder| holder.name == self.name) else { return false };
        let is_another = self.transaction.is_some() && found.transaction.is_some();
        if is_another && self.transaction != found.transaction {
            return false;
        }
        self.transaction = self.transaction.or(found.transaction);
        true
    }
}

/// See the module.
pub(super) struct Barrier {
    /// The highest id that was visible before the holders were asked for.
    pub(super) upto: i64,
    /// Who is waited for.
    pub(super) holders: Vec<Holder>,
}

impl Barrier {
    /// Leaves those that have not ended. Where one is gone, whatever is detached now may be what became of it.
    pub(super) fn look(&mut self, now: &[Holder]) {
        let before = self.holders.len();
        self.holders.retain_mut(|holder| holder.is_still_among(now));
        if self.holders.len() < before {
            for heir in now.iter().filter(|holder| holder.is_detached) {
                if !self.holders.iter().any(|holder| holder.name == heir.name) {
                    self.holders.push(heir.clone());
                }
            }
        }
    }
}

/// How many of the rows that follow an id may be read: all up to the first hole above the ids that are final.
pub(super) fn readable(ids: &[i64], after: i64, final_id: i64) -> usize {
    let mut before = after;
    let follows = |id: &&i64| {
        let follows = **id <= final_id || before.checked_add(1) == Some(**id);
        before = **id;
        follows
    };
    ids.iter().take_while(follows).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str, transaction: Option<u64>) -> Holder {
        Holder { name: name.to_owned(), transaction, is_detached: false }
    }

    #[test]
    fn rows_are_readable_up_to_the_first_open_hole() {
        assert_eq!(readable(&[], 0, 0), 0);
        assert_eq!(readable(&[1, 2, 3], 0, 0), 3);
        assert_eq!(readable(&[2, 3], 0, 0), 0, "the first row counts, too");
        assert_eq!(readable(&[2, 3, 5], 0, 2), 2);
        assert_eq!(readable(&[2, 4, 5, 7], 0, 4), 3);
        assert_eq!(readable(&[6, 7], 4, 9), 2);
        assert_eq!(readable(&[i64::MAX], i64::MAX - 1, 0), 1);
        assert_eq!(readable(&[5], i64::MAX, 0), 0);
    }

    #[test]
    fn a_barrier_waits_for_those_that_were_there_and_for_nobody_else() {
        let mut barrier =
            Barrier { upto: 9, holders: vec![holder("1", Some(7)), holder("2", None), holder("3", None)] };
        // 1 goes on with another transaction, 2 shows its number, 3 has ended, 4 is new.
        barrier.look(&[holder("1", Some(8)), holder("2", Some(9)), holder("4", Some(10))]);
        assert_eq!(barrier.holders, [holder("2", Some(9))]);
        // A number that is hidden again is the same transaction's, for all that is known.
        barrier.look(&[holder("2", None)]);
        assert_eq!(barrier.holders, [holder("2", Some(9))]);
        barrier.look(&[holder("2", Some(11))]);
        assert_eq!(barrier.holders, []);
    }

    #[test]
    fn a_barrier_waits_for_what_was_prepared_meanwhile() {
        let detached = |name: &str| Holder { is_detached: true, ..holder(name, None) };
        let mut barrier = Barrier { upto: 9, holders: vec![holder("1", None), holder("2", None)] };
        barrier.look(&[holder("1", None), holder("2", None), detached("a")]);
        assert_eq!(barrier.holders.len(), 2, "whoever was there is still there: that one is another's");
        barrier.look(&[holder("1", None), detached("a"), detached("b")]);
        assert_eq!(barrier.holders, [holder("1", None), detached("a"), detached("b")]);
        barrier.look(&[detached("b")]);
        assert_eq!(barrier.holders, [detached("b")]);
        barrier.look(&[]);
        assert_eq!(barrier.holders, []);
    }
}
