//! Numbers as strings and back: what `Cast` does with strings.
//!
//! Laws: integers are decimal; floats are C's `%.8g`, and `NaN`, `INF` and `-INF`, as ONNX Runtime writes them. A string is
//! read as a decimal or scientific number with blanks around it, as the nearest one of the type; for integers, what has a
//! fraction is cut.

use super::map;
use crate::op::{OpError, invalid};
use crate::ops::fragment::Fragment;
use crate::ops::pointwise;
use crate::{Attr, Attrs, DType, Tensor, ValueId};

/// Digits of a float.
const DIGITS: i32 = 8;

/// What numbers are between their type and the string.
fn wide(t: DType) -> DType {
    match t {
        DType::F64 | DType::U64 => t,
        t if t.is_float() => DType::F32,
        _ => DType::I64,
    }
}

/// What the function of the runtime is told of a type that [`wide`] gives; its elements have 64 bits.
fn told(wide: DType) -> [(&'static str, Attr); 1] {
    [("type", Attr::Str(wide.name().into()))]
}

fn stored(wide: DType) -> DType {
    if wide == DType::F32 { DType::F64 } else { wide }
}

/// Strings of numbers, in a fragment.
pub(in crate::ops) fn print(g: &mut Fragment, x: ValueId) -> Result<ValueId, OpError> {
    let wide = wide(g.dtype(x));
    let x = g.cast(x, stored(wide))?;
    map(g, "Print", &told(wide), &[x], DType::String)
}

/// Numbers of strings, in a fragment; of a float of less than 64 bits, as 32 bits.
pub(in crate::ops) fn parse(g: &mut Fragment, x: ValueId, to: DType) -> Result<ValueId, OpError> {
    let wide = wide(to);
    let y = map(g, "Parse", &told(wide), &[x], stored(wide))?;
    g.cast(y, wide)
}

pub(in crate::ops) fn printed(x: &Tensor) -> Result<Tensor, OpError> {
    let texts: Vec<String> = match x.dtype().is_float() {
        true => x.to_f64().into_iter().map(general).collect(),
        false => pointwise::integers(x).iter().map(ToString::to_string).collect(),
    };
    super::strings(x.shape(), texts)
}

pub(in crate::ops) fn parsed(x: &Tensor, to: DType) -> Result<Tensor, OpError> {
    let (wide, texts) = (wide(to), super::texts(x)?);
    if wide.is_float() {
        let one = |text: &&str| match text.trim_ascii().parse::<f64>() {
            // Rounded once.
            Ok(_) if wide == DType::F32 => Ok(text.trim_ascii().parse::<f32>().map_or(f64::NAN, f64::from)),
            Ok(x) => Ok(x),
            Err(_) => invalid(format!("\"{text}\" is no number")),
        };
        let numbers = texts.iter().map(one).collect::<Result<Vec<f64>, OpError>>()?;
        return Ok(Tensor::from_f64(wide, x.shape(), numbers));
    }
    let range = if wide == DType::U64 {
        0..=i128::from(u64::MAX)
    } else {
        i128::from(i64::MIN)..=i128::from(i64::MAX)
    };
    let one = |text: &&str| {
        let text = text.trim_ascii();
        let scientific = || text.parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| x as i128);
        let plain = text.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix('.');
        let x = plain.unwrap_or(text).parse::<i128>().ok().or_else(scientific);
        match x.filter(|x| range.contains(x)) {
            Some(x) => Ok(x),
            None => invalid(format!("\"{text}\" is no integer of 64 bits")),
        }
    };
    let numbers = texts.iter().map(one).collect::<Result<Vec<i128>, OpError>>()?;
    Ok(pointwise::from_integers(wide, x.shape(), numbers))
}

