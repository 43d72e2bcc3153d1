//! Types of the model's inputs: element type, extents, and the names of dynamic dimensions.
//!
//! A `dim_param` becomes the symbol of that name (other characters than letters, digits and `_` replaced by `_`); a
//! dynamic dimension without a name gets one, `<input>_d<axis>`. A `dim_param` such as `past + S` whose names all occur
//! alone in other places is the sum it says. Declared shapes of outputs are not looked at: inference knows better.

use std::collections::{BTreeMap, BTreeSet};

use cameo_ir::{Dim, Fact, Graph, Sym, SymbolRange, Tensor};

use crate::DimBinding;
use crate::error::Fault;
use crate::proto::{Dimension, DimensionValue, TensorShapeProto, TensorType, TypeValue, ValueInfoProto};
use crate::weights::{self, MAX_ELEMENTS, MAX_RANK};

/// Words with a meaning of their own in the text form of dims.
const RESERVED: [&str; 4] = ["fdiv", "min", "max", "bcast"];

/// Fixes the named dimensions of frozen inputs, unless the user has said the same.
pub(crate) fn bind_frozen(
    inputs: &[&ValueInfoProto],
    frozen: &[(String, Tensor)],
    bindings: &mut Vec<(String, DimBinding)>,
) -> Vec<Fault> {
    let mut faults = vec![];
    for (name, t) in frozen {
        let shape = inputs.iter().find(|i| i.name == *name).and_then(|i| shape_of(i));
        for (d, n) in shape.iter().flat_map(|s| &s.dim).zip(t.shape()) {
            let Some(DimensionValue::Param(p)) = &d.value else {
                continue;
            };
            // The extent of a sum says nothing of its parts.
            if !is_identifier(p) {
                continue;
            }
            let n = *n as i64;
            match bindings.iter_mut().find(|b| b.0 == *p) {
                None => bindings.push((p.clone(), DimBinding::Fixed(n))),
                Some((_, b @ DimBinding::Range { .. })) if b.allows(n) => *b = DimBinding::Fixed(n),
                Some((_, b)) if b.allows(n) => {}
                Some(_) => faults.push(Fault::invalid(format!(
                    "input `{name}` is frozen with {p} = {n}, which another choice excludes"
                ))),
            }
        }
    }
    faults
}

/// The symbols of a model and what the user said about them.
pub(crate) struct Symbols<'o> {
    /// `dim_param` to symbol.
    names: BTreeMap<String, String>,
    /// Symbols in order of appearance.
    order: Vec<String>,
    taken: BTreeSet<String>,
    bindings: &'o [(String, DimBinding)],
    /// Per binding: the symbol that it is about.
    bound: Vec<Option<String>>,
}

impl<'o> Symbols<'o> {
    pub fn new(bindings: &'o [(String, DimBinding)], inputs: &[&ValueInfoProto]) -> Self {
        let mut s = Self {
            names: BTreeMap::new(),
            order: vec![],
            taken: RESERVED.iter().map(|r| (*r).to_owned()).collect(),
            bindings,
            bound: vec![None; bindings.len()],
        };
        // Plain names first, so that expressions can be told from odd names whatever the order of the inputs.
        for d in inputs.iter().filter_map(|i| shape_of(i)).flat_map(|s| &s.dim) {
            if let Some(DimensionValue::Param(p)) = &d.value
                && is_identifier(p)
            {
                s.intern(p);
            }
        }
        s
    }

