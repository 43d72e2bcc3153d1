"""What ONNX's schemas do not say of legal nodes, for nodes.py: one generator per kind of operator.

A generator gives the operands (arrays, `Weight`, `Fed`, or None for an absent one) and the attributes. Where the
specification leaves a result open, as for an integer division by zero or for the order of equal elements, it draws
something else.
"""

import numpy as np
import onnx

import layers
from nodes import Fed, Weight, is_float, main_types, numpy_type, schemas, type_name

I64_MOST = np.iinfo(np.int64).max


# Elementwise

def unary(least=0, low=None, high=None, calm=False, **attrs):
    """One operand; `attrs` are functions of the draw."""
    def generate(d):
        if calm:
            d.calm()
        shape = d.shape(least)
        plain = low is None or d.mood in ("wide", "special") or not is_float(d.main)
        x = d.array(shape) if plain else d.uniform(low, high, shape)
        return [x], {name: f(d) for name, f in attrs.items() if name in d.schema.attributes and d.maybe(0.7)}
    return generate


def gelu(d):
    """Its formula is not a number at minus infinity, its limit is 0."""
    (x,), attrs = unary(approximate=lambda d: d.pick(["none", "tanh"]))(d)
    return [np.where(np.isneginf(x.astype(np.float32)), np.zeros_like(x), x)], attrs


def number(low, high):
    return lambda d: float(np.float32(d.rng.uniform(low, high)))


def flag(d):
    return d.int(0, 1)


def broadcast(count):
    def generate(d):
        shape = d.shape()
        n = d.int(1, 4) if count is None else count
        if count is None:
            d.calm()
        return [d.array(d.part(shape), d.of(i)) for i in range(n)], {}
    return generate


def divisor(d, array):
    """Neither zero nor the -1 that the smallest integer has no quotient with."""
    array = np.where(array == 0, np.ones_like(array), array)
    lowest = 0 if is_float(array.dtype) else np.iinfo(array.dtype).min
    return np.where(array == -1, np.ones_like(array), array) if lowest and d.mood in ("wide", "special") else array


def div(d):
    (a, b), attrs = broadcast(2)(d)
    return [a, b if is_float(d.main) else divisor(d, b)], attrs


def mod(d):
    (a, b), _ = div(d)
    fmod = 1 if is_float(d.main) else d.int(0, 1)
    return [a, b], {"fmod": fmod} if fmod or d.maybe() else {}


def power(d):
    shape = d.shape()
    base, exponent = d.of(0), d.of(1)
    a = d.array(d.part(shape), base)
    if is_float(base) and is_float(exponent):
        b = d.array(d.part(shape), exponent)
        return [a, np.asarray(d.pick([0.5, 1, 2, 3, -1, 0]), exponent) if d.maybe() else b], {}
    b = d.ints(0, 4, d.part(shape)).astype(exponent)
    return [a if is_float(base) else d.ints(0, 3, a.shape).astype(base), b], {}


def bit_shift(d):
    shape = d.shape()
    bits = np.dtype(d.main).itemsize * 8
    a, b = d.array(d.part(shape)), d.ints(0, bits - 1, d.part(shape), d.main)
    return [a, b], {"direction": d.pick(["LEFT", "RIGHT"])}


def prelu(d):
    x = d.array(d.shape())
    d.empty = False
    slope = d.part(x.shape)
    return [x, d.array([1 if d.maybe(0.2) else n for n in slope])], {}


def where(d):
    shape = d.shape()
    return [d.array(d.part(shape), d.of(i)) for i in range(3)], {}


def clip(d):
    x = d.array(d.shape())
    d.finite()
    low, high = sorted([d.array([]), d.array([])], key=float)
    return [x, low if d.maybe(0.7) else None, high if d.maybe(0.7) else None], {}


