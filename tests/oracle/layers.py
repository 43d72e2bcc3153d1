"""Generators for operators.py of the operators that sum: normalisations, products, convolutions, pooling, attention and
others, whose operands must fit each other. Elements are drawn so that rounding and infinities do not hide the rest.
"""

import numpy as np
import onnx

from nodes import Fed, Weight, is_float, numpy_type


# Normalization

def layer_norm(d):
    d.finite()
    d.empty = False
    x = d.array(d.shape(1))
    axis = d.axis(x.ndim)
    tail = x.shape[axis:]
    if "V" in d.types:
        d.types["V"] = d.main
    scale = d.array(tail, d.of(1))
    attrs = {"axis": axis} | d.some(epsilon=float(np.float32(d.rng.uniform(1e-5, 1e-2))))
    if d.schema.name == "RMSNormalization":
        return [x, scale], attrs
    d.results = d.int(1, 3)
    d.types["U"] = np.dtype(np.float32)
    return [x, scale, d.array(tail, d.of(2)) if d.maybe() else None], attrs


def batch_norm(d):
    d.finite()
    x = d.array(d.shape(2))
    c = x.shape[1]
    scale, bias = (d.array([c], d.of(i)) for i in (1, 2))
    mean, variance = d.array([c], d.of(3)), d.uniform(0.1, 4, [c], d.of(4))
    return [x, scale, bias, mean, variance], d.some(epsilon=1e-3)


def instance_norm(d):
    d.finite()
    d.empty = False
    x = d.array(d.shape(3))
    return [x, d.array([x.shape[1]]), d.array([x.shape[1]])], d.some(epsilon=1e-2)


def group_norm(d):
    d.finite()
    d.empty = False
    groups = d.int(1, 3)
    shape = d.shape(2, 4)
    shape[1] = groups * d.int(1, 3)
    n = groups if d.schema.since_version < 21 else shape[1]
    return [d.array(shape), d.array([n]), d.array([n])], {"num_groups": groups} | d.some(epsilon=1e-2)


def mean_variance(d):
    d.finite()
    d.empty = False
    x = d.array(d.shape(4, 4))
    return [x], {"axes": d.axes(4, 1)} if d.maybe() else {}


def lrn(d):
    d.finite()
    return [d.array(d.shape(3))], {"size": d.int(1, 5)} | d.some(alpha=0.01, beta=0.5, bias=1.5)


def lp_norm(d):
    d.finite()
    d.empty = False
    x = d.array(d.shape(1))
    return [x], d.some(axis=d.axis(x.ndim), p=d.int(1, 2))


# Contractions

def matmul(d):
    d.calm()
    if not is_float(d.main):
        d.finite()
    batch = d.shape(0, 2)
    m, k, n = d.extent(), d.extent(), d.extent()
    kind = d.int(0, 5)
    if kind == 0:
        return [d.array([k]), d.array([*batch, k, n])], {}
    if kind == 1:
        return [d.array([*batch, m, k]), d.array([k])], {}
    return [d.array([*d.part(batch), m, k]), d.array([*d.part(batch), k, n])], {}


def gemm(d):
    d.calm()
    m, k, n = d.extent(), d.extent(), d.extent()
    attrs = d.some(alpha=0.5, beta=2.0, transA=d.int(0, 1), transB=d.int(0, 1))
    a = d.array([k, m] if attrs.get("transA") else [m, k])
    b = d.array([n, k] if attrs.get("transB") else [k, n])
    return [a, b, d.array(d.part([m, n])) if d.maybe(0.7) else None], attrs


EINSUMS = ["ij,jk->ik", "bij,bjk->bik", "ij->ji", "ii->i", "ii->", "ij->", "ij,ij->ij", "i,j->ij", "bhid,bhjd->bhij",
           "ij,j", "...ij,...jk->...ik", "ij,kj,kl->il", "i,i->", "ijk->j", "bi,bj->bij", "ba,ab", "...i->...", "i->i"]


def einsum(d):
    d.calm()
    equation = d.pick(EINSUMS)
    sizes, dots = {}, d.shape(0, 1)
    operands = []
    for term in equation.split("->")[0].split(","):
        shape = []
        for c in term.replace("...", "*"):
            shape += dots if c == "*" else [sizes.setdefault(c, d.pick([1, 2, 3, 5, 8]))]
        operands.append(d.array(shape))
    return operands, {"equation": equation}


