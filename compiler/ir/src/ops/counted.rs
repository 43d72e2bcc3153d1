//! Results as long as data says: positions of what is not zero.
//!
//! Laws: attribute `count` names a symbol that stands for the length. It is a dimension like others, but no input's shape
//! gives it: whoever runs the operation knows it afterwards. It is at most the number of elements looked at, and may be 0; that
//! its name begins with [`COUNTED`] says so wherever it is met.

use crate::dim::COUNTED;
use crate::dim::counts::Most;
use crate::index::strides;
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Rule, Schema, Types, invalid};
use crate::ops::composed::reshape;
use crate::ops::fragment::Fragment;
use crate::structured::{Compute, Expr};
use crate::{Attr, Attrs, DType, Dim, Fact, Graph, Tensor};

pub const OPS: &[&dyn OpDef] = &[
    &NonZero,
    &super::compress::COMPRESS,
    &super::unique::UNIQUE,
    &super::suppression::NON_MAX_SUPPRESSION,
    &Compact,
    &Number,
    &Room,
    &Unravel,
];

/// Attribute that names the symbol.
pub(crate) const COUNT: &str = "count";

struct NonZero;

impl OpDef for NonZero {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "NonZero",
            "the coordinates of the elements that are not 0: y[axis, i], in row-major order",
            &[Param::new("X", Types::PLAIN)],
            &[Param::new("Y", Types::I64).group(0)],
            &[(COUNT, AttrDef::Symbol(COUNTED))],
        )
        .since(9);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let rank = Dim::from(cx.fact(0)?.rank());
        Ok(vec![Fact::new(DType::I64, [rank, length(cx.str(COUNT)?)?])])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let at = positions(x);
        let coordinates = x.shape().iter().zip(strides(x.shape()));
        let all = coordinates.flat_map(|(extent, stride)| at.iter().map(move |i| (i / stride % extent) as i64));
        Ok(vec![Tensor::i64(&[x.shape().len(), at.len()], all.collect::<Vec<_>>())])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let mut g = Fragment::new(cx);
        let flags = g.required(cx, 0)?;
        let flags = g.cast(flags, DType::Bool)?;
        let flags = reshape(&mut g, flags, vec![x.element_count()])?;
        let count = [(COUNT, Attr::Str(cx.str(COUNT)?.into()))];
        let at = g.results("cameo::Compact", &count, &[Some(flags)], 2)?[0];
        let shape = [("shape", Attr::Dims(x.shape.clone()))];
        let y = g.apply("cameo::Unravel", &shape, &[at])?;
        Ok(g.finish(&[y]))
    }
}

/// The dimension of that name, which must tell that data gives it.
pub(crate) fn length(name: &str) -> Result<Dim, OpError> {
    if !name.starts_with(COUNTED) {
        return invalid(format!("what is counted is called {COUNTED}…, not {name}"));
    }
    Ok(Dim::sym(name))
}

/// Row-major positions of elements that are not 0.
fn positions(x: &Tensor) -> Vec<usize> {
    let set: Vec<bool> = if x.dtype().is_float() {
        x.to_f64().into_iter().map(|v| v != 0.0).collect()
    } else {
        x.to_i64().into_iter().map(|v| v != 0).collect()
    };
    (0..set.len()).filter(|i| set[*i]).collect()
}

/// `cameo::Compact`: a kernel of its own, as each position depends on all elements before.
pub struct Compact;

impl OpDef for Compact {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Compact",
            "positions[k] = the k-th i with flags[i]; ranks[i] = how many flags there are before i",
            &[Param::new("flags", Types::BOOL)],
            &[
                Param::new("positions", Types::I64).group(0),
                Param::new("ranks", Types::I64).group(0),
            ],
            &[(COUNT, AttrDef::Symbol(COUNTED))],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let flags = cx.fact(0)?;
        let [n] = flags.shape.as_slice() else {
            return invalid(format!("{flags} is no list of flags"));
        };
        Ok(vec![
            Fact::new(DType::I64, [length(cx.str(COUNT)?)?]),
            Fact::new(DType::I64, [n.clone()]),
        ])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let flags = cx.tensor(0)?;
        let at = positions(flags);
        let ranks = (0..flags.len()).map(|i| at.partition_point(|p| *p < i) as i64);
        Ok(vec![
            Tensor::i64(&[at.len()], at.iter().map(|i| *i as i64).collect::<Vec<_>>()),
            Tensor::i64(&[flags.len()], ranks.collect::<Vec<_>>()),
        ])
    }

    fn lower(&self, _: &Cx) -> Result<Lowering, OpError> {
        Ok(Lowering::Compact)
    }
}