def castable(d, source, to, shape):
    """Elements whose conversion is defined."""
    if not is_float(source) or is_float(to) or to == np.bool_:
        x = d.array(shape, source)
        if is_float(source) and d.maybe(0.3):
            x = (d.uniform(-600, 600, shape, np.float32)).astype(source)
        if to.name != "float8_e8m0fnu":
            return x
        # Powers of two have no sign to lose, and denormals of float are zeros.
        least = 2.0 ** -126 if is_float(source) else 0
        x = np.abs(x) if is_float(source) else x
        return np.where(x.astype(np.float64) < least, np.zeros_like(x), x)
    # Between floats and integers only what fits is.
    low, high = {"int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15)}.get(to.name) or (
        max(np.iinfo(to).min, -30000), min(np.iinfo(to).max, 30000))
    x = d.floats(shape, source) if source.name == "float8_e8m0fnu" else d.uniform(low, high, shape, np.float64).astype(source)
    wide = x.astype(np.float64)
    return np.where((wide >= low) & (wide <= high), x, np.ones_like(x))


def cast_attributes(d, to):
    attrs = {}
    if "saturate" in d.schema.attributes and d.maybe(0.4):
        attrs["saturate"] = d.int(0, 1)
    if to.name == "float8_e8m0fnu" and "round_mode" in d.schema.attributes and d.maybe(0.7):
        attrs["round_mode"] = d.pick(["up", "down", "nearest"])
    return attrs


def cast(d):
    to = d.types["T2"]
    x = castable(d, d.main, to, d.shape())
    return [x], {"to": onnx.helper.np_dtype_to_tensor_dtype(to), **cast_attributes(d, to)}


def cast_like(d):
    to = d.types["T2"]
    return [castable(d, d.main, to, d.shape()), d.array(d.shape(0, 2), to)], cast_attributes(d, to)


