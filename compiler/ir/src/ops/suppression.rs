//! `NonMaxSuppression`: boxes by falling score, without those that overlap one that is taken.
//!
//! Laws: a loop over the candidates of all classes at once decides about one of each at every step, by what the steps before
//! took; the decisions are then counted as `NonZero` counts. Areas and overlaps are computed in `f32`, in the order of ONNX's
//! reference. What is not a number overlaps nothing; as a score it is above all.

use std::cmp::Ordering;

use crate::dim::COUNTED;
use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, concat, count, differ, optional, reshape, transpose};
use crate::ops::counted::{COUNT, length};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

const F32: Types = Types::of(&[DType::F32]);

pub(super) const NON_MAX_SUPPRESSION: Composed = Composed {
    schema: &Schema::new(
        "NonMaxSuppression",
        "[batch, class, box] of the boxes of each class by falling score that overlap no such box before by more than iou_threshold",
        &[
            Param::new("boxes", F32),
            Param::new("scores", F32),
            Param::new("max_output_boxes_per_class", Types::I64).group(0).optional(),
            Param::new("iou_threshold", F32).optional(),
            Param::new("score_threshold", F32).optional(),
        ],
        &[Param::new("selected_indices", Types::I64).group(0)],
        &[("center_point_box", AttrDef::Int(0)), (COUNT, AttrDef::Symbol(COUNTED))],
    ).since(10),
    build,
    eval,
};

const MOST: usize = 2;
const OVERLAP: usize = 3;
const SCORE: usize = 4;

/// Checks the operands; the extents of the scores.
fn form(cx: &Cx) -> Result<[Dim; 3], OpError> {
    length(cx.str(COUNT)?)?;
    let (boxes, scores) = (cx.fact(0)?, cx.fact(1)?);
    let ([of, boxes_each, four], [batch, classes, each]) = (boxes.shape.as_slice(), scores.shape.as_slice()) else {
        return invalid(format!("boxes {boxes} and scores {scores}"));
    };
    if differ(of, batch) || differ(boxes_each, each) || differ(four, &Dim::from(4i64)) {
        return invalid(format!("boxes {boxes} and scores {scores}"));
    }
    for i in [MOST, OVERLAP, SCORE] {
        if let Some(fact) = cx.arg(i).map(|a| a.fact)
            && (fact.rank() > 1 || fact.shape.iter().any(|d| differ(d, &Dim::ONE)))
        {
            return invalid(format!("input {i} is {fact}, no number"));
        }
    }
    if !matches!(cx.int("center_point_box")?, 0 | 1) {
        return invalid("center_point_box is 0 or 1");
    }
    Ok([batch.clone(), classes.clone(), each.clone()])
}

/// A number that may be absent.
fn scalar(g: &mut Fragment, i: usize) -> Result<Option<ValueId>, OpError> {
    g.input(i).map(|v| reshape(g, v, vec![])).transpose()
}

/// The lower and the upper end of each box on both axes, `[batch, box, 2]`.
fn ends(cx: &Cx, g: &mut Fragment) -> Result<[ValueId; 2], OpError> {
    let boxes = g.required(cx, 0)?;
    let mut columns = |from: i64| {
        let which = g.constant(Tensor::i64(&[2], [from, from + 1]));
        g.apply("Gather", &[("axis", Attr::Int(2))], &[boxes, which])
    };
    let (one, other) = (columns(0)?, columns(2)?);
    if cx.int("center_point_box")? == 0 {
        return Ok([g.binary("Min", one, other)?, g.binary("Max", one, other)?]);
    }
    let two = g.number(other, 2.0);
    let half = g.binary("Div", other, two)?;
    Ok([g.binary("Sub", one, half)?, g.binary("Add", one, half)?])
}

fn unsqueeze(g: &mut Fragment, x: ValueId, axis: i64) -> Result<ValueId, OpError> {
    g.apply("Unsqueeze", &[("axes", Attr::Dims(vec![Dim::from(axis)]))], &[x])
}