def det(d):
    d.finite()
    shape = d.shape(0, 2)
    n = d.int(1, 5)
    return [d.array([*shape, n, n])], {}


# Losses

def losses(d):
    d.finite()
    d.empty = False
    shape = d.shape(2, 4)
    n, c, *rest = shape
    target = d.ints(0, c - 1, [n, *rest], d.of(1))
    attrs = {"reduction": d.pick(["none", "sum", "mean"])} if d.maybe(0.8) else {}
    if d.maybe(0.3):
        attrs["ignore_index"] = d.pick([0, c - 1, -1])
        if attrs["ignore_index"] == -1:
            target = np.where(d.rng.random(target.shape) < 0.3, -1, target).astype(target.dtype)
    weight = d.uniform(0.5, 2, [c], d.of(2)) if d.maybe(0.4) else None
    # A mean over nothing is not a number anywhere, in different ways.
    if "ignore_index" in attrs and np.all(target == attrs["ignore_index"]):
        del attrs["ignore_index"]
        target = np.abs(target)
    if d.schema.name == "SoftmaxCrossEntropyLoss":
        d.results = d.int(1, 2)
    return [d.array(shape), target, weight], attrs


# Signals

def window(d):
    d.types["T2"] = np.dtype(np.float32)
    attrs = d.some(periodic=d.int(0, 1))
    if d.maybe(0.4):
        d.types["T2"] = numpy_type(d.pick([t for t in d.allowed["T2"] if t in ("float", "double")]))
        attrs["output_datatype"] = onnx.helper.np_dtype_to_tensor_dtype(d.types["T2"])
    size = np.array(d.int(2, 20), d.main)
    return [Weight(size) if d.maybe(0.7) else Fed(size)], attrs


def dft(d):
    d.finite()
    d.empty = False
    shape = [*d.shape(1, 3), d.int(1, 2)]
    axis = d.int(0, len(shape) - 2)
    length = np.array(d.int(1, 12), d.of(1)) if d.maybe(0.4) else None
    inverse = d.maybe(0.4)
    onesided = d.maybe(0.3) and shape[-1] == 1 and not inverse
    attrs = {"inverse": int(inverse), "onesided": int(onesided)}
    if d.maybe():
        axis -= len(shape)
    operands = [d.array(shape), None if length is None else Weight(length)]
    if len(d.schema.inputs) > 2:
        return [*operands, Weight(np.array(axis, np.int64))], attrs
    return operands, attrs | {"axis": axis}


def stft(d):
    d.finite()
    d.empty = False
    signal, frame, step = d.int(8, 20), d.int(3, 8), d.int(1, 4)
    x = d.array([d.int(1, 3), signal, d.int(1, 2)])
    onesided = int(x.shape[2] == 1 and d.maybe())
    given = np.array(frame, d.of(3))
    weights = d.uniform(0.1, 1, [frame], d.of(2))
    pair = d.pick([[weights, None], [weights, Weight(given)], [None, Weight(given)]])
    return [x, Weight(np.array(step, d.of(1))), *pair], {"onesided": onesided}


