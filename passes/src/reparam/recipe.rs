//! Merged weights as constant subgraphs: recipes of the weights that the file has.

use cameo_ir::op::{OpError, invalid};
use cameo_ir::rewrite::Rewriter;
use cameo_ir::{Attr, DType, Dim, Tensor, ValueId};

use super::branch::{After, Branch, Form, Kernel, Map};
use super::window::Window;
use crate::fold_scales::reshaped;
use crate::pattern::perm_attr;

/// `Σ ± of(branch)`
pub fn sum(
    rw: &mut Rewriter,
    branches: &[&Branch],
    mut of: impl FnMut(&mut Rewriter, &Branch) -> Result<ValueId, OpError>,
) -> Result<ValueId, OpError> {
    let mut total = None;
    for b in branches {
        let v = of(rw, b)?;
        total = Some(match (total, b.negative) {
            (None, false) => v,
            (None, true) => rw.apply("Neg", &[], &[v])?,
            (Some(t), false) => rw.apply("Add", &[], &[t, v])?,
            (Some(t), true) => rw.apply("Sub", &[], &[t, v])?,
        });
    }
    total.map_or_else(|| invalid("no branches"), Ok)
}

/// The kernel of a branch with its scales, widened to `form`.
pub fn kernel(rw: &mut Rewriter, b: &Branch, form: &Form) -> Result<ValueId, OpError> {
    let identity = Form::per_channel(form.inputs, Window::identity(form.window.kernel.len()));
    let own = match &b.map {
        Map::Conv(c) => &c.form,
        _ => &identity,
    };
    let axes = own.window.kernel.len();
    let dtype = rw.fact(b.value).dtype;
    let uniform = |rw: &mut Rewriter, x: f64| {
        let shape: Vec<usize> = std::iter::once(own.outputs as usize).chain(vec![1; axes + 1]).collect();
        let ones = std::iter::repeat_n(x, own.outputs as usize);
        rw.add_weight("", Tensor::from_f64(dtype, &shape, ones))
    };
    let mut w = match &b.map {
        Map::Conv(c) => match &c.kernel {
            Kernel::Weight(w) => *w,
            Kernel::Uniform(x) => uniform(rw, *x),
            Kernel::Product(inner, outer) => product(rw, inner, outer, own)?,
        },
        _ => uniform(rw, 1.0),
    };
    for step in &b.after {
        w = match *step {
            After::Scale { op, by, axis } => {
                let mut shape = vec![];
                if axis.is_some() {
                    shape.push(Dim::from(own.outputs));
                    shape.resize(axes + 2, Dim::ONE);
                }
                let by = reshaped(rw, by, &shape)?;
                rw.apply(op, &[], &[w, by])?
            }
            After::Shift { .. } => w,
            After::Negate => rw.apply("Neg", &[], &[w])?,
        };
    }
    if matches!(&b.map, Map::Conv(c) if matches!(c.kernel, Kernel::Uniform(_))) && own.window.taps() > 1 {
        let mut shape = vec![Dim::from(own.outputs), Dim::ONE];
        shape.extend(own.window.kernel.iter().map(|k| Dim::from(*k)));
        w = rw.apply("Expand", &[("shape", Attr::Dims(shape))], &[w])?;
    }
    let w = regrouped(rw, w, own, form.group)?;
    let margins = form.window.margins(&own.window);
    if margins.iter().all(|m| *m == (0, 0)) {
        return Ok(w);
    }
    let side = |pick: fn(&(i64, i64)) -> i64| {
        let zeros = [Dim::ZERO, Dim::ZERO].into_iter();
        zeros.chain(margins.iter().map(move |m| Dim::from(pick(m))))
    };
    let pads = side(|m| m.0).chain(side(|m| m.1)).collect();
    rw.apply("Pad", &[("pads", Attr::Dims(pads))], &[w])
}

