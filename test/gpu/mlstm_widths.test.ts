// The mLSTM at the head widths that have kernels of their own on Hopper (cuda/mlstm_sweep.zig), in
// bf16 as models train: values and gradients against the CPU in f64. Other GPUs, and the emulator,
// take the simple path here.

import { expect, test } from "bun:test";
import {
  memory,
  mlstm,
  type MlstmOptions,
  requireGrad,
  scope,
  type Tensor,
  tensor,
} from "../../lib/tensor/index.ts";
import { draw, gradientErrors, roundToBf16, tapeGradients, values } from "../helpers/gradients.ts";
import { onGpu } from "../helpers/gpu.ts";
import { Random } from "../helpers/random.ts";

const B = 2;
const widths = [
  { H: 3, qk: 64, v: 128 },
  { H: 1, qk: 96, v: 192 },
  { H: 2, qk: 128, v: 256 },
  { H: 1, qk: 256, v: 512 },
] as const;
/** Chunks of 64: whole ones, more than the group that shares a scale of the state, and others. */
const lengths = { whole: 640, resets: 650 };

function drawn({ H, qk, v }: (typeof widths)[number], S: number) {
  const random = new Random(S + qk);
  const gates = [B, S, H];
  const shapes = [[...gates, qk], [...gates, qk], [...gates, v], gates, gates];
  return shapes.map((shape, index) => {
    const { data } = draw(shape, "normal", random);
    // Forget gates as in training: a state lives for many tokens.
    return { shape, data: data.map((x) => roundToBf16(index === 4 ? x + 3 : x)) };
  });
}

/** Documents that end inside of chunks and at their ends, and a row that is shorter. */
function rows(S: number): MlstmOptions {
  const starts = new Set([0, 70, 71, 128, 300, 576]);
  const borders = Uint8Array.from({ length: B * S }, (_, at) => Number(starts.has(at % S)));
  return {
    reset: "exact",
    borders: tensor(borders, { shape: [B, S] }),
    lengths: tensor(Int32Array.of(S, S - 70), { shape: [B] }),
  };
}

for (const width of widths) {
  for (const inputGate of ["exp", "sigmoid"] as const) {
    for (const kind of ["whole", "resets"] as const) {
      test(`${width.qk}/${width.v} ${inputGate}, ${kind}`, () => {
        const S = lengths[kind];
        const inputs = drawn(width, S);
        const f = (...[q, k, v, i, forget]: Tensor[]) => {
          const options = kind === "resets" ? rows(S) : {};
          const given = { q: q!, k: k!, v: v!, i: i!, f: forget! };
          return mlstm(given, { ...options, inputGate, gradMode: "frozenDenominator" }).h;
        };
        const valueErrors = gradientErrors(
          onGpu(() => values(f, inputs, "bf16")),
          values(f, inputs, "f64"),
        );
        expect(valueErrors[0]).toBeLessThan(1e-2);
        const errors = gradientErrors(
          onGpu(() => tapeGradients(f, inputs, "bf16")),
          tapeGradients(f, inputs, "f64"),
        );
        expect(Math.max(...errors.slice(0, 4)), `errors by input: ${errors}`).toBeLessThan(2e-2);
        // Differences of sums over everything behind a token.
        expect(errors[4], `errors by input: ${errors}`).toBeLessThan(1e-1);
      });
    }
  }
}

test.each(["exp", "sigmoid"] as const)("%s: keeps one tensor, and only to go back", (inputGate) => {
  onGpu(() =>
    scope(() => {
      const [q, k, v, i, f] = drawn(widths[0], 64).map(({ data, shape }, index) =>
        tensor(data, { shape, dtype: index < 3 ? "bf16" : "f32" }),
      );
      const inputs = { q: q!, k: k!, v: v!, i: i!, f: f! };
      const made = () => {
        const before = memory().tensors;
        mlstm(inputs, { inputGate, gradMode: "frozenDenominator" });
        return memory().tensors - before;
      };
      expect(made()).toBe(1);
      requireGrad(q!);
      expect(made()).toBeLessThanOrEqual(2);
      // The simple path needs nothing of a forward pass without a normaliser.
      expect(made()).toBeGreaterThanOrEqual(inputGate === "exp" ? 2 : 1);
    }),
  );
});
