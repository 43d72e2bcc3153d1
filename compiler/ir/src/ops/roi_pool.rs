//! `MaxRoiPool`: maxima of the bins of regions of images.
//!
//! Laws: the corners of a region are rounded to whole elements, halves away from 0, and belong to it; it is at least one
//! element wide and high. Bins begin and end at the elements around their exact bounds, so they may overlap; what lies off
//! the image counts for nothing, and a bin with nothing on it gives 0. A bin is an interval of rows and one of columns, so
//! kernels take maxima over rows and then over columns, region by region: what is kept is one region's.

use crate::index::{for_each, static_shape};
use crate::op::{AttrDef, Cx, Lowering, OpDef, OpError, Param, Schema, Types, invalid};
use crate::ops::composed::{count, differ, reshape, slice};
use crate::ops::fragment::Fragment;
use crate::ops::gather::wrapped;
use crate::{Attr, DType, Dim, Fact, Tensor, ValueId};

pub struct MaxRoiPool;

/// The attributes.
struct Form {
    scale: f32,
    /// Bins along height and width.
    bins: [i64; 2],
}

impl Form {
    fn of(cx: &Cx) -> Result<Self, OpError> {
        let scale = cx.float("spatial_scale")?;
        match cx.ints("pooled_shape")?[..] {
            // Nothing larger is meant, and all of it is an exact float.
            [height, width] if [height, width].iter().all(|n| (1..=1 << 20).contains(n)) => Ok(Self {
                scale,
                bins: [height, width],
            }),
            _ => cx.bad("pooled_shape"),
        }
    }
}

