//! The changes of the table: each says the opset that brought it and what was before.

use cameo_ir::op::{AttrDef, OpError, invalid, normalize_axis, unsupported};
use cameo_ir::{Attr, DType, Dim, Tensor};

use super::Draft;

/// 2: the power of a norm is a whole number.
pub(super) fn whole_power(d: &mut Draft) -> Result<(), OpError> {
    match d.take_float("p")? {
        None => Ok(()),
        Some(p) if p.fract() == 0.0 && p.abs() < 1e9 => {
            d.set("p", Attr::Int(p as i64));
            Ok(())
        }
        Some(p) => unsupported(format!("attribute `p` = {p} (whole numbers only since opset 2)")),
    }
}

/// 2: another name.
pub(super) fn paddings(d: &mut Draft) -> Result<(), OpError> {
    let pads = d.need_ints("paddings")?;
    d.set("pads", Attr::Ints(pads));
    Ok(())
}

/// 4: the axis is always given; before, it was 1 by default.
pub(super) fn concat_axis(d: &mut Draft) -> Result<(), OpError> {
    let axis = d.take_int("axis")?.unwrap_or(1);
    d.set("axis", Attr::Int(axis));
    Ok(())
}

/// 5: the shape is an input.
pub(super) fn reshape_input(d: &mut Draft) -> Result<(), OpError> {
    d.take_ints("consumed_inputs")?;
    let shape = d.need_ints("shape")?;
    d.put_ints(1, "shape", &shape)
}

/// 6: whether the result may lie where an operand was is the runtime's own business.
pub(super) fn in_place(d: &mut Draft) -> Result<(), OpError> {
    d.take_ints("consumed_inputs").map(drop)
}

/// 6: more digits.
pub(super) fn selu_constants(d: &mut Draft) -> Result<(), OpError> {
    in_place(d)?;
    for (name, before) in [("alpha", 1.6732), ("gamma", 1.0507)] {
        let value = d.take_float(name)?.unwrap_or(before);
        d.set(name, Attr::Float(value));
    }
    Ok(())
}

/// 6: a type has a number; before, it had a name.
pub(super) fn cast_name(d: &mut Draft) -> Result<(), OpError> {
    let Some(name) = d.str("to").map(str::to_owned) else {
        return invalid("attribute `to` is missing");
    };
    let types = [
        ("FLOAT", 1i64),
        ("UINT8", 2),
        ("INT8", 3),
        ("UINT16", 4),
        ("INT16", 5),
        ("INT32", 6),
        ("INT64", 7),
        ("STRING", 8),
        ("BOOL", 9),
        ("FLOAT16", 10),
        ("DOUBLE", 11),
        ("UINT32", 12),
        ("UINT64", 13),
    ];
    match types.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => {
            d.set("to", Attr::Int(*number));
            Ok(())
        }
        None => invalid(format!("attribute `to` = {name} is no element type")),
    }
}

/// 6: repeats of every axis; before, a number and one axis, both tensors.
pub(super) fn tile_one_axis(_: &mut Draft) -> Result<(), OpError> {
    unsupported("Tile along one axis (its form before opset 6)")
}

/// 7: operands broadcast from the last axis on; before, `axis` said where the second operand's axes lie in the first's.
pub(super) fn aligned_broadcast(d: &mut Draft) -> Result<(), OpError> {
    let (broadcast, axis) = (d.take_int("broadcast")?.unwrap_or(0), d.take_int("axis")?);
    let (a, b) = (d.input(0)?, d.input(1)?);
    let (wide, narrow) = (d.graph.fact(a).rank() as i64, d.graph.fact(b).rank() as i64);
    let Some(axis) = axis.filter(|_| broadcast != 0) else {
        return Ok(());
    };
    let axis = if axis < 0 { axis.saturating_add(wide) } else { axis };
    let missing = wide.saturating_sub(axis).saturating_sub(narrow);
    if axis < 0 || missing < 0 {
        return invalid(format!("`axis` {axis} is out of range for ranks {wide} and {narrow}"));
    }
    if missing > 0 {
        let axes: Vec<i64> = (narrow..narrow + missing).collect();
        let axes = d.ints_weight(&axes);
        d.inputs[1] = Some(d.before("Unsqueeze", &[], &[b, axes])?);
    }
    Ok(())
}

