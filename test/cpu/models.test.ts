// Whole tiny models: gradients against differences, states, causality, documents, padding.

import { afterEach, describe, expect, test } from "bun:test";
import type { ModelConfigInput } from "../../lib/nn/config.ts";
import type { Batch, XLSTM } from "../../lib/nn/model.ts";
import type { Parameter } from "../../lib/nn/parameter.ts";
import { noGrad, scope, type Tensor, tensor } from "../../lib/tensor/index.ts";
import { relativeError } from "../../lib/verify/report.ts";
import { gradientErrors } from "../helpers/gradients.ts";
import {
  columns,
  type ConfigName,
  configs,
  type Ids,
  logits,
  logitsInPieces,
  scrambled,
  stateful,
  tokens,
} from "../helpers/models.ts";
import { Random } from "../helpers/random.ts";

const models: XLSTM[] = [];
type Precision = "f64" | "f32";

function modelOf(name: ConfigName, dtype: Precision = "f64", changes: object = {}): XLSTM {
  const config = { ...(configs[name] as ModelConfigInput), dtype, ...changes };
  models.push(scrambled(config));
  return models.at(-1)!;
}

afterEach(() => {
  for (const model of models.splice(0)) model.dispose();
});

const bars = { f64: 1e-10, f32: 1e-5 };

function errorOf(got: number[][][], want: number[][][]): number {
  return relativeError(got.flat(2), want.flat(2));
}

describe("gradients equal differences", () => {
  const ids = tokens(2, 7);
  const next = tokens(2, 7, 4);
  const bits = Uint8Array.from({ length: 14 }, (_, i) => Number(i % 5 !== 1));

  function lossOf(model: XLSTM): Tensor {
    const mask = tensor(bits, { shape: [2, 7] });
    return model.loss({ tokens: ids, targets: next, mask });
  }

  /** Central differences of fourth order of single elements: norms of two numbers bend a lot. */
  function differences(model: XLSTM, parameter: Parameter, elements: number[]): Float64Array {
    const step = 2e-5;
    const data = Float64Array.from(parameter.dataSync());
    const value = () =>
      noGrad(() =>
        scope(() => {
          parameter.write_(tensor(data, { shape: parameter.shape }));
          return lossOf(model).item();
        }),
      );
    const slopes = elements.map((at) => {
      const x = data[at]!;
      const [a, b, c, d] = [-2, -1, 1, 2].map((offset) => {
        data[at] = x + offset * step;
        return value();
      }) as [number, number, number, number];
      data[at] = x;
      return (8 * (c - b) - (d - a)) / (12 * step);
    });
    value();
    return Float64Array.from(slopes);
  }

  test.each(Object.keys(configs) as ConfigName[])("%s", (name) => {
    const model = modelOf(name);
    const random = new Random(8);
    const got: Float64Array[] = [];
    const want: Float64Array[] = [];
    using _ = scope();
    const grads = lossOf(model).backward();
    for (const parameter of model.parameters().values()) {
      const slopes = Float64Array.from(grads.of(parameter).dataSync());
      // The largest gradient of a parameter and a few others.
      const largest = slopes.reduce((best, x, i) => {
        return Math.abs(x) > Math.abs(slopes[best]!) ? i : best;
      }, 0);
      const elements = [largest, ...Array.from({ length: 2 }, () => random.below(slopes.length))];
      got.push(Float64Array.from(elements, (at) => slopes[at]!));
      want.push(differences(model, parameter, elements));
    }
    const names = [...model.parameters().keys()];
    const errors = gradientErrors(got, want).map((error, i) => ({ name: names[i]!, error }));
    expect(errors.filter(({ error }) => !(error <= 1e-6))).toEqual([]);
    // A parameter without any influence would pass with zeros on both sides. Behind a head norm the
    // bias of an input gate has next to none.
    const idle = names.filter(
      (name, i) => !name.endsWith("i_gate.bias") && Math.hypot(...want[i]!) < 1e-8,
    );
    expect(idle).toEqual([]);
  });
});

describe.each(["f64", "f32"] as const)("states in %s", (dtype) => {
  test.each(stateful)("%s: token by token equals the whole", (name) => {
    const model = modelOf(name, dtype);
    const ids = tokens(2, 19);
    const steps = logitsInPieces(model, ids, Array<number>(19).fill(1));
    expect(errorOf(steps, logits(model, ids))).toBeLessThan(bars[dtype]);
  });

  test.each(stateful)("%s: four pieces equal the whole", (name) => {
    const model = modelOf(name, dtype);
    const ids = tokens(2, 140);
    const whole = logits(model, ids);
    for (const pieces of [
      [35, 35, 35, 35],
      [1, 7, 64, 68],
      [2, 1, 3, 134],
    ]) {
      expect(errorOf(logitsInPieces(model, ids, pieces), whole)).toBeLessThan(bars[dtype]);
    }
  });
});

