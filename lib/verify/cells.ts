// Reference cases of single operations: the mLSTM and sLSTM cells and the optimisers.

import { openSafetensors } from "../checkpoint/safetensors.ts";
import { optimizer, type OptimizerInput } from "../optim/optimizer.ts";
import { schedule } from "../optim/schedule.ts";
import {
  cast,
  type DType,
  exp,
  Gradients,
  mlstm,
  type MlstmState,
  mul,
  onDevice,
  reshape,
  requireGrad,
  slstm,
  type Tensor,
} from "../tensor/index.ts";
import { Comparison, type Precision, type Row } from "./report.ts";

type File = ReturnType<typeof openSafetensors>;
type Metadata = Record<string, unknown>;

/** Options of a case: the JSON values of its metadata. */
export function metadataOf(file: File): Metadata {
  return Object.fromEntries(
    Object.entries(file.metadata).map(([key, value]) => [key, JSON.parse(value)]),
  );
}

/** Gates beyond ±15 lose digits in f32: the README's bar for extreme gates. */
function cellBars(precision: Precision, gates: Tensor[]) {
  if (precision === "f64") return { output: 1e-6, gradient: 1e-6 };
  if (precision === "bf16") return { output: 1e-2, gradient: 2e-2 };
  const largest = Math.max(
    ...gates
      .map((gate) => gate.dataSync() as Float32Array)
      .map((x) => x.reduce((most, value) => Math.max(most, Math.abs(value)), 0)),
  );
  const bar = largest > 15 ? 1e-4 : 2e-5;
  return { output: bar, gradient: bar };
}

type Computed = {
  outputs: Map<string, Tensor>;
  gradients: Map<string, Tensor>;
  /** The last stabiliser of the exp gate. */
  m?: ArrayLike<number> | undefined;
};

/** [B, NH, S, …] of the files to our [B, S, NH, …]. */
const swapped = (x: Tensor) =>
  x.permute([0, 2, 1, ...x.shape.slice(3).map((_, i) => i + 3)]).clone();

/** Inputs of a case in `dtype`; gates and states in its arithmetic type. */
function leaf(file: File, name: string, dtype: DType, through?: DType): Tensor {
  using raw = file.load(name);
  const rounded = through ? cast(raw, through) : raw;
  return cast(rounded, dtype).clone();
}

function runMlstm(file: File, metadata: Metadata, dtype: DType, through?: DType): Computed {
  const A: DType = dtype === "f64" ? "f64" : "f32";
  const load = (name: string, type: DType, rounding?: DType) =>
    requireGrad(swapped(leaf(file, name, type, rounding)));
  const [q, k, v] = ["q", "k", "v"].map((name) => load(name, dtype, through));
  const [i, f] = ["i", "f"].map((name) => load(name, A));
  const state: MlstmState = {};
  if (file.has("c_initial")) {
    state.c = requireGrad(leaf(file, "c_initial", A));
    state.n = requireGrad(leaf(file, "n_initial", A));
    state.m = leaf(file, "m_initial", A).reshape(state.n.shape.slice(0, 2));
  }
  const inputs = { q: q!, k: k!, v: v!, i: i!, f: f! };
  const { h, state: last } = mlstm(inputs, {
    inputGate: metadata.input_gate as "exp" | "sigmoid",
    normalize: metadata.normalize === true,
    eps: metadata.eps as number,
    gradMode: "exact",
    state,
    returnState: true,
  });
  const grads = h.backward(swapped(leaf(file, "dh", dtype, through)));
  const outputs = new Map([["h", swapped(h)]]);
  if (file.has("c_last") && last) {
    const scale = last.m ? exp(last.m) : undefined;
    const scaled = (x: Tensor) =>
      scale ? mul(x, reshape(scale, [...scale.shape, ...x.shape.slice(2).map(() => 1)])) : x;
    outputs.set("c_last", scaled(last.c!));
    if (file.has("n_last")) outputs.set("n_last", scaled(last.n!));
  }
  const gradients = new Map<string, Tensor>();
  for (const [name, x] of Object.entries(inputs)) gradients.set(`d${name}`, swapped(grads.of(x)));
  if (file.has("dc_initial")) gradients.set("dc_initial", grads.of(state.c!));
  if (file.has("dn_initial")) gradients.set("dn_initial", grads.of(state.n!));
  return { outputs, gradients, m: last?.m?.dataSync() };
}

