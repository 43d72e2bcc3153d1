//! Windows that are sums of cosines.
//!
//! A window of one element, which has no period, is taken at the start of its period.

use std::f64::consts::PI;

use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types};
use crate::ops::pointwise::volume;
use crate::ops::signal::{extent, required_number};
use crate::structured::{Binary, Compute, Expr, Unary};
use crate::{DType, Dim, Fact, Tensor};

/// `a - b cos(2 pi n / N) + c cos(4 pi n / N)`.
pub(super) struct Window {
    schema: &'static Schema,
    a: f64,
    b: f64,
    c: f64,
}

pub(super) const HANN: Window = Window {
    schema: &schema(
        "HannWindow",
        "1/2 - 1/2 cos(2 pi n / N); N is size, or size - 1 when it is not periodic",
    )
    .since(17),
    a: 0.5,
    b: 0.5,
    c: 0.0,
};

pub(super) const HAMMING: Window = Window {
    schema: &schema(
        "HammingWindow",
        "25/46 - 21/46 cos(2 pi n / N); N is size, or size - 1 when it is not periodic",
    )
    .since(17),
    a: 25.0 / 46.0,
    b: 21.0 / 46.0,
    c: 0.0,
};

pub(super) const BLACKMAN: Window = Window {
    schema: &schema(
        "BlackmanWindow",
        "0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N); N is size, or size - 1 when it is not periodic",
    )
    .since(17),
    a: 0.42,
    b: 0.5,
    c: 0.08,
};

const SIZE: &[Param] = &[Param::new("size", Types::INDEX).shape_like("size")];
const OUTPUT: &[Param] = &[Param::new("output", Types::NUMBER).group(2)];

const fn schema(name: &'static str, doc: &'static str) -> Schema {
    Schema::new(
        name,
        doc,
        SIZE,
        OUTPUT,
        &[("output_datatype", AttrDef::OptDType), ("periodic", AttrDef::Int(1))],
    )
}

impl Window {
    /// Element type, number of elements and period.
    fn spec(cx: &Cx) -> Result<(DType, Dim, Dim), OpError> {
        let size = required_number(cx, 0, 0)?;
        let period = match cx.int("periodic")? {
            0 => size.clone() - Dim::ONE,
            _ => size.clone(),
        };
        let dtype = cx.opt_dtype("output_datatype")?.unwrap_or(DType::F32);
        Ok((dtype, size, period.maximum(&Dim::ONE)))
    }
}

impl OpDef for Window {
    fn schema(&self) -> &'static Schema {
        self.schema
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (dtype, size, _) = Self::spec(cx)?;
        Ok(vec![Fact::new(dtype, vec![size])])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (dtype, size, period) = Self::spec(cx)?;
        let (size, period) = (volume(&[extent(&size)?])?, extent(&period)? as f64);
        let element = |n: usize| {
            let turn = 2.0 * PI * n as f64 / period;
            self.a - self.b * turn.cos() + self.c * (2.0 * turn).cos()
        };
        Ok(vec![Tensor::from_f64(dtype, &[size], (0..size).map(element))])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let (dtype, size, period) = Self::spec(cx)?;
        let t = DType::F64;
        Ok(Lowering::Compute(vec![Compute::map(dtype, &[size], |b, i| {
            let n = b.push(Expr::Index(i[0].clone()));
            let n = b.cast(t, n);
            let period = b.push(Expr::Index(period));
            let period = b.cast(t, period);
            let whole = b.float(t, 2.0 * PI);
            let turn = b.binary(Binary::Mul, whole, n);
            let turn = b.binary(Binary::Div, turn, period);
            let first = b.unary(Unary::Cos, turn);
            let (high, low) = (b.float(t, self.a), b.float(t, self.b));
            let low = b.binary(Binary::Mul, low, first);
            let mut y = b.binary(Binary::Sub, high, low);
            if self.c != 0.0 {
                let twice = b.binary(Binary::Add, turn, turn);
                let second = b.unary(Unary::Cos, twice);
                let factor = b.float(t, self.c);
                let second = b.binary(Binary::Mul, factor, second);
                y = b.binary(Binary::Add, y, second);
            }
            b.cast(dtype, y)
        })]))
    }
}

#[cfg(test)]
mod tests {
    use crate::Attr;
    use crate::naive::check;
    use crate::ops::samples::{eval, infer};
    use crate::{DType, Dim, Fact, Tensor};

    #[test]
    fn windows() {
        // Quarters of a period, where the cosines are 1, 0, -1 and 0.
        let quarters = [
            ("HannWindow", [0.0, 0.5, 1.0, 0.5]),
            ("HammingWindow", [4.0 / 46.0, 25.0 / 46.0, 1.0, 25.0 / 46.0]),
            ("BlackmanWindow", [0.0, 0.34, 1.0, 0.34]),
        ];
        for (op, want) in quarters {
            for (size, periodic) in [(4, 1), (5, 0)] {
                let size = [Some(Tensor::i64(&[], [size]))];
                let attrs = [("periodic", Attr::Int(periodic))];
                check(op, &attrs, &size, 1);
                let got = eval(op, &attrs, &size, 1)[0].to_f64();
                assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{op} {got:?}");
            }
            for t in [DType::F64, DType::F16, DType::BF16, DType::I32] {
                let size = [Some(Tensor::from_i64(DType::I32, &[1], [7]))];
                check(op, &[("output_datatype", Attr::DType(t))], &size, 1);
            }
            for size in [0, 1, 2] {
                check(op, &[("periodic", Attr::Int(0))], &[Some(Tensor::i64(&[], [size]))], 1);
            }
            let symbolic = Fact::with_known(DType::I64, vec![], vec![Dim::sym("N")]);
            assert_eq!(infer(op, &[], &[symbolic]).expect("infers")[0].shape, [Dim::sym("N")]);
            assert!(infer(op, &[], &[Tensor::i64(&[], [-1]).fact()]).is_err());
            assert!(infer(op, &[], &[]).is_err());
        }
    }
}
