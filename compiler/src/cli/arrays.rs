//! Tensors in `.npz` files, and made-up ones.

use std::path::Path;

use cameo_ir::random::{self, Rng};
use cameo_ir::{DType, Graph, Tensor};
use cameo_npz::{Array, ArrayRef};

use super::FeedArgs;
use crate::{Diagnostic, Diagnostics};

/// The inputs of a graph, from the file or made up.
pub fn feed(graph: &Graph, args: &FeedArgs) -> Result<Vec<Tensor>, Diagnostics> {
    match &args.inputs {
        Some(path) => read(graph, path),
        None => made_up(graph, &args.at, args.seed),
    }
}

/// The arrays of the file as inputs of the graph, in its order.
fn read(graph: &Graph, path: &Path) -> Result<Vec<Tensor>, Diagnostics> {
    let arrays = cameo_npz::read(path).map_err(|e| Diagnostic::io(e.to_string()))?;
    let names = graph.inputs().iter().map(|v| graph.value(*v).name.clone());
    let missing: Vec<String> = names
        .clone()
        .filter(|n| arrays.iter().all(|a| *a.name != **n))
        .map(|n| n.to_string())
        .collect();
    if !missing.is_empty() {
        let has: Vec<&str> = arrays.iter().map(|a| a.name.as_str()).collect();
        let message = format!("{}: no array for the input {}", path.display(), missing.join(", "));
        return Err(Diagnostic::invalid(message)
            .help(format!("the file has {}", has.join(", ")))
            .into());
    }
    names
        .zip(graph.inputs())
        .filter_map(|(n, v)| Some((arrays.iter().find(|a| *a.name == *n)?, graph.fact(*v).dtype)))
        .map(|(a, dtype)| tensor(a, dtype))
        .collect()
}

/// Inputs that depend on the graph, the extents and the seed only.
pub fn made_up(graph: &Graph, at: &[(String, i64)], seed: u64) -> Result<Vec<Tensor>, Diagnostics> {
    let mut rng = Rng::new(seed);
    let mut binding = random::symbol_values(graph, &mut rng);
    for (name, n) in at {
        match binding.get_mut(name.as_str()) {
            Some(value) => *value = *n,
            None => return Err(no_dimension(graph, name).into()),
        }
    }
    Ok(random::inputs(graph, &mut rng, &binding))
}

/// What to say of a name in `--at` that the graph does not have.
pub fn no_dimension(graph: &Graph, name: &str) -> Diagnostic {
    let known: Vec<&str> = graph.symbols.keys().map(|k| &**k).collect();
    let help = match known.join(", ") {
        names if names.is_empty() => "the model has no dynamic dimensions".into(),
        names => format!("the dynamic dimensions are {names}"),
    };
    Diagnostic::invalid(format!("--at {name}: there is no such dimension")).help(help)
}

/// The array of an `.npy` file.
pub fn single(path: &Path) -> Result<Tensor, Diagnostics> {
    let array = cameo_npz::read_npy(path).map_err(|e| Diagnostic::io(e.to_string()))?;
    let dtype = DType::from_onnx(array.dtype as i32).unwrap_or(DType::U8);
    tensor(&array, dtype)
}

/// An array as a tensor; of type `wanted` if that is one that files do not name and the array may have it.
pub fn tensor(a: &Array, wanted: DType) -> Result<Tensor, Diagnostics> {
    let bad = || Diagnostic::invalid(format!("array {:?} does not have a shape that Cameo reads", a.name));
    let wanted = cameo_npz::DType::from_raw(wanted as u32).ok_or_else(bad)?;
    let a = a.clone().into_dtype(wanted);
    let dtype = DType::from_onnx(a.dtype as i32).ok_or_else(bad)?;
    let shape: Option<Vec<usize>> = a.shape.iter().map(|d| usize::try_from(*d).ok()).collect();
    if dtype == DType::String {
        let shape = shape.ok_or_else(bad)?;
        let texts = cameo_npz::texts(&a.data).filter(|t| t.len() == shape.iter().product::<usize>());
        return Tensor::strings(&shape, texts.ok_or_else(bad)?).map_err(|e| Diagnostic::invalid(e).into());
    }
    let data = if dtype.bits() < 8 { a.packed() } else { a.data.clone() };
    let tensor = Tensor::from_packed(dtype, shape.ok_or_else(bad)?, data.into());
    tensor.map_err(|_| bad().into())
}