describe("lengths from 1 to 257, across the borders of chunks", () => {
  const lengths = [1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 65, 66, 127, 128, 129, 255, 256, 257];
  const longest = tokens(1, 257);

  test.each(stateful)("%s", (name) => {
    const chunked = configs[name] as ModelConfigInput;
    for (const chunkSize of [16, 64]) {
      const cells = { mlstm: { ...chunked.mlstm, backend: { name: "chunkwise", chunkSize } } };
      const model = modelOf(name, "f64", chunked.mlstm ? cells : {});
      const steps = logitsInPieces(model, longest, Array<number>(257).fill(1));
      for (const length of lengths) {
        const whole = logits(model, columns(longest, 0, length));
        const error = errorOf(whole, [steps[0]!.slice(0, length)]);
        expect(error, `${length} tokens, chunks of ${chunkSize}`).toBeLessThan(bars.f64);
      }
    }
  });
});

test.each(stateful)("%s: later tokens change no earlier bit", (name) => {
  for (const dtype of ["f64", "f32"] as const) {
    const model = modelOf(name, dtype);
    const ids = tokens(2, 70);
    const before = logits(model, ids);
    for (const from of [1, 4, 63, 69]) {
      const data = ids.data.map((id, i) => (i % 70 >= from ? (id + 1) % 11 : id));
      const after = logits(model, { ...ids, data });
      expect(after.map((row) => row.slice(0, from))).toEqual(
        before.map((row) => row.slice(0, from)),
      );
      expect(after.map((row) => row[from])).not.toEqual(before.map((row) => row[from]));
    }
  }
});

/** Documents of one row, their lengths, and where they start. */
const documents = [5, 1, 8, 2, 6];
const starts = documents.map((_, i) => documents.slice(0, i).reduce((a, b) => a + b, 0));
const total = documents.reduce((a, b) => a + b, 0);

describe("packed documents equal separate ones", () => {
  const reset = { resetAtDocumentBoundaries: true } as const;
  const packed = tokens(1, total);
  const next = tokens(1, total, 5);
  const borders = () => {
    const data = Uint8Array.from({ length: total }, (_, i) => Number(starts.includes(i)));
    return tensor(data, { shape: [1, total] });
  };
  const pieceOf = (ids: Ids, i: number) => columns(ids, starts[i]!, starts[i]! + documents[i]!);

  test.each(stateful)("%s", (name) => {
    const { mlstm } = configs[name] as ModelConfigInput;
    const model = modelOf(name, "f64", { mlstm: { ...mlstm, ...reset } });
    const together = scope(() => logits(model, packed, { borders: borders() }));
    const separate = documents.flatMap((_, i) => logits(model, pieceOf(packed, i))[0]!);
    expect(errorOf(together, [separate])).toBeLessThan(1e-12);
    expect(errorOf(logits(model, packed), [separate])).toBeGreaterThan(1e-3);
    scope(() => {
      const gradsOf = (batch: Batch) => model.lossSum(batch).loss.backward();
      const whole = gradsOf({ tokens: packed, targets: next, borders: borders() });
      const sum = documents
        .map((_, i) => gradsOf({ tokens: pieceOf(packed, i), targets: pieceOf(next, i) }))
        .reduce((a, b) => a.plus(b));
      const list = [...model.parameters().values()];
      const numbers = (grads: typeof sum) =>
        list.map((parameter) => Float64Array.from(grads.of(parameter).dataSync()));
      const errors = gradientErrors(numbers(whole), numbers(sum));
      expect(Math.max(...errors)).toBeLessThan(1e-10);
    });
  });
});

test.each(stateful)("%s: a padded row equals the row alone, its state too", (name) => {
  const model = modelOf(name);
  const length = 12;
  const valid = [12, 5, 1];
  const ids = tokens(3, length);
  const run = (batch: Ids, lengths?: Tensor) =>
    noGrad(() => {
      const { logits, state } = model.forward(batch, { lengths, returnState: true });
      const states = state!.blocks.flatMap(({ c, n, m, slstm, conv }) =>
        [c, n, m, slstm, conv].filter((t) => t !== undefined).map((t) => t.tolist() as number[]),
      );
      return { logits: logits.tolist() as unknown as number[][][], states };
    });
  scope(() => {
    const padded = run(ids, tensor(Int32Array.from(valid)));
    // Whatever lies in the padding must not show.
    const data = ids.data.map((id, i) =>
      i % length < valid[Math.floor(i / length)]! ? id : (id + 3) % 11,
    );
    const other = run({ ...ids, data }, tensor(Int32Array.from(valid)));
    expect(other.states).toEqual(padded.states);
    valid.forEach((count, row) => {
      const rowIds = {
        data: ids.data.slice(row * length, row * length + count),
        shape: [1, count],
      };
      const alone = run(rowIds as unknown as Ids);
      const part = padded.logits[row]!.slice(0, count);
      expect(errorOf([part], alone.logits)).toBeLessThan(1e-12);
      expect(other.logits[row]!.slice(0, count)).toEqual(part);
      padded.states.forEach((state, i) => {
        const got = [state[row]].flat(Infinity) as number[];
        const want = (alone.states[i]! as unknown[]).flat(Infinity) as number[];
        expect(relativeError(got, want)).toBeLessThan(1e-12);
      });
    });
  });
});
