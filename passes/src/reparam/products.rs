//! Two linear maps in a row: their product, where it takes fewer multiplications.

use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Graph, NodeId};

use super::branch::{After, Branch, Conv, Form, Kernel, Map, Matrix, Search};
use super::sums::{built, gcd};
use super::window::Window;
use crate::pattern::splat;

/// Iterations that the product of two weights may take: what a recipe may take always, and per element of the model's
/// weights. Beyond, the program would multiply them in every run.
const PRODUCT_ANY: u64 = 1 << 27;
const PRODUCT_PER_ELEMENT: u64 = 64;

/// `Conv(Conv(x, a), b)` → `Conv(x, b∘a)`, `(x a) b` → `x (a b)`
pub fn merge(rw: &mut Rewriter, constants: &[bool], n: NodeId) -> Outcome {
    let search = Search {
        g: rw.graph(),
        constants,
    };
    let outer = search.branch(rw.node(n).outputs[0], true, 0);
    let Some(product) = composed(&search, &outer) else {
        return Outcome::NoMatch;
    };
    if product.branch.cost() >= product.branch.apart() {
        return Outcome::NoMatch;
    }
    let (nodes, detail) = (product.branch.nodes.clone(), "product of weights");
    match product.problem {
        Some(reason) => rw.refuse(&nodes, detail, reason),
        None => {
            let form = match &product.branch.map {
                Map::Conv(c) => Some(&c.form),
                _ => None,
            };
            rw.replace_one(&nodes, detail, |rw| built(rw, form, &[&product.branch]))
        }
    }
}

/// Two maps as one.
pub struct Product {
    pub branch: Branch,
    /// Why it must not stand for them.
    pub problem: Option<String>,
}

/// `outer` after the map that its source comes from, when both are of one kind. Of two convolutions one is pointwise: the
/// taps of others multiply.
pub fn composed(search: &Search, outer: &Branch) -> Option<Product> {
    let between = outer.source;
    let inner = search.branch(between, true, 0);
    let channels = match outer.map {
        Map::MatMul(_) => search.g.fact(between).rank() - 1,
        _ => 1,
    };
    if !inner.after.iter().filter_map(After::axis).all(|a| a == channels) {
        return None;
    }
    let bare = Branch {
        after: vec![],
        ..outer.clone()
    };
    let kernel = Kernel::Product(Box::new(inner.clone()), Box::new(bare));
    let (map, iterations, mut problem) = match (&inner.map, &outer.map) {
        (Map::Conv(a), Map::Conv(b)) => {
            let (a, b) = (&a.form, &b.form);
            let window = if b.window.is_pointwise() {
                a.window.clone()
            } else if a.window.is_pointwise() && narrows(&b.window) {
                b.window.clone()
            } else {
                return None;
            };
            let form = Form {
                group: gcd(a.group, b.group),
                inputs: a.inputs,
                outputs: b.outputs,
                window,
            };
            let middle = (a.outputs / form.group.max(1)).unsigned_abs();
            let problem = (b.window.is_padded() && shifts(search.g, &inner))
                .then(|| "the padding between them is zero, where the first has a bias".to_string());
            let iterations = form.cost().saturating_mul(middle);
            let bias = None;
            (Map::Conv(Conv { kernel, bias, form }), iterations, problem)
        }
        (Map::MatMul(a), Map::MatMul(b)) => {
            let (inputs, outputs) = (a.inputs, b.outputs);
            let m = Matrix {
                kernel,
                inputs,
                outputs,
            };
            let iterations =
                (inputs.unsigned_abs().saturating_mul(outputs.unsigned_abs())).saturating_mul(a.outputs.unsigned_abs());
            (Map::MatMul(m), iterations, None)
        }
        _ => return None,
    };
    if !search.read_once(between) {
        problem = Some("the result between them is also read by others".into());
    }
    if iterations > allowed(search.g) {
        problem = Some(format!("the product of the weights takes {iterations} iterations"));
    }
    let nodes = outer.nodes.iter().chain(&inner.nodes).copied().collect();
    let branch = Branch {
        source: inner.source,
        map,
        nodes,
        ..outer.clone()
    };
    Some(Product { branch, problem })
}

/// Whether there are no more windows than elements.
fn narrows(w: &Window) -> bool {
    (0..w.kernel.len()).all(|i| w.begin[i] + w.end[i] <= w.dilations[i] * (w.kernel[i] - 1))
}

/// Whether a branch adds something to a product that is zero.
fn shifts(g: &Graph, b: &Branch) -> bool {
    let bias = match &b.map {
        Map::Conv(c) => match &c.kernel {
            Kernel::Product(inner, outer) => shifts(g, inner) || shifts(g, outer),
            _ => c.bias.is_some_and(|v| splat(g, v) != Some(0.0)),
        },
        Map::MatMul(m) => match &m.kernel {
            Kernel::Product(inner, outer) => shifts(g, inner) || shifts(g, outer),
            _ => false,
        },
        Map::Identity => false,
    };
    bias || b.after.iter().any(|a| matches!(a, After::Shift { .. }))
}

fn allowed(g: &Graph) -> u64 {
    let weights = g.value_ids().filter_map(|v| g.constant(v));
    let elements = weights.fold(0, |n: u64, t| n.saturating_add(t.len() as u64));
    PRODUCT_ANY.max(elements.saturating_mul(PRODUCT_PER_ELEMENT))
}
