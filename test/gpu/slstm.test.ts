// The sLSTM on the GPU in bf16 at the head widths that have kernels of their own on Hopper (and one
// that has not), values and gradients with every option, against the CPU in f64 on the same rounded
// inputs. Elsewhere and on the emulator the same calls take the kernels for any width.

import { describe, expect, test } from "bun:test";
import {
  cast,
  concat,
  noGrad,
  scope,
  slice,
  slstm,
  type SlstmOptions,
  slstmStep,
  split,
  tensor,
  type Tensor,
  where,
  zeros,
} from "../../lib/tensor/index.ts";
import { onGpu } from "../helpers/gpu.ts";
import {
  draw,
  gradientErrors,
  roundToBf16,
  tapeGradients,
  type Values,
  values,
} from "../helpers/gradients.ts";
import { Random } from "../helpers/random.ts";

const B = 5; // more than a tile of 4 rows
const T = 11;
const H = 2;
const lengths = [T, 1, 7, T - 1, 3];
const starts = new Set([0, 4, 5, T, 2 * T + 3, 3 * T + 9, 4 * T + 1]);
/** kernels.md §13.2. */
const bars = { values: 5e-3, gradients: 2e-2 };

interface Given {
  readonly state?: boolean;
  readonly ragged?: boolean;
  readonly resets?: boolean;
  /** No |y| near 0.3, where rounding would decide whether a gradient passes the clamp. */
  readonly apart?: boolean;
  readonly options?: SlstmOptions;
}

const kinds: Record<string, Given> = {
  fresh: {},
  "states, resets, lengths": { state: true, resets: true, ragged: true },
  "states, clipped gradients": { state: true, options: { gradRecurrentClip: 0.5 } },
  "clipped outputs": { apart: true, options: { forwardClip: 0.3, gradRecurrentClip: 0.5 } },
  "no gradient through the recurrence": { options: { gradRecurrentCut: true } },
  "plain LSTM": { options: { function: "lstm" } },
};

function call(given: Given, wx: Tensor, r: Tensor, b: Tensor, state: readonly Tensor[]): Tensor[] {
  const { y, state: last } = slstm(wx, r, b, {
    ...given.options,
    state: state.length > 0 ? concat([...state], 1) : undefined,
    lengths: given.ragged ? tensor(Int32Array.from(lengths)) : undefined,
    borders: given.resets
      ? tensor(
          Uint8Array.from({ length: B * T }, (_, i) => Number(starts.has(i))),
          { shape: [B, T] },
        )
      : undefined,
  });
  // m is bookkeeping: what it scales is the same for every m.
  const [y1, c, n] = split(last, [1, 1, 1, 1], 1) as [Tensor, Tensor, Tensor];
  if (!given.ragged) return [y, y1, c, n];
  const inside = Uint8Array.from({ length: B * T }, (_, i) =>
    Number(i % T < lengths[Math.floor(i / T)]!),
  );
  return [where(tensor(inside, { shape: [B, T, 1, 1] }), y, 0), y1, c, n];
}

function inputsOf(width: number, given: Given): Values[] {
  const random = new Random(width);
  const shapes = [
    [B, T, 4, H, width],
    [4, H, width, width],
    [4, H, width],
  ];
  const drawn = shapes.map((shape) => draw(shape, "normal", random));
  const scale = 1 / Math.sqrt(width);
  const r = drawn[1]!.data;
  for (let i = 0; i < r.length; i++) r[i]! *= scale;
  if (given.apart) {
    // Units in turns: the output gate open with |tanh| near 1, and closed.
    const b = drawn[2]!.data;
    for (let unit = 0; unit < H * width; unit++) {
      const open = unit % 2 === 0;
      b[2 * H * width + unit] = unit % 4 < 2 ? 5 : -5;
      b[3 * H * width + unit] = open ? 5 : -7;
    }
  }
  if (given.state) {
    for (const part of ["y", "c", "n", "m"]) {
      drawn.push(draw([B, 1, H, width], part === "n" ? "positive" : "normal", random));
    }
  }
  return drawn.map(({ shape, data }) => ({ shape, data: data.map(roundToBf16) }));
}

describe.each([24, 32, 64, 96, 128, 192, 256])("width %d", (width) => {
  test.each(Object.entries(kinds))("%s", (_, given) => {
    const inputs = inputsOf(width, given);
    const f = (wx: Tensor, r: Tensor, b: Tensor, ...state: Tensor[]) =>
      call(given, wx, r, b, state);
    const gotValues = onGpu(() => values(f, inputs, "bf16"));
    const valueErrors = gradientErrors(gotValues, values(f, inputs, "f64"));
    expect(Math.max(...valueErrors), `errors: ${valueErrors}`).toBeLessThan(bars.values);
    const got = onGpu(() => tapeGradients(f, inputs, "bf16"));
    const errors = gradientErrors(got, tapeGradients(f, inputs, "f64"));
    expect(Math.max(...errors), `errors by input: ${errors}`).toBeLessThan(bars.gradients);
  });

  test("a row has the same bits in every batch, and twice", () => {
    const inputs = inputsOf(width, {});
    const alone = onGpu(() => bitsOf(inputs, [2]));
    const all = onGpu(() => bitsOf(inputs, [0, 1, 2, 3, 4]));
    const size = alone.length;
    expect(all.slice(2 * size, 3 * size)).toEqual(alone);
    expect(onGpu(() => bitsOf(inputs, [0, 1, 2, 3, 4]))).toEqual(all);
  });

  test("a sequence is as many steps", () => {
    const [wx, r, b] = inputsOf(width, {}) as [Values, Values, Values];
    const [whole, steps] = onGpu(() =>
      noGrad(() =>
        scope(() => {
          const x = tensor(wx.data, { shape: wx.shape, dtype: "bf16" });
          const weights = [r, b].map(({ data, shape }) => tensor(data, { shape })) as [
            Tensor,
            Tensor,
          ];
          const { state } = slstm(x, ...weights);
          const held = zeros([B, 4, H, width]);
          for (let t = 0; t < T; t++) {
            const token = slice(x, 1, t, t + 1).reshape([B, 4, H, width]);
            slstmStep(token, ...weights, held);
          }
          return [state, held].map((s) => Float64Array.from(cast(s, "f32").dataSync()));
        }),
      ),
    ) as [Float64Array, Float64Array];
    expect(gradientErrors([whole], [steps])[0]).toBeLessThan(bars.values);
  });
});

/** y of some rows. */
function bitsOf(inputs: readonly Values[], rows: readonly number[]): number[] {
  const [wx, r, b] = inputs as [Values, Values, Values];
  const size = wx.data.length / B;
  const data = Float64Array.from(
    rows.flatMap((row) => [...wx.data.subarray(row * size, (row + 1) * size)]),
  );
  const x = { shape: [rows.length, ...wx.shape.slice(1)], data };
  return [...values((...t) => slstm(t[0]!, t[1]!, t[2]!).y, [x, r, b], "bf16")[0]!];
}
