//! The runtime's own operators: functions of strings, called as those of the caller are.
//!
//! Laws: each is named as the compiler names it (`ops/strings.rs` of `cameo-ir`); `user` is the table of strings of the
//! context; operands of one call have one shape, and strings are handles.
#![expect(unsafe_code, reason = "reads what the calls of operators point to")]

use crate::texts::Texts;
use cameo_abi::{
    ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_STRING, Attribute, OWN_OPERATOR, OperatorArguments, OperatorFn,
};
use std::ffi::{c_int, c_void};
use std::ops::Range;

/// Writes the results of a call; an error is its message.
type Function = fn(&mut Texts, &Call<'_>) -> Result<(), &'static str>;

/// The functions of an operator of the runtime: that which gives shapes, and that which computes.
pub fn find(operator: &str) -> Option<(Option<OperatorFn>, OperatorFn)> {
    Some(match operator.strip_prefix(OWN_OPERATOR)? {
        "Concat" => (None, in_c::concat as OperatorFn),
        "Case" => (None, in_c::case),
        "Match" => (None, in_c::full_match),
        "Parse" => (None, in_c::parse),
        "Print" => (None, in_c::print),
        "Split" => (Some(in_c::split_shape), in_c::split),
        _ => return None,
    })
}

fn concat(texts: &mut Texts, call: &Call<'_>) -> Result<(), &'static str> {
    let [a, b] = [call.input(0)?, call.input(1)?];
    for ((a, b), y) in a.iter().zip(b).zip(call.output::<u64>(0)?) {
        *y = texts.join(&[*a, *b])?;
    }
    Ok(())
}

fn case(texts: &mut Texts, call: &Call<'_>) -> Result<(), &'static str> {
    let upper = call.int("upper").unwrap_or(0) != 0;
    for (x, y) in call.input(0)?.iter().zip(call.output::<u64>(0)?) {
        let text = texts.get(*x).ok_or(DAMAGED)?;
        let changed = if upper {
            text.to_uppercase()
        } else {
            text.to_lowercase()
        };
        *y = texts.enter(&changed)?;
    }
    Ok(())
}

fn full_match(texts: &mut Texts, call: &Call<'_>) -> Result<(), &'static str> {
    let list = |name| call.ints(name).ok_or(DAMAGED);
    let (classes, next, accepts) = (list("classes")?, list("next")?, list("accepts")?);
    let width = call.int("width").and_then(|w| usize::try_from(w).ok()).ok_or(DAMAGED)?;
    for (x, y) in call.input(0)?.iter().zip(call.output::<u8>(0)?) {
        let mut state = 0;
        for byte in texts.get(*x).ok_or(DAMAGED)?.bytes() {
            let class = *classes.get(usize::from(byte)).ok_or(DAMAGED)? as usize;
            let to = next.get(state * width + class).ok_or(DAMAGED)?;
            state = usize::try_from(*to).map_err(|_| DAMAGED)?;
        }
        *y = u8::from(*accepts.get(state).ok_or(DAMAGED)? != 0);
    }
    Ok(())
}

/// Numbers of 64 bits as strings; `type` says what they are.
fn print(texts: &mut Texts, call: &Call<'_>) -> Result<(), &'static str> {
    let kind = call.text("type").ok_or(DAMAGED)?;
    for (x, y) in call.input(0)?.iter().zip(call.output::<u64>(0)?) {
        let text = match kind {
            "i64" => x.cast_signed().to_string(),
            "u64" => x.to_string(),
            _ => general(f64::from_bits(*x)),
        };
        *y = texts.enter(&text)?;
    }
    Ok(())
}

/// Digits of a float.
const DIGITS: i64 = 8;

/// What C's `%.8g` writes, but for what is not finite.
fn general(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "INF" } else { "-INF" }.to_owned();
    }
    // The exponent is that of the rounded number.
    let written = format!("{x:.*e}", DIGITS as usize - 1);
    let (mantissa, power) = written.split_once('e').unwrap_or((&written, "0"));
    let power = power.parse::<i64>().unwrap_or(0);
    let is_plain = (-4..DIGITS).contains(&power);
    let mut text = if is_plain {
        format!("{x:.*}", (DIGITS - 1 - power) as usize)
    } else {
        mantissa.to_owned()
    };
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    if !is_plain {
        let sign = if power < 0 { '-' } else { '+' };
        text += &format!("e{sign}{:02}", power.unsigned_abs());
    }
    text
}

/// The way back; `f32` are the nearest numbers of 32 bits, in 64.
fn parse(texts: &mut Texts, call: &Call<'_>) -> Result<(), &'static str> {
    let kind = call.text("type").ok_or(DAMAGED)?;
    for (x, y) in call.input(0)?.iter().zip(call.output::<u64>(0)?) {
        let text = texts.get(*x).ok_or(DAMAGED)?.trim_ascii();
        *y = match kind {
            "i64" => integer::<i64>(text).ok_or(NO_INTEGER)?.cast_unsigned(),
            "u64" => integer::<u64>(text).ok_or(NO_INTEGER)?,
            "f32" => f64::from(text.parse::<f32>().map_err(|_| NO_NUMBER)?).to_bits(),
            _ => text.parse::<f64>().map_err(|_| NO_NUMBER)?.to_bits(),
        };
    }
    Ok(())
}

/// An integer, or a number with a fraction, which is cut.
fn integer<T: TryFrom<i128>>(text: &str) -> Option<T> {
    let is_fraction = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let whole = match text.split_once('.') {
        Some((whole, fraction)) if is_fraction(fraction) => whole,
        _ => text,
    };
    let number = || text.parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| x as i128);
    whole.parse().ok().or_else(number).and_then(|x| T::try_from(x).ok())
}

fn split_shape(texts: &mut Texts, call: &Call<'_>) -> Result<(), &'static str> {
    let mut most = 0;
    for x in call.input(0)? {
        most = most.max(call.tokens(texts.get(*x).ok_or(DAMAGED)?).len());
    }
    let shape = call.shape(0)?;
    // SAFETY: the shape function may write the shapes of results, which are no longer than the operand's and one more.
    let extents = unsafe { std::slice::from_raw_parts_mut(call.outputs()[0].shape, shape.len() + 1) };
    extents[shape.len()] = most as i64;
    Ok(())
}

fn split(texts: &mut Texts, call: &Call<'_>) -> Result<(), &'static str> {
    let (y, counts) = (call.output::<u64>(0)?, call.output::<i64>(1)?);
    let x = call.input(0)?;
    let most = if x.is_empty() { 0 } else { y.len() / x.len() };
    let mut parts = vec![];
    for (i, (x, count)) in x.iter().zip(counts).enumerate() {
        parts.clear();
        parts.extend(call.tokens(texts.get(*x).ok_or(DAMAGED)?));
        *count = parts.len() as i64;
        let row = y.get_mut(i * most..(i + 1) * most).ok_or(DAMAGED)?;
        if parts.len() > row.len() {
            return Err(DAMAGED);
        }
        row.fill(0);
        for (part, y) in parts.iter().zip(row) {
            *y = texts.part(*x, part.clone())?;
        }
    }
    Ok(())
}

/// Where the tokens of a text are: between delimiters, or between runs of blanks where there is none, as in Python's
/// `str.split`; of `limit` cuts at most, the last one takes the rest.
fn tokens(text: &str, delimiter: &str, limit: usize) -> Vec<Range<usize>> {
    let mut found = vec![];
    let mut at = 0;
    if delimiter.is_empty() {
        loop {
            at += text[at..].len() - text[at..].trim_start_matches(is_blank).len();
            if at == text.len() {
                return found;
            }
            if found.len() == limit {
                found.push(at..text.len());
                return found;
            }
            let length = text[at..].find(is_blank).unwrap_or(text.len() - at);
            found.push(at..at + length);
            at += length;
        }
    }
    while found.len() < limit
        && let Some(length) = text[at..].find(delimiter)
    {
        found.push(at..at + length);
        at += length + delimiter.len();
    }
    found.push(at..text.len());
    found
}

/// What Python calls a blank: what Unicode does, and the separators of ASCII.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

const NO_NUMBER: &str = "is no number";
const NO_INTEGER: &str = "is no integer of 64 bits";

/// The tables of the model contradict each other.
const DAMAGED: &str = "the model is damaged";

/// What an operator is called with.
struct Call<'a>(&'a OperatorArguments);

impl<'a> Call<'a> {
    fn inputs(&self) -> &'a [cameo_abi::OperatorTensor] {
        // SAFETY: `cameo.h` says so of both lists.
        unsafe { std::slice::from_raw_parts(self.0.inputs, self.0.input_count) }
    }

    fn outputs(&self) -> &'a [cameo_abi::OperatorTensor] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0.outputs, self.0.output_count) }
    }

    /// The shape of an operand.
    fn shape(&self, index: usize) -> Result<&'a [i64], &'static str> {
        let tensor = self.inputs().get(index).ok_or(DAMAGED)?;
        Ok(if tensor.rank == 0 {
            &[]
        } else {
            // SAFETY: `cameo.h` says so.
            unsafe { std::slice::from_raw_parts(tensor.shape, tensor.rank) }
        })
    }

    /// Handles.
    fn input(&self, index: usize) -> Result<&'a [u64], &'static str> {
        let tensor = self.inputs().get(index).ok_or(DAMAGED)?;
        let count = self.shape(index)?.iter().product::<i64>() as usize;
        if count == 0 || tensor.data.is_null() {
            return Ok(&[]);
        }
        // SAFETY: the plan vouches for an element of eight bytes for each handle.
        Ok(unsafe { std::slice::from_raw_parts(tensor.data.cast(), count) })
    }

    /// The elements of a result: it has the size of one that the compiler gave this operator.
    fn output<T>(&self, index: usize) -> Result<&'a mut [T], &'static str> {
        let tensor = self.outputs().get(index).ok_or(DAMAGED)?;
        let shape = if tensor.rank == 0 {
            &[]
        } else {
            // SAFETY: `cameo.h` says so.
            unsafe { std::slice::from_raw_parts(tensor.shape, tensor.rank) }
        };
        let count = shape.iter().product::<i64>() as usize;
        if count == 0 || tensor.data.is_null() {
            return Ok(&mut []);
        }
        // SAFETY: the plan vouches for the memory, which nothing else has meanwhile; each function knows its types.
        Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data.cast(), count) })
    }

    fn attribute(&self, name: &str, kind: u32) -> Option<&'a Attribute> {
        if self.0.attribute_count == 0 {
            return None;
        }
        // SAFETY: `cameo.h` says so; names are C strings.
        unsafe {
            let all = std::slice::from_raw_parts(self.0.attributes, self.0.attribute_count);
            all.iter()
                .find(|a| a.kind == kind && std::ffi::CStr::from_ptr(a.name).to_bytes() == name.as_bytes())
        }
    }

    fn int(&self, name: &str) -> Option<i64> {
        // SAFETY: what the kind says.
        self.attribute(name, ATTRIBUTE_INT).map(|a| unsafe { *a.data.cast() })
    }

    fn ints(&self, name: &str) -> Option<&'a [i64]> {
        let a = self.attribute(name, ATTRIBUTE_INTS)?;
        // SAFETY: what the kind says.
        Some(unsafe { std::slice::from_raw_parts(a.data.cast(), a.count) })
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        let a = self.attribute(name, ATTRIBUTE_STRING)?;
        // SAFETY: what the kind says.
        std::str::from_utf8(unsafe { std::slice::from_raw_parts(a.data.cast(), a.count) }).ok()
    }

    fn tokens(&self, text: &str) -> Vec<Range<usize>> {
        let limit = self.int("maxsplit").and_then(|n| usize::try_from(n).ok());
        tokens(text, self.text("delimiter").unwrap_or(""), limit.unwrap_or(usize::MAX))
    }
}

