#!/usr/bin/env python3
"""Compares models whose slices, ranges, shapes, branches and loops are as long as a run computes with ONNX Runtime.

    python lengths.py [NAME...] [--threads N]
"""

import sys

import numpy as np
import onnx.parser

from compiled import compare_models

SIGNATURE = "(float[N,4] x, int64[N] d) =>"
CONSTANTS = """<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] minus = {-1}, int64 none = {0},
    int64 step = {1}, int64[2] ones = {1, 1}, int64 three = {3}, float half = {0.5}, float start = {0.25}, float[1] f = {2.0}, int64[1] to = {7}>"""
# x > 0 at column 0: flags [N]
FLAGS = "c = Slice(x, zero, one, one) sq = Squeeze(c, one) fz = Constant <value_float = 0.0> () m = Greater(sq, fz) "
TRUE = "true = Constant <value = bool {1}> () "
SUM = "n = ReduceSum <keepdims = 0> (d, zero) "

# The outputs and nodes of models of x [N,4] and d [N], which are from 0 to 3.
MODELS = {
    "to a sum": ("(float[A,4] y)", SUM + "e = Reshape(n, one) h = Div(e, two) y = Slice(x, zero, h, zero)"),
    "from the end": ("(float[A,4] y)", SUM + "e = Reshape(n, one) k = Neg(e) y = Slice(x, k, to, zero)"),
    "between two": ("(float[A,B] y)",
                    "i = ArgMax <axis = 0, keepdims = 1> (d) j = Add(i, two) a = Slice(x, i, j, zero) l = ReduceMax(d, zero) "
                    "y = Slice(a, zero, l, one)"),
    "range": ("(float[A] y)", SUM + "r = Range(none, n, step) g = Cast <to = 1> (r) y = Exp(g)"),
    "range by halves": ("(float[A] y)", SUM + "g = Cast <to = 1> (n) r = Range(start, g, half) y = Neg(r)"),
    "expand": ("(float[A,4] y, int64[2] s)",
               "l = ReduceMax(d, zero) s = Concat <axis = 0> (l, four) row = Slice(x, zero, one, zero) y = Expand(row, s)"),
    "durations": ("(float[A,4] y)",
                  SUM + "r = Range(none, n, step) c = CumSum(d, none) col = Unsqueeze(r, one) b = LessOrEqual(c, col) k = Cast <to = 7> (b) "
                  "i = ReduceSum <keepdims = 0> (k, one) y = Gather <axis = 0> (x, i)"),
    "one mask twice": ("(float[A,4] y, float[A,4] z)",
                       FLAGS + "p = NonZero(m) q = NonZero(m) s = Transpose(p) t = Transpose(q) a = GatherND(x, s) nx = Neg(x) "
                       "b = GatherND(nx, t) y = Mul(a, b) e = Exp(b) z = Add(a, e)"),
    "as many as flags": ("(float[N,4] y)",
                         FLAGS + "k = Cast <to = 7> (m) n = ReduceSum <keepdims = 0> (k, zero) e = Reshape(n, one) s = Concat <axis = 0> (e, four) "
                         "v = Expand(f, s) p = NonZero(m) t = Transpose(p) y = ScatterND(x, t, v)"),
    "branches": ("(float[A,4] y)",
                 SUM + "g = Greater(n, three) y = If(g) <then_branch = a () => (float[A,4] ya) { ya = Slice(x, zero, two, zero) }, "
                 "else_branch = b () => (float[A,4] yb) { yb = Neg(x) }>"),
    "truncated": ("(float[A,4] y)",
                  "e = ReduceMax(d, zero) k = Squeeze(e) p = Greater(k, step) q = If(p) <then_branch = a () => (float[A,4] ya) "
                  "{ ya = Slice(x, zero, e, zero) }, else_branch = b () => (float[A,4] yb) { yb = Identity(x) }> y = Exp(q)"),
    "backwards": ("(float[A,4] y, float[B,4] z)",
                  SUM + "far = Constant <value = int64[1] {-100}> () y = Slice(x, far, far, zero, minus) z0 = Slice(x, minus, far, zero, minus) "
                  "e = Reshape(n, one) s = Neg(e) t = Slice(x, s, to, zero) z = Concat <axis = 0> (z0, t)"),
    "a branch by what is counted": ("(float[A,4] y)",
                                    FLAGS + "q = Compress <axis = 0> (x, m) s = Shape(q) k = Gather(s, none) p = Greater(k, step) "
                                    "y = If(p) <then_branch = a () => (float[A,4] ya) { ya = Slice(q, zero, two, zero) }, "
                                    "else_branch = b () => (float[A,4] yb) { yb = Neg(q) }>"),
    "a branch that counts": ("(int64[A] y)",
                             FLAGS + "h = Slice(x, zero, two, zero) s = Shape(h) p = ReduceProd <keepdims = 0> (s) g = Equal(p, none) "
                             "y = If(g) <then_branch = a () => (int64[A] ya) { ya = ConstantOfShape <value = int64[1] {0}> (zero) }, "
                             "else_branch = b () => (int64[A] yb) { q = NonZero(m) yb = Squeeze(q, zero) }>"),
    "read while it grows": ("(float[A,4] y, float[B] z)",
                            SUM + TRUE + "y, z = Loop(n, true, x) <body = g (int64 i, bool c, float[A,4] s) => (bool o, float[A,4] t, float e) { "
                            "o = Identity(c) w = ReduceMean(s, zero) t = Concat <axis = 0> (s, w) e = ReduceSum <keepdims = 0> (t) }>"),
    "two that grow": ("(float[A,4] y, float[A,4] z)",
                      SUM + TRUE + "nx = Neg(x) y, z = Loop(n, true, x, nx) <body = g (int64 i, bool c, float[A,4] s, float[A,4] u) => "
                      "(bool o, float[A,4] t, float[A,4] v) { o = Identity(c) k = Add(s, u) w = ReduceMax(k, zero) t = Concat <axis = 0> (s, w) "
                      "r = ReduceMean(s, zero) v = Concat <axis = 0> (u, r) }>"),
    "one that follows": ("(float[A,4] y, float[B,4] z)",
                         SUM + TRUE + "y, z = Loop(n, true, x, x) <body = g (int64 i, bool c, float[A,4] s, float[B,4] u) => "
                         "(bool o, float[A,4] t, float[B,4] v) { o = Identity(c) w = ReduceMean(s, zero) t = Concat <axis = 0> (s, w) v = Exp(t) }>"),
    "doubled": ("(float[A,4] y)",
                "k = ReduceMax <keepdims = 0> (d, zero) " + TRUE + "y = Loop(k, true, x) <body = g (int64 i, bool c, float[A,4] s) => "
                "(bool o, float[A,4] t) { o = Identity(c) w = Neg(s) t = Concat <axis = 0> (s, w) }>"),
    "until data ends it": ("(float[A,4] y)",
                           SUM + TRUE + "endless = Constant <value_int = 9223372036854775807> () y = Loop(endless, true, x) <body = g (int64 i, bool c, float[A,4] s) => "
                           "(bool o, float[A,4] t) { w = ReduceMean(s, zero) t = Concat <axis = 0> (s, w) o = Less(i, n) }>"),
    "shorter": ("(float[A,4] y)",
                "k = ReduceMax <keepdims = 0> (d, zero) " + TRUE + "y = Loop(k, true, x) <body = g (int64 i, bool c, float[A,4] s) => "
                "(bool o, float[A,4] t) { o = Identity(c) behind = Constant <value_ints = [9223372036854775807]> () v = Slice(s, one, behind, zero) t = Exp(v) }>"),
    "what is positive once more": ("(float[A,4] y)",
                                   "k = ReduceMax <keepdims = 0> (d, zero) " + TRUE + "y = Loop(k, true, x) <body = g (int64 i, bool c, float[A,4] s) => "
                                   "(bool o, float[A,4] t) { o = Identity(c) q = Slice(s, zero, one, one) sq = Squeeze(q, one) fz = Constant <value_float = 0.0> () "
                                   "m = Greater(sq, fz) w = Compress <axis = 0> (s, m) t = Concat <axis = 0> (s, w) }>"),
    "if there is one more": ("(float[A,4] y)",
                             SUM + TRUE + "y = Loop(n, true, x) <body = g (int64 i, bool c, float[A,4] s) => (bool o, float[A,4] t) { o = Identity(c) "
                             "fz = Constant <value_float = 0.0> () w = ReduceMean(s, zero) q = ReduceSum <keepdims = 0> (s) p = Greater(q, fz) "
                             "t = If(p) <then_branch = a () => (float[A,4] ya) { ya = Concat <axis = 0> (s, w) }, "
                             "else_branch = b () => (float[A,4] yb) { yb = Neg(s) }> }>"),
    "the last row of a loop that data may end": (
        "(float[4] y, float[A,4] z)",
        "s = Shape(x) a = Slice(s, zero, one, zero) t = Squeeze(a) g = Cast <to = 1> (t) fz = Constant <value_float = 0.0> () c0 = Less(fz, g) "
        "h0 = ReduceMin <keepdims = 0> (x, zero) l, ys = Loop(t, c0, h0) <body = g (int64 i, bool c, float[4] h) => (bool o, float[4] k, float[4] e) "
        "{ o = Identity(c) r = Gather <axis = 0> (x, i) q = Add(h, r) k = Tanh(q) e = Identity(k) }> "
        "behind = Constant <value_ints = [9223372036854775807]> () v = Slice(ys, minus, behind, zero) y = Squeeze(v, zero) z = Neg(ys)"),
    "rows where a mask holds": (
        "(float[N,4] y)",
        FLAGS + "s = Shape(x) col = Unsqueeze(m, one) w = Expand(col, s) q = NonZero(w) at = Transpose(q) flat = Reshape(m, minus) k = Cast <to = 7> (flat) "
        "n = ReduceSum <keepdims = 1> (k, zero) e = Concat <axis = 0> (n, four) p = NonZero(m) pt = Transpose(p) own = GatherND(x, pt) half_ = Neg(own) "
        "u = Expand(half_, e) v = Reshape(u, minus) y = ScatterND(x, at, v)"),
    "caches": ("(float[1,2,A,4] y, float[1,A] z)",
               SUM + TRUE + "k0 = Unsqueeze(x, zero) k1 = Neg(k0) k2 = Concat <axis = 0> (k0, k1) keys = Unsqueeze(k2, zero) "
               "c0 = Slice(x, zero, one, one) tokens = Transpose(c0) y, z = Loop(n, true, keys, tokens) <body = g (int64 i, bool c, "
               "float[1,2,A,4] s, float[1,A] u) => (bool o, float[1,2,A,4] t, float[1,A] v) { o = Identity(c) minus1 = Constant <value_ints = [-1]> () "
               "two1 = Constant <value_ints = [2]> () behind = Constant <value_ints = [9223372036854775807]> () "
               "q = Slice(s, minus1, behind, two1) kt = Transpose <perm = [0, 1, 3, 2]> (s) l = MatMul(q, kt) b0 = Unsqueeze(u, one) b = Unsqueeze(b0, two) "
               "masked = Add(l, b) p = Softmax <axis = -1> (masked) a = MatMul(p, s) "
               "t = Concat <axis = 2> (s, a) m = ReduceMean <keepdims = 0> (a) w = Reshape(m, ones) v = Concat <axis = 1> (u, w) }>"),
    "grown in a loop": ("(float[A,4] y)",
                        "k = ReduceMax <keepdims = 0> (d, zero) " + TRUE + "y = Loop(k, true, x) <body = g (int64 i, bool c, float[A,4] s) => "
                        "(bool o, float[A,4] t) { o = Identity(c) t = Loop(k, c, s) <body = h (int64 j, bool e, float[A,4] u) => (bool p, float[A,4] v) "
                        "{ p = Identity(e) w = ReduceMean(u, zero) v = Concat <axis = 0> (u, w) }> }>"),
    "appended": ("(float[A,4] y)",
                 SUM + "b = Slice(x, zero, zero, zero) true = Constant <value = bool {1}> () y = Loop(n, true, b) <body = g (int64 i, bool c, float[A,4] s) => "
                 "(bool o, float[A,4] t) { o = Identity(c) nx = Neg(x) j = Reshape(i, one) w = Slice(nx, zero, one, zero) t = Concat <axis = 0> (s, w) }>"),
    "growing slices": ("(float[A,4] y, int64 k)",
                       "l = ReduceMax <keepdims = 0> (d, zero) true = Constant <value = bool {1}> () q = SequenceEmpty() "
                       "r = Loop(l, true, q) <body = g (int64 i, bool c, seq(float[A,4]) s) => (bool o, seq(float[A,4]) t) "
                       "{ o = Identity(c) j = Reshape(i, one) e = Add(j, one) w = Slice(x, zero, e, zero) t = SequenceInsert(s, w) }> "
                       "y = ConcatFromSequence <axis = 0> (r) k = SequenceLength(r)"),
    "repeated": ("(float[A,4] y)",
                 "sh = Shape(d) on = ConstantOfShape <value = int64[1] {1}> (sh) ds = SplitToSequence <axis = 0> (d, on) "
                 "xs = SplitToSequence <axis = 0> (x, on) q = SequenceEmpty() true = Constant <value = bool {1}> () t = Squeeze(sh) "
                 "r = Loop(t, true, q) <body = g (int64 i, bool c, seq(float[A,4]) s) => (bool o, seq(float[A,4]) u) "
                 "{ o = Identity(c) dn = SequenceAt(ds, i) xi = SequenceAt(xs, i) both = Concat <axis = 0> (dn, four) w = Expand(xi, both) "
                 "u = SequenceInsert(s, w) }> y = ConcatFromSequence <axis = 0> (r)"),
    "tiles as one hot": ("(float[A,B] y)",
                         "s = Shape(d) v = Concat <axis = 0> (one, s) o = OneHot(one, two, v) r = Reshape(o, minus) y = Tile(x, r)"),
    "a shape with another extent": ("(float[A,4] y)", "s = Shape(x) t = ScatterElements(s, zero, two) row = Slice(x, zero, one, zero) y = Expand(row, t)"),
    "the largest of shapes": ("(float[A,B] y)",
                              "s = Shape(x) g = Cast <to = 1> (s) l = ReduceMax(g, zero) h = Mul(l, f) c = Ceil(h) i = Cast <to = 7> (c) b = Sub(i, s) "
                              "z = Concat <axis = 0> (zero, zero) p = Concat <axis = 0> (z, b) y = Pad(x, p)"),
    "turned around": ("(float[A,4] y)",
                      "rows = Shape <end = 1> (x) m = Mod(two, rows) behind = Constant <value_ints = [9223372036854775807]> () a = Slice(x, zero, m, zero) b = Slice(x, m, behind, zero) "
                      "r = Concat <axis = 0> (b, a) y = Add(r, x)"),
    "turned by data": ("(float[A,4] y)",
                       FLAGS + "q = Compress <axis = 0> (x, m) behind = Constant <value_ints = [9223372036854775807]> () a = Slice(q, zero, minus, zero) b = Slice(q, minus, behind, zero) "
                       "r = Concat <axis = 0> (b, a) y = Mul(r, q)"),
    "rows that are none": ("(float[A] y)", "c = Slice(x, zero, one, one) s = Squeeze(c) y = Exp(s)"),
    "a mask of lengths": ("(float[N,A,4] y)",
                          "l = ReduceMax <keepdims = 0> (d, zero) r = Range(none, l, step) row = Unsqueeze(r, zero) col = Unsqueeze(d, one) "
                          "b = Less(row, col) f1 = Cast <to = 1> (b) f2 = Unsqueeze(f1, two) e = Reshape(l, one) w = Slice(x, zero, e, zero) "
                          "y = Mul(w, f2)"),
    "every third": ("(float[A,4] y)", SUM + "e = Reshape(n, one) far = Constant <value_ints = [3]> () y = Slice(x, two, e, zero, far)"),
    "its last row": ("(float[A,4] y)", FLAGS + "q = Compress <axis = 0> (x, m) behind = Constant <value_ints = [9223372036854775807]> () y = Slice(q, minus, behind, zero)"),
    "as many as counted": ("(float[A] y)",
                           "s = Shape <end = 1> (x) t = Squeeze(s) r = Range(none, t, step) l = ReduceMax <keepdims = 1> (r, zero) "
                           "y = ConstantOfShape <value = float[1] {2.0}> (l)"),
    "a sum only where it may be": (
        "(float[A,B] y)",
        FLAGS + "q = Compress <axis = 0> (x, m) w = Slice(x, zero, two, zero) sq_ = Shape <end = 1> (q) sw = Shape <end = 1> (w) p = Equal(sq_, sw) "
        "y = If(p) <then_branch = a () => (float[A,B] ya) { ya = Add(q, w) }, else_branch = b () => (float[A,B] yb) { yb = Neg(x) }>"),
    "a row only where there is one": (
        "(float[A] y)",
        FLAGS + "big = Constant <value_float = 9.0> () none_ = Greater(sq, big) q = Compress <axis = 0> (x, none_) s = Shape <end = 1> (q) p = Greater(s, zero) "
        "y = If(p) <then_branch = a () => (float[A] ya) { r = Slice(q, zero, one, zero) ya = Squeeze(r, zero) }, "
        "else_branch = b () => (float[A] yb) { r2 = Slice(x, zero, one, zero) yb = Squeeze(r2, zero) }>"),
    "a sum in a loop of none": (
        "(float[4] y)",
        FLAGS + TRUE + "q = Compress <axis = 0> (x, m) w = Slice(x, zero, two, zero) h = ReduceMax <keepdims = 0> (x, zero) y = Loop(none, true, h) "
        "<body = g (int64 i, bool c, float[4] s) => (bool o, float[4] t) { o = Identity(c) v = Add(q, w) z = ReduceSum <keepdims = 0> (v, zero) t = Add(s, z) }>"),
    "behind another row": (
        "(float[A,4] y, float[B,4] z)",
        FLAGS + "behind = Constant <value_ints = [9223372036854775807]> () q = Compress <axis = 0> (x, m) l = Slice(q, minus, behind, zero) "
        "r = Slice(x, zero, one, zero) y = Concat <axis = 0> (r, l) m2 = Constant <value_ints = [-2]> () k = Slice(q, m2, behind, zero) "
        "z = Concat <axis = 0> (k, l, x)"),
    "less its first row": ("(float[A,4] y, float[N,4] z)",
                           FLAGS + "q = Compress <axis = 0> (x, m) a = Slice(q, zero, one, zero) y = Sub(q, a) b = Slice(x, zero, one, zero) z = Sub(x, b)"),
    "its first row again": ("(float[A,4] y, float[A,A] z)",
                            FLAGS + "q = Compress <axis = 0> (x, m) a = Slice(q, zero, one, zero) s = Shape(q) y = Expand(a, s) "
                            "t = Transpose(q) w = Slice(q, zero, one, zero) u = Mul(q, w) z = MatMul(u, t)"),
    "its end twice": ("(float[A,4] y)", SUM + "e = Reshape(n, one) behind = Constant <value_ints = [9223372036854775807]> () w = Slice(x, e, behind, zero) "
                      "twice = Concat <axis = 0> (two, one) y = Tile(w, twice)"),
    "bags": ("(float[A,4] y)",
             TRUE + "c0 = CumSum(d, none) rows = Shape <end = 1> (x) whole = Min(c0, rows) off = Concat <axis = 0> (whole, rows) m = Size(d) "
             "q = SequenceEmpty() r = Loop(m, true, q) <body = g (int64 i, bool c, seq(float[1,4]) s) => (bool o, seq(float[1,4]) t) "
             "{ o = Identity(c) j = Reshape(i, minus) j1 = Add(j, step) a = Slice(off, j, j1) j2 = Add(j1, step) b = Slice(off, j1, j2) "
             "p = Equal(a, b) w = If(p) <then_branch = e () => (float[1,4] ya) { z = Slice(x, zero, one, zero) ya = Sub(z, z) }, "
             "else_branch = h () => (float[1,4] yb) { v = Slice(x, a, b) yb = ReduceSum(v, zero) }> t = SequenceInsert(s, w) }> "
             "y = ConcatFromSequence <axis = 0> (r)"),
}


def feeds(seed, n):
    random = np.random.default_rng(seed)
    return f"{n} rows, {seed}", {"x": random.standard_normal((n, 4)).astype(np.float32), "d": np.append(2, random.integers(0, 4, n - 1))}


def models():
    forms = [([], [feeds(1, 6), feeds(2, 3), feeds(3, 9)]), (["--dim", "N=6"], [feeds(1, 6), feeds(2, 6)])]
    for name, (results, nodes) in MODELS.items():
        head = f'<ir_version: 10, opset_import: ["" : 18]> {name.replace(" ", "_")} {SIGNATURE} {results} {CONSTANTS}'
        yield name, onnx.parser.parse_model(f"{head} {{ {nodes} }}"), forms


if __name__ == "__main__":
    sys.exit(compare_models(__doc__, models()))
