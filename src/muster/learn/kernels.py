"""Compiled loops over clients (numba): a batch is some thirty calls of NumPy, and here it is none.

All is one thread's, and a client's numbers depend on no other client. Sums may be added in another order
than the one written, and a product and a sum rounded once: bits are equal on one kind of processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from muster.core.sums import MAGIC, MAGIC_BITS

F = TypeVar("F", bound=Callable[..., Any])

EXACT: dict[str, Any] = {"error_model": "numpy", "nogil": True}
"""As it is written, rounding by rounding."""
ORDERLESS: dict[str, Any] = {**EXACT, "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
"""Sums in another order, products and sums rounded once; infinity and NaN stay, the gate looks for them."""


def compiled(how: Mapping[str, Any]) -> Callable[[F], F]:
    """Compiles at the first call; kept beside this file, or in the user's cache, for later processes."""

    def wrapped(function: F) -> F:
        try:
            return cast(F, njit(cache=True, **how)(function))
        except RuntimeError:  # neither place can be written to: each process compiles for itself
            return cast(F, njit(**how)(function))

    return wrapped


@compiled(ORDERLESS)
def _add_rows(factors: Any, rows: Any, count: int, into: Any) -> None:
    """into += Σ factors[j] rows[j, :len(into)] over the first `count` rows, five a pass over `into`."""
    size, j = len(into), 0
    while j + 5 <= count:
        r0, r1, r2, r3, r4 = (
            rows[j, :size],
            rows[j + 1, :size],
            rows[j + 2, :size],
            rows[j + 3, :size],
            rows[j + 4, :size],
        )
        f0, f1, f2, f3, f4 = factors[j], factors[j + 1], factors[j + 2], factors[j + 3], factors[j + 4]
        for i in range(size):
            into[i] += f0 * r0[i] + f1 * r1[i] + f2 * r2[i] + f3 * r3[i] + f4 * r4[i]
        j += 5
    while j < count:
        row, factor = rows[j, :size], factors[j]
        for i in range(size):
            into[i] += factor * row[i]
        j += 1