/// What the runtime's function gives that is told a type.
pub(super) fn stored_as_told(x: &Tensor, attrs: &Attrs) -> Result<Tensor, OpError> {
    let wide = match attrs.get("type") {
        Some(Attr::Str(name)) => name.parse::<DType>().ok(),
        _ => None,
    };
    let Some(wide) = wide else {
        return invalid("attribute `type` is missing");
    };
    let y = parsed(x, wide)?;
    match stored(wide) {
        to if to == y.dtype() => Ok(y),
        to => Ok(Tensor::from_f64(to, y.shape(), y.to_f64())),
    }
}

/// C's `%.8g`.
fn general(x: f64) -> String {
    if !x.is_finite() {
        let name = if x.is_nan() {
            "NaN"
        } else if x > 0.0 {
            "INF"
        } else {
            "-INF"
        };
        return name.to_owned();
    }
    let scientific = format!("{x:.*e}", (DIGITS - 1) as usize);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..DIGITS).contains(&exponent) {
        return short(&format!("{x:.*}", (DIGITS - 1 - exponent) as usize));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", short(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::eval;
    use crate::{Attr, DType, Tensor};

    fn to(t: DType) -> [(&'static str, Attr); 1] {
        [("to", Attr::DType(t))]
    }

    fn printed(x: Tensor) -> Vec<String> {
        let y = eval("Cast", &to(DType::String), &[Some(x)], 1).remove(0);
        y.to_texts().expect("known").into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn numbers_are_written_as_c_does() {
        let floats = [
            0.0,
            -0.5,
            3.0,
            0.1,
            1e-5,
            123_456_789.0,
            1e20,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
        ];
        let texts = [
            "0",
            "-0.5",
            "3",
            "0.1",
            "9.9999997e-06",
            "1.2345679e+08",
            "1e+20",
            "NaN",
            "INF",
            "-INF",
        ];
        assert_eq!(printed(Tensor::f32(&[10], floats)), texts);
        assert_eq!(
            printed(Tensor::from_f64(DType::F64, &[2], [1.0 / 3.0, -0.0])),
            ["0.33333333", "-0"]
        );
        assert_eq!(printed(Tensor::i64(&[2], [i64::MIN, 7])), ["-9223372036854775808", "7"]);
        assert_eq!(
            printed(Tensor::from_i64(DType::U64, &[1], [-1])),
            ["18446744073709551615"]
        );
        assert_eq!(printed(Tensor::bool(&[2], [true, false])), ["1", "0"]);
    }

    #[test]
    fn strings_are_read_as_numbers() {
        let texts = [" 3.5 ", "-1e2", "+INF", "nan", "7"];
        let x = Tensor::strings(&[5], texts).expect("strings");
        let y = eval("Cast", &to(DType::F32), &[Some(x)], 1)[0].to_f64();
        assert!(y[3].is_nan());
        assert_eq!([y[0], y[1], y[2], y[4]], [3.5, -100.0, f64::INFINITY, 7.0]);
        let x = || Some(Tensor::strings(&[3], ["12", " -7", "100.5"]).expect("strings"));
        for t in [
            DType::F64,
            DType::F16,
            DType::I64,
            DType::I32,
            DType::I8,
            DType::Bool,
            DType::BF16,
        ] {
            check("Cast", &to(t), &[x()], 1);
        }
        check("Cast", &to(DType::String), &[x()], 1);
        check(
            "Cast",
            &to(DType::String),
            &[Some(Tensor::f32(&[2, 1], [0.25, -3e30]))],
            1,
        );
        let like = [x(), Some(Tensor::i64(&[], [0]))];
        check("CastLike", &[], &like, 1);
        assert_eq!(eval("Cast", &to(DType::I32), &[x()], 1)[0].to_i64(), [12, -7, 100]);
        let whole = Tensor::strings(&[3], ["9007199254740993.5", "1e3", "-.5"]).expect("strings");
        let whole = eval("Cast", &to(DType::I64), &[Some(whole)], 1)[0].to_i64();
        assert_eq!(whole, [9_007_199_254_740_993, 1000, 0]);
    }
}
