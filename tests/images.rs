//! Images that are inputs of programs: one program and one context, run after run with other files, against the interpreter;
//! bytes that are no image; and that other programs do not bring the decoder.

use cameo_ir::{DType, Tensor, interp};
use cameo_runtime::{Error, Status};
use cameo_tests::compare::assert_same;
use cameo_tests::model::{Choices, Model, run_in};
use cameo_tests::source;

/// Two images, one of which is scaled and turned.
const GRAPH: &str = r#"graph @g (%0 "a": u8[N], %1 "b": u8[M]) symbols N=0.., M=0.. {
    weight %9: f32[] = dense(0.5)
    %2 = ImageDecoder(%0) {height="custom.a_height", width="custom.a_width"} from "first"
    %3 = Cast(%2) {to=f32}
    %4 = Mul(%3, %9)
    %5 = Transpose(%4) {perm=[2,0,1]}
    %6 = ImageDecoder(%1) {height="custom.b_height", pixel_format="Grayscale", width="custom.b_width"} from "second"
    return %5 "y", %6 "z"
}"#;

fn bytes(file: &[u8]) -> Tensor {
    Tensor::from_packed(DType::U8, vec![file.len()], file.to_vec().into()).expect("as many as there are")
}

/// A portable map in colours that differ from pixel to pixel.
fn map(height: usize, width: usize) -> Tensor {
    let mut file = format!("P6 {width} {height} 255\n").into_bytes();
    file.extend((0..height * width * 3).map(|i| (i * 37 % 251) as u8));
    bytes(&file)
}

#[test]
fn sizes_are_what_the_files_say() {
    let graph = source::graph(GRAPH);
    for passes in [false, true] {
        let choices = Choices {
            passes,
            ..Choices::default()
        };
        let model = Model::new(&graph, &choices).unwrap_or_else(|e| panic!("{e}"));
        let mut context = model.context(2).expect("a context");
        let mut run = |a: &Tensor, b: &Tensor| {
            let inputs = [a.clone(), b.clone()];
            let want = interp::run(&graph, &inputs).expect("runs");
            let got = run_in(&mut context, &inputs).unwrap_or_else(|e| panic!("{e}"));
            assert_same(&got, &want);
        };
        let (wide, high) = (map(5, 20), map(20, 5));
        // As long as the one before, but of another shape.
        assert_eq!(wide.len(), high.len());
        for (a, b) in [
            (&wide, &high),
            (&high, &wide),
            (&high, &high),
            (&map(1, 1), &map(40, 3)),
        ] {
            run(a, b);
        }
        for (b, part) in [
            (bytes(b""), "it is no BMP"),
            (bytes(b"P6 2 2 255\n1234567"), ""),
            (bytes(b"P6 60000 60000 255\n"), "more than 134217728"),
        ] {
            let said = run_in(&mut context, &[wide.clone(), b]).expect_err("no image");
            assert_eq!(said.status(), Status::OperatorFailed);
            let said = said.to_string();
            let whole = "operator ImageDecoder failed at node \"second\": the image cannot be decoded: ";
            assert!(said.contains(whole) && said.contains(part), "{said}");
        }
        let inputs = [high, wide];
        let again = run_in(&mut context, &inputs).expect("runs after an error");
        assert_same(&again, &interp::run(&graph, &inputs).expect("runs"));
    }
}

#[test]
fn bytes_must_be_there_before_shapes_are() {
    let model = Model::new(&source::graph(GRAPH), &Choices::default()).unwrap_or_else(|e| panic!("{e}"));
    let mut context = model.context(1).expect("a context");
    assert!(matches!(context.prepare(), Err(Error::NotBound { name: "a" })));
    run_in(&mut context, &[map(2, 3), map(3, 2)]).expect("runs");
    // It has let go of them.
    assert!(matches!(context.prepare(), Err(Error::NotBound { name: "a" })));
}

#[test]
fn bytes_that_are_computed_are_refused() {
    let computed = GRAPH.replace(
        "%2 = ImageDecoder(%0)",
        "%8 = Concat(%0, %1) {axis=0}\n    %2 = ImageDecoder(%8)",
    );
    let said = Model::new(&source::graph(&computed), &Choices::default())
        .map(|_| ())
        .expect_err("refused");
    assert!(
        said.contains("elements of an operand") && said.contains("must be an input or a constant"),
        "{said}"
    );
}

#[test]
fn only_programs_with_images_bring_the_decoder() {
    let library = |text: &str| {
        let model = Model::new(&source::graph(text), &Choices::default()).unwrap_or_else(|e| panic!("{e}"));
        let (_, bytes) = model
            .files
            .iter()
            .find(|(name, _)| name.ends_with(".so"))
            .expect("a library");
        bytes.clone()
    };
    let plain = library("graph @g (%0 \"x\": u8[N]) symbols N=0.. {\n %1 = Cast(%0) {to=f32}\n return %1 \"y\"\n}");
    let images = library(GRAPH);
    let brings = |library: &[u8]| library.windows(9).any(|w| w == b"WEBP_VP8L" || w == b"JPEG 2000");
    assert!(
        images.len() > plain.len() + (100 << 10),
        "{} {}",
        images.len(),
        plain.len()
    );
    assert!(brings(&images) && !brings(&plain));
}
