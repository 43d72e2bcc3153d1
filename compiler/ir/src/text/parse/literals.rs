//! Numbers, dims, facts and tensors.

use std::sync::Arc;

use bytes::Bytes;
use cameo_abi::text_handle;

use super::{Fail, MAX_TERMS, Parser};
use crate::narrow::encode;
use crate::tensor::{Texts, f32_to_bf16, f32_to_f16};
use crate::text::lex::Token;
use crate::text::print::{CANONICAL_BF16, CANONICAL_F16, CANONICAL_F32, CANONICAL_F64, canonical_narrow};
use crate::{Atom, DType, Dim, Fact, Real, Tensor};

impl Parser<'_> {
    // ---- numbers

    /// The text of a number with its sign.
    pub(super) fn signed(&mut self, what: &str) -> Result<(usize, String), Fail> {
        let at = self.start;
        let sign = if self.eat_punct("-")? { "-" } else { "" };
        let digits = match self.token {
            Token::Number(n) => n,
            Token::Ident(n @ ("inf" | "nan")) => n,
            _ => return self.fail(what),
        };
        self.advance()?;
        Ok((at, format!("{sign}{digits}")))
    }

    pub(super) fn int(&mut self) -> Result<i64, Fail> {
        let (at, s) = self.signed("an integer")?;
        s.parse().map_err(|_| (at, format!("`{s}` is not a 64-bit integer")))
    }

    /// The bits of `nan` or `nan(0x…)` after the word was taken.
    pub(super) fn nan_bits(&mut self, canonical: u64) -> Result<u64, Fail> {
        if !self.eat_punct("(")? {
            return Ok(canonical);
        }
        let at = self.start;
        let Token::Number(n) = self.token else {
            return self.fail("the bits of a NaN");
        };
        self.advance()?;
        self.punct(")")?;
        let bits = n.strip_prefix("0x").and_then(|h| u64::from_str_radix(h, 16).ok());
        bits.ok_or((at, "expected hexadecimal bits such as `0x7fc00001`".into()))
    }

    pub(super) fn f32(&mut self) -> Result<f32, Fail> {
        let (at, s) = self.signed("a number")?;
        self.f32_of(at, &s)
    }

    pub(super) fn f32_of(&mut self, at: usize, s: &str) -> Result<f32, Fail> {
        if s == "nan" {
            return Ok(f32::from_bits(self.nan_bits(CANONICAL_F32)? as u32));
        }
        s.parse().map_err(|_| (at, format!("`{s}` is not a number")))
    }

    /// An element of a tensor, little-endian.
    pub(super) fn element(&mut self, t: DType, data: &mut Vec<u8>, texts: &mut Vec<Arc<str>>) -> Result<(), Fail> {
        if t == DType::Bool
            && let Token::Ident(w @ ("true" | "false")) = self.token
        {
            self.advance()?;
            data.push(u8::from(w == "true"));
            return Ok(());
        }
        if t == DType::String && matches!(self.token, Token::Str(_)) {
            let text = self.string("a string")?;
            data.extend(text_handle(text.as_bytes()).to_le_bytes());
            texts.push(text);
            return Ok(());
        }
        let (at, s) = self.signed("a number")?;
        let bits = if t.is_float() {
            self.float_bits(t, at, &s)?
        } else {
            let v: i128 = s.parse().map_err(|_| (at, format!("`{s}` is not an integer")))?;
            let width = t.bits() as u32;
            let range = if t.is_signed() {
                -(1i128 << (width - 1))..1i128 << (width - 1)
            } else {
                0..1i128 << width
            };
            if !range.contains(&v) {
                return Err((at, format!("`{s}` is out of range for {t}")));
            }
            v as u64
        };
        data.extend(&bits.to_le_bytes()[..t.size()]);
        Ok(())
    }

    pub(super) fn float_bits(&mut self, t: DType, at: usize, s: &str) -> Result<u64, Fail> {
        if s == "nan" {
            return self.nan_bits(match t {
                DType::F64 => CANONICAL_F64,
                DType::F16 => CANONICAL_F16,
                DType::BF16 => CANONICAL_BF16,
                _ if t.is_small_float() => canonical_narrow(t),
                _ => CANONICAL_F32,
            });
        }
        if t == DType::F64 {
            let v: f64 = s.parse().map_err(|_| (at, format!("`{s}` is not a number")))?;
            return Ok(v.to_bits());
        }
        let v = self.f32_of(at, s)?;
        Ok(match t {
            DType::F16 => f32_to_f16(v).into(),
            DType::BF16 => f32_to_bf16(v).into(),
            _ if t.is_small_float() => encode(t, v.into()).into(),
            _ => v.to_bits().into(),
        })
    }

    // ---- dims and facts

    pub(super) fn dim(&mut self) -> Result<Dim, Fail> {
        let mut negative = self.eat_punct("-")?;
        let mut sum = Dim::ZERO;
        loop {
            let at = self.start;
            sum = sum + self.product(negative)?;
            if sum.terms().len() > MAX_TERMS {
                return Err((at, format!("the dim has more than {MAX_TERMS} terms")));
            }
            negative = if self.eat_punct("-")? {
                true
            } else if self.eat_punct("+")? {
                false
            } else {
                return Ok(sum);
            };
        }
    }

    pub(super) fn product(&mut self, negative: bool) -> Result<Dim, Fail> {
        // The sign belongs to the first number, so that the lowest integer can be written.
        let mut p = match self.token {
            Token::Number(n) => self.dim_number(if negative { "-" } else { "" }, n)?,
            _ if negative => -self.factor()?,
            _ => self.factor()?,
        };
        while self.eat_punct("*")? {
            let at = self.start;
            p = p * self.factor()?;
            if p.terms().len() > MAX_TERMS {
                return Err((at, format!("the dim has more than {MAX_TERMS} terms")));
            }
        }
        Ok(p)
    }

    pub(super) fn dim_number(&mut self, sign: &str, digits: &str) -> Result<Dim, Fail> {
        let s = format!("{sign}{digits}");
        let Ok(v) = s.parse::<i64>() else {
            return Err((self.start, format!("`{s}` is not a 64-bit integer")));
        };
        self.advance()?;
        Ok(Dim::from(v))
    }

    pub(super) fn factor(&mut self) -> Result<Dim, Fail> {
        if let Token::Number(n) = self.token {
            return self.dim_number("", n);
        }
        let call = match self.token {
            Token::Ident(f @ ("fdiv" | "min" | "max" | "bcast")) => Some(f),
            _ => None,
        };
        let real = match self.token {
            Token::Ident(f) => Real::ALL.into_iter().find(|op| op.name() == f),
            _ => None,
        };
        let name = self.name("an extent")?;
        if call.is_none() && real.is_none() || !self.eat_punct("(")? {
            return Ok(Dim::sym(&name));
        }
        if let Some(op) = real {
            let (a, b) = self.nested(|p| {
                let a = if op == Real::Of { p.dim()? } else { p.real()? };
                if !op.is_binary() {
                    return Ok((a, Dim::ZERO));
                }
                p.punct(",")?;
                Ok((a, p.real()?))
            })?;
            self.punct(")")?;
            return Ok(Dim::apply(op, &a, &b));
        }
        let Some(f) = call else { return Ok(Dim::sym(&name)) };
        let (a, at, b) = self.nested(|p| {
            let a = p.dim()?;
            p.punct(",")?;
            Ok((a, p.start, p.dim()?))
        })?;
        self.punct(")")?;
        Ok(match f {
            "fdiv" => {
                if b.as_const().is_some_and(|c| c <= 0) || matches!(b.terms(), [(_, c)] if *c < 0) {
                    return Err((at, "expected a positive divisor".into()));
                }
                a.floor_div(&b)
            }
            "min" => a.minimum(&b),
            "max" => a.maximum(&b),
            _ => a.broadcast(&b).unwrap_or_else(|| Dim::atom(Atom::Broadcast(a, b))),
        })
    }

    /// A known float: a number, or what [`Dim::apply`] gives.
    fn real(&mut self) -> Result<Dim, Fail> {
        let negative = self.eat_punct("-")?;
        let number = match self.token {
            Token::Number(n) => n.parse::<f64>().ok(),
            Token::Ident("inf") => Some(f64::INFINITY),
            Token::Ident("NaN") => Some(f64::NAN),
            _ => None,
        };
        let Some(x) = number else {
            return if negative { self.fail("a number") } else { self.dim() };
        };
        self.advance()?;
        Ok(Dim::real(if negative { -x } else { x }))
    }

    pub(super) fn dims(&mut self) -> Result<Vec<Dim>, Fail> {
        self.punct("[")?;
        self.list("]", Self::dim)
    }

    pub(super) fn dtype(&mut self) -> Result<DType, Fail> {
        match self.token {
            Token::Ident(w) => match w.parse() {
                Ok(t) => {
                    self.advance()?;
                    Ok(t)
                }
                Err(()) => self.fail("an element type such as `f32`"),
            },
            _ => self.fail("an element type such as `f32`"),
        }
    }

    pub(super) fn fact(&mut self) -> Result<Fact, Fail> {
        let dtype = self.dtype()?;
        let shape = self.dims()?;
        let mut fact = Fact::new(dtype, shape);
        if self.eat_punct("=")? {
            let at = self.start;
            if dtype.is_float() {
                self.punct("[")?;
                fact.known = Some(self.list("]", Self::real)?).filter(|k| k.len() <= Fact::REALS_MAX);
            } else {
                fact = Fact::with_known(dtype, fact.shape, self.dims()?);
            }
            if fact.known.is_none() {
                return Err((at, "only short tensors of numbers have known elements".into()));
            }
        }
        Ok(fact)
    }

    /// What follows the type of a tensor.
    pub(super) fn elements(&mut self, at: usize, fact: &Fact) -> Result<Tensor, Fail> {
        let shape = fact.static_shape();
        let size = shape
            .as_ref()
            .and_then(|s| s.iter().try_fold(fact.dtype.size(), |a, d| a.checked_mul(*d)));
        let (Some(shape), Some(size)) = (shape, size) else {
            return Err((at, format!("expected a constant shape, found {fact}")));
        };
        let (place, mut texts) = (self.start, vec![]);
        let data = if self.eat_word("dense")? {
            self.punct("(")?;
            let mut data = vec![];
            let count = self.list(")", |p| p.element(fact.dtype, &mut data, &mut texts))?.len();
            let wanted = size / fact.dtype.size();
            if count != wanted {
                return Err((place, format!("{fact} has {wanted} elements, given are {count}")));
            }
            Bytes::from(data)
        } else if self.eat_word("blob")? {
            self.punct("(")?;
            let name = self.string("the name of a blob in quotes")?;
            self.punct(")")?;
            match (self.blob)(&name, size) {
                Some(b) => b,
                None => return Err((place, format!("there is no blob {name:?} of {size} bytes"))),
            }
        } else {
            return self.fail("`dense(…)` or `blob(\"…\")`");
        };
        let len = data.len();
        let tensor = Tensor::new(fact.dtype, shape, data)
            .map_err(|_| (place, format!("the blob has {len} bytes, wanted are {size}")))?;
        let texts = Texts::of(texts.iter().map(|t| &**t));
        texts.and_then(|t| tensor.with_texts(&t)).map_err(|e| (place, e))
    }
}