/// Writes tensors under names.
pub fn write(path: &Path, named: &[(String, &Tensor)]) -> Result<(), Diagnostics> {
    let described = |t: &Tensor| {
        let dtype = cameo_npz::DType::from_raw(t.dtype() as u32)?;
        Some((dtype, t.shape().iter().map(|d| *d as i64).collect()))
    };
    let owned: Option<Vec<(cameo_npz::DType, Vec<i64>)>> = named.iter().map(|(_, t)| described(t)).collect();
    let owned = owned.ok_or_else(|| Diagnostic::internal("a tensor of a type that files do not have"))?;
    let texts = |(_, t): &(String, &Tensor)| Some(cameo_npz::text_data(t.to_texts()?));
    let texts: Vec<Option<Vec<u8>>> = named.iter().map(texts).collect();
    let refs: Vec<ArrayRef> = named
        .iter()
        .zip(&owned)
        .zip(&texts)
        .map(|(((name, t), (dtype, shape)), texts)| ArrayRef {
            name,
            dtype: *dtype,
            shape,
            data: texts.as_deref().unwrap_or(t.bytes()),
        })
        .collect();
    cameo_npz::write(path, &refs).map_err(|e| Diagnostic::io(e.to_string()).into())
}

/// How two tensors differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Largest difference over max(1, largest magnitude expected); infinite where one is a number and the other is not.
    pub relative: f64,
    /// Row-major position of the largest difference.
    pub at: usize,
    pub got: f64,
    pub expected: f64,
}

/// Compares element by element; `None` when types or shapes differ. Integers and bools are the same or infinitely
/// different; NaNs are the same.
pub fn difference(got: &Tensor, expected: &Tensor) -> Option<Difference> {
    if got.dtype() != expected.dtype() || got.shape() != expected.shape() {
        return None;
    }
    let (g, e) = (got.to_f64(), expected.to_f64());
    let scale = e.iter().filter(|x| x.is_finite()).fold(1.0f64, |a, x| a.max(x.abs()));
    let exact = !got.dtype().is_float();
    let mut worst = Difference {
        relative: 0.0,
        at: 0,
        got: 0.0,
        expected: 0.0,
    };
    for (at, (g, e)) in g.iter().zip(&e).enumerate() {
        let relative = match (
            g == e || (g.is_nan() && e.is_nan()),
            exact || !g.is_finite() || !e.is_finite(),
        ) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            (false, false) => (g - e).abs() / scale,
        };
        if relative > worst.relative || at == 0 {
            worst = Difference {
                relative,
                at,
                got: *g,
                expected: *e,
            };
        }
    }
    Some(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_tensor() {
        let e = Tensor::f32(&[3], [100.0, 0.0, f32::NAN]);
        let d = difference(&Tensor::f32(&[3], [100.0, 0.5, f32::NAN]), &e).expect("comparable");
        assert_eq!((d.relative, d.at, d.got, d.expected), (0.005, 1, 0.5, 0.0));
        let d = difference(&Tensor::f32(&[3], [100.0, f32::NAN, f32::NAN]), &e).expect("comparable");
        assert_eq!((d.relative, d.at), (f64::INFINITY, 1));
        assert_eq!(difference(&e, &e).expect("comparable").relative, 0.0);
        let (a, b) = (Tensor::i64(&[1], [7]), Tensor::i64(&[1], [8]));
        assert_eq!(difference(&a, &b).expect("comparable").relative, f64::INFINITY);
        assert_eq!(difference(&a, &e), None);
    }

    #[test]
    fn tensors_survive_a_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.npz");
        for dtype in DType::ALL {
            let t = match dtype {
                DType::String => Tensor::strings(&[2, 1], ["ä", ""]).expect("different"),
                _ => Tensor::from_i64(dtype, &[2, 1], [0, 1]),
            };
            if write(&path, &[("x".into(), &t)]).is_ok() {
                let back = cameo_npz::read(&path).expect("reads");
                assert_eq!(tensor(&back[0], dtype).expect("a tensor"), t);
            }
        }
    }
}
