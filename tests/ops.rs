//! Every operation of the table: interpreter = naive loops = compiled code, with known shapes and with symbols.
//!
//! A line of [`CASES`] is compiled in every [`Form`] that the operation admits, and run at the line's shapes, at smaller
//! ones (every symbol 1 where that is legal), at larger ones, and with nothing (every symbol 0). The cases of a family share libraries, because linking
//! takes longer than compiling one of them; what fails is compiled again alone, so that it can be named.

#[path = "ops/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cameo::artifact::kernel_target;
use cameo_ir::{Graph, OpError, Tensor, interp, naive, ops};
use cameo_runtime::Error;
use cameo_tests::case::{Formed, append};
use cameo_tests::{Case, Choices, Form, Model, difference};
use table::{CASES, NOT_COMPILED};

/// Graphs in one library: linking is paid rarely, and a failure repeats little.
const BATCH: usize = 40;

/// Elements of the first operand times those of the second: some milliseconds of naive loops.
const MOST_WORK: usize = 60_000;

/// A case in a form, with operands and what must come out, for some values of its symbols.
struct Part {
    what: String,
    form: Form,
    graph: Graph,
    runs: Vec<(Vec<Tensor>, Vec<Tensor>)>,
}

fn cases(op: &str) -> Vec<Case> {
    let lines = CASES.iter().filter(|line| line.split('(').next() == Some(op));
    lines.flat_map(|line| Case::parse(line)).collect()
}

/// Values of the symbols: the line's, then small ones, large ones and none, as far as the operation takes them.
fn bindings(formed: &Formed, seed: u64) -> Vec<BTreeMap<String, i64>> {
    let legal = |b: &BTreeMap<String, i64>| {
        let inputs = formed.inputs(b, seed);
        let work: usize = inputs.iter().take(2).map(Tensor::len).product();
        work <= MOST_WORK && interp::run(&formed.graph, &inputs).is_ok()
    };
    let changed = |candidates: &dyn Fn(i64) -> Vec<i64>| {
        let mut b = formed.symbols.clone();
        for name in formed.symbols.keys() {
            for value in candidates(formed.symbols[name]) {
                let old = b.insert(name.clone(), value).expect("a symbol");
                if legal(&b) {
                    break;
                }
                b.insert(name.clone(), old);
            }
        }
        b
    };
    let mut out = vec![formed.symbols.clone()];
    // Beyond one vector of 16 lanes, with a tail; and odd.
    for b in [
        changed(&|_| vec![1]),
        changed(&|v| vec![v + 17, v + 2, 2 * v + 1, 2 * v]),
        changed(&|_| vec![0]),
    ] {
        if !out.contains(&b) {
            out.push(b);
        }
    }
    out
}

/// The case in the form, checked against the naive loops; `None` where the form does not apply.
fn part(case: &Case, form: Form, problems: &mut Vec<String>) -> Option<Part> {
    let what = format!("{} {form:?}", case.text);
    let formed = case.form(form, 1)?;
    let target = kernel_target(&cameo::Target::default().machine().expect("this machine"));
    match catch_unwind(AssertUnwindSafe(|| {
        cameo_kernel::partition(&formed.graph, target, Default::default())
    })) {
        Ok(Ok(_)) => {}
        Ok(Err(errors)) => {
            let open = errors.iter().all(|e| matches!(e.error, OpError::Unsupported(_)));
            let symbolic = matches!(form, Form::ByExtent | Form::EveryAxis);
            if !open || !symbolic && !NOT_COMPILED.iter().any(|start| case.text.starts_with(start)) {
                problems.push(format!("{what}: {errors:?}"));
            }
            return None;
        }
        Err(_) => {
            problems.push(format!("{what}: the partition panics"));
            return None;
        }
    }
    let mut runs = vec![];
    for (i, b) in bindings(&formed, 7).into_iter().enumerate() {
        let inputs = formed.inputs(&b, 7);
        let want = match interp::run(&formed.graph, &inputs) {
            Ok(want) => want,
            Err(e) if i == 0 => {
                problems.push(format!("{what}: {e}"));
                return None;
            }
            Err(_) => continue,
        };
        match naive::run_graph(&formed.graph, &inputs, &|n| b.get(n).copied()) {
            Ok(loops) => differences(&format!("{what} {b:?}: loops"), &want, &loops, problems),
            // A slice that takes something of every axis has no shape where there is nothing.
            Err(_) if inputs.iter().any(Tensor::is_empty) => continue,
            Err(e) => problems.push(format!("{what} {b:?}: loops: {e}")),
        }
        runs.push((inputs, want));
    }
    Some(Part {
        what,
        form,
        graph: formed.graph,
        runs,
    })
}