fn build(cx: &Cx, g: &mut Fragment) -> Result<Vec<ValueId>, OpError> {
    let shape = form(cx)?;
    let [batch, classes, each] = shape.clone();
    let scores = g.required(cx, 1)?;
    let attrs = [("axis", Attr::Int(2)), ("k", Attr::Dims(vec![each.clone()]))];
    let [scores, order] = g.results("TopK", &attrs, &[Some(scores), None], 2)?[..] else {
        return invalid("two results are two");
    };
    let ends = ends(cx, g)?;
    let index = unsqueeze(g, order, 3)?;
    let mut in_order = |x: ValueId| g.apply("GatherND", &[("batch_dims", Attr::Int(1))], &[x, index]);
    let (low, high) = (in_order(ends[0])?, in_order(ends[1])?);
    let sides = g.binary("Sub", high, low)?;
    let area = g.reduce("ReduceProd", sides, &[3], false)?;
    let no = g.constant(Tensor::bool(&[], [false]));
    let open = match scalar(g, SCORE)? {
        Some(least) => g.binary("Greater", scores, least)?,
        None => {
            let yes = g.constant(Tensor::bool(&[], [true]));
            g.apply("Expand", &[("shape", Attr::Dims(shape.to_vec()))], &[yes])?
        }
    };
    let most = match scalar(g, MOST)? {
        Some(most) => most,
        None => g.constant(Tensor::i64(&[], [0])),
    };
    let overlap = match scalar(g, OVERLAP)? {
        Some(overlap) => overlap,
        None => g.number(scores, 0.0),
    };
    let kept = g.apply("Expand", &[("shape", Attr::Dims(shape.to_vec()))], &[no])?;
    let zero = g.constant(Tensor::i64(&[], [0]));
    let taken = g.apply("Expand", &[("shape", Attr::Dims(vec![batch, classes]))], &[zero])?;
    let steps = count(g, &each)?;

    let mut step = Fragment::empty("suppress");
    let operands = [kept, taken, steps, low, high, area, open, most, overlap];
    let inner = operands.map(|v| {
        let shape = if v == steps { vec![] } else { g.fact(v).shape.clone() };
        step.operand(Fact::new(g.dtype(v), shape))
    });
    let next = decided(&mut step, inner, &each)?;
    let kept = g.scan(step, &next, [2, 1], &each, &operands)?[0];

    let flat = vec![Dim::product(&shape)];
    let (kept, order) = (reshape(g, kept, flat.clone())?, reshape(g, order, flat)?);
    let attrs = [(COUNT, Attr::Str(cx.str(COUNT)?.into()))];
    let at = g.results("cameo::Compact", &attrs, &[Some(kept)], 2)?[0];
    let rows = |n: i64| [("axis", Attr::Int(n))];
    let number = g.apply("Gather", &rows(0), &[order, at])?;
    let number = unsqueeze(g, number, 0)?;
    let all = g.apply("cameo::Unravel", &[("shape", Attr::Dims(shape.to_vec()))], &[at])?;
    let which = g.constant(Tensor::i64(&[2], [0, 1]));
    let classes = g.apply("Gather", &rows(0), &[all, which])?;
    let columns = concat(g, &[classes, number], 0)?;
    Ok(vec![transpose(g, columns, &[1, 0])?])
}

