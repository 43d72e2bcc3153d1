//! What is computed in order, as code: one pass without branches.

use cameo_abi::{KERNEL_INDEX_OUT_OF_RANGE, KERNEL_RULE_BROKEN};
use cameo_kernel::program::InOrder;

use super::body::{Frame, KernelCx};
use super::{Builder, Cmp, Elem, Ty, Val};

/// Renders it for the first share; each element needs all before it, so the others have nothing to do.
pub fn emit(b: &Builder, cx: &KernelCx, what: &InOrder, part: Val) {
    b.when(b.cmp(Cmp::Eq, part, b.i64(0)), |b| match what {
        InOrder::Compact { .. } => compact(b, cx, what),
        InOrder::Lengths { total, most, .. } => {
            let top = Frame::new(b, cx, vec![], None);
            lengths(b, cx, what, top.dim(total), top.dim(most));
        }
        InOrder::Rule { a, b: most } => {
            let top = Frame::new(b, cx, vec![], None);
            let broken = b.cmp(Cmp::Gt, top.dim(a), top.dim(most));
            b.when(broken, |b| {
                b.store(cx.status, b.i64(0), b.int(Ty::I32, i64::from(KERNEL_RULE_BROKEN)));
            });
        }
        InOrder::Number { most } => {
            let top = Frame::new(b, cx, vec![], None);
            number(b, cx, top.dim(most));
        }
    });
}

fn compact(b: &Builder, cx: &KernelCx, what: &InOrder) {
    let [flags, positions, ranks, total] = cx.ptrs[..] else {
        return;
    };
    let n = Frame::new(b, cx, vec![], None).dim(&what.n());
    let (zero, one) = (b.i64(0), b.i64(1));
    let found = b.for_(zero, n, one, &[zero], |b, i, found| {
        let found = found[0];
        // Overwritten unless the flag is set: there are never more than flags so far.
        b.store(positions, found, i);
        b.store(ranks, i, found);
        let flag = b.load(flags, Elem::I8, i, 0);
        let set = b.cmp(Cmp::Ne, flag, b.int(Ty::I8, 0));
        vec![b.add(found, b.select(set, one, zero))]
    });
    b.store(total, zero, found[0]);
}

fn number(b: &Builder, cx: &KernelCx, most: Val) {
    let [given, checked] = cx.ptrs[..] else {
        return;
    };
    let zero = b.i64(0);
    let number = b.load(given, Elem::I64, zero, 0);
    let legal = b.max(b.min(number, most), zero);
    b.store(checked, zero, legal);
    fail_unless_zero(b, cx, b.sub(legal, number));
}

fn lengths(b: &Builder, cx: &KernelCx, what: &InOrder, total: Val, most: Val) {
    let [given, checked] = cx.ptrs[..] else {
        return;
    };
    let n = Frame::new(b, cx, vec![], None).dim(&what.n());
    let (zero, one) = (b.i64(0), b.i64(1));
    let sums = b.for_(zero, n, one, &[total, zero], |b, i, sums| {
        let (left, wrong) = (sums[0], sums[1]);
        let length = b.load(given, Elem::I64, i, 0);
        let legal = b.max(b.min(length, b.min(left, most)), zero);
        b.store(checked, i, legal);
        let here = b.select(b.cmp(Cmp::Ne, legal, length), one, zero);
        vec![b.sub(left, legal), b.or(wrong, here)]
    });
    fail_unless_zero(b, cx, b.or(sums[0], sums[1]));
}

fn fail_unless_zero(b: &Builder, cx: &KernelCx, wrong: Val) {
    let zero = b.i64(0);
    b.when(b.cmp(Cmp::Ne, wrong, zero), |b| {
        b.store(cx.status, zero, b.int(Ty::I32, i64::from(KERNEL_INDEX_OUT_OF_RANGE)));
    });
}