fn differences(what: &str, want: &[Tensor], got: &[Tensor], problems: &mut Vec<String>) {
    for (i, (w, g)) in want.iter().zip(got).enumerate() {
        if let Some(d) = difference(w, g) {
            problems.push(format!(
                "{what}: output {i}: {}",
                d.chars().take(600).collect::<String>()
            ));
        }
    }
}

/// Compiles the parts as one model and runs all of them.
fn compiled(parts: &[&Part], cpu: &'static str, problems: &mut Vec<String>) -> Result<(), String> {
    let mut graph = Graph::new("cases");
    for (i, p) in parts.iter().enumerate() {
        append(&mut graph, &p.graph, &format!("c{i}"));
    }
    let compile = || Model::new(&graph, &Choices::new(false, cpu));
    let model = catch_unwind(AssertUnwindSafe(compile)).map_err(|_| "the compiler panics")??;
    let most = parts.iter().map(|p| p.runs.len()).max().unwrap_or(0);
    for k in 0..most {
        let run = |p: &Part| p.runs[k.min(p.runs.len() - 1)].clone();
        let (inputs, wanted): (Vec<_>, Vec<_>) = parts.iter().map(|p| run(p)).unzip();
        let threads = 1 + k % 2;
        let got = match model.run(&inputs.concat(), threads) {
            Ok(got) => got,
            // Without elements an operation may be refused; alone, so that nothing hides behind it.
            Err(Error::ShapeRule { .. }) if parts.len() == 1 && inputs.concat().iter().any(Tensor::is_empty) => {
                continue;
            }
            Err(e) => return Err(format!("run {k}: {e}")),
        };
        let mut got = got.into_iter();
        for (p, want) in parts.iter().zip(&wanted) {
            let got: Vec<Tensor> = got.by_ref().take(want.len()).collect();
            let inputs = run(p).0;
            let shapes: Vec<&[usize]> = inputs.iter().map(Tensor::shape).collect();
            differences(
                &format!("{} run {k} {shapes:?}: compiled for {cpu}", p.what),
                want,
                &got,
                problems,
            );
        }
    }
    Ok(())
}

fn check(family: &str) {
    let (_, members) = ops::FAMILIES.iter().find(|f| f.0 == family).expect("a family");
    let (mut parts, mut problems) = (vec![], vec![]);
    for op in *members {
        for case in cases(op.schema().name) {
            let formed = Form::ALL.iter().filter_map(|form| part(&case, *form, &mut problems));
            parts.extend(formed);
        }
    }
    // The oldest processors have instructions of their own, and no others for some operations.
    let all: Vec<&Part> = parts.iter().collect();
    let fixed: Vec<&Part> = parts.iter().filter(|p| p.form == Form::Static).collect();
    for (parts, cpu) in [(all, "native"), (fixed, "x86-64-v2")] {
        if cfg!(not(target_arch = "x86_64")) && cpu != "native" {
            continue;
        }
        for batch in parts.chunks(BATCH) {
            if compiled(batch, cpu, &mut problems).is_err() {
                for p in batch {
                    if let Err(e) = compiled(&[p], cpu, &mut problems) {
                        problems.push(format!("{} for {cpu}: {e}", p.what));
                    }
                }
            }
        }
    }
    println!("{} graphs", parts.len());
    assert!(
        problems.is_empty(),
        "{} problems\n{}",
        problems.len(),
        problems.join("\n")
    );
}