/// What is kept and how many are, after the decision about the candidates of this step.
fn decided(s: &mut Fragment, operands: [ValueId; 9], each: &Dim) -> Result<Vec<ValueId>, OpError> {
    let [kept, taken, now, low, high, area, open, most, limit] = operands;
    let along = [("axis", Attr::Int(2))];
    let mut this = |x: ValueId| s.apply("Gather", &along, &[x, now]);
    let (this_low, this_high, this_area, open) = (this(low)?, this(high)?, this(area)?, this(open)?);
    let (this_low, this_high) = (unsqueeze(s, this_low, 2)?, unsqueeze(s, this_high, 2)?);
    let this_area = unsqueeze(s, this_area, 2)?;
    let (from, to) = (s.binary("Max", low, this_low)?, s.binary("Min", high, this_high)?);
    let sides = s.binary("Sub", to, from)?;
    let (least, common) = (
        s.reduce("ReduceMin", sides, &[3], false)?,
        s.reduce("ReduceProd", sides, &[3], false)?,
    );
    let union = s.binary("Add", area, this_area)?;
    let union = s.binary("Sub", union, common)?;
    let (zero, one) = (s.number(area, 0.0), s.number(area, 1.0));
    // Divided by what is positive only.
    let sound = s.binary("Greater", union, zero)?;
    let divisor = s.apply("Where", &[], &[sound, union, one])?;
    let share = s.binary("Div", common, divisor)?;
    let mut over = s.binary("Greater", share, limit)?;
    over = s.binary("And", over, sound)?;
    for positive in [least, common, area, this_area] {
        let positive = s.binary("Greater", positive, zero)?;
        over = s.binary("And", over, positive)?;
    }
    let over = s.binary("And", over, kept)?;
    let over = s.reduce("ReduceMax", over, &[2], false)?;
    let (free, room) = (s.unary("Not", over)?, s.binary("Less", taken, most)?);
    let take = s.binary("And", open, free)?;
    let take = s.binary("And", take, room)?;
    let numbers = count(s, each)?;
    let here = s.binary("Equal", numbers, now)?;
    let column = unsqueeze(s, take, 2)?;
    let here = s.binary("And", column, here)?;
    let one = s.cast(take, DType::I64)?;
    Ok(vec![s.binary("Or", kept, here)?, s.binary("Add", taken, one)?])
}

fn eval(cx: &Cx) -> Result<Vec<Tensor>, OpError> {
    form(cx)?;
    let (boxes, scores) = (cx.tensor(0)?, cx.tensor(1)?);
    let centered = cx.int("center_point_box")? != 0;
    let number = |i: usize| Ok(optional(cx, i)?.and_then(|t| t.to_f32().first().copied()));
    let (limit, least) = (number(OVERLAP)?.unwrap_or(0.0), number(SCORE)?);
    let most = optional(cx, MOST)?.and_then(|t| t.to_i64().first().copied());
    let most = usize::try_from(most.unwrap_or(0)).unwrap_or(0);
    let (classes, each) = (scores.shape()[1], scores.shape()[2]);
    let (boxes, scores) = (boxes.to_f32(), scores.to_f32());
    let mut out = vec![];
    for row in 0..scores.len() / each.max(1) {
        let batch = row / classes;
        let ends = |i: usize| Ends::of(&boxes[(batch * each + i) * 4..][..4], centered);
        let score = |i: usize| scores[row * each + i];
        let mut order: Vec<usize> = (0..each).collect();
        order.sort_by(|a, b| falling(score(*a), score(*b)));
        let mut kept: Vec<usize> = vec![];
        for i in order {
            let free = || kept.iter().all(|k| !ends(i).over(&ends(*k), limit));
            if kept.len() < most && least.is_none_or(|l| score(i) > l) && free() {
                kept.push(i);
                out.extend([batch as i64, (row % classes) as i64, i as i64]);
            }
        }
    }
    Ok(vec![Tensor::i64(&[out.len() / 3, 3], out)])
}