    fn invent(&mut self, wanted: &str) -> String {
        let mut name: String = wanted
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            name.insert_str(0, "d_");
        }
        let mut unique = name.clone();
        let mut n = 1;
        while self.taken.contains(&unique) {
            n += 1;
            unique = format!("{name}_{n}");
        }
        self.taken.insert(unique.clone());
        self.order.push(unique.clone());
        unique
    }

    fn intern(&mut self, param: &str) -> String {
        if let Some(s) = self.names.get(param) {
            return s.clone();
        }
        let name = self.invent(param);
        self.names.insert(param.to_owned(), name.clone());
        name
    }

    /// The symbol, or what the user fixed it to. `raw` is its name in the file.
    fn dim(&mut self, symbol: &str, raw: &str) -> Dim {
        let mut dim = Dim::sym(symbol);
        for (i, (name, binding)) in self.bindings.iter().enumerate() {
            if name == symbol || name == raw {
                self.bound[i] = Some(symbol.to_owned());
                match binding {
                    DimBinding::Fixed(n) => dim = Dim::from(*n),
                    DimBinding::Range { min, max } if min == max => dim = Dim::from(*min),
                    DimBinding::Range { .. } => {}
                }
            }
        }
        dim
    }

    fn param(&mut self, param: &str) -> Dim {
        if !is_identifier(param)
            && let Some(terms) = sum(param)
            && terms.iter().all(|t| t.name.is_none_or(|n| self.names.contains_key(n)))
        {
            return terms.into_iter().fold(Dim::ZERO, |total, t| {
                let value = match t.name {
                    Some(n) => {
                        let symbol = self.intern(n);
                        self.dim(&symbol, n)
                    }
                    None => Dim::ONE,
                };
                total + value * Dim::from(t.factor)
            });
        }
        let symbol = self.intern(param);
        self.dim(&symbol, param)
    }

    /// The fact of a model input.
    pub fn fact(&mut self, input: &ValueInfoProto) -> Result<Fact, Fault> {
        let tensor = tensor_type(input)?;
        let dtype = weights::dtype(tensor.elem_type)?;
        let Some(shape) = &tensor.shape else {
            return Err(Fault::unsupported("the rank is not known")
                .hint("give the input a shape; dynamic dimensions are fine: `onnx.helper.make_tensor_value_info`"));
        };
        if shape.dim.len() > MAX_RANK {
            return Err(Fault::unsupported(format!(
                "rank {} is above the limit of {MAX_RANK}",
                shape.dim.len()
            )));
        }
        let mut dims = Vec::with_capacity(shape.dim.len());
        let mut elements = 1u64;
        for (axis, d) in shape.dim.iter().enumerate() {
            let dim = match &d.value {
                Some(DimensionValue::Value(n)) if *n >= 0 => Dim::from(*n),
                Some(DimensionValue::Param(p)) if !p.is_empty() => self.param(p),
                // Some exporters write -1 for "any".
                _ => {
                    let name = format!("{}_d{axis}", input.name);
                    let symbol = self.invent(&name);
                    self.dim(&symbol, &name)
                }
            };
            elements = elements.saturating_mul(dim.as_const().map_or(1, |n| n.unsigned_abs().max(1)));
            dims.push(dim);
        }
        if elements > MAX_ELEMENTS {
            return Err(Fault::invalid("the shape is too large"));
        }
        Ok(Fact::new(dtype, dims))
    }

    /// Sets the ranges that the user gave; says which bindings are wrong or fit nothing.
    pub fn finish(&self, graph: &mut Graph) -> Vec<Fault> {
        let mut faults = vec![];
        for (i, (name, binding)) in self.bindings.iter().enumerate() {
            let (min, max) = match binding {
                DimBinding::Fixed(n) => (*n, *n),
                DimBinding::Range { min, max } => (*min, *max),
            };
            if min < 0 || min > max || max.unsigned_abs() > MAX_ELEMENTS {
                faults.push(Fault::invalid(format!(
                    "--dim {name}: {min}..{max} is not a range of extents"
                )));
                continue;
            }
            if self.bindings[..i].iter().any(|(n, _)| n == name) {
                faults.push(Fault::invalid(format!("--dim {name} is given twice")));
                continue;
            }
            let Some(symbol) = &self.bound[i] else {
                let known = if self.order.is_empty() {
                    "the model has no dynamic dimensions".to_owned()
                } else {
                    format!("the model's dynamic dimensions are {}", self.order.join(", "))
                };
                faults.push(Fault::invalid(format!("--dim {name}: there is no such dimension")).hint(known));
                continue;
            };
            if let Some(range) = graph.symbols.get_mut(symbol.as_str()) {
                *range = SymbolRange { min, max };
            }
        }
        faults
    }
}

/// The names of an input's dimensions that are not fixed.
pub(crate) fn dimension_names(input: &ValueInfoProto) -> Vec<String> {
    let axes = shape_of(input).into_iter().flat_map(|s| &s.dim).enumerate();
    let name = |(axis, d): (usize, &Dimension)| match &d.value {
        Some(DimensionValue::Value(n)) if *n >= 0 => None,
        Some(DimensionValue::Param(p)) if !p.is_empty() => Some(p.clone()),
        _ => Some(format!("{}_d{axis}", input.name)),
    };
    axes.filter_map(name).collect()
}

fn shape_of(input: &ValueInfoProto) -> Option<&TensorShapeProto> {
    match input.r#type.as_ref()?.value.as_ref()? {
        TypeValue::Tensor(t) => t.shape.as_ref(),
        _ => None,
    }
}

fn tensor_type(input: &ValueInfoProto) -> Result<&TensorType, Fault> {
    let kind = match input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(TypeValue::Tensor(t)) => return Ok(t),
        None => return Err(Fault::invalid("it has no type")),
        Some(TypeValue::Sequence(_)) => "sequence",
        Some(TypeValue::Map(_)) => "map",
        Some(TypeValue::Opaque(_)) => "opaque",
        Some(TypeValue::SparseTensor(_)) => "sparse tensor",
        Some(TypeValue::Optional(_)) => "optional",
    };
    Err(
        Fault::unsupported(format!("its type is {kind}; only dense tensors are supported"))
            .hint("export the model with tensors as inputs"),
    )
}

