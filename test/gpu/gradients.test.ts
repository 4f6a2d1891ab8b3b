// Every differentiable operation on the GPU in f32 and bf16, values and gradients, against the CPU
// in f64: the rows are those of test/cpu/gradients.test.ts.

import { describe, expect, test } from "bun:test";
import * as tensors from "../../lib/tensor/index.ts";
import type { Tensor } from "../../lib/tensor/index.ts";
import { cellRows } from "../helpers/gradient_cells.ts";
import { plainRows } from "../helpers/gradient_rows.ts";
import { draw, gradientErrors, roundToBf16, tapeGradients, values } from "../helpers/gradients.ts";
import { onGpu } from "../helpers/gpu.ts";
import { Random } from "../helpers/random.ts";

const bars = { f32: 5e-5, bf16: 4e-2 } as const;

/** Its row goes through f64, which is for the CPU alone. */
const cpuOnly = new Set(["cast"]);

describe.each(["f32", "bf16"] as const)("%s", (dtype) => {
  for (const { operation, note, shapes, domains, run } of [...plainRows, ...cellRows]) {
    if (cpuOnly.has(operation)) continue;
    test(`${operation}: ${note}`, () => {
      const random = new Random(Number(Bun.hash.xxHash32(`${operation} ${note}`)));
      const rounded = shapes.map((shape, i) => {
        const { data } = draw(shape, domains[Math.min(i, domains.length - 1)]!, random);
        return { shape, data: data.map(dtype === "bf16" ? roundToBf16 : Math.fround) };
      });
      const f = (...leaves: Tensor[]) => run(tensors, ...leaves);
      const wantValues = values(f, rounded, "f64");
      const gotValues = onGpu(() => values(f, rounded, dtype));
      const valueErrors = gradientErrors(gotValues, wantValues);
      expect(Math.max(...valueErrors), `errors: ${valueErrors}`).toBeLessThan(bars[dtype]);
      const want = tapeGradients(f, rounded, "f64");
      const got = onGpu(() => tapeGradients(f, rounded, dtype));
      const errors = gradientErrors(got, want);
      expect(Math.max(...errors), `errors by input: ${errors}`).toBeLessThan(bars[dtype]);
    });
  }
});
