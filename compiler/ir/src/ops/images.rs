//! `ImageDecoder`: files of images as pixels.
//!
//! Laws: how large an image is stands in its bytes. Where these are an input of the model, attributes `height` and `width` name
//! the symbols that stand for it: a run reads them before it plans. Where the bytes are constant, they are numbers.

use std::sync::Arc;

use cameo_images::{Format, Pixels};

use crate::op::{AttrDef, Attrs, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid, unsupported};
use crate::ops::custom::{Parts, probe};
use crate::ops::fragment::Fragment;
use crate::{Attr, DType, Dim, Fact, Tensor};

pub const OPS: &[&dyn OpDef] = &[&ImageDecoder];

/// Attributes that name the symbols.
const HEIGHT: &str = "height";
const WIDTH: &str = "width";

/// What programs call.
const FUNCTION: &str = "cameo_image_decoder";

struct ImageDecoder;

impl OpDef for ImageDecoder {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "ImageDecoder",
            "the pixels of an image: y[row, column, channel]",
            &[Param::new("encoded_stream", Types::of(&[DType::U8]))],
            &[Param::new("image", Types::of(&[DType::U8]))],
            &[
                (HEIGHT, AttrDef::Probe),
                ("pixel_format", AttrDef::OneOf(&["RGB", "BGR", "Grayscale"])),
                (WIDTH, AttrDef::Probe),
            ],
        )
        .since(20)
        .limits(&[
            "bytes that are an input of the model or constant",
            "bytes that are no image are an error of the run",
        ]);
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let file = cx.fact(0)?;
        if file.rank() != 1 {
            return invalid(format!("{file} is no list of bytes"));
        }
        let channels = Dim::from(format(cx)?.channels());
        let [height, width] = match (cx.opt_str(HEIGHT)?, cx.opt_str(WIDTH)?) {
            (Some(height), Some(width)) => [probe(height)?, probe(width)?],
            _ => match cx.arg(0).and_then(|a| a.constant) {
                Some(file) => cameo_images::size(file.bytes())
                    .map_err(|why| undecodable(&why))?
                    .map(Dim::from),
                None => {
                    return unsupported(
                        "how large the image is stands in its bytes, which must be an input of the model, outside of loops, or constant",
                    );
                }
            },
        };
        Ok(vec![Fact::new(DType::U8, [height, width, channels])])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let format = format(cx)?;
        let Pixels { height, width, bytes } =
            cameo_images::decode(cx.tensor(0)?.bytes(), format).map_err(|why| undecodable(&why))?;
        let shape = vec![height, width, format.channels()];
        let image = Tensor::from_packed(DType::U8, shape, bytes.into());
        image.map_or_else(|_| invalid("an image of another size"), |image| Ok(vec![image]))
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let mut g = Fragment::new(cx);
        let file = g.required(cx, 0)?;
        let format: Attr = Attr::Str(cx.str("pixel_format")?.into());
        let (operator, function): (Arc<str>, Arc<str>) = (self.schema().name.into(), FUNCTION.into());
        let parts = Parts {
            operator: &operator,
            outputs: self.infer(cx)?,
            function: Some(&function),
        };
        let attrs = parts.attrs(Attrs::from([("pixel_format".into(), format)]));
        let attrs: Vec<(&str, Attr)> = attrs.iter().map(|(name, value)| (&**name, value.clone())).collect();
        let image = g.apply("cameo::Custom", &attrs, &[file])?;
        Ok(g.finish(&[image]))
    }
}

fn format(cx: &Cx) -> Result<Format, OpError> {
    let name = cx.str("pixel_format")?;
    Format::find(name).map_or_else(|| cx.bad("pixel_format"), Ok)
}

fn undecodable(why: &str) -> OpError {
    OpError::Invalid(format!("the image cannot be decoded: {why}"))
}

#[cfg(test)]
mod tests {
    use crate::{Graph, Tensor, interp, naive, text, verify};

    /// A grey map of 2 rows of 3 pixels.
    const FILE: &[u8] = b"P5 3 2 255\n\x00\x10\x20\x30\x40\xFF";

    fn parse(attrs: &str) -> Result<Graph, String> {
        let source = format!(
            r#"graph @g (%0 "x": u8[N]) symbols N=0.. {{
                %1 = ImageDecoder(%0) {{{attrs}}}
                %2 = Transpose(%1) {{perm=[2,1,0]}}
                return %2 "y"
            }}"#
        );
        text::parse(&source, &|_, _| None).map_err(|e| e.to_string())
    }

    fn bytes(file: &[u8]) -> Tensor {
        Tensor::from_packed(crate::DType::U8, vec![file.len()], file.to_vec().into()).expect("bytes")
    }

    #[test]
    fn sizes_are_symbols_that_the_bytes_give() {
        let g = parse(r#"height="custom.h", pixel_format="Grayscale", width="custom.w""#).expect("parses");
        verify::verify(&g).expect("sound");
        let (_, y) = &g.outputs()[0];
        assert_eq!(g.fact(*y).to_string(), "u8[1,custom.w,custom.h]");
        let n = |s: &str| (s == "N").then_some(FILE.len() as i64);
        let out = interp::run(&g, &[bytes(FILE)]).expect("runs");
        assert_eq!(
            (out[0].shape(), out[0].to_i64()),
            ([1, 3, 2].as_slice(), vec![0, 48, 16, 64, 32, 255])
        );
        assert_eq!(naive::run_graph(&g, &[bytes(FILE)], &n).expect("runs"), out);
        let said = interp::run(&g, &[bytes(&FILE[..FILE.len() - 1])]).expect_err("too short");
        assert!(said.to_string().contains("the image cannot be decoded"), "{said}");
    }

    #[test]
    fn sizes_of_constant_bytes_are_numbers() {
        let list: Vec<String> = FILE.iter().map(ToString::to_string).collect();
        let source = format!(
            "graph @g () {{\n weight %0: u8[{}] = dense({})\n %1 = ImageDecoder(%0) {{}}\n return %1 \"y\"\n}}",
            FILE.len(),
            list.join(",")
        );
        let g = text::parse(&source, &|_, _| None).expect("parses");
        verify::verify(&g).expect("sound");
        let (_, y) = &g.outputs()[0];
        assert_eq!(g.fact(*y).to_string(), "u8[2,3,3]");
        assert!(g.constants()[y.0 as usize]);
        let image = interp::eval_constant(&g, *y).expect("a constant");
        assert_eq!(image.to_i64()[9..], [48, 48, 48, 64, 64, 64, 255, 255, 255]);
    }

    #[test]
    fn bytes_that_nobody_knows_before_a_run_are_refused() {
        for (attrs, part) in [
            (r#"pixel_format="RGB""#, "must be an input of the model"),
            (r#"height="custom.h""#, "must be an input of the model"),
            (r#"height="h", width="custom.w""#, "is called custom.…, not h"),
            (
                r#"height="custom.h", pixel_format="CMYK", width="custom.w""#,
                "it can be `RGB`, `BGR` or `Grayscale`",
            ),
        ] {
            let said = parse(attrs).expect_err("refused");
            assert!(said.contains(part), "{attrs}: {said}");
        }
    }
}