impl OpDef for MaxRoiPool {
    fn schema(&self) -> &'static Schema {
        static S: Schema = Schema::new(
            "MaxRoiPool",
            "the maximum of each bin of the region rois[r] = (image, x1, y1, x2, y2) of X[image]",
            &[Param::new("X", Types::FLOAT), Param::new("rois", Types::FLOAT)],
            &[Param::new("Y", Types::FLOAT)],
            &[
                ("pooled_shape", AttrDef::ReqInts),
                ("spatial_scale", AttrDef::Float(1.0)),
            ],
        );
        &S
    }

    fn infer(&self, cx: &Cx) -> Result<Vec<Fact>, OpError> {
        let (x, rois, form) = (cx.fact(0)?, cx.fact(1)?, Form::of(cx)?);
        if x.rank() != 4 || rois.rank() != 2 || differ(&rois.shape[1], &Dim::from(5i64)) {
            return invalid(format!("regions {rois} of {x}"));
        }
        let [height, width] = form.bins.map(Dim::from);
        let shape = vec![rois.shape[0].clone(), x.shape[1].clone(), height, width];
        Ok(vec![Fact::new(x.dtype, shape)])
    }

    fn eval(&self, cx: &Cx) -> Result<Vec<Tensor>, OpError> {
        let (x, rois, form) = (cx.tensor(0)?, cx.tensor(1)?, Form::of(cx)?);
        let shape = static_shape(&self.infer(cx)?[0])?;
        let images = x.shape();
        if rois.shape() != [shape[0], 5] {
            return invalid(format!("regions of shape {:?}", rois.shape()));
        }
        let (values, regions) = (x.to_f64(), rois.to_f64());
        let mut image = vec![];
        for region in regions.chunks(5) {
            image.push(wrapped(region[0] as i64, images[0])?);
        }
        // Positions are told in the precision that they are computed in.
        let wide = x.dtype() == DType::F64;
        let round = |v: f64| if wide { v } else { f64::from(v as f32) };
        let elements = |r: usize, axis: usize, bin: usize| {
            let corner = |i: usize| round(regions[r * 5 + i] * f64::from(form.scale)).round();
            let (start, end) = (corner(2 - axis), corner(4 - axis));
            let size = round((end - start + 1.0).max(1.0) / form.bins[axis] as f64);
            let first = start + round(bin as f64 * size).floor();
            let behind = start + round((bin + 1) as f64 * size).ceil();
            let extent = images[2 + axis] as f64;
            first.clamp(0.0, extent) as usize..behind.clamp(0.0, extent) as usize
        };
        let mut y = Vec::with_capacity(shape.iter().product());
        for_each(&shape, |ix| {
            let [rows, columns] = [0, 1].map(|axis| elements(ix[0], axis, ix[2 + axis]));
            let plane = (image[ix[0]] * images[1] + ix[1]) * images[2];
            let row = |i: usize| &values[(plane + i) * images[3]..][columns.clone()];
            let largest = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
            y.push(if rows.is_empty() || columns.is_empty() {
                0.0
            } else {
                rows.flat_map(row).copied().fold(f64::NEG_INFINITY, largest)
            });
        });
        Ok(vec![Tensor::from_f64(x.dtype(), &shape, y)])
    }

    fn lower(&self, cx: &Cx) -> Result<Lowering, OpError> {
        let form = Form::of(cx)?;
        let mut g = Fragment::new(cx);
        let [image, rois] = [g.required(cx, 0)?, g.required(cx, 1)?];
        let regions = g.widen(rois)?;
        let which = slice(&mut g, regions, 1, Dim::ZERO, Dim::ONE)?;
        let number_of = g.fact(which).shape[0].clone();
        let which = reshape(&mut g, which, vec![number_of.clone()])?;
        let which = g.cast(which, DType::I64)?;
        let [rows, columns] = [0, 1].map(|axis| members(&mut g, &form, axis, image, regions));

        let mut each = Fragment::empty("region");
        let slices = [rows?, columns?, which];
        let cut = |v: ValueId| Fact::new(g.dtype(v), g.fact(v).shape[1..].to_vec());
        let [rows, columns, which] = slices.map(|v| each.operand(cut(v)));
        let whole = each.operand(g.fact(image).clone());
        let one = each.apply("Gather", &[("axis", Attr::Int(0))], &[whole, which])?;
        let [channels, height, width] = [0, 1, 2].map(|axis| each.fact(one).shape[axis].clone());
        let least = each.number(one, f64::NEG_INFINITY);

        let rows = reshape(&mut each, rows, vec![Dim::from(form.bins[0]), height.clone(), Dim::ONE])?;
        let one = reshape(&mut each, one, vec![channels, Dim::ONE, height, width])?;
        let meant = each.apply("Where", &[], &[rows, one, least])?;
        let narrow = each.reduce("ReduceMax", meant, &[2], true)?;
        let meant = each.apply("Where", &[], &[columns, narrow, least])?;
        let pooled = each.reduce("ReduceMax", meant, &[3], false)?;
        let rows = each.reduce("ReduceMax", rows, &[1], false)?;
        let columns = each.reduce("ReduceMax", columns, &[1], false)?;
        let some = each.binary("And", rows, columns)?;
        let zero = each.number(pooled, 0.0);
        let pooled = each.apply("Where", &[], &[some, pooled, zero])?;
        let operands = [&slices[..], &[image]].concat();
        let y = g.scan(each, &[pooled], [0, slices.len()], &number_of, &operands)?[0];
        Ok(g.finish(&[y]))
    }
}

