//! `LabelEncoder`: numbers and strings looked up in a list.
//!
//! Every key is compared with every element, so that nothing depends on an order of keys; of equal keys the last counts.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, reshape};
use crate::{Attr, DType, Dim, Tensor};

const TYPES: Types = Types::of(&[
    DType::F32,
    DType::F64,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::String,
]);

/// The default of strings.
const UNUSED: &str = "_Unused";

/// One list, given in one of four attributes.
fn list(cx: &Cx, [ints, floats, strings, tensor]: [&str; 4]) -> Result<Tensor, OpError> {
    let ints = cx.opt_ints(ints)?.map(|v| Tensor::i64(&[v.len()], v));
    let floats = cx.opt_floats(floats)?.map(|v| Tensor::f32(&[v.len()], v));
    let strings = cx
        .opt_strs(strings)?
        .map(|v| Tensor::strings(&[v.len()], v.iter().map(|s| &**s)));
    let strings = strings.transpose().map_err(OpError::Unsupported)?;
    let tensor = cx.opt_tensor(tensor)?.cloned();
    let mut given = [ints, floats, strings, tensor].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(t), None) if TYPES.contains(t.dtype()) && t.shape().len() == 1 => Ok(t),
        (Some(t), None) => invalid(format!("{} is no list of keys or values", t.fact())),
        _ => invalid("keys and values are given in one attribute each"),
    }
}

/// Keys, their values, and the value of all else.
fn lookup(cx: &Cx) -> Result<[Tensor; 3], OpError> {
    let keys = list(cx, ["keys_int64s", "keys_floats", "keys_strings", "keys_tensor"])?;
    let values = list(
        cx,
        ["values_int64s", "values_floats", "values_strings", "values_tensor"],
    )?;
    if keys.is_empty() || keys.len() != values.len() {
        return invalid(format!("{} keys and {} values", keys.len(), values.len()));
    }
    let x = cx.fact(0)?.dtype;
    if keys.dtype() != x {
        return invalid(format!("keys of type {} for elements of type {x}", keys.dtype()));
    }
    let t = values.dtype();
    let tensor = cx.opt_tensor("default_tensor")?;
    let default = match (tensor, cx.opt_tensor("values_tensor")?.is_some()) {
        (Some(d), true) if d.len() == 1 && d.dtype() == t => {
            d.reshaped(vec![]).map_err(|e| OpError::Invalid(format!("{e:?}")))?
        }
        (Some(d), true) => return invalid(format!("{} is no default of values of type {t}", d.fact())),
        _ if t == DType::String => {
            let default = cx.opt_str("default_string")?.unwrap_or(UNUSED);
            Tensor::strings(&[], [default]).map_err(OpError::Unsupported)?
        }
        _ if t.is_float() => Tensor::from_f64(t, &[], [cx.float("default_float")?.into()]),
        _ => Tensor::from_i64(t, &[], [cx.int("default_int64")?]),
    };
    Ok([keys, values, default])
}

