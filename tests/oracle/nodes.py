"""Random models of one node: what fuzz.py compares.

ONNX's schemas say which operators there are, which element types each takes and which attributes it has. What the schemas
do not say (that an index lies inside its table, how the extents of a filter follow from those of an image) is said in
operators.py. Equal arguments give equal models.
"""

import functools
import zlib

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Strings have tests of their own (strings.py); complex numbers, sequences and optionals are no elements of compiled nodes.
TYPES = {name.lower(): number for name, number in TensorProto.DataType.items()
         if name not in {"UNDEFINED", "STRING", "COMPLEX64", "COMPLEX128"} and number <= TensorProto.INT2}
FLOATS = {"float", "double", "float16", "bfloat16"}

# Small and odd, one vector and its neighbours, and 1, which broadcasts.
EXTENTS = [1, 1, 2, 3, 4, 5, 7, 8, 16, 17, 19]
MOST_ELEMENTS = 1500  # the interpreter is slow

# Operators that give elements as they are: a zero keeps its sign, a denormal number is not zero.
MOVES = {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Slice", "Tile", "Concat", "Split",
         "Pad", "CenterCropPad", "DepthToSpace", "SpaceToDepth", "Trilu", "Gather", "GatherElements", "GatherND", "Where",
         "ReverseSequence", "TensorScatter", "Compress", "Abs", "Neg"}

# What of a model is known when it is compiled, as in ../src/case.rs.
FORMS = ["static", "static", "weights", "by extent", "every axis"]


def numpy_type(name):
    return np.dtype(helper.tensor_dtype_to_np_dtype(TYPES[name]))


def is_float(dtype):
    return "float" in np.dtype(dtype).name


def type_name(dtype):
    """ONNX's name of the type of an array."""
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return TensorProto.DataType.Name(number).lower()


def tensor_types(allowed):
    """The names of the types in a schema's set that can be compiled."""
    names = (text[len("tensor("):-1] for text in allowed if text.startswith("tensor("))
    return [name for name in sorted(names) if name in TYPES]


def constraints(schema):
    """{parameter: names of its types}, those of the first input first."""
    found = {c.type_param_str: tensor_types(c.allowed_type_strs) for c in schema.type_constraints}
    used = [p.type_str for p in [*schema.inputs, *schema.outputs] if p.type_str in found]
    return {name: found[name] for name in dict.fromkeys([*used, *found])}


def main_parameter(schema):
    """The type parameter whose types an operator is tested with: the first that leaves a choice."""
    free = constraints(schema)
    return next((name for name, types in free.items() if len(types) > 1), next(iter(free), None))


def main_types(schema):
    """The element types that an operator is tested with."""
    return constraints(schema).get(main_parameter(schema), ["float"])


@functools.cache
def schemas():
    """{(domain, operator): its schemas, oldest first}"""
    found = {}
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda s: s.since_version):
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


class Weight:
    """An operand whose elements must be known when the model is compiled."""

    def __init__(self, array):
        self.array = np.asarray(array)


class Fed:
    """An operand that is never a weight."""

    def __init__(self, array):
        self.array = np.asarray(array)


