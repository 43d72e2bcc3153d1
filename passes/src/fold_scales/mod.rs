//! Folds batch normalisation and constant scales and shifts into the weights of what computes their operand.
//!
//! ```text
//! %4 = Conv(%0, %1) : f32[N,8,H,W]                         %4 = Mul(%1, s) : f32[8,3,3,3]        // recipe
//! %5 = BatchNormalization(%4, g, b, m, v)           →      %5 = Conv(%0, %4, t) : f32[N,8,H,W]
//! ```
//!
//! A batch normalisation of constants is `x*s + t` per channel, `s = g/sqrt(v+eps)`, `t = b - m*s`; that is its form even
//! where nothing absorbs it. A factor, one number or one per output channel, is carried towards the producers of its
//! operand, through movement and through sums with constants, until a Conv, ConvTranspose, Gemm or MatMul with a constant
//! weight takes it; so the scale of attention logits ends in the query weights. The scaled weight is a constant subgraph:
//! a recipe. Where no producer takes a factor, all products that read what it makes may: their weights have an axis for it
//! as well; and the shift after such a factor becomes a bias of theirs.
//!
//! Refused: values on the way that others read (they would change for them too), weights that others read
//! (there would be two of them), and 16-bit types (rounding the product costs accuracy).

mod before;
mod factor;

use cameo_ir::op::OpError;
use cameo_ir::rewrite::{Outcome, Rewriter};
use cameo_ir::{Attr, DType, Dim, NodeId, ValueId};

pub(crate) use self::factor::channel_axis;
use self::factor::scale;
use crate::Pass;
use crate::pattern::reshape_attrs;

pub const PASS: Pass = Pass {
    name: "fold_scales",
    doc: "folds batch normalisation and constant scales and shifts into weights",
    run,
};

fn run(rw: &mut Rewriter) {
    rw.fixpoint(|rw, n| match rw.node(n).op.name() {
        "BatchNormalization" => normalization(rw, n),
        "Mul" | "Div" => match scale(rw, n) {
            Outcome::Applied => Outcome::Applied,
            _ => before::scale(rw, n),
        },
        "Add" => match shift(rw, n) {
            Outcome::NoMatch => before::shift(rw, n),
            done => done,
        },
        _ => Outcome::NoMatch,
    });
}

// ---- batch normalisation

fn normalization(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let node = rw.node(n);
    let detail = "batch normalisation as scale and shift";
    let Some([x, gamma, beta, mean, var]) = node.inputs.iter().copied().collect::<Option<Vec<_>>>().and_then(take5)
    else {
        return Outcome::NoMatch;
    };
    if node.outputs.len() != 1 || matches!(node.attrs.get("training_mode"), Some(Attr::Int(t)) if *t != 0) {
        return rw.refuse(&[n], detail, "it is in training mode");
    }
    let constants = rw.constants();
    if [gamma, beta, mean, var].iter().any(|v| !constants[v.0 as usize]) {
        return rw.refuse(&[n], detail, "its statistics are not constant");
    }
    let dtype = rw.fact(x).dtype;
    if [gamma, beta, mean, var].iter().any(|v| rw.fact(*v).dtype != dtype) {
        return rw.refuse(&[n], detail, "its statistics have another type than its operand");
    }
    let epsilon = match node.attrs.get("epsilon") {
        Some(Attr::Float(e)) => *e,
        // The default of ONNX.
        _ => 1e-5,
    };
    let rank = rw.fact(x).rank();
    let mut shape = vec![rw.fact(gamma).shape.first().cloned().unwrap_or(Dim::ONE)];
    shape.extend((2..rank).map(|_| Dim::ONE));
    // Numbers of 16 bits are rounded once: by the operator itself, and so are its scale and shift where weights take them.
    let half = dtype.is_float() && dtype.bits() == 16;
    let linear = ["Conv", "ConvTranspose", "Gemm", "MatMul"];
    let taken = linear.iter().any(|op| rw.producer_if(x, op).is_some());
    rw.replace_one(&[n], detail, |rw| {
        let cast = |rw: &mut Rewriter, v: ValueId, to: DType| match rw.fact(v).dtype == to {
            true => Ok(v),
            false => rw.apply("Cast", &[("to", Attr::DType(to))], &[v]),
        };
        let (work, last) = match half {
            true => (DType::F32, if taken { dtype } else { DType::F32 }),
            false => (dtype, dtype),
        };
        let epsilon = rw.add_weight("", cameo_ir::Tensor::from_f64(work, &[], [f64::from(epsilon)]));
        let [gamma, beta, mean, var] = [gamma, beta, mean, var].map(|v| cast(rw, v, work));
        let (gamma, beta, mean, var) = (gamma?, beta?, mean?, var?);
        let var = rw.apply("Add", &[], &[var, epsilon])?;
        let deviation = rw.apply("Sqrt", &[], &[var])?;
        let scale = rw.apply("Div", &[], &[gamma, deviation])?;
        let offset = rw.apply("Mul", &[], &[mean, scale])?;
        let shift = rw.apply("Sub", &[], &[beta, offset])?;
        let scale = reshaped(rw, scale, &shape)?;
        let shift = reshaped(rw, shift, &shape)?;
        let (x, scale, shift) = (cast(rw, x, last)?, cast(rw, scale, last)?, cast(rw, shift, last)?);
        let y = rw.apply("Mul", &[], &[x, scale])?;
        let y = rw.apply("Add", &[], &[y, shift])?;
        cast(rw, y, dtype)
    })
}

