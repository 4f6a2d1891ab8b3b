// Whole models on the GPU: training steps, prefill and decoding of random weights.

import { gpuFacts } from "../native/gpu.ts";
import { native, withTimings } from "../native/library.ts";
import { type ModelConfig, mlstmWidths } from "../nn/config.ts";
import { XLSTM } from "../nn/model.ts";
import { preset } from "../nn/presets.ts";
import { adamw } from "../optim/optimizer.ts";
import { noGrad, scope, synchronize, type Tensor } from "../tensor/index.ts";
import {
  type Case,
  expectFinite,
  type FailedRow,
  type GpuCeilings,
  type GpuRow,
  guarded,
  type Measured,
  measureOnDevice,
  type Pace,
  rowOf,
  timeCase,
} from "./gpu_measure.ts";
import { ids } from "./gpu_ops.ts";

/** Dense bf16 TFLOP/s of an H100 by its data sheet: what model FLOPs are divided by everywhere. */
const datasheetTflops = 989;

interface TrainingShape {
  readonly preset: string;
  readonly heads: number;
  readonly B: number;
  readonly S: number;
}

/** The configurations that published and measured figures exist for (performance.md §3.6). */
const trainings: readonly TrainingShape[] = [
  { preset: "mLSTMv1_165M", heads: 4, B: 16, S: 2048 },
  { preset: "mLSTMv1_1.3B", heads: 8, B: 8, S: 2048 },
];
const quickTraining = { preset: "bench0.92M", heads: 4, B: 1, S: 48 };

/** Forward, backward, clip and AdamW: bf16 activations, f32 parameters. */
export function* trainingRows(ceilings: GpuCeilings, pace: Pace, quick: boolean) {
  for (const shape of quick ? [quickTraining] : trainings) {
    yield guarded(`train ${shape.preset} ${shape.B} x ${shape.S}`, () =>
      trainingRow(shape, ceilings, pace, quick),
    );
  }
}

function trainingRow(
  { preset: name, heads, B, S }: TrainingShape,
  ceilings: GpuCeilings,
  pace: Pace,
  quick: boolean,
): GpuRow {
  const config = modelConfig(name, heads, quick);
  const model = new XLSTM(config);
  const optimizer = adamw(model.parameters(), {
    lr: 1e-4,
    beta2: 0.95,
    weightDecay: 0.1,
    gradClipNorm: 1,
  });
  try {
    model.initialize(0);
    using _ = scope();
    const draw = () => ids(B * S, config.vocabSize, [B, S]);
    const batch = { tokens: draw(), targets: draw() };
    const run = () => {
      const loss = model.loss(batch);
      const { norm } = optimizer.update(loss.backward());
      return [loss, norm];
    };
    const step = { run, before: () => optimizer.advance() };
    const checked = () => {
      step.before();
      scope(() => expectFinite(run()));
    };
    checked();
    const timing = measureOnDevice(step, { ...pace, sample: 0, budget: 4 * pace.budget });
    checked();
    const tokensPerSecond = (1000 * B * S) / timing.milliseconds;
    const work = { bytes: 28 * model.size, flops: B * S * trainingFlops(model) };
    const row = rowOf(`train ${name} ${B} x ${S}`, work, timing, ceilings, {
      parameters: model.size,
      tokensPerSecond,
      mfu: (6 * model.size * tokensPerSecond) / (datasheetTflops * 1e12),
      peakGB: gpuFacts().peakBytes / 1e9,
    });
    return { ...row, breakdown: breakdownOf(step) };
  } finally {
    optimizer.dispose();
    model.dispose();
  }
}

function modelConfig(name: string, numHeads: number, quick: boolean): ModelConfig {
  return preset(name, { numHeads, dtype: "bf16", ...(quick ? { numBlocks: 1 } : {}) });
}

/**
 * Per token: 6 for each parameter of a matrix but the embedding table, whose rows are only looked
 * up, and four passes of the cell (one forward, three sweeps backward).
 */
function trainingFlops(model: XLSTM): number {
  const { config } = model;
  const matrices = [...model.parameters().values()]
    .filter(({ rank, name }) => rank >= 2 && name !== "embedding.table")
    .reduce((sum, { size }) => sum + size, 0);
  const { headQuery: qk, headValue: v } = mlstmWidths(config, "v1");
  const cell = config.numBlocks * config.mlstm.numHeads * (4 * qk * v + 128 * (qk + v));
  return 6 * matrices + 4 * cell;
}

/**
 * Milliseconds by native call with a wait after each one: where a step spends its time, not how
 * long it takes (a wait costs some microseconds, and nothing overlaps).
 */