class Draw:
    """What a generator draws shapes, elements and attributes from.

    `types` maps the type parameters of the schema to numpy's types; the generator may choose others of `allowed`."""

    def __init__(self, schema, main, rng):
        self.schema, self.rng = schema, rng
        self.allowed = constraints(schema)
        # The other parameters: often the same type, where that is allowed.
        self.types = {}
        for name, allowed in self.allowed.items():
            if name == main_parameter(schema) or main in allowed and self.maybe(0.6):
                chosen = main
            else:
                chosen = self.pick(allowed) if allowed else main
            self.types[name] = numpy_type(chosen)
        self.main = numpy_type(main)
        self.mood = self.pick(["plain", "plain", "halves", "wide", "special"])
        self.empty = self.maybe(0.08)
        self.results = None  # how many outputs, where the schema leaves that open

    # Choices

    def maybe(self, chance=0.5):
        return self.rng.random() < chance

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def int(self, low, high):
        """An integer, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def some(self, **attrs):
        """Each of the attributes that the schema has, or not."""
        return {k: v for k, v in attrs.items() if k in self.schema.attributes and self.maybe(0.7)}

    # Types

    def of(self, i):
        """The type of an input."""
        return self.named(self.schema.inputs[min(i, len(self.schema.inputs) - 1)].type_str)

    def named(self, text):
        return self.types[text] if text in self.types else numpy_type(text[len("tensor("):-1])

    # Shapes

    def extent(self):
        if self.empty and self.maybe(0.4):
            return 0
        return self.pick(EXTENTS)

    def shape(self, least=0, most=4):
        rank = self.int(least, most)
        shape = [self.extent() for _ in range(rank)]
        while np.prod(shape, dtype=np.int64) > MOST_ELEMENTS:
            shape[int(np.argmax(shape))] //= 2
        return shape

    def part(self, shape):
        """A shape that broadcasts to another."""
        own = list(shape[self.int(0, len(shape)):] if self.maybe(0.4) else shape)
        return [1 if self.maybe(0.25) else d for d in own]

    def axis(self, rank):
        return self.int(-rank, rank - 1)

    def axes(self, rank, least=0):
        """Distinct axes in any order, some counted from the end."""
        count = self.int(min(least, rank), rank)
        axes = self.rng.permutation(rank)[:count]
        return [int(a) - (rank if self.maybe(0.4) else 0) for a in axes]

    # Elements

    def calm(self):
        """No huge elements: for sums, in which they hide everything else."""
        self.mood = {"wide": "plain", "special": "infinite"}.get(self.mood, self.mood)

    def finite(self):
        """Neither huge elements nor infinities."""
        self.mood = "halves" if self.mood == "halves" else "plain"

    def array(self, shape, dtype=None):
        dtype = np.dtype(self.main if dtype is None else dtype)
        shape = [int(d) for d in shape]
        if dtype == np.bool_:
            return self.rng.integers(0, 2, shape).astype(bool)
        if is_float(dtype):
            return self.floats(shape, dtype)
        info = ml_dtypes.iinfo(dtype)
        low, high = int(info.min), int(info.max)
        if self.mood == "wide":
            return self.ints(low, high, shape, dtype)
        small = self.ints(max(low, -4), min(high, 4 if low else 7), shape, dtype)
        if self.mood == "special":
            ends = np.array([low, high, max(low, -1), 0, 1]).astype(dtype)
            return np.where(self.rng.random(shape) < 0.4, ends[self.rng.integers(0, len(ends), shape)], small)
        return small

    def ints(self, low, high, shape=(), dtype=np.int64):
        """Integers, both ends included."""
        kind = np.uint64 if high > np.iinfo(np.int64).max else np.int64
        return np.asarray(self.rng.integers(low, high, tuple(shape), kind, endpoint=True)).astype(dtype)

    def floats(self, shape, dtype):
        normal = self.rng.standard_normal(shape) * 2
        info = ml_dtypes.finfo(dtype)
        unsigned = dtype.name == "float8_e8m0fnu"
        if self.mood == "halves":
            normal = np.round(normal * 2) / 2
        elif self.mood == "wide":
            low, high = np.log2(float(info.smallest_normal)), np.log2(float(info.max))
            normal = np.sign(normal) * 2.0 ** self.rng.uniform(max(low, -1000), min(high, 1000), shape)
        if unsigned:
            normal = np.abs(normal) + 2.0 ** -100
        with np.errstate(over="ignore"):
            out = np.asarray(normal).astype(dtype)
        if self.mood not in ("special", "infinite") or unsigned:
            return out
        ends = [np.nan, np.inf, -np.inf, 0.0, -0.0]
        if self.mood == "special":
            ends += [float(info.smallest_normal), float(info.max), -float(info.max), 0.5, -1.5, 2.5, 1.0]
            # Programs compute with denormals as zeros; those of float16 are none in the float that it is computed in.
            if self.schema.name in MOVES or dtype == np.float16:
                ends += [float(info.smallest_subnormal), -float(info.smallest_subnormal)]
        with np.errstate(over="ignore", invalid="ignore"):
            ends = np.array(ends).astype(dtype)
        # A sum is hidden by an infinity too: few of them.
        chance = 0.4 if self.mood == "special" else 1.5 / max(10, out.size)
        return np.where(self.rng.random(shape) < chance, ends[self.rng.integers(0, len(ends), shape)], out)

    def uniform(self, low, high, shape=(), dtype=None):
        dtype = self.main if dtype is None else dtype
        return np.asarray(self.rng.uniform(low, high, tuple(shape))).astype(dtype)


class Sample:
    """A model of one node with its inputs; `text` names it so that it can be made again."""

    def __init__(self, text, op, form, model, inputs, results):
        self.text, self.op, self.form = text, op, form
        self.model, self.inputs = model, inputs
        self.results = results  # numpy's types of the outputs


def make(op, domain, generate, dtype, seed, number, newest, form=None):
    """A sample: case `number` of an operator and an element type. `newest` is the opset that most models are of.

    None where there is no opset in which the operator has the type."""
    rng = np.random.default_rng([seed, number, zlib.crc32(f"{domain}:{op}:{dtype}".encode())])
    schema, opset = version(op, domain, dtype, newest, rng)
    if schema is None:
        return None
    d = Draw(schema, dtype, rng)
    with np.errstate(all="ignore"):
        operands, attrs = generate(d)
    drawn = d.pick(FORMS)
    form = form or drawn
    operands = operands[:len(schema.inputs)] if not variadic(schema) else operands
    while operands and operands[-1] is None:
        operands.pop()
    inputs, infos, weights, names = [], [], [], []
    for i, operand in enumerate(operands):
        names.append("" if operand is None else f"x{i}")
        if operand is None:
            continue
        array = operand.array if isinstance(operand, (Weight, Fed)) else np.asarray(operand)
        # The first operand stays an input, or nothing would be left to compile; of one, a constant is a case too.
        free = not isinstance(operand, Fed) and form == "weights" and (i > 0 or len(operands) == 1 and d.maybe(0.3))
        if isinstance(operand, Weight) or free and d.maybe(0.7):
            weights.append(numpy_helper.from_array(array, names[-1]))
            continue
        inputs.append(array)
        infos.append(helper.make_tensor_value_info(names[-1], helper.np_dtype_to_tensor_dtype(array.dtype),
                                                   extents(d, form, i, array.shape)))
    count = schema.min_output if d.results is None else d.results
    outputs = [f"y{i}" for i in range(count)]
    node = helper.make_node(op, names, outputs, domain=domain, **attrs)
    types = [d.named(schema.outputs[min(i, len(schema.outputs) - 1)].type_str) for i in range(count)]
    results = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(t), None)
               for name, t in zip(outputs, types)]
    graph = helper.make_graph([node], "fuzz", infos, results, weights)
    opsets = [helper.make_opsetid(domain, opset)]
    if domain:
        opsets.append(helper.make_opsetid("", newest))
    ir = max(10, helper.find_min_ir_version_for(opsets, ignore_unknown=True))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    name = f"{domain}::{op}" if domain else op
    again = f"--ops '^{name}$' --types {dtype} --seed {seed} --case {number}"
    text = f"{name} {dtype} ({form}, opset {opset}; {again})"
    return Sample(text, op, form, model, inputs, types)


def variadic(schema):
    last = schema.inputs[-1] if schema.inputs else None
    return last is not None and last.option == onnx.defs.OpSchema.FormalParameterOption.Variadic


def version(op, domain, dtype, newest, rng):
    """A schema that has the type, and an opset that has the schema: mostly the newest that others know too."""
    history = schemas()[domain, op]
    usable = [s for s in history if not s.deprecated and dtype in main_types(s)]
    if not usable:
        return None, None
    last = usable[-1]
    if domain:
        return last, last.since_version
    if rng.random() < 0.25:
        newest = int(rng.integers(OLDEST, onnx.defs.onnx_opset_version() + 1))
    known = [s for s in usable if s.since_version <= newest]
    # What is deprecated or has no such type today is asked for at its own opset.
    schema = known[-1] if known else usable[0]
    following = [s.since_version for s in history if s.since_version > schema.since_version]
    return schema, max(schema.since_version, min([newest, *(v - 1 for v in following)]))


# Generators know the forms of operators from here on.
OLDEST = 18


def extents(d, form, i, shape):
    """The dims of an input in a form."""
    if form == "by extent":
        return [f"D{n}" if n != 1 else 1 for n in shape]
    if form == "every axis":
        return [f"I{i}A{axis}" if d.maybe(0.7) else n for axis, n in enumerate(shape)]
    return list(shape)