fn take5(v: Vec<ValueId>) -> Option<[ValueId; 5]> {
    v.try_into().ok()
}

/// `v` in another shape of as many elements.
pub(crate) fn reshaped(rw: &mut Rewriter, v: ValueId, shape: &[Dim]) -> Result<ValueId, OpError> {
    match rw.fact(v).shape == shape {
        true => Ok(v),
        false => rw.apply("Reshape", &reshape_attrs(shape), &[v]),
    }
}

const INFINITE: &str = "it has elements that are not finite: sums of their products would have no value";

/// Whether some elements of the factor (or divisor, or shift) `v` that `op` takes are known to be infinite.
fn infinite(rw: &Rewriter, op: &str, v: ValueId) -> bool {
    let odd = |x: f64| !x.is_finite() || (op == "Div" && x == 0.0);
    rw.constant(v).is_some_and(|t| t.to_f64().into_iter().any(odd))
}

// ---- shifts

/// `Conv(x, w) + c` → `Conv(x, w, c)`, likewise ConvTranspose and Gemm, and into the bias that is there
fn shift(rw: &mut Rewriter, n: NodeId) -> Outcome {
    let constants = rw.constants();
    let (Some(y), Some(c)) = (rw.input(n, 0), rw.input(n, 1)) else {
        return Outcome::NoMatch;
    };
    let (y, c) = if constants[y.0 as usize] { (c, y) } else { (y, c) };
    if !constants[c.0 as usize] || constants[y.0 as usize] {
        return Outcome::NoMatch;
    }
    let g = rw.graph();
    let Some((p, _)) = g.producer(y) else {
        return Outcome::NoMatch;
    };
    let producer = g.node(p);
    let op = producer.op.name();
    if !matches!(op, "Conv" | "ConvTranspose" | "Gemm") {
        return Outcome::NoMatch;
    }
    let shape = g.fact(y).shape.clone();
    if g.fact(rw.node(n).outputs[0]).shape != shape {
        return Outcome::NoMatch;
    }
    let axis = match channel_axis(&g.fact(c).shape, &shape) {
        Some(None) => None,
        // The channel axis: 1 in [N, C, …] as in [M, N].
        Some(Some(1)) => Some(1),
        _ => return Outcome::NoMatch,
    };
    let detail = "shift into the bias";
    if !rw.used_once(y) {
        return rw.refuse(&[n, p], detail, format!("the result of {op} is also read by others"));
    }
    let bias = rw.input(p, 2);
    if bias.is_some_and(|b| !constants[b.0 as usize]) {
        return rw.refuse(&[n, p], detail, "the bias is not a constant");
    }
    if op == "Gemm" && matches!(producer.attrs.get("beta"), Some(Attr::Float(b)) if *b != 1.0) {
        return rw.refuse(&[n, p], detail, "the bias has a factor");
    }
    let mut inputs = producer.inputs.clone();
    inputs.resize(3, None);
    let channels = [shape[1].clone()];
    rw.replace(&[n, p], detail, |rw| {
        let flat = match axis {
            Some(_) => reshaped(rw, c, &channels)?,
            None => reshaped(rw, c, &[])?,
        };
        inputs[2] = Some(match bias {
            Some(b) => rw.apply("Add", &[], &[b, flat])?,
            None if axis.is_some() => flat,
            None => rw.apply("Expand", &[("shape", Attr::Dims(channels.to_vec()))], &[flat])?,
        });
        rw.copy_with(p, inputs)
    })
}

