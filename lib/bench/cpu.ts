// Benchmarks of the CPU backend: products, cells, whole training steps.

import { withTimings } from "../native/library.ts";
import { preset } from "../nn/presets.ts";
import { XLSTM } from "../nn/model.ts";
import { adamw } from "../optim/optimizer.ts";
import { matmul, mlstm, randn, requireGrad, scope, slstm, tensor } from "../tensor/index.ts";
import { mlstmWidths } from "../nn/config.ts";
import type { Ceilings } from "./measure.ts";
import { measure, useBlas } from "./measure.ts";

/** One line of the table. Times are medians. */
export interface Row {
  readonly name: string;
  readonly milliseconds: number;
  readonly gflops: number;
  /** Of the multiply-add ceiling of the same run. */
  readonly ofCeiling: number;
  readonly extra: Record<string, number | string>;
}

function row(
  name: string,
  seconds: number,
  flops: number,
  ceiling: Ceilings,
  extra: Row["extra"] = {},
): Row {
  const gflops = flops / seconds / 1e9;
  return { name, milliseconds: seconds * 1e3, gflops, ofCeiling: gflops / ceiling.gflops, extra };
}

const shapes = [
  { name: "256^3", m: 256, n: 256, k: 256 },
  { name: "512^3", m: 512, n: 512, k: 512 },
  { name: "1024^3", m: 1024, n: 1024, k: 1024 },
  { name: "2048^3", m: 2048, n: 2048, k: 2048 },
  { name: "y = x W^T, 4096 x 128 x 128", m: 4096, n: 128, k: 128, tb: true },
  { name: "dx = dy W, 2048 x 256 x 704", m: 2048, n: 256, k: 704 },
  { name: "dW = dy^T x, 704 x 256 x 2048", m: 704, n: 256, k: 2048, ta: true },
  { name: "head, 2048 x 4096 x 256", m: 2048, n: 4096, k: 256, tb: true },
];

/** Products of f32 matrices, ours and a CBLAS library's, alternating. */
export function* products(ceiling: Ceilings, blas: string | undefined, quick: boolean) {
  for (const { name, m, n, k, ta, tb } of quick ? shapes.slice(0, 1) : shapes) {
    const budget = quick ? 0.05 : 0.4;
    yield scope(() => {
      const a = ta ? randn([k, m]).transpose() : randn([m, k]);
      const b = tb ? randn([n, k]).transpose() : randn([k, n]);
      const body = () => void matmul(a, b);
      let ours = measure(body, budget);
      let theirs: number | undefined;
      if (blas) {
        useBlas(blas);
        theirs = measure(body, budget).best;
        useBlas(null);
        const again = measure(body, budget);
        if (again.best < ours.best) ours = again;
      }
      const extra: Row["extra"] = {};
      if (theirs) {
        extra.blas = (2 * m * n * k) / theirs / 1e9;
        extra.ratio = theirs / ours.best;
      }
      return row(`gemm ${name}`, ours.best, 2 * m * n * k, ceiling, extra);
    });
  }
}

/** mLSTM and sLSTM cells, forward and backward; FLOPs by kernels.md §14 with chunk 64. */
export function* cells(ceiling: Ceilings, quick: boolean) {
  const all = [
    { B: 16, S: 256, H: 4, qk: 16, v: 32 },
    { B: 8, S: 256, H: 4, qk: 32, v: 64 },
    { B: 4, S: 512, H: 4, qk: 96, v: 192 },
  ];
  for (const shape of quick ? all.slice(0, 1) : all) {
    yield* mlstmRows(shape, ceiling, quick ? 0.05 : 0.5);
  }
  for (const { B, T, H, D } of quick
    ? []
    : [
        { B: 16, T: 256, H: 4, D: 32 },
        { B: 8, T: 256, H: 4, D: 64 },
      ]) {
    yield* slstmRows({ B, T, H, D }, ceiling);
  }
}

