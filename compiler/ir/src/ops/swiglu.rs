//! `SwiGLU`: one operand is a gate for the other.
//!
//! Law: operands have the same shape; nothing is broadcast.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, differ};
use crate::{Attr, Tensor};

pub(super) const SWIGLU: Composed = Composed {
    schema: &Schema::new(
        "SwiGLU",
        "Swish(A) B: a b / (1 + e^(-alpha a))",
        &[Param::new("A", Types::FLOAT), Param::new("B", Types::FLOAT)],
        &[Param::new("Y", Types::FLOAT)],
        &[("alpha", AttrDef::Float(1.0))],
    )
    .since(28),
    build: |cx, g| {
        same_shape(cx)?;
        let (gate, value) = (g.required(cx, 0)?, g.required(cx, 1)?);
        let dtype = g.dtype(gate);
        let (gate, value) = (g.widen(gate)?, g.widen(value)?);
        let alpha = [("alpha", Attr::Float(cx.float("alpha")?))];
        let open = g.apply("Swish", &alpha, &[gate])?;
        let y = g.binary("Mul", open, value)?;
        Ok(vec![g.cast(y, dtype)?])
    },
    eval: |cx| {
        let (gate, value) = (cx.tensor(0)?, cx.tensor(1)?);
        if gate.shape() != value.shape() {
            return invalid(format!("a gate of shape {:?} for {:?}", gate.shape(), value.shape()));
        }
        let alpha = f64::from(cx.float("alpha")?);
        let y = gate.to_f64().into_iter().zip(value.to_f64());
        let y = y.map(|(a, b)| a / (1.0 + (-alpha * a).exp()) * b);
        Ok(vec![Tensor::from_f64(gate.dtype(), gate.shape(), y)])
    },
};

fn same_shape(cx: &Cx) -> Result<(), OpError> {
    let (gate, value) = (cx.fact(0)?, cx.fact(1)?);
    let differs = gate.shape.iter().zip(&value.shape).any(|(a, b)| differ(a, b));
    if differs || gate.rank() != value.rank() {
        return invalid(format!("a gate {gate} for {value}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    #[test]
    fn gates() {
        for t in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            check("SwiGLU", &[], &[sample(t, &[3, 5], 1), sample(t, &[3, 5], 2)], 1);
        }
        let alpha = [("alpha", Attr::Float(0.5))];
        let inputs = [sample(DType::F32, &[2, 1, 7], 1), sample(DType::F32, &[2, 1, 7], 2)];
        check("SwiGLU", &alpha, &inputs, 1);
        let (a, b) = (Tensor::f32(&[3], [1.0, -2.0, 3.0]), Tensor::f32(&[3], [0.5, 1.0, -1.0]));
        let y = eval("SwiGLU", &[], &[Some(a), Some(b)], 1)[0].to_f64();
        let want = [0.365_529_289, -0.238_405_844, -2.857_722_381];
        assert!(y.iter().zip(want).all(|(y, w)| (y - w).abs() < 1e-6), "{y:?}");
        let f = |n: i64| Fact::new(DType::F32, vec![Dim::from(n)]);
        assert!(infer("SwiGLU", &[], &[f(1), f(3)]).is_err());
    }
}