def bit_cast(d):
    bits = lambda t: {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4_e2m1fn": 4}.get(t.name, t.itemsize * 8)
    same = [t for t in d.allowed["T2"] if bits(numpy_type(t)) == bits(d.main)]
    d.types["T2"] = numpy_type(d.pick(same))
    return [d.array(d.shape())], {"to": onnx.helper.np_dtype_to_tensor_dtype(d.types["T2"])}


# Reductions

def reduce_(d):
    d.calm()
    x = d.array(d.shape())
    attrs = d.some(keepdims=d.int(0, 1), noop_with_empty_axes=d.int(0, 1))
    axes = d.axes(x.ndim)
    if len(d.schema.inputs) == 1:
        return [x], attrs | ({"axes": axes} if axes else {})
    given = np.array(axes, np.int64)
    return [x, d.pick([Weight(given), Weight(given), given, None])], attrs


def reduce_positive(d):
    """Logarithms of sums want sums above zero."""
    (x, *rest), attrs = reduce_(d)
    return [np.abs(x), *rest], attrs


def arg_extreme(d):
    d.mood = "plain" if is_float(d.main) and d.mood == "special" else d.mood
    d.empty = False
    x = d.array(d.shape(1))
    return [x], d.some(axis=d.axis(x.ndim), keepdims=d.int(0, 1), select_last_index=d.int(0, 1))


def top_k(d):
    d.mood = "plain" if is_float(d.main) and d.mood == "special" else d.mood
    x = d.array(d.shape(1))
    axis = d.axis(x.ndim)
    k = np.array([d.int(0 if d.maybe(0.1) else min(1, x.shape[axis]), x.shape[axis])], np.int64)
    return [x, Weight(k) if d.maybe(0.7) else k], {"axis": axis} | d.some(largest=d.int(0, 1))


def softmax(d):
    d.calm()
    x = d.array(d.shape(1))
    return [x], d.some(axis=d.axis(x.ndim))


def cumulative(d):
    d.calm()
    x = d.array(d.shape(1))
    axis = np.array(d.axis(x.ndim), d.of(1))
    return [x, Weight(axis) if d.maybe(0.7) else axis], d.some(exclusive=d.int(0, 1), reverse=d.int(0, 1))


# Shapes and movement

def shape_of(d):
    x = d.array(d.shape())
    return [x], d.some(start=d.int(-5, 5), end=d.int(-5, 5))


def constant_of_shape(d):
    given = np.array(d.shape(0, 3), np.int64)
    attrs = {}
    if d.main != np.float32 or d.maybe(0.7):
        attrs["value"] = onnx.numpy_helper.from_array(d.array([1]))
    return [Weight(given) if d.maybe(0.7) else given], attrs


def range_(d):
    start, step = d.int(-5, 5), d.pick([1, 2, 3, -1, -2])
    limit = start + step * d.int(-1, 9) + d.int(-1, 1)
    values = [start, limit, step]
    if type_name(d.main) in ("float", "double"):
        values = [v / 4 for v in values]
    make = Weight if d.maybe(0.7) else Fed
    return [make(np.array(v, d.main)) for v in values], {}


def eye_like(d):
    attrs = d.some(k=d.int(-4, 4))
    d.types["T2"] = d.main
    if d.maybe():
        d.types["T2"] = numpy_type(d.pick(d.allowed["T2"]))
        attrs["dtype"] = onnx.helper.np_dtype_to_tensor_dtype(d.types["T2"])
    return [d.array(d.shape(2, 2))], attrs


def reshape(d):
    x = d.array(d.shape())
    target = []
    for n in x.shape:
        cut = d.pick([k for k in range(1, n + 1) if n % k == 0] or [n or 1])
        target += [cut, n // cut] if d.maybe(0.4) else [n]
    merged = []
    for n in target:
        if merged and d.maybe(0.4):
            merged[-1] *= n
        else:
            merged.append(n)
    while d.maybe(0.2):
        merged.insert(d.int(0, len(merged)), 1)
    attrs = d.some(allowzero=d.int(0, 1))
    zero = not attrs.get("allowzero")
    if not zero and 0 in merged or zero and 0 in merged and any(
            n == 0 and (i >= x.ndim or x.shape[i] != 0) for i, n in enumerate(merged)):
        attrs["allowzero"] = 1
    elif zero:
        merged = [0 if i < x.ndim and x.shape[i] == n and d.maybe(0.3) else n for i, n in enumerate(merged)]
    if merged and 0 not in x.shape and d.maybe():
        merged[d.int(0, len(merged) - 1)] = -1
    given = np.array(merged, np.int64)
    return [x, Weight(given) if d.maybe(0.7) else given], attrs


def transpose(d):
    x = d.array(d.shape())
    return [x], {"perm": [int(a) for a in d.rng.permutation(x.ndim)]} if x.ndim and d.maybe(0.8) else {}


def squeeze(d):
    shape = d.shape(0, 3)
    ones = d.int(0, 2)
    for _ in range(ones):
        shape.insert(d.int(0, len(shape)), 1)
    where_ = [i for i, n in enumerate(shape) if n == 1 and d.maybe(0.7)]
    axes = np.array([i - (len(shape) if d.maybe(0.4) else 0) for i in where_], np.int64)
    given = d.pick([Weight(axes), Weight(axes), axes, None])
    if not axes.size and 1 in shape and given is not None:
        given = None
    return [d.array(shape), given], {}


def unsqueeze(d):
    x = d.array(d.shape(0, 3))
    count = d.int(0, 3)
    rank = x.ndim + count
    axes = [int(a) - (rank if d.maybe(0.4) else 0) for a in d.rng.permutation(rank)[:count]]
    axes = np.array(axes, np.int64)
    return [x, Weight(axes) if d.maybe(0.8) else axes], {}


def flatten(d):
    x = d.array(d.shape())
    # Without axes to take apart the default is none of them.
    return [x], d.some(axis=d.int(-x.ndim, x.ndim)) if x.ndim else {"axis": 0}


def expand(d):
    shape = d.shape()
    x = d.array(d.part(shape))
    asked = np.array(d.part(shape), np.int64)
    return [x, Weight(asked) if d.maybe(0.7) else asked], {}


def slice_(d):
    x = d.array(d.shape(1))
    index = d.of(1)
    most = np.iinfo(index).max
    axes = d.axes(x.ndim, 1)
    starts, ends, steps = [], [], []
    for a in axes:
        n = x.shape[a]
        steps.append(d.pick([1, 1, 2, 3, -1, -2, most if d.maybe(0.2) else 1]))
        # The largest number means the end to whoever goes forward, the smallest to whoever goes back.
        starts.append(d.pick([0, -1, -most if steps[-1] > 0 else most, d.int(-n - 2, n + 2), d.int(-n, n)]))
        ends.append(d.pick([n, -1, most if steps[-1] > 0 else -most - 1, d.int(-n - 2, n + 2), d.int(-n, n)]))
    arrays = [np.array(v, index) for v in (starts, ends, axes, steps)]
    if sorted(a % x.ndim for a in axes) == list(range(x.ndim)) and d.maybe(0.3):
        order = np.argsort([a % x.ndim for a in axes])
        arrays = [v[order] for v in arrays]
        arrays[2] = None
    if d.maybe(0.3):
        arrays[3] = None
    make = Weight if d.maybe(0.7) else Fed
    return [x, *(None if a is None else make(a) for a in arrays)], {}


def tile(d):
    x = d.array(d.shape(0, 3))
    repeats = d.ints(0 if d.empty else 1, 3, [x.ndim])
    return [x, Weight(repeats) if d.maybe(0.7) else repeats], {}


def concat(d):
    shape = d.shape(1)
    axis = d.axis(len(shape))
    parts = []
    for _ in range(d.int(1, 4)):
        shape[axis] = d.extent()
        parts.append(d.array(shape))
    return parts, {"axis": axis}


def split(d):
    shape = d.shape(1)
    axis = d.axis(len(shape))
    d.results = d.int(1, 4)
    attrs = {"axis": axis}
    if "num_outputs" in d.schema.attributes and d.maybe():
        shape[axis] = d.int(d.results, 19)
        # Every part but the last has as many: there must be a last one.
        if shape[axis] - (d.results - 1) * -(-shape[axis] // d.results) < 0:
            shape[axis] = d.results * d.int(1, 4)
        return [d.array(shape)], attrs | {"num_outputs": d.results}
    sizes = d.ints(0 if d.maybe(0.3) else 1, 5, [d.results])
    shape[axis] = int(sizes.sum())
    return [d.array(shape), Weight(sizes) if d.maybe(0.8) else sizes], attrs


def pad(d):
    shape = [n % 9 for n in d.shape(1)]
    mode = d.pick(["constant", "constant", "reflect", "edge", "wrap"])
    if mode != "constant":
        shape = [max(1, n) for n in shape]
    x = d.array(shape)
    axes = d.axes(x.ndim, 1) if len(d.schema.inputs) > 3 and d.maybe() else None
    begins, ends = [], []
    for a in range(x.ndim) if axes is None else axes:
        n = x.shape[a]
        low = -(n // 2) if mode == "constant" and d.maybe(0.3) else 0
        high = {"reflect": n - 1, "wrap": n}.get(mode, 3)
        begins.append(d.int(low, min(3, high)))
        ends.append(d.int(low, min(3, high)))
    pads = np.array(begins + ends, np.int64)
    value = d.array([]) if d.maybe() else None
    axes = None if axes is None else np.array(axes, d.of(3))
    make = Weight if d.maybe(0.8) else Fed
    operands = [x, make(pads), value, None if axes is None else make(axes)]
    return operands, {"mode": mode} if mode != "constant" or d.maybe(0.3) else {}


def center_crop_pad(d):
    x = d.array(d.shape(1))
    axes = d.axes(x.ndim, 1)
    attrs = {"axes": axes} if d.maybe() else {}
    count = len(axes) if attrs else x.ndim
    sizes = d.ints(0 if d.empty else 1, 9, [count], d.of(1))
    return [x, Weight(sizes) if d.maybe(0.8) else sizes], attrs


def depth_to_space(d):
    block = d.int(1, 3)
    n, c, h, w = (d.int(1, 3) for _ in range(4))
    return [d.array([n, c * block * block, h, w])], {"blocksize": block} | d.some(mode=d.pick(["DCR", "CRD"]))


def space_to_depth(d):
    block = d.int(1, 3)
    n, c, h, w = (d.int(1, 3) for _ in range(4))
    mode = d.some(mode=d.pick(["DCR", "CRD"]))
    return [d.array([n, c, h * block, w * block])], {"blocksize": block} | mode


def trilu(d):
    x = d.array(d.shape(2))
    k = np.array(d.int(-4, 4), np.int64)
    return [x, Weight(k) if d.maybe(0.6) else (k if d.maybe(0.6) else None)], d.some(upper=d.int(0, 1))


# Gather and scatter

def indices(d, extent, shape, dtype):
    """Indices into an axis, some counted from its end; nothing where the axis has no elements."""
    if extent == 0:
        shape = [0, *shape[1:]] if shape else [0]
    return d.ints(-extent if d.maybe() else 0, max(extent - 1, 0), shape, dtype)


def gather(d):
    x = d.array(d.shape(1))
    axis = d.axis(x.ndim)
    return [x, indices(d, x.shape[axis], d.shape(0, 3), d.of(1))], {"axis": axis} if axis % x.ndim else d.some(axis=axis)


def along(d, x, axis):
    """The shape of indices that pick along an axis."""
    return [d.extent() if i == axis % x.ndim else d.int(min(1, n), n) for i, n in enumerate(x.shape)]


def gather_elements(d):
    x = d.array(d.shape(1, 3))
    axis = d.axis(x.ndim)
    shape = along(d, x, axis)
    if x.shape[axis] == 0:
        shape[axis] = 0
    return [x, d.ints(-x.shape[axis], max(0, x.shape[axis] - 1), shape, d.of(1))], {"axis": axis}


def gather_nd(d):
    d.empty = False
    x = d.array(d.shape(1, 4))
    batch = d.int(0, min(2, x.ndim - 1))
    depth = d.int(1, x.ndim - batch)
    shape = [*x.shape[:batch], *d.shape(0 if batch else 1, 2)]
    parts = [d.ints(-n, n - 1, shape) for n in x.shape[batch:batch + depth]]
    return [x, np.stack(parts, -1)], d.some(batch_dims=batch) if not batch else {"batch_dims": batch}


def scatter_elements(d):
    d.calm()
    d.empty = False
    x = d.array(d.shape(1, 3))
    axis = d.axis(x.ndim)
    n = x.shape[axis]
    shape = [d.int(1, m) for m in x.shape]
    reduction = d.pick(["none", "add", "mul", "max", "min"])
    if d.main == np.bool_ or "int" in d.main.name and d.main.itemsize < 4 or is_float(d.main) and d.main.itemsize == 1:
        reduction = "none"
    if reduction == "none":
        # What equal indices leave is not defined.
        order = np.argsort(d.rng.random([*shape[:axis % x.ndim], n, *shape[axis % x.ndim + 1:]]), axis % x.ndim)
        index = np.take(order, range(shape[axis]), axis % x.ndim)
    else:
        shape[axis] = d.extent()
        index = d.ints(0, n - 1, shape)
    index = np.where(d.rng.random(index.shape) < 0.3, index - n, index).astype(d.of(1))
    attrs = {"axis": axis} | ({"reduction": reduction} if reduction != "none" else {})
    return [x, index, d.array(index.shape)], attrs


def scatter_nd(d):
    d.calm()
    d.empty = False
    x = d.array(d.shape(1, 3))
    depth = d.int(1, x.ndim)
    reduction = d.pick(["none", "add", "mul", "max", "min"])
    if d.main == np.bool_ or is_float(d.main) and d.main.itemsize == 1:
        reduction = "none"
    places = int(np.prod(x.shape[:depth]))
    count = d.int(1, min(places, 12))
    flat = d.rng.permutation(places)[:count] if reduction == "none" else d.rng.integers(0, places, count)
    parts = [np.where(d.rng.random(count) < 0.3, p - n, p) for p, n in zip(np.unravel_index(flat, x.shape[:depth]), x.shape)]
    index = np.stack(parts, -1).astype(np.int64)
    attrs = {"reduction": reduction} if reduction != "none" else {}
    return [x, index, d.array([count, *x.shape[depth:]])], attrs


def one_hot(d):
    d.finite()
    depth = d.int(1, 9)
    given = d.shape(1, 3)
    index = d.of(0)
    low = 0 if index.kind == "u" else -depth - 1
    index = d.ints(low, depth + 1, given).astype(index)
    axis = d.int(-len(given) - 1, len(given))
    depths = np.array(depth, d.of(1)).reshape([1] if d.maybe() else [])
    return [index, Weight(depths) if d.maybe(0.8) else Fed(depths), d.array([2], d.of(2))], d.some(axis=axis)


def reverse_sequence(d):
    x = d.array(d.shape(2))
    time = d.int(0, 1)
    lengths = d.ints(min(1, x.shape[time]), x.shape[time], [x.shape[1 - time]])
    return [x, lengths], {"time_axis": time, "batch_axis": 1 - time}


def tensor_scatter(d):
    d.empty = False
    past = d.shape(3, 4)
    axis = d.int(1, len(past) - 1)
    new = list(past)
    new[axis] = d.int(1, past[axis])
    circular = d.maybe()
    most = past[axis] - 1 if circular else past[axis] - new[axis]
    at = d.ints(0, most, [past[0]])
    attrs = {"axis": axis - (len(past) if d.maybe() else 0), "mode": "circular" if circular else "linear"}
    return [d.array(past), d.array(new), at if d.maybe(0.8) else None], attrs


POINTWISE = ["Abs", "Neg", "Sign", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan",
             "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Floor", "Ceil", "Round", "Not", "BitwiseNot", "IsNaN", "Identity",
             "Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "Mish", "Size", "NonZero"]
PAIRS = ["Add", "Sub", "Mul", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "BitwiseAnd",
         "BitwiseOr", "BitwiseXor"]
REDUCTIONS = ["ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare",
              "ReduceLogSumExp"]

ML = "ai.onnx.ml"

# (domain, operator): its generator.
GENERATORS = {
    **{("", op): unary() for op in POINTWISE},
    **{("", op): broadcast(2) for op in PAIRS},
    **{("", op): broadcast(None) for op in ["Max", "Min", "Sum", "Mean"]},
    **{("", op): reduce_ for op in REDUCTIONS},
    **{("", op): softmax for op in ["Softmax", "LogSoftmax", "Hardmax"]},
    **{("", op): arg_extreme for op in ["ArgMax", "ArgMin"]},
    **{("", op): cumulative for op in ["CumSum", "CumProd"]},
    **{("", op): layers.layer_norm for op in ["LayerNormalization", "RMSNormalization"]},
    **{("", op): layers.losses for op in ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]},
    **{("", op): layers.window for op in ["HannWindow", "HammingWindow", "BlackmanWindow"]},
    **{("", op): layers.pool for op in ["MaxPool", "AveragePool", "LpPool"]},
    **{("", op): layers.global_pool for op in ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]},
    ("", "ReduceLogSum"): reduce_positive,
    ("", "Celu"): unary(alpha=number(0.2, 2)),
    ("", "Elu"): unary(alpha=number(-1, 2)),
    ("", "Selu"): unary(alpha=number(0.2, 2), gamma=number(0.2, 2)),
    ("", "Gelu"): gelu,
    ("", "HardSigmoid"): unary(alpha=number(-1, 1), beta=number(-1, 1)),
    ("", "LeakyRelu"): unary(alpha=number(-1, 1)),
    ("", "ThresholdedRelu"): unary(alpha=number(-1, 2)),
    ("", "Shrink"): unary(bias=number(-1, 1), lambd=number(-1, 2)),
    ("", "Swish"): unary(alpha=number(-1, 2)),
    ("", "IsInf"): unary(detect_negative=flag, detect_positive=flag),
    ("", "Div"): div,
    ("", "Mod"): mod,
    ("", "Pow"): power,
    ("", "BitShift"): bit_shift,
    ("", "PRelu"): prelu,
    ("", "Where"): where,
    ("", "Clip"): clip,
    ("", "Cast"): cast,
    ("", "CastLike"): cast_like,
    ("", "BitCast"): bit_cast,
    ("", "TopK"): top_k,
    ("", "BatchNormalization"): layers.batch_norm,
    ("", "InstanceNormalization"): layers.instance_norm,
    ("", "GroupNormalization"): layers.group_norm,
    ("", "MeanVarianceNormalization"): layers.mean_variance,
    ("", "LRN"): layers.lrn,
    ("", "LpNormalization"): layers.lp_norm,
    ("", "Shape"): shape_of,
    ("", "ConstantOfShape"): constant_of_shape,
    ("", "Range"): range_,
    ("", "EyeLike"): eye_like,
    ("", "Reshape"): reshape,
    ("", "Transpose"): transpose,
    ("", "Squeeze"): squeeze,
    ("", "Unsqueeze"): unsqueeze,
    ("", "Flatten"): flatten,
    ("", "Expand"): expand,
    ("", "Slice"): slice_,
    ("", "Tile"): tile,
    ("", "Concat"): concat,
    ("", "Split"): split,
    ("", "Pad"): pad,
    ("", "CenterCropPad"): center_crop_pad,
    ("", "DepthToSpace"): depth_to_space,
    ("", "SpaceToDepth"): space_to_depth,
    ("", "Trilu"): trilu,
    ("", "Gather"): gather,
    ("", "GatherElements"): gather_elements,
    ("", "GatherND"): gather_nd,
    ("", "ScatterElements"): scatter_elements,
    ("", "ScatterND"): scatter_nd,
    ("", "OneHot"): one_hot,
    ("", "ReverseSequence"): reverse_sequence,
    ("", "TensorScatter"): tensor_scatter,
    ("", "MatMul"): layers.matmul,
    ("", "Gemm"): layers.gemm,
    ("", "Einsum"): layers.einsum,
    ("", "Det"): layers.det,
    ("", "DFT"): layers.dft,
    ("", "STFT"): layers.stft,
    ("", "MelWeightMatrix"): layers.mel,
    ("", "QuantizeLinear"): layers.quantize,
    ("", "DequantizeLinear"): layers.dequantize,
    ("", "DynamicQuantizeLinear"): layers.dynamic_quantize,
    ("", "MatMulInteger"): layers.matmul_integer,
    ("", "QLinearMatMul"): layers.qlinear_matmul,
    ("", "ConvInteger"): layers.conv_integer,
    ("", "QLinearConv"): layers.qlinear_conv,
    ("", "Conv"): layers.conv,
    ("", "ConvTranspose"): layers.conv_transpose,
    ("", "DeformConv"): layers.deform_conv,
    ("", "Col2Im"): layers.col2im,
    ("", "MaxUnpool"): layers.unpool,
    ("", "Resize"): layers.resize,
    ("", "GridSample"): layers.grid_sample,
    ("", "AffineGrid"): layers.affine_grid,
    ("", "RoiAlign"): layers.roi_align,
    ("", "MaxRoiPool"): layers.max_roi_pool,
    ("", "Attention"): layers.attention,
    ("", "RNN"): layers.recurrent(1),
    ("", "GRU"): layers.recurrent(3),
    ("", "LSTM"): layers.recurrent(4),
    ("", "RotaryEmbedding"): layers.rotary,
    ("", "Compress"): layers.compress,
    ("", "Unique"): layers.unique,
    ("", "NonMaxSuppression"): layers.suppression,
    ("", "Dropout"): layers.dropout,
    (ML, "ArrayFeatureExtractor"): layers.feature_extractor,
    (ML, "Binarizer"): unary(1, threshold=number(-1, 1)),
    (ML, "Scaler"): layers.scaler,
    (ML, "Normalizer"): unary(2, calm=True, norm=lambda d: d.pick(["MAX", "L1", "L2"])),
    (ML, "Imputer"): layers.imputer,
    (ML, "LinearRegressor"): layers.linear_regressor,
}

# What has no generator, and why.
LEFT_OUT = {
    "drawn at random": ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                        "RandomUniformLike"],
    "has bodies; loops.py": ["If", "Loop", "Scan", "SequenceMap"],
    "its value is an attribute": ["Constant"],
    "sequences and optionals are no operands of compiled nodes; backend.py": [
        "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt", "SequenceConstruct",
        "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence"],
    "of strings; strings.py": ["RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"],
    "files of images; images.py": ["ImageDecoder"],
    "not in ONNX Runtime; backend.py": ["CausalConvWithState", "LinearAttention", "SwiGLU"],
    "a table of n-grams; backend.py": ["TfIdfVectorizer"],
    "old": ["MaxRoiPool", "Scatter", "Upsample"],
}


def operators():
    """{(domain, operator): generator} of all that there are; every operator of ONNX is here or in `LEFT_OUT`."""
    names = {op for (domain, op), history in schemas().items() if not domain and not history[-1].deprecated}
    left_out = {name for group in LEFT_OUT.values() for name in group}
    forgotten = names - left_out - {op for domain, op in GENERATORS if not domain}
    if forgotten:
        raise SystemExit(f"operators.py has no generator for {', '.join(sorted(forgotten))}")
    return GENERATORS


def types_of(op, domain):
    """The element types that an operator takes today."""
    return main_types(schemas()[domain, op][-1])