/// Which elements along an axis belong to each bin of each region: `[regions, bins, extent]`.
fn members(g: &mut Fragment, form: &Form, axis: usize, image: ValueId, regions: ValueId) -> Result<ValueId, OpError> {
    let work = g.dtype(regions);
    let (bins, extent) = (Dim::from(form.bins[axis]), g.fact(image).shape[2 + axis].clone());
    let [half, one] = [0.5, 1.0].map(|v| g.number(regions, v));
    let corner = |g: &mut Fragment, i: usize| {
        let v = slice(g, regions, 1, Dim::from(i), Dim::from(i + 1))?;
        let scale = g.number(v, form.scale.into());
        let v = g.binary("Mul", v, scale)?;
        let size = g.unary("Abs", v)?;
        let whole = g.unary("Floor", size)?;
        let part = g.binary("Sub", size, whole)?;
        let away = g.binary("GreaterOrEqual", part, half)?;
        let next = g.binary("Add", whole, one)?;
        let size = g.apply("Where", &[], &[away, next, whole])?;
        let sign = g.unary("Sign", v)?;
        g.binary("Mul", size, sign)
    };
    let (start, end) = (corner(g, 2 - axis)?, corner(g, 4 - axis)?);
    let length = g.binary("Sub", end, start)?;
    let length = g.binary("Add", length, one)?;
    let length = g.binary("Max", length, one)?;
    let number_of = g.number(regions, form.bins[axis] as f64);
    let size = g.binary("Div", length, number_of)?;
    let which = count(g, &bins)?;
    let which = g.cast(which, work)?;
    let first = g.binary("Mul", which, size)?;
    let first = g.unary("Floor", first)?;
    let first = g.binary("Add", start, first)?;
    let next = g.binary("Add", which, one)?;
    let behind = g.binary("Mul", next, size)?;
    let behind = g.unary("Ceil", behind)?;
    let behind = g.binary("Add", start, behind)?;

    let here = count(g, &extent)?;
    let here = g.cast(here, work)?;
    let shape = [g.fact(first).shape.clone(), vec![Dim::ONE]].concat();
    let [first, behind] = [first, behind].map(|v| reshape(g, v, shape.clone()));
    let (above, below) = (g.binary("LessOrEqual", first?, here)?, g.binary("Less", here, behind?)?);
    g.binary("And", above, below)
}

#[cfg(test)]
mod tests {
    use crate::naive::check;
    use crate::ops::samples::{eval, sample};
    use crate::{Attr, DType, Tensor};

    fn form(bins: [i64; 2], scale: f32) -> [(&'static str, Attr); 2] {
        [
            ("pooled_shape", Attr::Ints(bins.to_vec())),
            ("spatial_scale", Attr::Float(scale)),
        ]
    }

    /// Regions inside, over all edges, off the image, upside down, and of halves.
    fn regions(t: DType) -> Option<Tensor> {
        let corners = [
            [0.0, 0.0, 0.0, 3.0, 4.0],
            [1.0, -3.0, -2.5, 9.0, 9.5],
            [1.0, 1.25, 0.5, 2.5, 1.0],
            [0.0, -40.0, -30.0, 60.0, 50.0],
            [0.0, 3.0, 4.0, 1.0, 2.0],
            [1.0, 20.0, 0.0, 24.0, 3.0],
        ];
        Some(Tensor::from_f64(t, &[6, 5], corners.concat()))
    }

    #[test]
    fn regions_of_all_kinds() {
        for (bins, scale) in [([2, 3], 1.0), ([1, 1], 0.5), ([7, 7], 1.5), ([4, 2], 0.0625)] {
            for t in [DType::F32, DType::F64, DType::F16, DType::BF16] {
                let inputs = [sample(t, &[2, 2, 5, 4], 1), regions(t)];
                check("MaxRoiPool", &form(bins, scale), &inputs, 1);
            }
        }
    }

    #[test]
    fn values() {
        let x = Tensor::f32(&[1, 1, 4, 4], (0..16).map(|i| i as f32));
        // Rows and columns 1 to 3: bins of one and a half overlap in the middle. The second lies off the image but for a corner.
        let rois = Tensor::f32(&[2, 5], [0.0, 0.5, 1.0, 2.5, 3.0, 0.0, 3.0, 3.0, 4.0, 4.0]);
        let y = eval("MaxRoiPool", &form([2, 2], 1.0), &[Some(x), Some(rois)], 1);
        assert_eq!(y[0].to_f32(), [10.0, 11.0, 14.0, 15.0, 15.0, 0.0, 0.0, 0.0]);
    }
}