#[cfg(test)]
mod tests {
    use super::PASS;
    use crate::testing::{refused, rewrite};

    #[test]
    fn batch_normalization_after_a_convolution() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H,W]) symbols N=1.., H=1.., W=1.. {
              weight %1: f32[3,2,3,3] = random
              weight %2: f32[3] = random
              weight %3: f32[3] = random
              weight %4: f32[3] = random
              weight %5: f32[3] = positive
              %6 = Conv(%0, %1) {pads=[1,1,1,1]} from "conv"
              %7 = BatchNormalization(%6, %2, %3, %4, %5) {epsilon=0.001} from "bn"
              %8 = Relu(%7)
              return %8 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H,W]) symbols N=1.., H=1.., W=1.. {
          weight %1: f32[3] = dense(1.125,0.75,1.75)
          weight %2: f32[] = dense(0.001)
          weight %3: f32[3] = dense(1.5,-0.75,0.625)
          weight %4: f32[3,2,3,3] = dense(…)
          weight %5: f32[3] = dense(1.375,-0.5,1.875)
          weight %6: f32[3] = dense(1.5,0.5,1.0)
          %7 = Add(%1, %2) : f32[3] from "bn"
          %8 = Sqrt(%7) : f32[3] from "bn"
          %9 = Div(%3, %8) : f32[3] from "bn"
          %10 = Reshape(%9) {shape=dims[3,1,1]} : f32[3,1,1] from "bn"
          %11 = Reshape(%10) {shape=dims[3,1,1,1]} : f32[3,1,1,1] from "bn", "conv"
          %12 = Mul(%4, %11) : f32[3,2,3,3] from "bn", "conv"
          %13 = Mul(%5, %9) : f32[3] from "bn"
          %14 = Sub(%6, %13) : f32[3] from "bn"
          %15 = Reshape(%14) {shape=dims[3,1,1]} : f32[3,1,1] from "bn"
          %16 = Reshape(%15) {shape=dims[3]} : f32[3] from "bn", "conv"
          %17 = Conv(%0, %12, %16) {pads=[1,1,1,1]} : f32[N,3,H,W] from "bn", "conv"
          %18 = Relu(%17) : f32[N,3,H,W]
          return %18 "y"
        }
        "#);
    }

    #[test]
    fn a_convolution_that_others_read_stays() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
              weight %1: f32[2,1,3] = random
              weight %2: f32[2] = positive
              %3 = Conv(%0, %1) {pads=[1,1], group=2}
              %4 = BatchNormalization(%3, %2, %2, %2, %2)
              return %3 "y", %4 "z"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
          weight %1: f32[2,1,3] = dense(…)
          weight %2: f32[2] = dense(2.375,1.375)
          weight %3: f32[] = dense(1e-5)
          %4 = Conv(%0, %1) {group=2, pads=[1,1]} : f32[N,2,H]
          %5 = Add(%2, %3) : f32[2]
          %6 = Sqrt(%5) : f32[2]
          %7 = Div(%2, %6) : f32[2]
          %8 = Reshape(%7) {shape=dims[2,1]} : f32[2,1]
          %9 = Mul(%4, %8) : f32[N,2,H]
          %10 = Mul(%2, %7) : f32[2]
          %11 = Sub(%2, %10) : f32[2]
          %12 = Reshape(%11) {shape=dims[2,1]} : f32[2,1]
          %13 = Add(%9, %12) : f32[N,2,H]
          return %4 "y", %13 "z"
        }
        "#);
    }

    #[test]
    fn refuses_shared_results_and_weights() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[2,2] = random
              weight %2: f32[2] = random
              %3 = MatMul(%0, %1)
              %4 = Mul(%3, %2)
              %5 = Add(%3, %4)
              %6 = MatMul(%5, %1)
              %7 = Mul(%6, %2)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"scale into weights: others read the weight of MatMul");
    }

    #[test]
    fn refuses_results_that_others_read() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[2,2] = random
              weight %2: f32[2] = random
              %3 = MatMul(%0, %1)
              %4 = Mul(%3, %2)
              %5 = Add(%3, %4)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"scale into weights: the result of MatMul is also read by others");
    }

    #[test]
    fn scale_and_shift_after_gemm() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2]) symbols N=1.. {
              weight %1: f32[3,2] = random
              weight %2: f32[3] = random
              weight %3: f32[1,3] = random
              weight %4: f32[] = dense(0.5)
              %5 = Gemm(%0, %1, %2) {transB=1}
              %6 = Mul(%5, %3)
              %7 = Add(%6, %4)
              return %7 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2]) symbols N=1.. {
          weight %1: f32[1,3] = dense(-1.0,0.75,1.875)
          weight %2: f32[3,2] = dense(…)
          weight %3: f32[3] = dense(-1.875,-0.875,-1.75)
          weight %4: f32[] = dense(0.5)
          %5 = Reshape(%1) {shape=dims[3,1]} : f32[3,1]
          %6 = Mul(%2, %5) : f32[3,2]
          %7 = Reshape(%1) {shape=dims[3]} : f32[3]
          %8 = Mul(%3, %7) : f32[3]
          %9 = Add(%8, %4) : f32[3]
          %10 = Gemm(%0, %6, %9) {transB=1} : f32[N,3]
          return %10 "y"
        }
        "#);
    }

    #[test]
    fn the_scale_of_logits_ends_in_the_query_weights() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
              weight %1: f32[4,4] = random
              weight %2: f32[4] = random
              weight %3: f32[4,4] = random
              weight %4: f32[] = dense(0.125)
              %5 = MatMul(%0, %1) from "q"
              %6 = Add(%5, %2) from "q_bias"
              %7 = Reshape(%6) {shape=dims[B,S,2,2]}
              %8 = Transpose(%7) {perm=[0,2,1,3]}
              %9 = MatMul(%0, %3) from "k"
              %10 = Reshape(%9) {shape=dims[B,S,2,2]}
              %11 = Transpose(%10) {perm=[0,2,3,1]}
              %12 = MatMul(%8, %11)
              %13 = Mul(%12, %4) from "scale"
              %14 = Softmax(%13)
              return %14 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[B,S,4]) symbols B=1.., S=1.. {
          weight %1: f32[4,4] = dense(…)
          weight %2: f32[] = dense(0.125)
          weight %3: f32[4] = dense(-1.875,-1.0,0.5,1.5)
          weight %4: f32[4,4] = dense(…)
          %5 = Mul(%1, %2) : f32[4,4] from "q", "scale"
          %6 = MatMul(%0, %5) : f32[B,S,4] from "q", "scale"
          %7 = Mul(%3, %2) : f32[4] from "q_bias", "scale"
          %8 = Add(%6, %7) : f32[B,S,4] from "q_bias"
          %9 = Reshape(%8) {shape=dims[B,S,2,2]} : f32[B,S,2,2]
          %10 = Transpose(%9) {perm=[0,2,1,3]} : f32[B,2,S,2]
          %11 = MatMul(%0, %4) : f32[B,S,4] from "k"
          %12 = Reshape(%11) {shape=dims[B,S,2,2]} : f32[B,S,2,2]
          %13 = Transpose(%12) {perm=[0,2,3,1]} : f32[B,2,2,S]
          %14 = MatMul(%10, %13) : f32[B,2,S,S]
          %15 = Softmax(%14) : f32[B,2,S,S]
          return %15 "y"
        }
        "#);
    }

    #[test]
    fn transposed_convolutions_too() {
        let text = rewrite(
            &PASS,
            r#"graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
              weight %1: f32[2,3,2] = random
              weight %2: f32[3,1] = random
              %3 = ConvTranspose(%0, %1) {strides=[2]}
              %4 = Mul(%3, %2)
              %5 = Add(%4, %2)
              return %5 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @r#"
        graph @g (%0 "x": f32[N,2,H]) symbols N=1.., H=1.. {
          weight %1: f32[2,3,2] = dense(…)
          weight %2: f32[3,1] = dense(-0.875,-1.875,1.375)
          %3 = Mul(%1, %2) : f32[2,3,2]
          %4 = Reshape(%2) {shape=dims[3]} : f32[3]
          %5 = ConvTranspose(%0, %3, %4) {strides=[2]} : f32[N,3,2*H]
          return %5 "y"
        }
        "#);
    }

    #[test]
    fn half_precision_weights_are_not_rounded_again() {
        let text = refused(
            &PASS,
            r#"graph @g (%0 "x": f16[N,2]) symbols N=1.. {
              weight %1: f16[2,2] = random
              weight %2: f16[2] = random
              %3 = MatMul(%0, %1)
              %4 = Mul(%3, %2)
              return %4 "y"
            }"#,
        );
        insta::assert_snapshot!(text, @"scale into weights: a product would be rounded to the 16-bit weight of MatMul");
    }
}