function breakdownOf({ run, before }: Measured): Record<string, number> {
  const spent = new Map<string, number>();
  withTimings(() => {
    // The table that `withTimings` has installed is its own copy and goes when this body ends.
    const table = native() as unknown as Record<string, (...values: unknown[]) => unknown>;
    for (const [name, call] of Object.entries(table)) {
      if (!computes(name)) continue;
      table[name] = (...values) => {
        const start = performance.now();
        const status = call(...values);
        if (status === 0) synchronize();
        spent.set(name, (spent.get(name) ?? 0) + performance.now() - start);
        return status;
      };
    }
    before?.();
    scope(() => void run(0));
  });
  const sorted = [...spent].filter(([, time]) => time > 0.01).sort((a, b) => b[1] - a[1]);
  return Object.fromEntries(sorted.map(([name, time]) => [name.replace(/^xl_/, ""), time]));
}

/** Calls that do no work on the GPU, or whose result is no status. */
const idle = new Set([
  "xl_abi_hash",
  "xl_cell",
  "xl_deallocator",
  "xl_dispose",
  "xl_dispose_many",
  "xl_last_error",
  "xl_memory",
  "xl_scratch",
  "xl_start",
  "xl_synchronize",
]);
const computes = (name: string) => !idle.has(name);

/** One token for each of B sequences, and a prompt of 2048 tokens, through the 7B model. */
export function* decodeRows(ceilings: GpuCeilings, pace: Pace, quick: boolean) {
  const name = quick ? "bench0.92M" : "mLSTMv1_7B";
  const held: { model?: XLSTM } = {};
  const failed = guarded(`decode ${name}`, () => {
    held.model = new XLSTM(modelConfig(name, quick ? 4 : 8, quick), { inference: true });
    held.model.initialize(0);
  });
  if (failed) yield failed;
  if (failed || !held.model) return held.model?.dispose();
  const { model } = held;
  try {
    for (const rows of [1, 8]) yield withRate(decodeCase(model, name, rows), rows, ceilings, pace);
    const length = quick ? 48 : 2048;
    yield withRate(prefillCase(model, name, length), length, ceilings, pace);
  } finally {
    model.dispose();
  }
}

function withRate(
  one: Case,
  tokens: number,
  ceilings: GpuCeilings,
  pace: Pace,
): GpuRow | FailedRow {
  const row = timeCase(one, ceilings, pace);
  if ("error" in row) return row;
  const tokensPerSecond = (1000 * tokens) / row.milliseconds;
  const extra = { ...row.extra, tokensPerSecond };
  try {
    const breakdown = scope(() => {
      const run = one.make();
      run(0);
      return breakdownOf({ run, before: one.before });
    });
    return { ...row, extra, breakdown };
  } finally {
    one.end?.();
  }
}

/** Elements of everything that a token's pass streams: all parameters but the embedding table. */
function streamed(model: XLSTM): number {
  return model.size - model.parameters().get("embedding.table")!.size;
}

/** The state moves on in place, as it does in generation; the tokens stay the same. */
function decodeCase(model: XLSTM, name: string, rows: number): Case {
  const { config } = model;
  const { headQuery: qk, headValue: v } = mlstmWidths(config, "v1");
  const heads = rows * config.numBlocks * config.mlstm.numHeads;
  return {
    name: `decode ${name}, ${rows} rows`,
    bytes: 2 * streamed(model) + 2 * 4 * heads * (qk * v + qk + 1),
    flops: 2 * rows * streamed(model) + heads * 6 * qk * v,
    make: () => {
      const tokens = ids(rows, config.vocabSize, [rows, 1]);
      const first = () => noGrad(() => model.hidden(tokens, { returnState: true }));
      const { state } = scope(first);
      return () =>
        noGrad(() => {
          const { hidden } = model.hidden(tokens, { state, inPlace: true });
          return model.head(hidden.reshape([rows, config.embeddingDim]));
        });
    },
  };
}

function prefillCase(model: XLSTM, name: string, length: number): Case {
  const { config } = model;
  const { headQuery: qk, headValue: v } = mlstmWidths(config, "v1");
  const heads = config.numBlocks * config.mlstm.numHeads;
  const head = config.vocabSize * config.embeddingDim;
  const cell = heads * (4 * qk * v + 128 * (qk + v));
  return {
    name: `prefill ${name}, 1 x ${length}`,
    bytes: 2 * streamed(model),
    flops: length * (2 * (streamed(model) - head) + cell) + 2 * head,
    make: () => {
      const tokens = ids(length, config.vocabSize, [1, length]);
      return () =>
        noGrad((): Tensor => {
          const { hidden } = model.hidden(tokens, { returnState: true });
          const last = hidden.slice(1, length - 1, length);
          return model.head(last.reshape([1, config.embeddingDim]));
        });
    },
  };
}
