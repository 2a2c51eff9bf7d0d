//! Which segments a bounded deletion may take whole, and which it must unpack first. Pure.

use crate::protocol::Seq;

/// Segments looked at in one step of a deletion.
pub(super) const STEP: i64 = 64;

/// A segment without its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first_seq: Seq,
    pub(super) last_seq: Seq,
    pub(super) op_count: usize,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This segment can't go whole: turn it into rows and ask again.
    Unpack(Span),
    /// These segments go whole, and then rows.
    Delete {
        /// By their last sequences.
        segments: Vec<Seq>,
        /// Operations in them.
        ops: usize,
        /// Rows up to here may go too, as far as the limit allows.
        rows_up_to: Seq,
    },
}

/// Plans the deletion of at most `limit` operations with `after < seq ≤ up_to`. `spans` are the first [`STEP`] segments
/// that overlap that range, ascending.
pub(super) fn next_step(spans: &[Span], after: Seq, up_to: Seq, limit: usize) -> Step {
    let (mut segments, mut ops, mut rows_up_to) = (Vec::new(), 0, up_to);
    for span in spans {
        let fits_never = span.first_seq <= after || span.last_seq > up_to || span.op_count > limit;
        if fits_never && segments.is_empty() {
            return Step::Unpack(*span);
        }
        if fits_never || ops + span.op_count > limit {
            rows_up_to = span.first_seq - 1;
            break;
        }
        ops += span.op_count;
        segments.push(span.last_seq);
    }
    if segments.len() == spans.len() && i64::try_from(spans.len()).is_ok_and(|count| count >= STEP) {
        // There may be more segments behind these.
        rows_up_to = spans.last().map_or(up_to, |span| span.last_seq);
    }
    Step::Delete { segments, ops, rows_up_to }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first_seq: Seq, last_seq: Seq) -> Span {
        Span { first_seq, last_seq, op_count: usize::try_from(last_seq - first_seq + 1).unwrap() }
    }

    #[test]
    fn what_straddles_a_border_or_exceeds_the_limit_is_unpacked() {
        assert_eq!(next_step(&[span(1, 4)], 1, 9, 100), Step::Unpack(span(1, 4)));
        assert_eq!(next_step(&[span(8, 12)], 1, 9, 100), Step::Unpack(span(8, 12)));
        assert_eq!(next_step(&[span(2, 9)], 1, 9, 7), Step::Unpack(span(2, 9)));
    }

    #[test]
    fn whole_segments_go_as_far_as_the_limit_allows() {
        let spans = [span(2, 4), span(5, 7), span(9, 12)];
        let delete = |segments: &[Seq], ops, rows_up_to| Step::Delete { segments: segments.to_vec(), ops, rows_up_to };
        assert_eq!(next_step(&spans, 1, 20, 100), delete(&[4, 7, 12], 10, 20));
        assert_eq!(next_step(&spans, 1, 20, 6), delete(&[4, 7], 6, 8));
        assert_eq!(next_step(&spans, 1, 11, 100), delete(&[4, 7], 6, 8), "the last one straddles");
        assert_eq!(next_step(&[], 1, 11, 100), delete(&[], 0, 11));
        let many: Vec<Span> = (0..STEP).map(|n| span(n + 2, n + 2)).collect();
        let Step::Delete { rows_up_to, .. } = next_step(&many, 1, 1000, 100) else { panic!("all go whole") };
        assert_eq!(rows_up_to, STEP + 1, "what follows has not been looked at");
    }
}