/// 7: the slope broadcasts from the last axis on; before, a list was one slope per channel.
pub(super) fn prelu_channels(d: &mut Draft) -> Result<(), OpError> {
    let (x, slope) = (d.input(0)?, d.input(1)?);
    let (rank, shape) = (d.graph.fact(x).rank() as i64, d.graph.fact(slope).shape.clone());
    if shape.len() == 1 && !shape[0].is_one() && rank > 2 {
        let axes: Vec<i64> = (1..rank - 1).collect();
        let axes = d.ints_weight(&axes);
        d.inputs[1] = Some(d.before("Unsqueeze", &[], &[slope, axes])?);
    }
    Ok(())
}

/// 7: C broadcasts.
pub(super) fn gemm_broadcast(d: &mut Draft) -> Result<(), OpError> {
    d.take_int("broadcast").map(drop)
}

/// 7: whether the model is trained is not an attribute of a node; a compiled model never is.
pub(super) fn inference_only(d: &mut Draft) -> Result<(), OpError> {
    d.take_int("is_test").map(drop)
}

/// 7: whether Y is there is said by its name alone.
pub(super) fn whole_sequence(d: &mut Draft) -> Result<(), OpError> {
    d.take_int("output_sequence").map(drop)
}

/// 7: one scale per axis.
pub(super) fn upsample_height_width(d: &mut Draft) -> Result<(), OpError> {
    match (d.take_float("height_scale")?, d.take_float("width_scale")?) {
        (Some(h), Some(w)) => d.set("scales", Attr::Floats(vec![1.0, 1.0, h, w])),
        (None, None) => {}
        _ => return invalid("attributes `height_scale` and `width_scale` are wanted"),
    }
    Ok(())
}

/// 9: statistics are per channel; `spatial=0` had them per element.
pub(super) fn batch_norm_spatial(d: &mut Draft) -> Result<(), OpError> {
    match d.take_int("spatial")? {
        None | Some(1) => Ok(()),
        Some(_) => unsupported("attribute `spatial` = 0 (statistics per element, removed in opset 9)"),
    }
}

/// 14: `training_mode`; before, the presence of outputs 1-4 meant training.
pub(super) fn batch_norm_training(d: &mut Draft) -> Result<(), OpError> {
    if d.outputs > 1 {
        return unsupported("training (more than one output is used)");
    }
    Ok(())
}

/// 9: scales are an input.
pub(super) fn upsample_scales(d: &mut Draft) -> Result<(), OpError> {
    let scales = d.take("scales", AttrDef::OptFloats, |a| {
        if let Attr::Floats(v) = a { Some(v) } else { None }
    })?;
    match scales {
        Some(v) => d.put(1, "scales", Tensor::f32(&[v.len()], v)),
        None => invalid("attribute `scales` is missing"),
    }
}

/// 10: Resize takes over.
pub(super) fn upsample_is_resize(d: &mut Draft) -> Result<(), OpError> {
    if matches!(d.str("mode"), Some("bilinear" | "trilinear")) {
        d.set_str("mode", "linear");
    }
    // It never shrinks, whatever the scales turn out to be.
    d.set_str("nearest_mode", "floor");
    d.op = "Resize".to_owned();
    Ok(())
}

