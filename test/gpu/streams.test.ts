// Norms and convolutions of the widths that each kernel variant takes: narrow and wide lines,
// several heads in a block, rows that fill no block, whole and split tiles. Against the CPU in f64.

import { describe, expect, test } from "bun:test";
import {
  causalConv,
  headNorm,
  headNormGate,
  layerNorm,
  residualNorm,
  rmsNorm,
  type Tensor,
} from "../../lib/tensor/index.ts";
import {
  draw,
  type Function,
  gradientErrors,
  tapeGradients,
  values,
  roundToBf16,
} from "../helpers/gradients.ts";
import { onGpu } from "../helpers/gpu.ts";
import { Random } from "../helpers/random.ts";

const bars = { f32: 5e-5, bf16: 2e-2 } as const;

interface Row {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  readonly run: Function;
}

/** Rows that leave a block of teams partly empty, and more of them than a block takes. */
const normRows: Row[] = [
  ...[
    [9, 8],
    [70, 64],
    [300, 40],
    [41, 256],
    [140, 320],
    [150, 520],
    [37, 768],
    [11, 2048],
    [40, 2560],
    [6, 4096],
    [5, 8192],
    [3, 8200],
  ].flatMap(([rows, width]) => [
    {
      name: `rmsNorm ${rows}x${width}`,
      shapes: [[rows!, width!], [width!]],
      run: (x: Tensor, scale: Tensor) => rmsNorm(x, scale),
    },
    {
      name: `layerNorm with bias ${rows}x${width}`,
      shapes: [[rows!, width!], [width!], [width!]],
      run: (x: Tensor, scale: Tensor, bias: Tensor) => layerNorm(x, scale, { bias }),
    },
    {
      name: `residualNorm ${rows}x${width}`,
      shapes: [[rows!, width!], [rows!, width!], [width!]],
      run: (x: Tensor, branch: Tensor, scale: Tensor) => {
        const { sum, y } = residualNorm(x, branch, scale, { center: false, scaleOffset: 1 });
        return [sum, y];
      },
    },
  ]),
  ...[
    [7, 12, 64],
    [50, 4, 192],
    [9, 8, 256],
    [5, 8, 512],
    [3, 3, 512],
    [3, 2, 1024],
  ].flatMap(([rows, heads, width]) => [
    ...[true, false].map((center) => ({
      name: `headNormGate ${rows}x${heads}x${width}, center ${center}`,
      shapes: [[1, rows!, heads!, width!], [1, rows!, heads! * width!], [heads! * width!]],
      run: (h: Tensor, o: Tensor, scale: Tensor) => headNormGate(h, o, scale, { center }),
    })),
    {
      name: `headNormGate with bias ${rows}x${heads}x${width}`,
      shapes: [
        [1, rows!, heads!, width!],
        [1, rows!, heads! * width!],
        [heads! * width!],
        [heads! * width!],
      ],
      run: (h: Tensor, o: Tensor, scale: Tensor, bias: Tensor) =>
        headNormGate(h, o, scale, { bias }),
    },
    {
      name: `headNorm ${rows}x${heads}x${width}`,
      shapes: [[1, rows!, heads!, width!], [heads! * width!]],
      run: (h: Tensor, scale: Tensor) => headNorm(h, scale),
    },
  ]),
];

const convRows: Row[] = [
  [2, 3, 132, 4],
  [2, 37, 8, 4],
  [1, 300, 36, 3],
  [1, 150, 260, 2],
  [2, 40, 7, 4],
].flatMap(([batch, length, channels, taps]) =>
  [true, false].map((silu) => ({
    name: `causalConv of ${taps} ${batch}x${length}x${channels}, silu ${silu}`,
    shapes: [[batch!, length!, channels!], [channels!, taps!], [channels!]],
    run: (x: Tensor, weight: Tensor, bias: Tensor) => causalConv(x, weight, bias, { silu }).y,
  })),
);

describe.each(["f32", "bf16"] as const)("%s", (dtype) => {
  test.each([...normRows, ...convRows])("$name", ({ name, shapes, run }) => {
    const random = new Random(Number(Bun.hash.xxHash32(name)));
    const inputs = shapes.map((shape) => {
      const { data } = draw(shape, "normal", random);
      return { shape, data: data.map(dtype === "bf16" ? roundToBf16 : Math.fround) };
    });
    const got = onGpu(() => values(run, inputs, dtype));
    const slopes = onGpu(() => tapeGradients(run, inputs, dtype));
    const errors = gradientErrors(got, values(run, inputs, "f64"));
    expect(Math.max(...errors), `errors: ${errors}`).toBeLessThan(bars[dtype]);
    const slopeErrors = gradientErrors(slopes, tapeGradients(run, inputs, "f64"));
    expect(Math.max(...slopeErrors), `errors by input: ${slopeErrors}`).toBeLessThan(bars[dtype]);
    expect(onGpu(() => tapeGradients(run, inputs, dtype))).toEqual(slopes);
  });
});