/**
 * States are comparable only as c·e^m and n·e^m. The file holds m rounded to f32, which at m = 40
 * costs 2e-6 of e^m: where the rounding of our m is the file's, ours is the unrounded one.
 */
function expectedState(file: File, name: string, ours: ArrayLike<number> | undefined) {
  const values = Float64Array.from(file.load(name).dataSync());
  if (!file.has("m_last")) return values;
  const m = Array.from(file.load("m_last").dataSync(), (stored, i) =>
    ours && Math.fround(ours[i]!) === stored ? ours[i]! : stored,
  );
  const width = values.length / m.length;
  return values.map((x, at) => x * Math.exp(m[Math.floor(at / width)]!));
}

/** Case of op `mlstm`. */
export function verifyMlstm(file: File, precision: Precision): Row[] {
  const metadata = metadataOf(file);
  const bars = cellBars(precision, [file.load("i"), file.load("f")]);
  const want = (name: string, got: Computed) =>
    name === "c_last" || name === "n_last"
      ? expectedState(file, name, got.m)
      : file.load(name).dataSync();
  return compare(file, precision, bars, want, (dtype, through) =>
    runMlstm(file, metadata, dtype, through),
  );
}

function runSlstm(file: File, dtype: DType, through?: DType): Computed {
  const A: DType = dtype === "f64" ? "f64" : "f32";
  const wx = requireGrad(leaf(file, "wx", dtype, through));
  const r = requireGrad(leaf(file, "r", A));
  const b = requireGrad(leaf(file, "b", A));
  const state = file.has("initial") ? leaf(file, "initial", A) : undefined;
  const { y, state: last } = slstm(wx, r, b, { state });
  const grads = y.backward(leaf(file, "dy", dtype, through));
  return {
    outputs: new Map([
      ["y", y],
      ["last", last],
    ]),
    gradients: new Map([
      ["dwx", grads.of(wx)],
      ["dr", grads.of(r)],
      ["db", grads.of(b)],
    ]),
  };
}

/** Case of op `slstm`. */
export function verifySlstm(file: File, precision: Precision): Row[] {
  const bars = cellBars(precision, [file.load("wx")]);
  const want = (name: string) => file.load(name).dataSync();
  return compare(file, precision, bars, want, (dtype, through) => runSlstm(file, dtype, through));
}

/** bf16 is judged against the f64 path on the rounded inputs, the others against the file. */
function compare(
  file: File,
  precision: Precision,
  bars: { output: number; gradient: number },
  want: (name: string, got: Computed) => ArrayLike<number>,
  run: (dtype: DType, through?: DType) => Computed,
): Row[] {
  const got = run(precision);
  const judge = precision === "bf16" ? onDevice("cpu", () => run("f64", "bf16")) : undefined;
  const comparison = new Comparison();
  for (const [part, bar] of [
    ["outputs", bars.output],
    ["gradients", bars.gradient],
  ] as const) {
    for (const [name, tensor] of got[part]) {
      if (!judge && !file.has(name)) continue;
      const reference = judge ? judge[part].get(name)!.dataSync() : want(name, got);
      comparison.add(name, tensor, reference, bar);
    }
  }
  return comparison.rows;
}

const variants: Record<string, Partial<OptimizerInput>> = {
  adamw_clip: { name: "adamw", gradClipNorm: 0.5 },
  momentum: { name: "sgd" },
  nesterov: { name: "sgd", nesterov: true },
  sgd: { name: "sgd", beta1: null },
};