def mel(d):
    bins, length, rate = d.int(2, 8), d.int(8, 40), d.int(4000, 16000)
    low = float(d.int(0, 100))
    values = [(bins, 0), (length, 1), (rate, 2), (low, 3), (float(rate // 2), 4)]
    d.types["T3"] = np.dtype(np.float32)
    return [Weight(np.array(v, d.of(i))) for v, i in values], {}


# Few bits

def limits(dtype):
    return {"int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15)}.get(dtype.name) or (
        int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def zero_point(d, dtype, shape):
    if is_float(dtype):
        return np.zeros(shape, dtype)
    low, high = limits(dtype)
    return d.ints(max(low, -100), min(high, 100), shape).astype(dtype)


def granularity(d, shape):
    """The shape of a scale, with its attributes."""
    kind = d.int(0, 2 if "block_size" in d.schema.attributes else 1)
    if kind == 0 or not shape:
        return [] if d.maybe() else [1], {}
    axis = d.int(0, len(shape) - 1)
    given = axis - (len(shape) if d.maybe(0.4) else 0)
    if kind == 1:
        return [shape[axis]], {"axis": given}
    shape[axis] = max(2, shape[axis])
    block = d.int(2, max(2, shape[axis]))
    return [-(-n // block) if i == axis else n for i, n in enumerate(shape)], {"axis": given, "block_size": block}


def quantize(d):
    d.finite()
    shape = d.shape(0, 3)
    scales, attrs = granularity(d, shape)
    parameters = [p.type_str for p in d.schema.inputs]
    x = d.array(shape, d.of(0)) * np.asarray(d.pick([1, 10, 100]), d.of(0))
    scale = np.exp2(d.ints(-3, 2, scales)).astype(d.of(1)) if d.maybe() else d.uniform(0.1, 2, scales, d.of(1))
    if not is_float(scale.dtype):
        scale = np.ones_like(scale)
    point = zero_point(d, d.of(2), scales)
    if d.maybe(0.25):
        point = None
        d.types[parameters[2]] = np.dtype(np.uint8)
        if "output_dtype" in d.schema.attributes and d.maybe():
            to = numpy_type(d.pick(d.allowed[parameters[2]]))
            d.types[parameters[2]] = to
            attrs["output_dtype"] = onnx.helper.np_dtype_to_tensor_dtype(to)
    if "precision" in d.schema.attributes and d.maybe(0.2):
        attrs["precision"] = d.pick([onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
    if is_float(d.types[parameters[2]]) and d.maybe(0.3):
        attrs["saturate"] = d.int(0, 1)
    return [x, scale, point], attrs


def dequantize(d):
    shape = d.shape(0, 3)
    scales, attrs = granularity(d, shape)
    d.finite()
    d.mood = d.pick(["plain", "wide"])
    x = d.array(shape, d.of(0))
    d.finite()
    scale = d.uniform(0.1, 2, scales, d.of(1))
    point = None if d.maybe(0.3) else zero_point(d, d.of(0), scales)
    if d.of(0) == np.int32:
        point = None if point is None else np.zeros_like(point)
    if "output_dtype" in d.schema.attributes:
        name = d.schema.outputs[0].type_str
        d.types[name] = d.of(1)
    return [x, scale, point], attrs


def dynamic_quantize(d):
    d.finite()
    d.empty = False
    return [d.array(d.shape())], {}


def matmul_integer(d):
    d.mood = "wide"
    m, k, n = d.extent(), d.extent(), d.extent()
    batch = d.shape(0, 1)
    a, b = d.array([*d.part(batch), m, k], d.of(0)), d.array([*d.part(batch), k, n], d.of(1))
    points = [zero_point(d, d.of(2), []) if d.maybe() else None, None]
    if points[0] is not None and d.maybe():
        points[1] = zero_point(d, d.of(3), [] if d.maybe() or b.ndim > 2 else [n])
    return [a, b, *points], {}


def qlinear_matmul(d):
    m, k, n = d.int(1, 8), d.int(1, 8), d.int(1, 8)
    d.mood = "wide"
    scale = lambda i: d.uniform(0.01, 0.1, [], d.of(i))
    a, b = d.array([m, k], d.of(0)), d.array([k, n], d.of(3))
    return [a, scale(1), zero_point(d, d.of(2), []), b, scale(4), zero_point(d, d.of(5), []), d.uniform(0.1, 1, [], d.of(6)),
            zero_point(d, d.of(7), [])], {}


def conv_integer(d):
    d.mood = "wide"
    x, w, attrs = image(d, d.of(0), d.of(1))
    points = [zero_point(d, d.of(2), []) if d.maybe() else None, None]
    if points[0] is not None and d.maybe():
        points[1] = zero_point(d, d.of(3), [] if d.maybe() else [w.shape[0]])
    return [x, w, *points], attrs


def qlinear_conv(d):
    d.mood = "wide"
    x, w, attrs = image(d, d.of(0), d.of(3))
    scale = lambda i: d.uniform(0.01, 0.1, [], d.of(i))
    bias = d.ints(-100, 100, [w.shape[0]], np.int32) if d.maybe() else None
    return [x, scale(1), zero_point(d, d.of(2), []), w, scale(4), zero_point(d, d.of(5), []), d.uniform(0.1, 1, [], d.of(6)),
            zero_point(d, d.of(7), []), bias], attrs


# Convolution and pooling

def windows(d, spatial, pads=True):
    """The extents of images and windows, with the attributes that place them: at least one window fits."""
    kernel = [d.int(1, 3) for _ in range(spatial)]
    attrs, dilations, strides = {}, [1] * spatial, [1] * spatial
    if d.maybe(0.4):
        strides = attrs["strides"] = [d.int(1, 3) for _ in range(spatial)]
    if "dilations" in d.schema.attributes and d.maybe(0.3):
        dilations = attrs["dilations"] = [d.int(1, 2) for _ in range(spatial)]
    if pads:
        kind = d.int(0, 3)
        if kind == 1:
            attrs["pads"] = [d.int(0, k - 1) for k in kernel * 2]
        elif kind == 2:
            attrs["auto_pad"] = d.pick(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
    sizes = [(k - 1) * dil + 1 + d.int(0, 9) for k, dil in zip(kernel, dilations)]
    return kernel, sizes, attrs


def image(d, left=None, right=None):
    spatial = d.pick([1, 2, 2, 3])
    kernel, sizes, attrs = windows(d, spatial)
    group = d.pick([1, 1, 1, 2, 3])
    inside, outside = d.int(1, 5), d.int(1, 5)
    if d.maybe(0.2):
        group, inside, outside = d.int(1, 17), 1, d.int(1, 2)
    if group > 1:
        attrs["group"] = group
    if d.maybe():
        attrs["kernel_shape"] = kernel
    x = d.array([d.int(1, 2), group * inside, *sizes], left)
    return x, d.array([group * outside, inside, *kernel], right), attrs


def conv(d):
    d.finite()
    x, w, attrs = image(d)
    return [x, w, d.array([w.shape[0]]) if d.maybe() else None], attrs


def conv_transpose(d):
    d.finite()
    spatial = d.pick([1, 2, 2, 3])
    kernel = [d.int(1, 4) for _ in range(spatial)]
    sizes = [d.int(1, 6) for _ in range(spatial)]
    group, inside, outside = d.pick([1, 1, 2, 3]), d.int(1, 4), d.int(1, 4)
    attrs = {"group": group} if group > 1 else {}
    strides = [1] * spatial
    if d.maybe():
        strides = attrs["strides"] = [d.int(1, 3) for _ in range(spatial)]
    if d.maybe(0.3):
        attrs["dilations"] = [d.int(1, 2) for _ in range(spatial)]
    kind = d.int(0, 4)
    if kind == 1:
        attrs["pads"] = [d.int(0, (k - 1) // 2) for k in kernel * 2]
    elif kind == 2:
        attrs["auto_pad"] = d.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif kind == 3:
        attrs["output_padding"] = [d.int(0, s - 1) for s in strides]
    x = d.array([d.int(1, 2), group * inside, *sizes])
    w = d.array([group * inside, outside, *kernel])
    return [x, w, d.array([group * outside]) if d.maybe() else None], attrs


def deform_conv(d):
    d.finite()
    kernel, sizes, attrs = windows(d, 2)
    attrs.pop("auto_pad", None)
    group, offsets = d.pick([1, 1, 2]), d.pick([1, 1, 2])
    inside = 2 * d.int(1, 2)
    strides, dilations = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    pads = attrs.get("pads", [0] * 4)
    out = [(n + pads[i] + pads[i + 2] - (k - 1) * dil - 1) // s + 1
           for i, (n, k, dil, s) in enumerate(zip(sizes, kernel, dilations, strides))]
    n, taps = d.int(1, 2), kernel[0] * kernel[1]
    x, w = d.array([n, inside, *sizes]), d.array([group * d.int(1, 3), inside // group, *kernel])
    offset = d.array([n, offsets * taps * 2, *out])
    bias = d.array([w.shape[0]]) if d.maybe() else None
    mask = d.array([n, offsets * taps, *out]) if d.maybe() else None
    return [x, w, offset, bias, mask], attrs | {"group": group, "offset_group": offsets}


def col2im(d):
    d.calm()
    kernel, sizes, attrs = windows(d, d.pick([1, 2, 2]))
    attrs.pop("auto_pad", None)
    spatial = len(sizes)
    strides, dilations = attrs.get("strides", [1] * spatial), attrs.get("dilations", [1] * spatial)
    pads = attrs.get("pads", [0] * 2 * spatial)
    blocks = [(n + pads[i] + pads[i + spatial] - (k - 1) * dil - 1) // s + 1
              for i, (n, k, dil, s) in enumerate(zip(sizes, kernel, dilations, strides))]
    x = d.array([d.int(1, 2), d.int(1, 3) * int(np.prod(kernel)), int(np.prod(blocks))])
    return [x, Weight(np.array(sizes)), Weight(np.array(kernel))], attrs


def pool(d):
    if d.schema.name != "MaxPool":
        d.finite()
    spatial = d.pick([1, 2, 2, 3])
    kernel, sizes, attrs = windows(d, spatial)
    attrs |= {"kernel_shape": kernel} | d.some(ceil_mode=d.int(0, 1), count_include_pad=d.int(0, 1), p=d.int(1, 3))
    if d.schema.name == "MaxPool" and d.maybe(0.3):
        d.results = 2
        attrs |= d.some(storage_order=d.int(0, 1))
        # Which of two equal elements is the largest is not defined.
        shape = [d.int(1, 2), d.int(1, 3), *sizes]
        order = d.rng.permutation(int(np.prod(shape))).reshape(shape)
        return [(order % 120).astype(d.main) if d.main.itemsize == 1 else order.astype(d.main)], attrs
    return [d.array([d.int(1, 2), d.int(1, 3), *sizes])], attrs


def global_pool(d):
    d.calm()
    d.empty = False
    return [d.array(d.shape(3))], d.some(p=d.int(1, 3))


def unpool(d):
    d.empty = False
    kernel, strides = [d.int(1, 3), d.int(1, 3)], [d.int(1, 3), d.int(1, 3)]
    n, c, h, w = (d.int(1, 3) for _ in range(4))
    out = [(m - 1) * s + k for m, s, k in zip((h, w), strides, kernel)]
    shape = Weight(np.array([n, c, *(m + d.int(0, 1) for m in out)])) if d.maybe(0.3) else None
    # Each element stays in its image, as those that MaxPool finds do.
    size = int(np.prod(out))
    at = [i * size + d.rng.permutation(size)[:h * w] for i in range(n * c)]
    at = np.array(at, np.int64).reshape(n, c, h, w)
    return [d.array([n, c, h, w]), at, shape], {"kernel_shape": kernel, "strides": strides}


# Resizing and sampling

def resize(d):
    d.finite()
    mode = d.pick(["nearest", "linear", "cubic"])
    spatial = 2 if mode != "nearest" else d.pick([1, 2, 3])
    shape = [d.int(1, 2), d.int(1, 3), *(d.int(1, 7) for _ in range(spatial))]
    transform = d.pick(["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"])
    attrs = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest" and d.maybe(0.7):
        attrs["nearest_mode"] = d.pick(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        attrs |= d.some(cubic_coeff_a=-0.5, exclude_outside=d.int(0, 1))
    if mode != "nearest" and d.maybe(0.2):
        attrs["antialias"] = 1
    axes = list(range(len(shape)))
    if d.maybe(0.4):
        axes = axes[2:]
        attrs["axes"] = [a - (len(shape) if d.maybe(0.3) else 0) for a in axes]
    if d.maybe():
        scales = [1.0 if a < 2 else d.pick([0.5, 2.0, 1.5, 0.75, 3.0, 1.0]) for a in axes]
        scales = [s if int(shape[a] * s) >= 1 else 1.0 for a, s in zip(axes, scales)]
        return [d.array(shape), None, Weight(np.array(scales, np.float32))], attrs
    sizes = [shape[a] if a < 2 else d.int(1, 12) for a in axes]
    if "axes" in attrs and d.maybe(0.3):
        attrs["keep_aspect_ratio_policy"] = d.pick(["not_larger", "not_smaller"])
    return [d.array(shape), None, None, Weight(np.array(sizes, np.int64))], attrs


def grid_sample(d):
    d.finite()
    spatial = d.pick([2, 2, 3])
    n, c = d.int(1, 2), d.int(1, 3)
    sizes, out = ([d.int(1, 6) for _ in range(spatial)] for _ in range(2))
    names = ["linear", "nearest", "cubic"] if d.schema.since_version >= 20 else ["bilinear", "nearest", "bicubic"]
    mode = d.pick(names if spatial == 2 else names[:2])
    attrs = {"mode": mode} | d.some(padding_mode=d.pick(["zeros", "border", "reflection"]), align_corners=d.int(0, 1))
    return [d.array([n, c, *sizes]), d.uniform(-1.3, 1.3, [n, *out, spatial], d.of(1))], attrs


def affine_grid(d):
    d.finite()
    spatial = d.pick([2, 3])
    n = d.int(1, 2)
    size = np.array([n, d.int(1, 3), *(d.int(2, 6) for _ in range(spatial))], np.int64)
    return [d.array([n, spatial, spatial + 1]), Weight(size)], d.some(align_corners=d.int(0, 1))


def roi_align(d):
    d.finite()
    n, c, h, w = d.int(1, 2), d.int(1, 3), d.int(2, 8), d.int(2, 8)
    count = d.int(1, 4)
    corners = d.uniform(0, 6, [count, 2])
    rois = np.concatenate([corners, corners + d.uniform(0.5, 6, [count, 2])], 1).astype(d.of(1))
    attrs = d.some(output_height=d.int(1, 4), output_width=d.int(1, 4), spatial_scale=d.pick([0.5, 1.0, 2.0]),
                   sampling_ratio=d.int(0, 3), coordinate_transformation_mode=d.pick(["half_pixel", "output_half_pixel"]))
    return [d.array([n, c, h, w]), rois, d.ints(0, n - 1, [count])], attrs


def max_roi_pool(d):
    d.finite()
    n, c, h, w = d.int(1, 2), d.int(1, 3), d.int(1, 8), d.int(1, 8)
    count = d.int(1, 4)
    corners = d.uniform(-4, 8, [count, 4])
    # Whole numbers, which scales make halves of: there the roundings meet.
    if d.int(0, 1):
        corners = np.rint(corners)
    images = d.ints(0, n - 1, [count, 1])
    rois = np.concatenate([images.astype(d.of(1)), corners.astype(d.of(1))], 1)
    return [d.array([n, c, h, w]), rois], d.some(spatial_scale=d.pick([0.5, 1.0, 2.0])) | {
        "pooled_shape": [d.int(1, 4), d.int(1, 4)]}


# Attention and recurrent layers

def attention(d):
    d.finite()
    d.empty = False
    b, heads, groups = d.int(1, 2), d.int(1, 3), d.int(1, 2)
    queries, keys, width, out = d.int(1, 6), d.int(1, 6), d.pick([2, 4, 8]), d.pick([2, 4, 8])
    attrs = d.some(scale=0.5, softcap=d.pick([0.0, 2.0]), is_causal=d.int(0, 1))
    mask = None
    if d.maybe(0.4):
        shape = d.part([b, heads * groups, queries, keys])
        shape = [1] * (2 - len(shape)) + shape
        shape[-2:] = queries, keys
        kind = d.types["U"] = d.pick([np.dtype(np.bool_), d.main])
        mask = d.array(shape, kind)
        if kind == np.bool_:
            mask[..., 0] = True
    q, k, v = ([b, heads * groups, queries, width], [b, heads, keys, width], [b, heads, keys, out])
    if d.maybe(0.4):
        q, k, v = ([s[0], s[2], s[1] * s[3]] for s in (q, k, v))
        attrs |= {"q_num_heads": heads * groups, "kv_num_heads": heads}
    return [d.array(q), d.array(k), d.array(v, d.of(2)), mask], attrs


def recurrent(gates):
    def generate(d):
        d.finite()
        d.empty = False
        steps, batch, width, hidden = d.int(1, 5), d.int(1, 3), d.int(1, 5), d.int(1, 5)
        direction = d.pick(["forward", "reverse", "bidirectional"])
        both = 2 if direction == "bidirectional" else 1
        layout = int(d.maybe(0.2))
        turn = lambda shape: [shape[1], shape[0], *shape[2:]] if layout else shape
        small = lambda shape: (d.array(shape) * np.asarray(0.3, d.main)).astype(d.main)
        x, w = small(turn([steps, batch, width])), small([both, gates * hidden, width])
        r, b = small([both, gates * hidden, hidden]), small([both, 2 * gates * hidden])
        lengths = d.ints(1, steps, [batch], np.int32)
        state = lambda: small(turn([both, batch, hidden])) if d.maybe(0.4) else None
        operands = [x, w, r, b if d.maybe() else None, lengths if d.maybe(0.4) else None, state()]
        attrs = {"hidden_size": hidden, "direction": direction} | ({"layout": 1} if layout else {})
        if gates == 3:
            attrs |= d.some(linear_before_reset=d.int(0, 1))
        if gates == 4:
            operands += [state(), small([both, 3 * hidden]) if d.maybe(0.3) else None]
            attrs |= d.some(input_forget=d.int(0, 1)) if d.maybe(0.3) else {}
        if d.maybe(0.2):
            attrs["clip"] = 0.5
        d.results = 3 if gates == 4 else 2
        return operands, attrs
    return generate


def rotary(d):
    d.finite()
    d.empty = False
    b, heads, steps, width = d.int(1, 2), d.int(1, 3), d.int(1, 5), d.pick([4, 8, 16])
    rotated = d.pick([0, 0, 4])
    half = (rotated or width) // 2
    attrs = d.some(interleaved=d.int(0, 1)) | ({"rotary_embedding_dim": rotated} if rotated else {})
    if d.maybe():
        positions = d.ints(0, 9, [b, steps])
        caches = [10, half]
    else:
        positions, caches = None, [b, steps, half]
    shape = [b, heads, steps, width]
    if d.maybe(0.4):
        shape = [b, steps, heads * width]
        attrs["num_heads"] = heads
    return [d.array(shape), d.array(caches), d.array(caches), positions], attrs


# Results as long as data says

def compress(d):
    x = d.array(d.shape(1))
    if d.maybe(0.7):
        axis = d.axis(x.ndim)
        return [x, d.array([d.int(0, x.shape[axis])], np.bool_)], {"axis": axis}
    return [x, d.array([d.int(0, x.size)], np.bool_)], {}


def unique(d):
    d.mood = "halves" if d.mood == "special" else d.mood
    d.empty = False
    x = d.array(d.shape(1, 3))
    d.results = d.int(1, 4)
    return [x], d.some(sorted=d.int(0, 1)) | ({"axis": d.axis(x.ndim)} if d.maybe() else {})


def suppression(d):
    batches, classes, boxes = d.int(1, 2), d.int(1, 3), d.int(1, 8)
    low = d.uniform(0, 1, [batches, boxes, 2], np.float32)
    corners = np.concatenate([low, low + d.uniform(0.1, 1, [batches, boxes, 2], np.float32)], 2)
    scores = d.rng.permutation(batches * classes * boxes).reshape(batches, classes, boxes).astype(np.float32) / 50
    bounds = [np.array([d.int(0, 4)], np.int64), d.uniform(0, 1, [1], np.float32), d.uniform(0, 0.5, [1], np.float32)]
    given = [Weight(v) for v in bounds[:d.int(1, 3)]]
    return [corners, scores, *given], d.some(center_point_box=d.int(0, 1))


def dropout(d):
    x = d.array(d.shape())
    d.results = d.int(1, 2)
    return [x, Weight(d.uniform(0, 0.9, [], d.of(1))) if d.maybe() else None], {}


# Classical models

def feature_extractor(d):
    d.empty = False
    x = d.array(d.shape(1, 3))
    return [x, d.ints(0, x.shape[-1] - 1, [d.int(1, 4)])], {}


def scaler(d):
    x = d.array(d.shape(1, 2))
    n = d.pick([1, max(1, x.shape[-1])])
    values = lambda: [float(v) for v in d.uniform(-2, 2, [n], np.float32)]
    return [x], {"offset": values(), "scale": values()}


def imputer(d):
    x = d.array(d.shape(2, 2))
    n = d.pick([1, max(1, x.shape[-1])])
    if is_float(d.main):
        return [x], {"imputed_value_floats": [float(i) for i in range(n)],
                     "replaced_value_float": d.pick([0.0, float("nan"), 1.0])}
    return [x], {"imputed_value_int64s": list(range(10, 10 + n)), "replaced_value_int64": d.int(-1, 2)}


def linear_regressor(d):
    d.finite()
    x = d.array([d.int(1, 5), d.int(1, 4)])
    targets = d.int(1, 3)
    values = lambda n: [float(v) for v in d.uniform(-2, 2, [n], np.float32)]
    attrs = {"coefficients": values(targets * x.shape[1]), "targets": targets}
    return [x], attrs | ({"intercepts": values(targets)} if d.maybe() else {})