/// 11: region of interest before the scales, and modes; before, coordinates were `asymmetric` and the nearest pixel was the
/// one below when enlarging and the one above when shrinking (ONNX's opset 10 tests show it, the text does not say it).
pub(super) fn resize_modes(d: &mut Draft) -> Result<(), OpError> {
    let scales = d.input(1)?;
    if d.str("mode").unwrap_or("nearest") == "nearest" && d.str("nearest_mode").is_none() {
        let Some(t) = d.graph.constant(scales) else {
            return unsupported("scales must be constant before opset 11");
        };
        let scales = t.to_f64();
        let (enlarges, shrinks) = (scales.iter().any(|s| *s > 1.0), scales.iter().any(|s| *s < 1.0));
        if enlarges && shrinks {
            return unsupported("nearest-neighbour resizing that enlarges and shrinks at once, before opset 11");
        }
        d.set_str("nearest_mode", if shrinks { "ceil" } else { "floor" });
    }
    d.set_str("coordinate_transformation_mode", "asymmetric");
    d.inputs = vec![Some(d.input(0)?), None, Some(scales)];
    Ok(())
}

/// An empty tensor was the way to leave out `roi` and `scales` until they became optional, and still is for many exporters.
pub(super) fn resize_empty_inputs(d: &mut Draft) -> Result<(), OpError> {
    for i in 1..d.inputs.len() {
        if let Some(v) = d.inputs[i]
            && d.graph.fact(v).shape == [Dim::ZERO]
        {
            d.inputs[i] = None;
        }
    }
    while d.inputs.last() == Some(&None) {
        d.inputs.pop();
    }
    Ok(())
}

/// 10: bounds are inputs.
pub(super) fn slice_inputs(d: &mut Draft) -> Result<(), OpError> {
    let (starts, ends) = (d.need_ints("starts")?, d.need_ints("ends")?);
    d.put_ints(1, "starts", &starts)?;
    d.put_ints(2, "ends", &ends)?;
    match d.take_ints("axes")? {
        Some(axes) => d.put_ints(3, "axes", &axes),
        None => Ok(()),
    }
}

/// 10: `k` is an input.
pub(super) fn topk_input(d: &mut Draft) -> Result<(), OpError> {
    match d.take_int("k")? {
        Some(k) => d.put_ints(1, "k", &[k]),
        None => invalid("attribute `k` is missing"),
    }
}

/// 11: bounds are inputs.
pub(super) fn clip_inputs(d: &mut Draft) -> Result<(), OpError> {
    // The old defaults are the ends of `f32`: no bound.
    if let Some(min) = d.take_float("min")?.filter(|x| *x > f32::MIN) {
        d.put_scalar(1, "min", min)?;
    }
    if let Some(max) = d.take_float("max")?.filter(|x| *x < f32::MAX) {
        d.put_scalar(2, "max", max)?;
    }
    Ok(())
}

/// 11: pads and value are inputs.
pub(super) fn pad_inputs(d: &mut Draft) -> Result<(), OpError> {
    let pads = d.need_ints("pads")?;
    d.put_ints(1, "pads", &pads)?;
    match d.take_float("value")? {
        Some(v) if v != 0.0 => d.put_scalar(2, "value", v),
        _ => Ok(()),
    }
}

/// 11: another name.
pub(super) fn scatter_elements(d: &mut Draft) -> Result<(), OpError> {
    d.op = "ScatterElements".to_owned();
    Ok(())
}

/// 12: the ratio is an input; it has no meaning outside training.
pub(super) fn dropout_ratio(d: &mut Draft) -> Result<(), OpError> {
    d.take_float("ratio").map(drop)
}

/// 13: along one axis; before, over all axes from `axis` (default 1) on together.
pub(super) fn flattened_axis(d: &mut Draft) -> Result<(), OpError> {
    let x = d.input(0)?;
    let shape = d.graph.fact(x).shape.clone();
    let axis = d.take_int("axis")?.unwrap_or(1);
    // Rank 1 with the default axis 1 asks for a flat matrix [n, 1]; ORT and the converters read the only axis.
    let axis = if shape.len() == 1 && axis == 1 { 0 } else { axis };
    let axis = normalize_axis(axis, shape.len())?;
    if shape[axis + 1..].iter().all(Dim::is_one) {
        d.set("axis", Attr::Int(axis as i64));
        return Ok(());
    }
    let back = d.before("Shape", &[], &[x])?;
    let flat = d.before("Flatten", &[("axis", Attr::Int(axis as i64))], &[x])?;
    d.inputs[0] = Some(flat);
    d.set("axis", Attr::Int(1));
    d.after.push(("Reshape", vec![back]));
    Ok(())
}

