// Random shapes and programs of views against plain arrays. A failure prints fast-check's seed.

import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import * as t from "../../lib/tensor/index.ts";
import { relativeError } from "../../lib/verify/report.ts";
import * as plain from "../helpers/plain.ts";
import type { Plain } from "../helpers/plain.ts";
import { Random, sizeOf } from "../helpers/random.ts";

const runs = { numRuns: 150 };
/** The operations as an object that may be indexed by name. */
const operationOf: typeof t = t;

/** Whole numbers around zero: exact in every dtype, with ties and zeros. */
function filled(shape: readonly number[], seed: number): Plain {
  const random = new Random(seed);
  return { shape, data: Array.from({ length: sizeOf(shape) }, () => random.below(17) - 8) };
}

function tensorOf({ shape, data }: Plain, dtype: t.DType = "f64"): t.Tensor {
  return t.tensor(Float64Array.from(data), { shape, dtype });
}

function expectSame(got: t.Tensor, want: Plain): void {
  expect([...got.shape]).toEqual([...want.shape]);
  expect(Array.from(got.dataSync(), (x) => x + 0)).toEqual(want.data.map((x) => x + 0));
}

function expectClose(got: t.Tensor, want: Plain, bar: number): void {
  expect([...got.shape]).toEqual([...want.shape]);
  expect(relativeError(got.dataSync(), want.data, 1e-3)).toBeLessThan(bar);
}

function check<T extends [unknown, ...unknown[]]>(
  arbitraries: { [K in keyof T]: fc.Arbitrary<T[K]> },
  body: (...values: T) => void,
): void {
  const property = fc.property(...(arbitraries as [fc.Arbitrary<T[0]>]), ((...values: T) =>
    t.scope(() => body(...values))) as unknown as (value: T[0]) => void);
  fc.assert(property as fc.IProperty<[T[0]]>, runs);
}

const seed = fc.nat(1_000_000);
const size = fc.integer({ min: 1, max: 5 });
const shape = fc.array(size, { maxLength: 4 });
const someShape = fc.array(size, { minLength: 1, maxLength: 4 });

/** Two shapes that broadcast: a common one, each side with dims turned to 1 or cut off in front. */
const broadcasting = fc
  .tuple(someShape, fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }), fc.nat(4), fc.nat(4))
  .map(([common, ones, cutA, cutB]) => {
    const side = (cut: number, offset: number) =>
      common
        .map((length, i) => (ones[offset + i] ? 1 : length))
        .slice(Math.min(cut, common.length));
    return [side(cutA, 0), side(cutB, 4)] as const;
  });

describe("broadcasting", () => {
  const operations = {
    add: (x: number, y: number) => x + y,
    sub: (x: number, y: number) => x - y,
    mul: (x: number, y: number) => x * y,
    maximum: Math.max,
    minimum: Math.min,
    eq: (x: number, y: number) => Number(x === y),
    lt: (x: number, y: number) => Number(x < y),
    ge: (x: number, y: number) => Number(x >= y),
  };

  test.each(Object.keys(operations) as (keyof typeof operations)[])("%s", (name) => {
    check([broadcasting, seed, fc.constantFrom("f64", "f32", "bf16")], ([a, b], seed, dtype) => {
      const [x, y] = [filled(a, seed), filled(b, seed + 1)];
      const got = operationOf[name](tensorOf(x, dtype), tensorOf(y, dtype));
      expect(got.dtype).toBe(dtype);
      expectSame(got, plain.combine(x, y, operations[name]));
    });
  });

  test("where takes from two sides by a mask of a third shape", () => {
    check([broadcasting, broadcasting, seed], ([a, b], [c], seed) => {
      const common = plain.broadcastShape(a, b)!;
      fc.pre(plain.broadcastShape(common, c) !== undefined);
      const [x, y, mask] = [filled(a, seed), filled(b, seed + 1), filled(c, seed + 2)];
      const bits = { ...mask, data: mask.data.map((value) => Number(value > 0)) };
      const all = plain.broadcastShape(common, c)!;
      const [left, right] = [plain.expand(x, all), plain.expand(y, all)];
      const data = plain.expand(bits, all).data.map((bit, i) => (bit ? left : right).data[i]!);
      expectSame(t.where(tensorOf(bits, "f32"), tensorOf(x), tensorOf(y)), { shape: all, data });
    });
  });

  test("shapes that do not broadcast are refused with both of them", () => {
    check([someShape, someShape], (a, b) => {
      fc.pre(plain.broadcastShape(a, b) === undefined);
      const text = `add: shapes [${a.join(", ")}] and [${b.join(", ")}]`;
      expect(() => t.zeros(a).add(t.zeros(b))).toThrow(text);
    });
  });

  test("the gradient of a broadcast operand is a sum over what was repeated", () => {
    check([broadcasting, seed], ([a, b], seed) => {
      const [x, y] = [filled(a, seed), filled(b, seed + 1)];
      const common = plain.broadcastShape(a, b)!;
      const weights = filled(common, seed + 2);
      const leaf = tensorOf(x).requireGrad();
      const grad = leaf.mul(tensorOf(y)).backward(tensorOf(weights)).of(leaf);
      const full = plain.combine(weights, y, (w, v) => w * v);
      const lead = common.length - a.length;
      const repeated = common.flatMap((_, dim) => (dim < lead || a[dim - lead] === 1 ? [dim] : []));
      const sums = plain.reduce(full, repeated, true, (values) =>
        values.reduce((p, q) => p + q, 0),
      );
      expectSame(grad, plain.reshape(sums, a));
    });
  });
});