const scheduleNames: Record<string, "constant" | "linear" | "cosineDecay" | "exponentialDecay"> = {
  constant: "constant",
  linear: "linear",
  cosine_decay: "cosineDecay",
  exponential_decay: "exponentialDecay",
};

/** Case of op `optim`: every optimiser whose steps the file has, and the schedules. */
export function verifyOptim(file: File, precision: Precision): Row[] {
  const metadata = metadataOf(file);
  const bar = precision === "f64" ? 1e-6 : 2e-5;
  const comparison = new Comparison();
  const names = new Set(
    file.names.filter((name) => !/^(p0|g|lr)\./.test(name)).map((name) => name.split(".")[0]!),
  );
  for (const name of names) runOptimizer(file, metadata, name, precision, bar, comparison);
  const options = metadata.lr_schedule as Record<string, number> | undefined;
  for (const name of file.names.filter((candidate) => candidate.startsWith("lr."))) {
    const want = file.load(name).dataSync();
    const kind = scheduleNames[name.slice(3)]!;
    const lr = schedule({
      name: kind,
      lr: options!.lr!,
      decaySteps: options!.decay_steps!,
      warmupSteps: options!.warmup_steps!,
      cooldownSteps: options!.cooldown_steps!,
      cooldownLr: options!.cooldown_lr!,
      ...(kind === "constant" ? {} : { endLrFactor: options!.end_lr_factor! }),
    });
    comparison.add(
      name,
      Array.from(want, (_, i) => lr(i)),
      want,
      bar,
    );
  }
  return comparison.rows;
}

function runOptimizer(
  file: File,
  metadata: Metadata,
  name: string,
  precision: Precision,
  bar: number,
  comparison: Comparison,
): void {
  const dtype: DType = precision === "f64" ? "f64" : "f32";
  const keys = file.names.filter((key) => key.startsWith("p0.")).map((key) => key.slice(3));
  const parameters = new Map(
    keys.map((key) => [key, requireGrad(leaf(file, `p0.${key}`, dtype))] as const),
  );
  const decayed = (metadata.weight_decay_on as string[] | undefined) ?? [];
  const mix = metadata.ademamix as { b3: number; alpha: number } | undefined;
  const made = optimizer(parameters, {
    name: name as OptimizerInput["name"],
    lr: metadata.lr as number,
    beta1: metadata.b1 as number,
    beta2: metadata.b2 as number,
    eps: metadata.eps as number,
    weightDecay: decays(name) ? (metadata.weight_decay as number) : 0,
    decayInclude: decayed.map((key) => `^${key}$`),
    ...(mix ? { beta3: mix.b3, alpha: mix.alpha, mixSteps: null } : {}),
    ...variants[name],
  });
  const all = new Map(keys.map((key) => [key, file.load(`g.${key}`, dtype)] as const));
  const want = new Map(keys.map((key) => [key, file.load(`${name}.${key}`).dataSync()] as const));
  const got = new Map(keys.map((key) => [key, [] as number[]] as const));
  const steps = all.get(keys[0]!)!.shape[0]!;
  for (let step = 0; step < steps; step++) {
    const grads = new Map<Tensor, Tensor>();
    for (const [key, parameter] of parameters) grads.set(parameter, all.get(key)!.select(0, step));
    made.step(new Gradients(grads));
    for (const [key, parameter] of parameters) {
      for (const x of parameter.dataSync()) got.get(key)!.push(x);
    }
  }
  made.dispose();
  for (const key of keys) comparison.add(`${name}.${key}`, got.get(key)!, want.get(key)!, bar);
}

/** Optimisers of the file without a "w" in their name were run without weight decay. */
function decays(name: string): boolean {
  return !["adam", "nadam", "adamax", "radam", "sgd", "momentum", "nesterov", "ademamix"].includes(
    name,
  );
}