/// The kernel of `form` for `group` groups, which divide its own: blocks on diagonals, zeros elsewhere.
fn regrouped(rw: &mut Rewriter, w: ValueId, form: &Form, group: i64) -> Result<ValueId, OpError> {
    let blocks = form.group / group;
    if blocks == 1 {
        return Ok(w);
    }
    let (outputs, inputs) = (form.outputs / form.group, form.inputs / form.group);
    let taps: i64 = form.window.kernel.iter().product();
    let dtype = rw.fact(w).dtype;
    let dims = |v: &[i64]| -> Vec<Dim> { v.iter().map(|d| Dim::from(*d)).collect() };
    let unit = unit(rw, blocks, dtype)?;
    let unit = reshaped(rw, unit, &dims(&[blocks, 1, blocks, 1]))?;
    let w = reshaped(rw, w, &dims(&[group, blocks, outputs, 1, inputs * taps]))?;
    let w = rw.apply("Mul", &[], &[w, unit])?;
    let mut shape = vec![form.outputs, blocks * inputs];
    shape.extend_from_slice(&form.window.kernel);
    reshaped(rw, w, &dims(&shape))
}

/// The unit matrix.
fn unit(rw: &mut Rewriter, n: i64, dtype: DType) -> Result<ValueId, OpError> {
    let shape = Attr::Dims(vec![Dim::from(n), Dim::from(n)]);
    let zero = Attr::Tensor(Tensor::from_f64(dtype, &[1], [0.0]));
    let zeros = rw.apply("ConstantOfShape", &[("shape", shape), ("value", zero)], &[])?;
    rw.apply("EyeLike", &[], &[zeros])
}

/// The kernel of two convolutions in a row, of which one is pointwise.
fn product(rw: &mut Rewriter, inner: &Branch, outer: &Branch, form: &Form) -> Result<ValueId, OpError> {
    let (Map::Conv(first), Map::Conv(second)) = (&inner.map, &outer.map) else {
        return invalid("not a product of convolutions");
    };
    let grouped = |c: &Form| Form {
        group: form.group,
        ..c.clone()
    };
    let (first, second) = (&grouped(&first.form), &grouped(&second.form));
    let a = kernel(rw, inner, first)?;
    let b = kernel(rw, outer, second)?;
    let (g, middle) = (form.group, first.outputs / form.group);
    let taps = |f: &Form| f.window.kernel.iter().product::<i64>();
    let dims = |v: &[i64]| -> Vec<Dim> { v.iter().map(|d| Dim::from(*d)).collect() };
    let a = reshaped(rw, a, &dims(&[g, middle, form.inputs / g, taps(first)]))?;
    let b = reshaped(rw, b, &dims(&[g, form.outputs / g, middle, taps(second)]))?;
    let equation = Attr::Str("gomk,gmcl->gockl".into());
    let w = rw.apply("Einsum", &[("equation", equation)], &[b, a])?;
    let mut shape = vec![form.outputs, form.inputs / g];
    shape.extend_from_slice(&form.window.kernel);
    reshaped(rw, w, &dims(&shape))
}

/// The matrix of a branch with its scales.
pub fn matrix(rw: &mut Rewriter, b: &Branch) -> Result<ValueId, OpError> {
    let Map::MatMul(m) = &b.map else {
        return invalid("not a product with a matrix");
    };
    let mut w = match &m.kernel {
        Kernel::Weight(w) if m.transposed => rw.apply("Transpose", &[("perm", perm_attr(&[1, 0]))], &[*w])?,
        Kernel::Weight(w) => *w,
        Kernel::Product(inner, outer) => {
            let (a, b) = (matrix(rw, inner)?, matrix(rw, outer)?);
            rw.apply("MatMul", &[], &[a, b])?
        }
        Kernel::Uniform(_) => return invalid("a matrix has a weight"),
    };
    for step in &b.after {
        w = match *step {
            After::Scale { op, by, axis } => {
                let by = flat(rw, by, axis)?;
                rw.apply(op, &[], &[w, by])?
            }
            After::Shift { .. } => w,
            After::Negate => rw.apply("Neg", &[], &[w])?,
        };
    }
    Ok(w)
}