/// The families, each in a test of its own; [`every_operation_has_a_case`] sees that none is forgotten.
const TESTED: &[(&str, fn())] = &[
    ("Pointwise, one operand", pointwise_one_operand),
    ("Arithmetic", arithmetic),
    ("Comparison, logic and bits", comparison_logic_and_bits),
    ("Activations", activations),
    ("Casts and selection", casts_and_selection),
    ("Reductions", reductions),
    ("Extreme positions", extreme_positions),
    ("Softmax", softmax),
    ("Normalization", normalization),
    ("Normalization per channel", normalization_per_channel),
    ("Normalization by neighbours", normalization_by_neighbours),
    ("Shapes and constants", shapes_and_constants),
    ("Data movement", data_movement),
    ("Joining, cutting and padding", joining_cutting_and_padding),
    ("Gather and scatter", gather_and_scatter),
    ("Strings", strings),
    ("Contractions", contractions),
    ("Losses", losses),
    ("Signals", signals),
    ("Random numbers", random_numbers),
    ("Few bits", few_bits),
    ("Elements that share bytes", elements_that_share_bytes),
    ("Attention", attention),
    ("Recurrent layers", recurrent_layers),
    ("Convolution", convolution),
    ("Pooling", pooling),
    ("Resizing and sampling", resizing_and_sampling),
    ("Results as long as data says", results_as_long_as_data_says),
    ("Loops over time", loops_over_time),
    ("Sequences without padding", sequences_without_padding),
    ("Images", images),
    ("Optimizers", optimizers),
    ("Classical models", classical_models),
    ("Contributed", contributed),
];

#[test]
fn every_operation_has_a_case() {
    // Nothing but a program of a caller can compute what is external, and of what has room for more than is written only its
    // reader knows what has a meaning (oracle/lengths.py).
    let testable = |op: &cameo_ir::Op| !op.schema().external && op.name() != "cameo::Room";
    let families = ops::FAMILIES
        .iter()
        .filter(|(_, ops)| ops.iter().any(|o| testable(&cameo_ir::Op(*o))));
    let families: Vec<&str> = families.map(|f| f.0).collect();
    assert_eq!(families, TESTED.iter().map(|t| t.0).collect::<Vec<_>>());
    let used: BTreeSet<&str> = CASES.iter().filter_map(|line| line.split('(').next()).collect();
    let all: BTreeSet<&str> = ops::all().filter(testable).map(cameo_ir::Op::name).collect();
    let missing: Vec<_> = all.difference(&used).collect();
    let unknown: Vec<_> = used.difference(&all).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing {missing:?}, unknown {unknown:?}"
    );
}

#[test]
fn pointwise_one_operand() {
    check("Pointwise, one operand");
}

#[test]
fn arithmetic() {
    check("Arithmetic");
}

#[test]
fn comparison_logic_and_bits() {
    check("Comparison, logic and bits");
}

#[test]
fn activations() {
    check("Activations");
}

#[test]
fn casts_and_selection() {
    check("Casts and selection");
}

#[test]
fn reductions() {
    check("Reductions");
}

#[test]
fn extreme_positions() {
    check("Extreme positions");
}

#[test]
fn softmax() {
    check("Softmax");
}

#[test]
fn normalization() {
    check("Normalization");
}

#[test]
fn normalization_per_channel() {
    check("Normalization per channel");
}

#[test]
fn normalization_by_neighbours() {
    check("Normalization by neighbours");
}

#[test]
fn shapes_and_constants() {
    check("Shapes and constants");
}

#[test]
fn data_movement() {
    check("Data movement");
}

#[test]
fn joining_cutting_and_padding() {
    check("Joining, cutting and padding");
}

#[test]
fn gather_and_scatter() {
    check("Gather and scatter");
}

#[test]
fn strings() {
    check("Strings");
}

#[test]
fn contractions() {
    check("Contractions");
}

#[test]
fn signals() {
    check("Signals");
}

#[test]
fn random_numbers() {
    check("Random numbers");
}

#[test]
fn few_bits() {
    check("Few bits");
}

#[test]
fn elements_that_share_bytes() {
    check("Elements that share bytes");
}

#[test]
fn losses() {
    check("Losses");
}

#[test]
fn attention() {
    check("Attention");
}

#[test]
fn convolution() {
    check("Convolution");
}

#[test]
fn pooling() {
    check("Pooling");
}

#[test]
fn resizing_and_sampling() {
    check("Resizing and sampling");
}

#[test]
fn recurrent_layers() {
    check("Recurrent layers");
}

#[test]
fn results_as_long_as_data_says() {
    check("Results as long as data says");
}

#[test]
fn sequences_without_padding() {
    check("Sequences without padding");
}

#[test]
fn loops_over_time() {
    check("Loops over time");
}

#[test]
fn images() {
    check("Images");
}

#[test]
fn optimizers() {
    check("Optimizers");
}

#[test]
fn classical_models() {
    check("Classical models");
}

#[test]
fn contributed() {
    check("Contributed");
}