pub(super) const LABEL_ENCODER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::LabelEncoder",
        "the value whose key is x, or the default",
        &[Param::new("X", TYPES)],
        &[Param::new("Y", TYPES).group(2)],
        &[
            ("default_float", AttrDef::Float(-0.0)),
            ("default_int64", AttrDef::Int(-1)),
            ("default_string", AttrDef::OptStr),
            ("default_tensor", AttrDef::OptTensor),
            ("keys_floats", AttrDef::OptFloats),
            ("keys_int64s", AttrDef::OptInts),
            ("keys_strings", AttrDef::OptStrs),
            ("keys_tensor", AttrDef::OptTensor),
            ("values_floats", AttrDef::OptFloats),
            ("values_int64s", AttrDef::OptInts),
            ("values_strings", AttrDef::OptStrs),
            ("values_tensor", AttrDef::OptTensor),
        ],
    )
    .since(2),
    build: |cx, g| {
        let [keys, values, default] = lookup(cx)?;
        let x = g.required(cx, 0)?;
        let mut shape = g.fact(x).shape.clone();
        let rank = shape.len();
        shape.push(Dim::ONE);
        let x = reshape(g, x, shape)?;
        let (n, float) = (keys.len() as i64, keys.dtype().is_float());
        let keys = g.constant(keys);
        let mut found = g.binary("Equal", x, keys)?;
        if float {
            let (x, key) = (g.unary("IsNaN", x)?, g.unary("IsNaN", keys)?);
            let both = g.binary("And", x, key)?;
            found = g.binary("Or", found, both)?;
        }
        let places = g.constant(Tensor::i64(&[n as usize], 0..n));
        let none = g.number(places, -1.0);
        let place = g.apply("Where", &[], &[found, places, none])?;
        let place = g.reduce("ReduceMax", place, &[rank], false)?;
        let zero = g.number(place, 0.0);
        let missing = g.binary("Less", place, zero)?;
        let place = g.binary("Max", place, zero)?;
        let values = g.constant(values);
        let y = g.apply("Gather", &[("axis", Attr::Int(0))], &[values, place])?;
        let default = g.constant(default);
        Ok(vec![g.apply("Where", &[], &[missing, default, y])?])
    },
    eval: |cx| {
        let [keys, values, default] = lookup(cx)?;
        let x = cx.tensor(0)?;
        let place: Vec<Option<usize>> = if x.dtype().is_float() {
            let keys = keys.to_f64();
            let same = |k: f64, x: f64| k == x || k.is_nan() && x.is_nan();
            x.to_f64()
                .into_iter()
                .map(|x| keys.iter().rposition(|k| same(*k, x)))
                .collect()
        } else {
            let keys = keys.to_i64();
            x.to_i64()
                .into_iter()
                .map(|x| keys.iter().rposition(|k| *k == x))
                .collect()
        };
        let mut at = place.into_iter();
        let y = values.rearranged(x.shape(), Some(&default), |_| at.next().flatten());
        Ok(vec![y.with_texts(default.texts()).map_err(OpError::Unsupported)?])
    },
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    #[test]
    fn lookups() {
        let op = "ai.onnx.ml::LabelEncoder";
        let ints = ("keys_int64s", Attr::Ints(vec![1, 2, -3]));
        let floats = ("keys_floats", Attr::Floats(vec![1.5, f32::NAN, 0.0, 1.5]));
        let to_floats = ("values_floats", Attr::Floats(vec![0.5, 0.25, 0.125]));
        let to_ints = ("values_int64s", Attr::Ints(vec![7, 8, 9, 10]));
        check(
            op,
            &[ints.clone(), to_floats.clone()],
            &[sample(DType::I64, &[3, 5], 1)],
            1,
        );
        let x = Some(Tensor::f32(&[5], [0.0, f32::NAN, 1.5, 2.0, -0.0]));
        let attrs = [floats.clone(), to_ints.clone(), ("default_int64", Attr::Int(42))];
        check(op, &attrs, std::slice::from_ref(&x), 1);
        assert_eq!(eval(op, &attrs, &[x], 1)[0].to_i64(), [9, 8, 10, 42, 9]);
        for (from, to) in [
            (DType::I16, DType::F64),
            (DType::F64, DType::I16),
            (DType::I32, DType::I32),
        ] {
            let tensor = |t: DType, v: [f64; 2]| Attr::Tensor(Tensor::from_f64(t, &[2], v));
            let attrs = [
                ("keys_tensor", tensor(from, [1.0, 2.0])),
                ("values_tensor", tensor(to, [5.0, 6.0])),
                ("default_tensor", Attr::Tensor(Tensor::from_f64(to, &[1], [9.0]))),
            ];
            check(op, &attrs, &[sample(from, &[7], 1)], 1);
        }
        let x = Fact::new(DType::I64, vec![Dim::sym("N")]);
        let refused = |attrs: &[(&str, Attr)]| infer(op, attrs, std::slice::from_ref(&x)).is_err();
        assert!(refused(&[]) && refused(std::slice::from_ref(&ints)));
        assert!(refused(&[ints.clone(), to_ints]), "three keys, four values");
        assert!(
            refused(&[floats, ("values_int64s", Attr::Ints(vec![1; 4]))]),
            "keys of another type"
        );
        assert!(!refused(&[ints, to_floats]));
    }
}
