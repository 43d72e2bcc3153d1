//! Categories: strings as numbers and numbers as strings, and one column for each.
//!
//! Every category is compared with every element, so that nothing depends on an order of them.

use crate::op::{AttrDef, Cx, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{Composed, reshape};
use crate::ops::ml::{LABELS, NUMBERS, labels};
use crate::{Attr, DType, Dim, Tensor};

const ENCODED: Types = Types(NUMBERS.0 | Types::STRING.0);

/// The list of `LabelEncoder` that does the same.
struct Mapper {
    attrs: Vec<(&'static str, Attr)>,
}

impl Mapper {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let numbers = cx.opt_ints("cats_int64s")?.unwrap_or_default();
        let texts = cx.opt_strs("cats_strings")?.unwrap_or_default().to_vec();
        let (numbers, texts) = (Attr::Ints(numbers), Attr::Strs(texts));
        let attrs = if cx.fact(0)?.dtype == DType::String {
            let default = Attr::Int(cx.int("default_int64")?);
            vec![
                ("keys_strings", texts),
                ("values_int64s", numbers),
                ("default_int64", default),
            ]
        } else {
            let default = Attr::Str(cx.opt_str("default_string")?.unwrap_or("_Unused").into());
            vec![
                ("keys_int64s", numbers),
                ("values_strings", texts),
                ("default_string", default),
            ]
        };
        Ok(Self { attrs })
    }
}

pub(super) const CATEGORY_MAPPER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::CategoryMapper",
        "the number of the category that x is, or the category of that number; or the default",
        &[Param::new("X", LABELS)],
        &[Param::new("Y", LABELS).group(2)],
        &[
            ("cats_int64s", AttrDef::OptInts),
            ("cats_strings", AttrDef::OptStrs),
            ("default_int64", AttrDef::Int(-1)),
            ("default_string", AttrDef::OptStr),
        ],
    ),
    build: |cx, g| {
        let x = g.required(cx, 0)?;
        Ok(vec![g.apply(
            "ai.onnx.ml::LabelEncoder",
            &Mapper::of(cx)?.attrs,
            &[x],
        )?])
    },
    eval: |cx| {
        let attrs = Mapper::of(cx)?.attrs;
        crate::ops::composed::reference("ai.onnx.ml::LabelEncoder", &attrs, &[Some(cx.tensor(0)?)], 1)
    },
};

/// The categories as strings or integers, and whether others are columns of zeros.
fn categories(cx: &Cx) -> Result<(Tensor, bool), OpError> {
    let (x, zeros) = (cx.fact(0)?.dtype, cx.int("zeros")? != 0);
    match labels(cx, "cats_int64s", "cats_strings")? {
        Some(c) if (c.dtype() == DType::String) == (x == DType::String) => Ok((c, zeros)),
        Some(c) => invalid(format!("categories of {} for elements of {x}", c.dtype())),
        None => invalid("there are no categories"),
    }
}