/** One step of a program of views, chosen by numbers so that it fits any shape. */
type Step = readonly [kind: number, p: number, q: number, r: number];
const program = fc.array(fc.tuple(fc.nat(6), fc.nat(99), fc.nat(99), fc.nat(99)), { maxLength: 6 });

function apply(x: t.Tensor, model: Plain, [kind, p, q, r]: Step): [t.Tensor, Plain] {
  const rank = model.shape.length;
  const dim = rank > 0 ? p % rank : 0;
  const length = model.shape[dim] ?? 1;
  if (kind === 0) {
    const order = new Random(p).normals(rank);
    const dims = [...order.keys()].sort((i, j) => order[i]! - order[j]!);
    return [x.permute(dims), plain.permute(model, dims)];
  }
  if (kind === 1) {
    const flat = [model.data.length];
    return [x.reshape([-1]), plain.reshape(model, flat)];
  }
  if (kind === 2 && rank > 0) {
    const start = q % length;
    const end = start + 1 + (r % (length - start));
    const step = 1 + ((q + r) % 3);
    return [x.slice(dim, start, end, step), plain.slice(model, dim, start, end, step)];
  }
  if (kind === 3 && rank > 0) {
    const i = q % length;
    const cut = plain.slice(model, dim, i, i + 1, 1);
    const rest = model.shape.filter((_, at) => at !== dim);
    return [x.select(dim, i - length), plain.reshape(cut, rest)];
  }
  if (kind === 4 && rank < 6) {
    const at = q % (rank + 1);
    return [x.unsqueeze(at), plain.reshape(model, model.shape.toSpliced(at, 0, 1))];
  }
  if (kind === 5 && rank < 6 && model.data.length < 400) {
    const wide = [1 + (r % 3), ...model.shape.map((n) => (n === 1 ? 1 + (q % 3) : n))];
    return [x.expand(wide), plain.expand(model, wide)];
  }
  const parts = rank > 0 && model.data.length < 400 ? [model, model] : [];
  if (parts.length === 0) return [x.clone(), model];
  return [t.concat([x, x], dim), plain.concat(parts, dim)];
}

describe("views", () => {
  test("programs of views equal the same on plain arrays, values and gradients", () => {
    check([someShape, program, seed], (shape, steps, seed) => {
      const start = filled(shape, seed);
      const leaf = tensorOf(start).requireGrad();
      let x: t.Tensor = leaf;
      let model = start;
      // Each element's own place goes through the same program: it tells where gradients return to.
      let places: Plain = { shape, data: start.data.map((_, i) => i) };
      for (const step of steps) {
        const before = x;
        [x, model] = apply(before, model, step);
        places = apply(before.detach(), places, step)[1];
      }
      expectSame(x, model);
      const weights = filled(model.shape, seed + 1);
      const want = start.data.map(() => 0);
      places.data.forEach((place, i) => (want[place]! += weights.data[i]!));
      if (x === leaf) return;
      expectSame(x.backward(tensorOf(weights)).of(leaf), { shape, data: want });
    });
  });

  test("kernels read views as they read copies", () => {
    check([someShape, program, seed], (shape, steps, seed) => {
      const start = filled(shape, seed);
      let x = tensorOf(start, "f32");
      let model = start;
      for (const step of steps) [x, model] = apply(x, model, step);
      expectSame(x.square().sub(x), { ...model, data: model.data.map((v) => v * v - v) });
      expectSame(x.add(x.clone()), { ...model, data: model.data.map((v) => v + v) });
    });
  });

  test("split and concat are inverses", () => {
    check([someShape, seed, fc.nat(9)], (shape, seed, pick) => {
      const dim = pick % shape.length;
      const start = filled(shape, seed);
      const x = tensorOf(start);
      const cut = seed % (shape[dim]! + 1);
      const parts = x.split([cut, shape[dim]! - cut], dim);
      expectSame(t.concat(parts, dim), start);
      expectSame(parts[0]!, plain.slice(start, dim, 0, cut, 1));
    });
  });

  test("writing into a view changes its base there and nowhere else", () => {
    check([someShape, seed], (shape, seed) => {
      const dim = seed % shape.length;
      const start = seed % shape[dim]!;
      const x = tensorOf(filled(shape, seed));
      const before = x.tolist();
      const part = x.slice(dim, start, start + 1);
      part.write_(t.full([], 50, "f64"));
      const inside = plain.build(shape, (index) => Number(index[dim] === start));
      const old = { shape, data: (before as unknown[]).flat(9) as number[] };
      expectSame(
        x,
        plain.combine(old, inside, (value, bit) => (bit ? 50 : value)),
      );
    });
  });
});