/// What a graph's nodes count, with the largest value of each.
pub fn counts(g: &Graph) -> Vec<Most> {
    let mut out = vec![];
    for n in g.order() {
        let node = g.node(n);
        if crate::graph::counted(node.op, &node.attrs).next().is_none() {
            continue;
        }
        let name = || crate::graph::counted(node.op, &node.attrs).next().cloned();
        let most = match (node.op.name(), node.inputs.first().copied().flatten()) {
            ("cameo::Compact", Some(flags)) => g.fact(flags).shape.first().cloned(),
            ("cameo::Number" | "cameo::While", _) => Number::most(&node.attrs).ok().cloned(),
            _ => {
                if let Ok(Lowering::Decompose(inner)) = g.with_cx(n, |cx| node.op.0.lower(cx)) {
                    out.extend(counts(&inner));
                }
                None
            }
        };
        out.extend(name().zip(most));
    }
    out
}

/// `cameo::Number`: an integer that data gives becomes a dimension. The kernel that checks it is where the dimension is known
/// from; the second result is the same number to whoever wants to know it before.
pub struct Number;

impl Number {
    /// The largest value that it may have.
    pub fn most(attrs: &Attrs) -> Result<&Dim, OpError> {
        match attrs.get("most") {
            Some(Attr::Dims(most)) if most.len() == 1 => Ok(&most[0]),
            _ => invalid("`most` is one dim"),
        }
    }
}

impl OpDef for Number {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Number",
            "checked = known = x, an integer from 0 to most that is also the dimension `count`",
            &[Param::new("x", Types::I64)],
            &[
                Param::new("checked", Types::I64).group(0),
                Param::new("known", Types::I64).group(0),
            ],
            &[(COUNT, AttrDef::Symbol(COUNTED)), ("most", AttrDef::ReqDims)],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        if x.rank() > 0 {
            return invalid(format!("{x} is no integer"));
        }
        Self::most(cx.attrs)?;
        let known = Fact::with_known(DType::I64, vec![], vec![length(cx.str(COUNT)?)?]);
        Ok(vec![Fact::new(DType::I64, vec![]), known])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let most = Self::most(cx.attrs)?.as_const().unwrap_or(i64::MAX);
        match x.to_i64().as_slice() {
            [n] if (0..=most).contains(n) => Ok(vec![x.clone(), x.clone()]),
            n => invalid(format!("a length of {n:?}, at most {most} can be")),
        }
    }

    fn lower(&self, _: &Cx) -> Result<Lowering, OpError> {
        Ok(Lowering::Compact)
    }
}

/// `cameo::Room`: a tensor at the beginning of a larger one, whose rest is whatever is there: nobody reads it, and what is not
/// written takes no memory.
struct Room;

impl OpDef for Room {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Room",
            "y[i] = x[i] where x has an element i; other elements have no meaning",
            &[Param::new("x", Types::MOVED)],
            &[Param::new("y", Types::MOVED)],
            &[("shape", AttrDef::ReqDims)],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, shape) = (cx.fact(0)?, cx.dim_list("shape")?);
        if shape.len() != x.rank() {
            return invalid(format!("{x} in a tensor of {} axes", shape.len()));
        }
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn rules(&self, cx: &Cx) -> Result<Vec<Rule>, OpError> {
        let shape = cx.dim_list("shape")?;
        Ok(cx
            .fact(0)?
            .shape
            .iter()
            .cloned()
            .zip(shape)
            .filter(|(d, most)| d != most)
            .collect())
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?;
        let shape: Option<Vec<usize>> = cx
            .dim_list("shape")?
            .iter()
            .map(|d| usize::try_from(d.as_const()?).ok())
            .collect();
        let Some(shape) = shape.filter(|s| s.iter().zip(x.shape()).all(|(most, d)| d <= most)) else {
            return invalid(format!("shape {:?} has no room in it", x.shape()));
        };
        Ok(vec![x.rearranged(&shape, None, |ix| {
            let inside = ix.iter().zip(x.shape()).all(|(i, d)| i < d);
            inside.then(|| crate::index::linear(x.shape(), ix))
        })])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let x = cx.fact(0)?;
        let copy = Compute::map(x.dtype, &x.shape, |b, it| b.load(0, x.dtype, it.to_vec()));
        Ok(Lowering::Compute(vec![copy]))
    }
}