pub(super) const ONE_HOT_ENCODER: Composed = Composed {
    schema: &Schema::new(
        "ai.onnx.ml::OneHotEncoder",
        "y[.., k] = 1 where x, or its integer part, is category k, else 0; without `zeros` each x must be one of them",
        &[Param::new("X", ENCODED)],
        &[Param::new("Y", Types::of(&[DType::F32])).group(2)],
        &[
            ("cats_int64s", AttrDef::OptInts),
            ("cats_strings", AttrDef::OptStrs),
            ("zeros", AttrDef::Int(1)),
        ],
    ),
    build: |cx, g| {
        let (categories, zeros) = categories(cx)?;
        let x = g.required(cx, 0)?;
        let (mut shape, n) = (g.fact(x).shape.clone(), categories.len());
        let rank = shape.len();
        shape.push(Dim::ONE);
        let x = reshape(g, x, shape)?;
        let x = match g.dtype(x) {
            DType::String => x,
            _ => g.cast(x, DType::I64)?,
        };
        let categories = g.constant(categories);
        let is = g.binary("Equal", x, categories)?;
        let y = g.cast(is, DType::F32)?;
        if zeros {
            return Ok(vec![y]);
        }
        // What is no category asks for an element behind the last one, which is an error of the run.
        let (first, behind) = (g.number(y, 0.0), n as i64);
        let known = g.reduce("ReduceMax", y, &[rank], true)?;
        let known = g.binary("Equal", known, first)?;
        let (at, last) = (
            g.constant(Tensor::i64(&[], [behind])),
            g.constant(Tensor::i64(&[], [0])),
        );
        let at = g.apply("Where", &[], &[known, at, last])?;
        let table = g.constant(Tensor::f32(&[n], vec![0.0; n]));
        let nothing = g.apply("Gather", &[("axis", Attr::Int(0))], &[table, at])?;
        Ok(vec![g.binary("Add", y, nothing)?])
    },
    eval: |cx| {
        let (categories, zeros) = categories(cx)?;
        let (x, n) = (cx.tensor(0)?, categories.len());
        let c = categories.to_i64();
        let same = |x: &i64| c.iter().map(|c| c == x).collect::<Vec<bool>>();
        let same: Vec<Vec<bool>> = if x.dtype().is_float() {
            x.to_f64().iter().map(|x| same(&(x.trunc() as i64))).collect()
        } else {
            x.to_i64().iter().map(same).collect()
        };
        if !zeros && same.iter().any(|row| !row.contains(&true)) {
            return invalid("an element is none of the categories");
        }
        let shape = [x.shape(), &[n]].concat();
        Ok(vec![Tensor::f32(
            &shape,
            same.concat().into_iter().map(|s| f32::from(u8::from(s))),
        )])
    },
};

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, infer, sample};
    use crate::{Attr, DType, Dim, Fact, Tensor};

    fn words(shape: &[usize], texts: &[&str]) -> Option<Tensor> {
        Some(Tensor::strings(shape, texts.iter().copied()).expect("different"))
    }

    fn cats() -> [(&'static str, Attr); 2] {
        let texts = ["a", "ü", ""].map(Into::into).to_vec();
        [
            ("cats_strings", Attr::Strs(texts)),
            ("cats_int64s", Attr::Ints(vec![3, 1, 4])),
        ]
    }

    #[test]
    fn mapped() {
        let op = "ai.onnx.ml::CategoryMapper";
        let x = words(&[2, 2], &["ü", "b", "", "a"]);
        check(op, &cats(), std::slice::from_ref(&x), 1);
        assert_eq!(eval(op, &cats(), &[x], 1)[0].to_i64(), [1, -1, 4, 3]);
        let x = Some(Tensor::i64(&[3], [4, 1, 9]));
        check(op, &cats(), std::slice::from_ref(&x), 1);
        assert_eq!(
            eval(op, &cats(), &[x], 1)[0].to_texts().expect("known"),
            ["", "ü", "_Unused"]
        );
    }

    #[test]
    fn columns() {
        let op = "ai.onnx.ml::OneHotEncoder";
        let texts = [cats()[0].clone()];
        let x = words(&[2], &["ü", "b"]);
        check(op, &texts, std::slice::from_ref(&x), 1);
        let y = eval(op, &texts, &[x], 1).remove(0);
        assert_eq!((y.shape(), y.to_f64()), (&[2, 3][..], vec![0., 1., 0., 0., 0., 0.]));
        for t in [DType::F32, DType::F64, DType::I64, DType::I32] {
            check(op, &[cats()[1].clone()], &[sample(t, &[3, 5], 1)], 1);
        }
        let parts = Some(Tensor::f32(&[3], [1.5, 3.9, -0.5]));
        check(op, &[cats()[1].clone()], std::slice::from_ref(&parts), 1);
        let y = eval(op, &[cats()[1].clone()], &[parts], 1).remove(0);
        assert_eq!(y.to_f64(), [0., 1., 0., 1., 0., 0., 0., 0., 0.]);
        let strict = [cats()[0].clone(), ("zeros", Attr::Int(0))];
        check(op, &strict, &[words(&[2, 1], &["", "a"])], 1);
        let numbers = Fact::new(DType::I64, [Dim::sym("N")]);
        assert!(infer(op, &texts, std::slice::from_ref(&numbers)).is_err());
        assert!(infer(op, &cats(), &[numbers]).is_err(), "integers and strings");
    }
}