/// 13 or 18: axes are an input; none means all.
pub(super) fn axes_input(d: &mut Draft) -> Result<(), OpError> {
    match d.take_ints("axes")? {
        Some(axes) if !axes.is_empty() => d.put_ints(1, "axes", &axes),
        Some(_) | None if d.op == "Unsqueeze" => invalid("attribute `axes` is missing"),
        _ => Ok(()),
    }
}

/// 13: sizes are an input.
pub(super) fn split_input(d: &mut Draft) -> Result<(), OpError> {
    match d.take_ints("split")? {
        Some(sizes) if !sizes.is_empty() => d.put_ints(1, "split", &sizes),
        _ => Ok(()),
    }
}

/// 18: without sizes, the number of equal parts is said.
pub(super) fn split_count(d: &mut Draft) -> Result<(), OpError> {
    if d.inputs.get(1).copied().flatten().is_none() {
        d.set("num_outputs", Attr::Int(d.outputs as i64));
    }
    Ok(())
}

/// 16: coordinates are at half pixels by default.
pub(super) fn roi_align_mode(d: &mut Draft) -> Result<(), OpError> {
    if d.str("coordinate_transformation_mode").is_none() {
        d.set_str("coordinate_transformation_mode", "output_half_pixel");
    }
    Ok(())
}

/// 20: the axis is an input.
pub(super) fn dft_axis(d: &mut Draft) -> Result<(), OpError> {
    let axis = d.take_int("axis")?.unwrap_or(1);
    d.put(2, "axis", Tensor::i64(&[], [axis]))
}

/// 20: modes have the names that work in any rank.
pub(super) fn grid_sample_mode(d: &mut Draft) -> Result<(), OpError> {
    match d.str("mode") {
        None | Some("bilinear") => d.set_str("mode", "linear"),
        Some("bicubic") => d.set_str("mode", "cubic"),
        Some(_) => {}
    }
    Ok(())
}

/// 21: scale and bias are per channel; before, per group.
pub(super) fn group_norm_channels(d: &mut Draft) -> Result<(), OpError> {
    let groups = match d.attrs.get("num_groups") {
        Some(Attr::Int(g)) if *g > 0 => *g,
        _ => return invalid("attribute `num_groups` is missing or not positive"),
    };
    let channels = d.graph.fact(d.input(0)?).shape.get(1).and_then(Dim::as_const);
    let Some(channels) = channels else {
        return unsupported("the number of channels must be known before opset 21");
    };
    if channels % groups != 0 {
        return invalid(format!("{channels} channels are not a multiple of {groups} groups"));
    }
    for i in [1, 2] {
        let v = d.input(i)?;
        let (column, wide, flat) = (
            d.ints_weight(&[groups, 1]),
            d.ints_weight(&[groups, channels / groups]),
            d.ints_weight(&[channels]),
        );
        let v = d.before("Reshape", &[], &[v, column])?;
        let v = d.before("Expand", &[], &[v, wide])?;
        d.inputs[i] = Some(d.before("Reshape", &[], &[v, flat])?);
    }
    Ok(())
}

/// 23: the quotient has the precision of the scale; before, nothing was said of it, and ONNX Runtime takes float.
pub(super) fn quotient_in_float(d: &mut Draft) -> Result<(), OpError> {
    if matches!(d.graph.fact(d.input(1)?).dtype, DType::F16 | DType::BF16) {
        d.attrs.insert("precision".into(), Attr::DType(DType::F32));
    }
    Ok(())
}