/// The larger first, what is no number before all.
fn falling(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// A box: its lower and upper end on both axes.
struct Ends([(f32, f32); 2]);

impl Ends {
    fn of(v: &[f32], centered: bool) -> Self {
        Self([0, 1].map(|axis| {
            let (a, b) = (v[axis], v[axis + 2]);
            match centered {
                true => (a - b / 2.0, a + b / 2.0),
                // `min` and `max` would take the number of a pair.
                false if a.is_nan() || b.is_nan() => (f32::NAN, f32::NAN),
                false => (a.min(b), a.max(b)),
            }
        }))
    }

    fn area(&self) -> f32 {
        self.0.iter().map(|(low, high)| high - low).product()
    }

    /// Whether the two share more than `limit` of what they cover.
    fn over(&self, other: &Self, limit: f32) -> bool {
        let both = || self.0.iter().zip(&other.0);
        if both().any(|(a, b)| [a.0, a.1, b.0, b.1].iter().any(|v| v.is_nan())) {
            return false;
        }
        let sides = both().map(|(a, b)| a.1.min(b.1) - a.0.max(b.0));
        let sides: Vec<f32> = sides.collect();
        let (common, areas) = (sides.iter().product::<f32>(), [self.area(), other.area()]);
        let union = areas[0] + areas[1] - common;
        let positive = sides.iter().chain(&areas).chain([&common, &union]).all(|v| *v > 0.0);
        positive && common / union > limit
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::samples::{eval, in_both_meanings, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn attrs(centered: i64) -> [(&'static str, Attr); 2] {
        [
            ("center_point_box", Attr::Int(centered)),
            ("count", Attr::Str("count.n".into())),
        ]
    }

    fn number(v: f32) -> Option<Tensor> {
        Some(Tensor::f32(&[1], [v]))
    }

    fn most(n: i64) -> Option<Tensor> {
        Some(Tensor::i64(&[1], [n]))
    }

    #[test]
    fn loops() {
        for (batch, classes, each) in [(2, 3, 7), (1, 1, 1), (2, 2, 0), (2, 0, 3)] {
            // Boxes that share much, some without area, and scores that are equal.
            let boxes = || sample(DType::F32, &[batch, each, 4], 1);
            let scores = sample(DType::I8, &[batch, classes, each], 2).map(|t| t.to_f64());
            let scores = || {
                scores
                    .clone()
                    .map(|v| Tensor::from_f64(DType::F32, &[batch, classes, each], v))
            };
            for centered in [0, 1] {
                for limit in [0.0, 0.1, 0.5] {
                    let inputs = [boxes(), scores(), most(2), number(limit), number(0.5)];
                    for given in [2, 3, 4, 5] {
                        in_both_meanings("NonMaxSuppression", &attrs(centered), &inputs[..given], 1);
                    }
                }
                let inputs = [boxes(), scores(), most(9), None, number(-9.0)];
                in_both_meanings("NonMaxSuppression", &attrs(centered), &inputs, 1);
                let scalar = Some(Tensor::i64(&[], [-1]));
                in_both_meanings("NonMaxSuppression", &attrs(centered), &[boxes(), scores(), scalar], 1);
            }
        }
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let boxes = [
            0.0, 0.0, 1.0, nan, -inf, 0.0, inf, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, nan, 1.0, 0.0, 0.0, 1.0, 1.0,
        ];
        let scores = [1.0, nan, -0.0, 0.0, inf];
        for least in [None, number(-1.0)] {
            let boxes = Some(Tensor::f32(&[1, 5, 4], boxes));
            let scores = Some(Tensor::f32(&[1, 1, 5], scores));
            let inputs = [boxes, scores, most(5), number(0.5), least];
            let given = if inputs[4].is_none() { 4 } else { 5 };
            in_both_meanings("NonMaxSuppression", &attrs(0), &inputs[..given], 1);
        }
    }

    const SCORES: [f32; 6] = [0.9, 0.75, 0.6, 0.95, 0.5, 0.3];

    /// What is selected of boxes of those corners or centers, batch by batch and class by class.
    fn selected(boxes: &[[f32; 4]], shape: [usize; 3], n: i64, least: f32, centered: i64) -> Vec<i64> {
        let [batch, classes, each] = shape;
        let boxes = (0..batch).flat_map(|_| boxes.iter().flatten().copied());
        let scores = (0..batch * classes).flat_map(|_| SCORES[..each].iter().copied());
        let inputs = [
            Some(Tensor::f32(&[batch, each, 4], boxes)),
            Some(Tensor::f32(&shape, scores)),
            most(n),
            number(0.5),
            number(least),
        ];
        in_both_meanings("NonMaxSuppression", &attrs(centered), &inputs, 1);
        eval("NonMaxSuppression", &attrs(centered), &inputs, 1)[0].to_i64()
    }

    #[test]
    fn values() {
        let row = |at: f32| [0.0, at, 1.0, at + 1.0];
        let boxes = [0.0, 0.1, -0.1, 10.0, 10.1, 100.0].map(row);
        let one = [1, 1, 6];
        assert_eq!(selected(&boxes, one, 3, 0.0, 0), [0, 0, 3, 0, 0, 0, 0, 0, 5]);
        assert_eq!(selected(&boxes, one, 3, 0.4, 0), [0, 0, 3, 0, 0, 0]);
        assert_eq!(selected(&boxes, one, 2, 0.0, 0), [0, 0, 3, 0, 0, 0]);
        assert_eq!(
            selected(&boxes, [1, 2, 6], 2, 0.0, 0),
            [0, 0, 3, 0, 0, 0, 0, 1, 3, 0, 1, 0]
        );
        assert_eq!(
            selected(&boxes, [2, 1, 6], 2, 0.0, 0),
            [0, 0, 3, 0, 0, 0, 1, 0, 3, 1, 0, 0]
        );
        let flipped = boxes.map(|[a, b, c, d]| [c, d, a, b]);
        assert_eq!(selected(&flipped, one, 3, 0.0, 0), [0, 0, 3, 0, 0, 0, 0, 0, 5]);
        let centers = [0.5, 0.6, 0.4, 10.5, 10.6, 100.5].map(|at| [0.5, at, 1.0, 1.0]);
        assert_eq!(selected(&centers, one, 3, 0.0, 1), [0, 0, 3, 0, 0, 0, 0, 0, 5]);
        assert_eq!(selected(&[[0.0, 0.0, 1.0, 1.0]], [1, 1, 1], 3, 0.0, 0), [0, 0, 0]);
        assert_eq!(selected(&[[0.0, 0.0, 1.0, 1.0]; 6], one, 3, 0.0, 0), [0, 0, 3]);
    }

    #[test]
    fn what_is_shared_may_be_the_limit() {
        let boxes = Some(Tensor::f32(&[1, 2, 4], [0.0, 0.0, 1.0, 1.0, 0.5, 0.5, 1.5, 1.5]));
        let scores = Some(Tensor::f32(&[1, 1, 2], [0.9, 0.8]));
        let at = |limit| {
            let inputs = [boxes.clone(), scores.clone(), most(3), number(limit), number(0.0)];
            in_both_meanings("NonMaxSuppression", &attrs(0), &inputs, 1);
            eval("NonMaxSuppression", &attrs(0), &inputs, 1)[0].shape()[0]
        };
        let exact = 0.25f32 / 1.75;
        assert_eq!((at(exact), at(exact.next_down())), (2, 1));
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let f = |s: &[i64]| Fact::new(DType::F32, s.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>());
        let refused =
            |boxes: &[i64], scores: &[i64]| infer("NonMaxSuppression", &attrs(0), &[f(boxes), f(scores)]).is_err();
        assert!(!refused(&[1, 5, 4], &[1, 2, 5]));
        assert!(refused(&[1, 5, 4], &[2, 2, 5]) && refused(&[1, 5, 4], &[1, 2, 6]));
        assert!(refused(&[1, 5, 3], &[1, 2, 5]) && refused(&[5, 4], &[2, 5]));
    }
}