describe("reductions", () => {
  const total = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  const folds = {
    sum: total,
    mean: (values: readonly number[]) => total(values) / values.length,
    max: (values: readonly number[]) => Math.max(...values),
    min: (values: readonly number[]) => Math.min(...values),
    sumSquares: (values: readonly number[]) => total(values.map((x) => x * x)),
    logSumExp: (values: readonly number[]) => Math.log(total(values.map(Math.exp))),
  };
  const bars = { f64: 1e-12, f32: 1e-6 };

  test.each(Object.keys(folds) as (keyof typeof folds)[])(
    "%s over any dims of any view",
    (name) => {
      const choice = fc.tuple(fc.nat(15), fc.boolean(), fc.constantFrom("f64", "f32"));
      check([shape, program, seed, choice], (shape, steps, seed, [bits, keepDims, dtype]) => {
        let x = tensorOf(filled(shape, seed), dtype);
        let model = filled(shape, seed);
        for (const step of steps) [x, model] = apply(x, model, step);
        const dims = model.shape.flatMap((_, dim) => ((bits >> dim) & 1 ? [dim] : []));
        const got = operationOf[name](x, dims.length > 0 ? dims : undefined, { keepDims });
        const over = dims.length > 0 ? dims : [...model.shape.keys()];
        expectClose(got, plain.reduce(model, over, keepDims, folds[name]), bars[dtype]);
      });
    },
  );

  test("softmax rows sum to one and keep the order", () => {
    check([someShape, seed], (shape, seed) => {
      const model = filled(shape, seed);
      const x = tensorOf(model);
      const last = [shape.length - 1];
      const ones = plain.reduce(model, last, false, () => 1);
      expectClose(x.softmax().sum(-1), ones, 1e-12);
      expectClose(x.logSoftmax().exp().sub(x.softmax()).abs().sum(-1).add(1), ones, 1e-12);
    });
  });

  test("argmax and topK find the first of the largest", () => {
    check([someShape, seed], (shape, seed) => {
      const model = filled(shape, seed);
      const x = tensorOf(model, "f32");
      const width = shape.at(-1)!;
      const rows = Array.from({ length: model.data.length / width }, (_, i) =>
        model.data.slice(i * width, (i + 1) * width),
      );
      expect([...x.argmax().dataSync()]).toEqual(rows.map((row) => row.indexOf(Math.max(...row))));
      const { values, indices } = x.topK(width);
      const order = (row: number[]) => [...row.keys()].sort((i, j) => row[j]! - row[i]! || i - j);
      expect([...indices.dataSync()]).toEqual(rows.flatMap(order));
      expect([...values.dataSync()]).toEqual(rows.flatMap((row) => order(row).map((i) => row[i]!)));
    });
  });
});

describe("products", () => {
  test("matmul of any batches and transposed views", () => {
    const sizes = fc.tuple(fc.integer({ min: 1, max: 9 }), size, fc.integer({ min: 1, max: 40 }));
    const choice = fc.tuple(fc.boolean(), fc.boolean(), fc.constantFrom("f64", "f32"));
    check([broadcasting, sizes, seed, choice], ([a, b], [m, k, n], seed, [left, right, dtype]) => {
      fc.pre(a.length + 2 <= 6 && b.length + 2 <= 6);
      const x = filled([...a, m, k], seed);
      const y = filled([...b, k, n], seed + 1);
      const flip = (p: Plain) => {
        const rank = p.shape.length;
        const order = [...p.shape.keys()].with(rank - 1, rank - 2).with(rank - 2, rank - 1);
        return tensorOf(plain.permute(p, order), dtype).transpose();
      };
      const got = t.matmul(
        left ? flip(x) : tensorOf(x, dtype),
        right ? flip(y) : tensorOf(y, dtype),
      );
      expectSame(got, plain.matmul(x, y));
    });
  });

  test("gather, indexSelect and scatterAdd agree with picking by hand", () => {
    check([someShape, seed, fc.nat(9)], (shape, seed, pick) => {
      const dim = pick % shape.length;
      const model = filled(shape, seed);
      const picks = [...new Random(seed).ids(3, shape[dim]!)];
      const ids = t.tensor(Int32Array.from(picks));
      const chosen = plain.concat(
        picks.map((i) => plain.slice(model, dim, i, i + 1, 1)),
        dim,
      );
      expectSame(tensorOf(model).indexSelect(ids, dim), chosen);
      const count = shape[dim]!;
      const back = plain.build(shape, (index) =>
        picks.reduce((sum, place, i) => {
          return place === index[dim] ? sum + plain.at(chosen, index.with(dim, i)) : sum;
        }, 0),
      );
      expectSame(tensorOf(chosen).scatterAdd(ids, count, dim), back);
    });
  });
});