/// `cameo::Unravel`: row-major positions as coordinates.
struct Unravel;

impl OpDef for Unravel {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "cameo::Unravel",
            "y[axis, i] = the coordinate along axis of row-major position x[i] of a tensor of that shape",
            &[Param::new("x", Types::I64)],
            &[Param::new("y", Types::I64)],
            &[("shape", AttrDef::ReqDims)],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let x = cx.fact(0)?;
        if x.rank() != 1 {
            return invalid(format!("{x} is no list of positions"));
        }
        let rank = Dim::from(cx.dim_list("shape")?.len());
        Ok(vec![Fact::new(DType::I64, [rank, x.shape[0].clone()])])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let x = cx.tensor(0)?.to_i64();
        let extents: Option<Vec<i64>> = cx.dim_list("shape")?.iter().map(Dim::as_const).collect();
        let Some(extents) = extents else {
            return invalid("an unbound dimension");
        };
        let mut out = vec![];
        for (axis, extent) in extents.iter().enumerate() {
            let stride: i64 = extents[axis + 1..].iter().product();
            out.extend(x.iter().map(|i| i / stride.max(1) % extent.max(&1)));
        }
        Ok(vec![Tensor::i64(&[extents.len(), x.len()], out)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let n = cx.fact(0)?.shape[0].clone();
        let extents = cx.dim_list("shape")?;
        let axes = (0..extents.len()).map(|axis| {
            let mut c = Compute::map(DType::I64, std::slice::from_ref(&n), |b, it| {
                let x = b.load(0, DType::I64, it.to_vec());
                // Positions come from a tensor with elements: no extent is 0 then.
                let positive = |d: Dim| d.maximum(&Dim::ONE);
                let at = Dim::aux(x).floor_div(&positive(Dim::product(&extents[axis + 1..])));
                let at = if axis == 0 {
                    at
                } else {
                    at.modulo(&positive(extents[axis].clone()))
                };
                b.push(Expr::Index(at))
            });
            c.store = vec![Dim::from(axis), Dim::iter(0)];
            c
        });
        Ok(Lowering::Compute(axes.collect()))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Tensor, interp, naive, text, verify};

    #[test]
    fn coordinates_in_both_meanings() {
        let source = r#"graph @g (%0 "x": f32[A,B]) symbols A=0.., B=0.., count.n=0.. {
            %1 = NonZero(%0) {count="count.n"} : i64[2,count.n]
            %2 = Neg(%1) : i64[2,count.n]
            return %2 "y"
        }"#;
        let g = text::parse(source, &|_, _| None).expect("parses");
        verify::verify(&g).expect("sound");
        let x = Tensor::f32(&[2, 3], [0.0, 2.0, -0.0, f32::NAN, 0.0, 1.0]);
        let symbols = |s: &str| match s {
            "A" => Some(2),
            "B" => Some(3),
            _ => None,
        };
        let out = interp::run(&g, std::slice::from_ref(&x)).expect("runs");
        assert_eq!(
            (out[0].shape(), out[0].to_i64()),
            ([2, 3].as_slice(), vec![0, -1, -1, -1, 0, -2])
        );
        assert_eq!(naive::run_graph(&g, &[x], &symbols).expect("runs"), out);
        let none = Tensor::f32(&[2, 3], [0.0; 6]);
        let out = interp::run(&g, std::slice::from_ref(&none)).expect("runs");
        assert_eq!(out[0].shape(), [2, 0]);
        assert_eq!(naive::run_graph(&g, &[none], &symbols).expect("runs"), out);
    }
}