function mlstmRows(
  { B, S, H, qk, v }: { B: number; S: number; H: number; qk: number; v: number },
  ceiling: Ceilings,
  budget: number,
): Row[] {
  return scope(() => {
    const inputs = {
      q: requireGrad(randn([B, S, H, qk])),
      k: requireGrad(randn([B, S, H, qk])),
      v: requireGrad(randn([B, S, H, v])),
      i: requireGrad(randn([B, S, H])),
      f: requireGrad(randn([B, S, H], { mean: 3 })),
    };
    const dh = randn([B, S, H, v]);
    const tokens = B * S;
    const forward = 4 * qk * v + 64 * (qk + v);
    const backward = 10 * qk * v + 64 * (3 * qk + 2 * v);
    const name = `mlstm ${B}x${S}x${H} ${qk}/${v}`;
    const one = measure(() => void mlstm(inputs, { gradMode: "frozenDenominator" }), budget).median;
    const both = measure(
      () => void mlstm(inputs, { gradMode: "frozenDenominator" }).h.backward(dh),
      budget,
    ).median;
    const micro = (seconds: number) => ({ microsPerToken: (seconds * 1e6) / tokens });
    return [
      row(`${name} forward`, one, tokens * H * forward, ceiling, micro(one)),
      row(`${name} backward`, both - one, tokens * H * backward, ceiling, micro(both - one)),
    ];
  });
}

function slstmRows(
  { B, T, H, D }: { B: number; T: number; H: number; D: number },
  ceiling: Ceilings,
): Row[] {
  return scope(() => {
    const wx = requireGrad(randn([B, T, 4, H, D]));
    const r = requireGrad(randn([4, H, D, D], { std: 0.1 }));
    const b = requireGrad(randn([4, H, D]));
    const dy = randn([B, T, H, D]);
    const one = measure(() => void slstm(wx, r, b)).median;
    const both = measure(() => void slstm(wx, r, b).y.backward(dy)).median;
    const units = B * T * H * D;
    const micro = (seconds: number) => ({ microsPerToken: (seconds * 1e6) / (B * T) });
    const name = `slstm ${B}x${T}x${H}x${D}`;
    return [
      row(`${name} forward`, one, units * (8 * D + 15), ceiling, micro(one)),
      row(`${name} backward`, both - one, units * (16 * D + 30), ceiling, micro(both - one)),
    ];
  });
}

/** The training steps of performance.md §13.1; PyTorch reaches the percentages given there. */
const steps = [
  { name: "0.92M", preset: "bench0.92M", B: 16, T: 256, pytorch: 0.41 },
  { name: "6.9M", preset: "bench6.9M", B: 8, T: 256, pytorch: 0.52 },
  { name: "164M", preset: "mLSTMv1_165M", B: 1, T: 512, pytorch: 0.56 },
];

/**
 * Forward, backward, clip and AdamW. FLOPs per token: 6 per matrix parameter without the embedding
 * table (norms and biases count for nothing), and three times the cell's forward with chunk 64.
 */
export function* trainingSteps(ceiling: Ceilings, quick: boolean) {
  for (const step of quick ? steps.slice(0, 1) : steps) yield trainingStep(step, ceiling, quick);
}

function trainingStep(step: (typeof steps)[number], ceiling: Ceilings, quick: boolean): Row {
  const config = preset(step.preset, { dtype: "f32", lmHeadDtype: "f32" });
  const model = new XLSTM(config);
  model.initialize(0);
  const optimizer = adamw(model.parameters(), { lr: 1e-4, weightDecay: 0.1, gradClipNorm: 1 });
  const [B, T] = quick ? [2, 64] : [step.B, step.T];
  const ids = Int32Array.from({ length: B * T }, (_, i) => (i * 7919) % config.vocabSize);
  const batch = { tokens: { data: ids, shape: [B, T] }, targets: { data: ids, shape: [B, T] } };
  const body = () => {
    const batchTensors = { tokens: tensor(ids, { shape: [B, T] }), targets: batch.targets };
    optimizer.step(model.loss(batchTensors).backward());
  };
  const { median } = measure(body, quick ? 0.1 : step.preset.startsWith("bench") ? 4 : 12);
  const { timings } = withTimings(() => scope(body));
  const slowest = [...timings]
    .sort((a, b) => b[1].total - a[1].total)
    .slice(0, 8)
    .map(([name, { total, calls }]) => `${name.slice(3)} ${(total / 1e6).toFixed(1)} (${calls})`);
  const matrices = [...model.parameters().values()]
    .filter((parameter) => parameter.rank >= 2 && parameter.name !== "embedding.table")
    .reduce((sum, parameter) => sum + parameter.size, 0);
  const { headQuery: qk, headValue: v } = mlstmWidths(config, "v1");
  const cell = config.numBlocks * config.mlstm.numHeads * (4 * qk * v + 64 * (qk + v));
  const flops = B * T * (6 * matrices + 3 * cell);
  optimizer.dispose();
  model.dispose();
  return row(`train ${step.name} (${B} x ${T})`, median, flops, ceiling, {
    tokensPerSecond: (B * T) / median,
    pytorchOfCeiling: step.pytorch,
    milliseconds: slowest.join(", "),
  });
}