/// `Σ ± bias`, of shape `channels`; `None` when no branch has one.
pub fn bias(rw: &mut Rewriter, branches: &[&Branch], channels: &[Dim]) -> Result<Option<ValueId>, OpError> {
    let mut total = None;
    for b in branches {
        let Some(v) = constant_part(rw, b)? else { continue };
        total = Some(match (total, b.negative) {
            (None, false) => v,
            (None, true) => rw.apply("Neg", &[], &[v])?,
            (Some(t), false) => rw.apply("Add", &[], &[t, v])?,
            (Some(t), true) => rw.apply("Sub", &[], &[t, v])?,
        });
    }
    match total {
        Some(v) if rw.fact(v).shape != channels => {
            let expanded = rw.apply("Expand", &[("shape", Attr::Dims(channels.to_vec()))], &[v])?;
            Ok(Some(expanded))
        }
        total => Ok(total),
    }
}

/// What a branch adds whatever its operand is: `[]` or `[channels]`.
fn constant_part(rw: &mut Rewriter, b: &Branch) -> Result<Option<ValueId>, OpError> {
    let mut total = match (&b.map, b.map.kernel()) {
        (_, Some(Kernel::Product(inner, outer))) => product_bias(rw, inner, outer)?,
        (Map::Conv(c), _) => c.bias,
        _ => None,
    };
    for step in &b.after {
        total = match (*step, total) {
            (After::Scale { op, by, axis }, Some(t)) => {
                let by = flat(rw, by, axis)?;
                Some(rw.apply(op, &[], &[t, by])?)
            }
            (After::Shift { op, by, axis }, Some(t)) => {
                let by = flat(rw, by, axis)?;
                Some(rw.apply(op, &[], &[t, by])?)
            }
            (After::Shift { op, by, axis }, None) => {
                let by = flat(rw, by, axis)?;
                Some(match op {
                    "Sub" => rw.apply("Neg", &[], &[by])?,
                    _ => by,
                })
            }
            (After::Negate, Some(t)) => Some(rw.apply("Neg", &[], &[t])?),
            (After::Scale { .. } | After::Negate, None) => None,
        };
    }
    Ok(total)
}

/// What the inner map adds, mapped by the outer one, which does not pad it, and what that adds.
fn product_bias(rw: &mut Rewriter, inner: &Branch, outer: &Branch) -> Result<Option<ValueId>, OpError> {
    let (first, second) = (constant_part(rw, inner)?, constant_part(rw, outer)?);
    let Some(first) = first else { return Ok(second) };
    let dims = |v: &[i64]| -> Vec<Dim> { v.iter().map(|d| Dim::from(*d)).collect() };
    let spread = |rw: &mut Rewriter, n: i64| match rw.fact(first).rank() {
        0 => rw.apply("Expand", &[("shape", Attr::Dims(dims(&[n])))], &[first]),
        _ => Ok(first),
    };
    let mapped = match &outer.map {
        Map::Conv(c) => {
            let f = &c.form;
            let middle = f.inputs / f.group;
            let first = spread(rw, f.inputs)?;
            let first = reshaped(rw, first, &dims(&[f.group, middle]))?;
            let w = kernel(rw, outer, f)?;
            let taps: i64 = f.window.kernel.iter().product();
            let w = reshaped(rw, w, &dims(&[f.group, f.outputs / f.group, middle, taps]))?;
            let equation = Attr::Str("gomk,gm->go".into());
            let sums = rw.apply("Einsum", &[("equation", equation)], &[w, first])?;
            reshaped(rw, sums, &dims(&[f.outputs]))?
        }
        Map::MatMul(m) => {
            let first = spread(rw, m.inputs)?;
            let w = matrix(rw, outer)?;
            rw.apply("MatMul", &[], &[first, w])?
        }
        Map::Identity => first,
    };
    match second {
        Some(s) => Ok(Some(rw.apply("Add", &[], &[mapped, s])?)),
        None => Ok(Some(mapped)),
    }
}

/// A constant with one element, or those along `axis`, without other axes.
fn flat(rw: &mut Rewriter, c: ValueId, axis: Option<usize>) -> Result<ValueId, OpError> {
    let shape: Vec<Dim> = axis.iter().map(|_| rw.fact(c).element_count()).collect();
    reshaped(rw, c, &shape)
}
