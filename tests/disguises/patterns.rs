//! What exporters spell out, in one spelling.

/// A pattern and the operation that it is, as often as it occurs; nothing of `gone` may be left.
pub struct Pattern {
    pub name: &'static str,
    pub text: &'static str,
    pub op: &'static str,
    pub count: usize,
    pub gone: &'static [&'static str],
}

pub const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "attention with an added mask",
        text: r#"graph @g (%0 "q": f32[2,3,5,4], %1 "k": f32[2,3,7,4], %2 "v": f32[2,3,7,6], %3 "mask": f32[2,1,1,7]) {
  weight %4: f32[] = dense(0.5)
  %10 = Transpose(%1) {perm=[0,1,3,2]}
  %11 = MatMul(%0, %10)
  %12 = Mul(%11, %4)
  %13 = Add(%12, %3)
  %14 = Softmax(%13) {axis=-1}
  %15 = MatMul(%14, %2)
  return %15 "y"
}"#,
        op: "Attention",
        count: 1,
        gone: &["Softmax", "MatMul"],
    },
    Pattern {
        name: "attention with a condition, both sides scaled, grouped heads",
        text: r#"graph @g (%0 "q": f32[1,4,5,4], %1 "k": f32[1,2,7,4], %2 "v": f32[1,2,7,6], %3 "seen": bool[1,1,5,7]) {
  weight %4: f32[] = dense(0.75)
  weight %5: f32[] = dense(-inf)
  weight %6: f32[] = dense(0.0)
  %10 = Unsqueeze(%1) {axes=dims[2]}
  %11 = Expand(%10) {shape=dims[1,2,2,7,4]}
  %12 = Reshape(%11) {shape=dims[1,4,7,4]}
  %13 = Transpose(%12) {perm=[0,1,3,2]}
  %14 = Unsqueeze(%2) {axes=dims[2]}
  %15 = Expand(%14) {shape=dims[1,2,2,7,6]}
  %16 = Reshape(%15) {shape=dims[1,4,7,6]}
  %17 = Mul(%0, %4)
  %18 = Mul(%13, %4)
  %19 = MatMul(%17, %18)
  %20 = Where(%3, %19, %5)
  %21 = Softmax(%20) {axis=3}
  %22 = IsNaN(%21)
  %23 = Where(%22, %6, %21)
  %24 = MatMul(%23, %16)
  return %24 "y"
}"#,
        op: "Attention",
        count: 1,
        gone: &["Softmax", "MatMul"],
    },
    Pattern {
        name: "LayerNormalization",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  weight %1: f32[] = dense(2.0)
  weight %2: f32[] = dense(1e-5)
  weight %3 "scale": f32[8] = blob("scale")
  weight %4 "bias": f32[8] = blob("bias")
  %10 = ReduceMean(%0) {axes=dims[-1]}
  %11 = Sub(%0, %10)
  %12 = Pow(%11, %1)
  %13 = ReduceMean(%12) {axes=dims[-1]}
  %14 = Add(%13, %2)
  %15 = Sqrt(%14)
  %16 = Div(%11, %15)
  %17 = Mul(%16, %3)
  %18 = Add(%17, %4)
  return %18 "y"
}"#,
        op: "LayerNormalization",
        count: 1,
        gone: &["Sqrt", "ReduceMean"],
    },
    Pattern {
        name: "RMSNormalization",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  weight %2: f32[] = dense(1e-6)
  weight %3 "scale": f32[8] = blob("scale")
  %12 = Mul(%0, %0)
  %13 = ReduceMean(%12) {axes=dims[2]}
  %14 = Add(%13, %2)
  %15 = Sqrt(%14)
  %16 = Reciprocal(%15)
  %17 = Mul(%0, %16)
  %18 = Mul(%17, %3)
  return %18 "y"
}"#,
        op: "RMSNormalization",
        count: 1,
        gone: &["Sqrt", "ReduceMean"],
    },
    Pattern {
        name: "Gelu by erf",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  weight %1: f32[] = dense(1.4142135)
  weight %2: f32[] = dense(1.0)
  weight %3: f32[] = dense(0.5)
  %10 = Div(%0, %1)
  %11 = Erf(%10)
  %12 = Add(%11, %2)
  %13 = Mul(%0, %12)
  %14 = Mul(%13, %3)
  return %14 "y"
}"#,
        op: "Gelu",
        count: 1,
        gone: &["Erf"],
    },
    Pattern {
        name: "Gelu by tanh",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  weight %1: f32[] = dense(3.0)
  weight %2: f32[] = dense(0.044715)
  weight %3: f32[] = dense(0.7978846)
  weight %4: f32[] = dense(1.0)
  weight %5: f32[] = dense(0.5)
  %10 = Pow(%0, %1)
  %11 = Mul(%10, %2)
  %12 = Add(%0, %11)
  %13 = Mul(%12, %3)
  %14 = Tanh(%13)
  %15 = Add(%14, %4)
  %16 = Mul(%0, %5)
  %17 = Mul(%16, %15)
  return %17 "y"
}"#,
        op: "Gelu",
        count: 1,
        gone: &["Tanh"],
    },
    Pattern {
        name: "SiLU",
        text: r#"graph @g (%0 "x": f32[3,5,8]) {
  %10 = Sigmoid(%0)
  %11 = Mul(%0, %10)
  return %11 "y"
}"#,
        op: "Swish",
        count: 1,
        gone: &["Sigmoid"],
    },
    Pattern {
        name: "rotary embedding",
        text: r#"graph @g (%0 "x": f32[2,3,5,8], %1 "cos": f32[2,1,5,8], %2 "sin": f32[2,1,5,8]) {
  %10 = Slice(%0) {axes=dims[3], ends=dims[4], starts=dims[0]}
  %11 = Slice(%0) {axes=dims[3], ends=dims[8], starts=dims[4]}
  %12 = Neg(%11)
  %13 = Concat(%12, %10) {axis=-1}
  %14 = Mul(%0, %1)
  %15 = Mul(%13, %2)
  %16 = Add(%14, %15)
  return %16 "y"
}"#,
        op: "cameo::Rotary",
        count: 1,
        gone: &["Concat"],
    },
    Pattern {
        name: "a block of three branches",
        text: r#"graph @g (%0 "x": f32[2,4,6,6]) {
  weight %1 "w3": f32[4,4,3,3] = blob("w3")
  weight %2 "w1": f32[4,4,1,1] = blob("w1")
  weight %3 "g": f32[4] = dense(1.5,0.5,-0.75,1.25)
  weight %4 "b": f32[4] = dense(0.25,-0.5,0.75,1.0)
  weight %5 "m": f32[4] = dense(0.5,-0.25,0.125,0.75)
  weight %6 "v": f32[4] = dense(1.5,0.5,0.75,2.0)
  %10 = Conv(%0, %1) {pads=[1,1,1,1]}
  %11 = BatchNormalization(%10, %3, %4, %5, %6)
  %12 = Conv(%0, %2)
  %13 = BatchNormalization(%12, %4, %3, %5, %6)
  %14 = BatchNormalization(%0, %3, %5, %4, %6)
  %15 = Add(%11, %13)
  %16 = Add(%15, %14)
  return %16 "y"
}"#,
        op: "Conv",
        count: 1,
        gone: &["BatchNormalization"],
    },
];