fn is_identifier(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `factor * name`, or a constant.
struct Term<'a> {
    factor: i64,
    name: Option<&'a str>,
}

/// Parses `2*past + S - 1`. Nothing richer has been seen in files.
fn sum(text: &str) -> Option<Vec<Term<'_>>> {
    let mut terms = vec![];
    let mut rest = text.trim();
    let mut sign = 1;
    // A handful of terms is an expression; more is noise.
    while terms.len() < 8 {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let mut term = Term {
            factor: sign,
            name: None,
        };
        for factor in rest[..end].split('*').map(str::trim) {
            match factor.parse::<i32>() {
                Ok(n) => term.factor = term.factor.checked_mul(n.into())?,
                Err(_) if is_identifier(factor) && term.name.is_none() => term.name = Some(factor),
                Err(_) => return None,
            }
        }
        terms.push(term);
        if end == rest.len() {
            return Some(terms);
        }
        sign = if rest[end..].starts_with('-') { -1 } else { 1 };
        rest = rest[end + 1..].trim_start();
    }
    None
}

/// The names of the symbols of a graph's inputs.
pub(crate) fn symbol_names(graph: &Graph) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for v in graph.inputs() {
        for d in &graph.fact(*v).shape {
            d.visit(&mut |s| {
                if let Sym::Named(n) = s
                    && !names.iter().any(|m| **m == **n)
                {
                    names.push(n.to_string());
                }
            });
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Dimension, TypeProto};

    fn input(name: &str, dims: &[&str]) -> ValueInfoProto {
        let dim = dims
            .iter()
            .map(|d| Dimension {
                value: match (d.parse(), *d) {
                    (Ok(n), _) => Some(DimensionValue::Value(n)),
                    (_, "?") => None,
                    _ => Some(DimensionValue::Param((*d).into())),
                },
                ..Dimension::default()
            })
            .collect();
        ValueInfoProto {
            name: name.into(),
            r#type: Some(TypeProto {
                value: Some(TypeValue::Tensor(TensorType {
                    elem_type: 1,
                    shape: Some(TensorShapeProto { dim }),
                })),
                ..TypeProto::default()
            }),
        }
    }

    fn facts(inputs: &[ValueInfoProto], bindings: &[(String, DimBinding)]) -> Vec<String> {
        let refs: Vec<&ValueInfoProto> = inputs.iter().collect();
        let mut s = Symbols::new(bindings, &refs);
        inputs
            .iter()
            .map(|i| s.fact(i).map_or_else(|f| f.message, |f| f.to_string()))
            .collect()
    }

    #[test]
    fn dynamic_dimensions_have_names() {
        let inputs = [
            input("x.1", &["batch-size", "?", "3", "-1"]),
            input("y", &["batch size", "batch-size", "min", "2x"]),
        ];
        assert_eq!(
            facts(&inputs, &[]),
            [
                "f32[batch_size,x_1_d1,3,x_1_d3]",
                "f32[batch_size_2,batch_size,min_2,d_2x]"
            ]
        );
    }

    #[test]
    fn sums_of_known_names_are_sums() {
        let inputs = [
            input("mask", &["B", "past + S", "past + other", "2*S-1"]),
            input("kv", &["B", "past", "S", "1"]),
        ];
        assert_eq!(facts(&inputs, &[])[0], "f32[B,S+past,past___other,2*S-1]");
    }

    #[test]
    fn bindings_fix_and_bound() {
        let bindings = [
            ("B".to_owned(), DimBinding::Fixed(4)),
            ("x_d1".to_owned(), DimBinding::Range { min: 1, max: 9 }),
            ("S".to_owned(), DimBinding::Range { min: 5, max: 1 }),
            ("nope".to_owned(), DimBinding::Fixed(1)),
        ];
        let i = input("x", &["B", "?", "S", "B + S"]);
        let mut s = Symbols::new(&bindings, &[&i]);
        let fact = s.fact(&i).expect("fact");
        assert_eq!(fact.to_string(), "f32[4,x_d1,S,S+4]");
        let mut g = Graph::new("g");
        g.add_input("x", fact);
        let faults = s.finish(&mut g);
        assert_eq!(g.symbol_range("x_d1"), (1, 9));
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[1].hint.as_ref().expect("hint").contains("B, S, x_d1"));
        assert_eq!(symbol_names(&g), ["x_d1", "S"]);
    }

    #[test]
    fn hostile_shapes_are_refused() {
        let big = (1u64 << 31).to_string();
        assert_eq!(facts(&[input("x", &[&big, &big])], &[]), ["the shape is too large"]);
        assert!(facts(&[input("x", &["1"; 65])], &[])[0].contains("above the limit"));
    }
}