/// The functions as C calls them.
mod in_c {
    use super::{OperatorArguments, c_int, c_void, run};

    macro_rules! functions {
        ($($name:ident)*) => { $(
            /// # Safety
            /// As [`run`].
            pub unsafe extern "C" fn $name(user: *mut c_void, call: *const OperatorArguments) -> c_int {
                // SAFETY: the caller's promise.
                unsafe { run(super::$name, user, call) }
            }
        )* };
    }

    functions!(concat case full_match parse print split_shape split);
}

/// Calls a function, and says why when it failed.
///
/// # Safety
/// `user` is the table of strings, which nothing else uses meanwhile; `call` is as `cameo.h` says.
unsafe fn run(function: Function, user: *mut c_void, call: *const OperatorArguments) -> c_int {
    // SAFETY: the caller's promise.
    let (texts, arguments) = unsafe { (&mut *user.cast::<Texts>(), &*call) };
    let Err(why) = function(texts, &Call(arguments)) else {
        return 0;
    };
    let said = if why == DAMAGED {
        why.to_owned()
    } else {
        format!("a string {why}")
    };
    let room = said.len().min(arguments.message_bytes.saturating_sub(1));
    // SAFETY: there is room for that many bytes and a 0.
    unsafe {
        arguments
            .message
            .cast::<u8>()
            .copy_from_nonoverlapping(said.as_ptr(), room);
        arguments.message.add(room).write(0);
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, delimiter: &str, limit: usize) -> Vec<String> {
        tokens(text, delimiter, limit)
            .into_iter()
            .map(|t| text[t].to_owned())
            .collect()
    }

    #[test]
    fn tokens_are_pythons() {
        const ALL: usize = usize::MAX;
        assert_eq!(split("a.b..c", ".", ALL), ["a", "b", "", "c"]);
        assert_eq!(split("a.b..c", ".", 1), ["a", "b..c"]);
        assert_eq!(split("a.b", ".", 0), ["a.b"]);
        assert_eq!(split("", ".", ALL), [""]);
        assert_eq!(split("  hello \u{2003}wörld  ", "", ALL), ["hello", "wörld"]);
        assert_eq!(split("  a b  c d ", "", 2), ["a", "b", "c d "]);
        assert_eq!(split("  a b ", "", 0), ["a b "]);
        assert_eq!(split(" \t", "", ALL), Vec::<String>::new());
        assert_eq!(split("", "", 3), Vec::<String>::new());
    }

    #[test]
    fn integers_are_exact() {
        assert_eq!(integer::<i64>("9007199254740993.5"), Some(9_007_199_254_740_993));
        assert_eq!(integer::<i64>("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer::<i64>("-9223372036854775809"), None);
        assert_eq!(integer::<u64>("18446744073709551615.0"), Some(u64::MAX));
        assert_eq!((integer::<i64>("1e3"), integer::<i64>("-.5")), (Some(1000), Some(0)));
        assert_eq!(
            (integer::<i64>("1.x"), integer::<i64>("inf"), integer::<u64>("-1")),
            (None, None, None)
        );
    }

    #[test]
    fn names_are_the_runtimes() {
        for name in ["Concat", "Case", "Match", "Parse", "Print", "Split"] {
            let found = find(&format!("{OWN_OPERATOR}{name}")).expect("there");
            assert_eq!(found.0.is_some(), name == "Split");
        }
        assert!(find("Concat").is_none() && find("cameo::Nothing").is_none());
    }
}