@compiled(ORDERLESS)
def _products(inputs: Any, weight: Any, bias: Any, count: int, outputs: Any) -> None:
    """outputs[k] = weight @ inputs[k] + bias for the first `count` rows: four outputs of two rows at a time.

    The last two of an odd number are the last two, of which one is made again.
    """
    outs, ins = weight.shape
    zero, whole = np.float32(0.0), outs - outs % 4
    for pair in range((count + 1) // 2):
        k = max(min(2 * pair, count - 2), 0)
        j = min(k + 1, count - 1)
        x, y = inputs[k, :ins], inputs[j, :ins]
        for o in range(0, whole, 4):
            w0, w1, w2, w3 = weight[o], weight[o + 1], weight[o + 2], weight[o + 3]
            s0, s1, s2, s3 = zero, zero, zero, zero
            t0, t1, t2, t3 = zero, zero, zero, zero
            for i in range(ins):
                s0 += w0[i] * x[i]
                s1 += w1[i] * x[i]
                s2 += w2[i] * x[i]
                s3 += w3[i] * x[i]
                t0 += w0[i] * y[i]
                t1 += w1[i] * y[i]
                t2 += w2[i] * y[i]
                t3 += w3[i] * y[i]
            outputs[k, o], outputs[k, o + 1], outputs[k, o + 2], outputs[k, o + 3] = s0, s1, s2, s3
            outputs[j, o], outputs[j, o + 1], outputs[j, o + 2], outputs[j, o + 3] = t0, t1, t2, t3
        for o in range(whole, outs):
            row, s0, t0 = weight[o], zero, zero
            for i in range(ins):
                s0 += row[i] * x[i]
                t0 += row[i] * y[i]
            outputs[k, o], outputs[j, o] = s0, t0
    for k in range(count):
        made = outputs[k, :outs]
        for o in range(outs):
            made[o] += bias[o]


@compiled(ORDERLESS)
def _add_products(slopes: Any, inputs: Any, count: int, into: Any) -> None:
    """into[o] += Σ slopes[k, o] inputs[k] over the first `count` rows: four outputs by two rows at a time."""
    outs, ins = into.shape
    even, whole = count - count % 2, outs - outs % 4
    for o in range(0, whole, 4):
        r0, r1, r2, r3 = into[o], into[o + 1], into[o + 2], into[o + 3]
        for k in range(0, even, 2):
            x, y = inputs[k, :ins], inputs[k + 1, :ins]
            a0, a1, a2, a3 = slopes[k, o], slopes[k, o + 1], slopes[k, o + 2], slopes[k, o + 3]
            b0, b1 = slopes[k + 1, o], slopes[k + 1, o + 1]
            b2, b3 = slopes[k + 1, o + 2], slopes[k + 1, o + 3]
            for i in range(ins):
                u, v = x[i], y[i]
                r0[i] += a0 * u + b0 * v
                r1[i] += a1 * u + b1 * v
                r2[i] += a2 * u + b2 * v
                r3[i] += a3 * u + b3 * v
        for k in range(even, count):
            x = inputs[k, :ins]
            a0, a1, a2, a3 = slopes[k, o], slopes[k, o + 1], slopes[k, o + 2], slopes[k, o + 3]
            for i in range(ins):
                u = x[i]
                r0[i] += a0 * u
                r1[i] += a1 * u
                r2[i] += a2 * u
                r3[i] += a3 * u
    for o in range(whole, outs):
        _add_rows(slopes[:, o], inputs, count, into[o])


@compiled(ORDERLESS)
def _loss(scores: Any, targets: Any, count: int, classes: int, slopes: Any, losses: Any) -> None:
    """Cross-entropy of each example, and the gradient of their mean at the scores."""
    scale = np.float32(1.0) / np.float32(count)
    for k in range(count):
        row, slope, top, total = scores[k, :classes], slopes[k, :classes], scores[k, 0], np.float32(0.0)
        for c in range(1, classes):
            top = max(top, row[c])
        for c in range(classes):
            slope[c] = math.exp(row[c] - top)
            total += slope[c]
        chosen = targets[k]
        losses[k] = math.log(total) - (row[chosen] - top)
        share = scale / total
        for c in range(classes):
            slope[c] *= share
        slope[chosen] -= scale


@compiled(ORDERLESS)
def _matrix(vector: Any, at: Any, layer: int, dims: Any) -> Any:
    """A layer's weight as a view of a flat vector, f32[out, in]."""
    outs, ins = dims[layer + 1], dims[layer]
    return vector[at[2 * layer] : at[2 * layer] + outs * ins].reshape((outs, ins))


@compiled(ORDERLESS)
def _one(
    params: Any, inputs: Any, targets: Any, count: int, dims: Any, at: Any, scale: Any, into: Any, room: Any
) -> None:
    """`backward` of one client. `room`: what layers give, slopes by turns; and the losses."""
    values, slopes, losses = room
    zero, last = np.float32(0.0), len(dims) - 2
    for layer in range(last + 1):
        outs = dims[layer + 1]
        read = inputs if layer == 0 else values[layer - 1]
        bias = params[at[2 * layer + 1] : at[2 * layer + 1] + outs]
        _products(read, _matrix(params, at, layer, dims), bias, count, values[layer])
        if layer < last:
            for k in range(count):
                row = values[layer, k, :outs]
                for o in range(outs):
                    row[o] = max(row[o], zero)
    _loss(values[last], targets, count, dims[last + 1], slopes[last % 2], losses)
    for layer in range(last, -1, -1):
        ins, outs = dims[layer], dims[layer + 1]
        slope = slopes[layer % 2]
        if layer > 0:  # before the weight moves
            weight = _matrix(params, at, layer, dims)
            for k in range(count):
                below, value = slopes[(layer - 1) % 2, k, :ins], values[layer - 1, k, :ins]
                below[:] = zero
                _add_rows(slope[k], weight, outs, below)
                for i in range(ins):
                    below[i] = below[i] if value[i] > zero else zero
        shift = into[at[2 * layer + 1] : at[2 * layer + 1] + outs]
        for k in range(count):
            row = slope[k, :outs]
            for o in range(outs):
                row[o] *= scale
                shift[o] += row[o]
        read = inputs if layer == 0 else values[layer - 1]
        _add_products(slope, read, count, _matrix(into, at, layer, dims))


@compiled(ORDERLESS)
def backward(
    params: Any,
    inputs: Any,
    targets: Any,
    filled: Any,
    dims: Any,
    at: Any,
    scale: Any,
    into: Any,
    losses: Any,
) -> None:
    """Adds `scale` times the gradient of each client's mean loss to its row of `into`.

    The model is dense layers with relu between them.

    Args:
        params: f32[K, P], the models.
        inputs: f32[K, B, in].
        targets: i64[K, B].
        filled: i64[K], how many of a batch's examples are real; the others come last.
        dims: i64[L + 1], the widths of the layers.
        at: i64[2 L], where each layer's weight and bias lie in a row.
        scale: f32.
        into: f32[K, P]; may be `params`: then it is a step of SGD.
        losses: f32[K, B]; those of the real examples are written.

    """
    size, width = inputs.shape[1], 0
    for layer in range(1, len(dims)):
        width = max(width, dims[layer])
    values = np.empty((len(dims) - 1, size, width), np.float32)
    slopes = np.empty((2, size, width), np.float32)
    for k in range(len(params)):
        room = (values, slopes, losses[k])
        _one(params[k], inputs[k], targets[k], filled[k], dims, at, scale, into[k], room)


@compiled(EXACT)
def _high(a: Any, b: Any) -> Any:
    """The upper half of the product of two 64-bit words."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    middle = a1 * b0 + (a0 * b0 >> half)
    return a1 * b1 + (middle >> half) + ((a0 * b1 + (middle & low)) >> half)


@compiled(EXACT)
def _draw(number: int, key: Any, words: Any) -> None:
    """Eight 32-bit words, the `number`-th of a key from 1 on: Philox4x64-10, as NumPy takes it to pieces."""
    c0, c1, c2, c3 = np.uint64(number), np.uint64(0), np.uint64(0), np.uint64(0)
    k0, k1 = key[0], key[1]
    m0, m1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
    for _ in range(10):
        h0, l0, h1, l1 = _high(m0, c0), m0 * c0, _high(m1, c2), m1 * c2
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = k0 + np.uint64(0x9E3779B97F4A7C15), k1 + np.uint64(0xBB67AE8584CAA73B)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    words[0], words[1], words[2], words[3] = c0 & low, c0 >> half, c1 & low, c1 >> half
    words[4], words[5], words[6], words[7] = c2 & low, c2 >> half, c3 & low, c3 >> half


@compiled(EXACT)
def shuffle(index: Any, keys: Any, sizes: Any, counts: Any, batch_size: int) -> None:
    """The orders in which clients see their examples: those of `Generator.permutation`, to the number.

    That is Fisher and Yates, from the end; of a word so many bits count as the bound has, and what is beyond
    the bound is drawn again.

    Args:
        index: i64[K, T * B], where they are left: that of pass p begins at p times the batches of a pass.
        keys: u64[K, 2].
        sizes: i64[K], examples.
        counts: i64[K], batches of all passes together.
        batch_size: B.

    """
    words, order = np.empty(8, np.uint64), np.empty(sizes.max(), np.int64)
    for k in range(len(sizes)):
        size, left, at, used, number = sizes[k], counts[k], 0, 8, 0
        a_pass = -(-size // batch_size)
        while left > 0:
            mask = np.uint64(1)
            while mask < np.uint64(size):
                mask = mask << np.uint64(1) | np.uint64(1)
            for i in range(size):
                order[i] = i
            for i in range(size - 1, 0, -1):
                while mask >> np.uint64(1) >= np.uint64(i):
                    mask >>= np.uint64(1)
                j = size
                while j > i:
                    if used == 8:
                        number += 1
                        _draw(number, keys[k], words)
                        used = 0
                    j = np.int64(words[used] & mask)
                    used += 1
                order[i], order[j] = order[j], order[i]
            for i in range(min(size, left * batch_size)):
                index[k, at + i] = order[i]
            at += a_pass * batch_size
            left -= a_pass


@compiled(ORDERLESS)
def squares(vectors: Any, out: Any) -> None:
    """The sum of squares of each row of f32[K, P], in float64, f64[K]."""
    for k in range(len(vectors)):
        row, total = vectors[k], 0.0
        for i in range(len(row)):
            total += np.float64(row[i]) * np.float64(row[i])
        out[k] = total


@compiled(EXACT)
def largest(bits: Any, out: Any) -> None:
    """Of f32[K, P] seen as i32, the largest magnitude in each row, i32[K]: NaN is beyond infinity."""
    for k in range(len(bits)):
        row, most = bits[k], np.int32(0)
        for i in range(len(row)):
            most = max(most, row[i] & np.int32(0x7FFFFFFF))
        out[k] = most


@compiled(EXACT)
def add(vectors: Any, factors: Any, total: Any) -> None:
    """Adds factors[k] * vectors[k], rounded to whole numbers below 2^51, to i64[P]; see `FixedPointSum`."""
    width = 1024  # a block of the sum stays in the first-level cache
    real = np.empty(width, np.float64)
    whole = real.view(np.int64)
    for start in range(0, len(total), width):
        into = total[start : start + width]
        for k in range(len(vectors)):
            row, factor = vectors[k, start : start + width], factors[k]
            for i in range(len(into)):
                real[i] = np.float64(row[i]) * factor + MAGIC
            for i in range(len(into)):
                into[i] += whole[i] - MAGIC_BITS
