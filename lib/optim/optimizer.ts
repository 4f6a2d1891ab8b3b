// Optimisers (training.md §5). State is keyed by parameter name; every update is one fused native
// pass per parameter, with the clip factor of the global gradient norm.
//
//   const optimizer = adamw(model.parameters(), { lr: 2e-3, weightDecay: 0.1, gradClipNorm: 1 });
//   const { norm } = optimizer.step(loss.backward());

import { z } from "zod";
import { parseConfig } from "../config/errors.ts";
import { check, native, scratch } from "../native/library.ts";
import { Rule } from "../native/symbols.ts";
import {
  concat,
  type Gradients,
  isCapturing,
  keep,
  noGrad,
  onDevice,
  scope,
  type Tensor,
  zeros,
  zerosLike,
} from "../tensor/index.ts";
import { handleOf, putFloats, putInts, result, results } from "../tensor/tensor.ts";
import { type Schedule, schedule, scheduleSchema } from "./schedule.ts";

export const optimizerNames = [
  "adam",
  "adamw",
  "sgd",
  "nadam",
  "nadamw",
  "adamax",
  "adamaxw",
  "radam",
  "lamb",
  "ademamix",
  "none",
] as const;

const beta = z.number().min(0).lt(1);
const patterns = z.array(z.string()).nullable();

/** training.md §5.1. `beta1: null` makes sgd plain. */
export const optimizerSchema = z
  .strictObject({
    name: z.enum(optimizerNames).default("adamw"),
    lr: z.union([z.number().nonnegative(), scheduleSchema]).describe("a rate or a schedule"),
    beta1: beta.nullable().default(0.9),
    beta2: beta.default(0.999),
    beta3: beta.default(0.9999).describe("ademamix"),
    alpha: z.number().nonnegative().default(8).describe("ademamix"),
    /** Steps of AdEMAMix's schedules; 0: as long as the learning-rate schedule. */
    mixSteps: z.int().nonnegative().nullable().default(0),
    eps: z.number().positive().default(1e-8),
    weightDecay: z.number().nonnegative().default(0),
    decayInclude: patterns.default(null),
    decayExclude: patterns.default(null),
    gradClipNorm: z.number().positive().nullable().default(null),
    gradClipValue: z.number().positive().nullable().default(null),
    nesterov: z.boolean().default(false),
  })
  .refine((config) => !(config.decayInclude && config.decayExclude), {
    error: "decayInclude and decayExclude exclude each other: give one",
  });

export type OptimizerInput = z.input<typeof optimizerSchema>;
export type OptimizerConfig = z.output<typeof optimizerSchema>;

/** What an optimiser needs to know of a parameter. */
export type Named = Tensor & { readonly name?: string; readonly decay?: boolean };

/** Facts of one update. */
export interface StepReport {
  /** Global gradient norm before clipping. */
  norm: number;
  /** Learning rate of this update. */
  lr: number;
  /** Elements of gradients that were Inf or NaN. */
  nonFinite: number;
}

export class NonFiniteError extends Error {
  override readonly name = "NonFiniteError";
}

/** f64 elements of native/src/cuda/optimizer.zig `Schedule`. */
const scheduleSize = 6;

interface Slot {
  readonly parameter: Tensor;
  readonly name: string;
  readonly decay: number;
  readonly moments: Tensor[];
}

export class Optimizer {
  readonly config: OptimizerConfig;
  /** Updates made so far. */
  updates = 0;
  readonly #slots: Slot[];
  readonly #lr: Schedule;
  /** Coefficients of a captured update, on the GPU. */
  #schedule: Tensor | undefined;
  /** The rows of the sums that `update` returned. */
  #updated: { slot: Slot }[] = [];
  readonly #rule: number;

  constructor(parameters: ReadonlyMap<string, Named>, input: OptimizerInput) {
    this.config = parseConfig(optimizerSchema, input, "the optimizer configuration is wrong");
    const { lr, name } = this.config;
    this.#lr = typeof lr === "number" ? () => lr : schedule(lr);
    this.#rule = ruleOf(this.config);
    const count = name === "none" ? 0 : momentsOf(this.#rule);
    this.#slots = [...parameters].map(([key, parameter]) => ({
      parameter,
      name: key,
      decay: decays(this.config, key, parameter) ? this.config.weightDecay : 0,
      moments: Array.from({ length: count }, () => keep(zerosLike(parameter))),
    }));
  }

  /** The learning rate of the next update. */
  get lr(): number {
    return this.#lr(this.updates);
  }

  /**
   * One update in place. A gradient that is not finite stops it before any parameter changes:
   * NonFiniteError names the first such parameter.
   */
  step(gradients: Gradients): StepReport {
    return noGrad(() => scope(() => this.#step(gradients)));
  }

  /**
   * One update inside of a captured step (`capture`), after `advance` on the host: nothing waits,
   * and a gradient that is not finite leaves every parameter as it was. `norm` f64 [] is the
   * gradient norm before clipping, `sums` f64 [tensors + 1, 2] the sums of squares and the numbers
   * of elements that are not finite, by parameter, totals last: `expectFinite(sums)` raises them.
   */
  update(gradients: Gradients): { norm: Tensor; sums: Tensor } {
    return noGrad(() => {
      const used = this.#used(gradients);
      const sums = sumSquares(used.map(({ grad }) => grad));
      const clip = this.config.gradClipNorm ?? 0;
      const [norm, factor] = results(native().xl_clip_factor(sums.handle, clip), "clip");
      const lr = this.#lr(this.updates - 1);
      for (const { slot, grad } of used) this.#update(slot, grad, factor!, lr);
      this.#updated = used.map(({ slot }) => ({ slot }));
      return { norm: norm!, sums };
    });
  }

  /** Counts an update that `update` is going to make, and sends its rate to the GPU. */
  advance(): void {
    this.updates++;
    const parameter = this.#slots[0]?.parameter;
    if (parameter?.device !== "cuda") return;
    this.#schedule ??= onDevice("cuda", () => keep(zeros([scheduleSize], "f64")));
    this.#put(this.#slots[0]!, this.#lr(this.updates - 1));
    check(native().xl_optimizer_schedule(this.#schedule.handle), "optimizer schedule");
  }

  /** NonFiniteError for the sums of an update that was not made; takes its number back. */
  expectFinite(sums: Tensor): void {
    this.updates--;
    this.#rejectNonFinite(sums, this.#updated);
    this.updates++;
  }

  #used(gradients: Gradients): { slot: Slot; grad: Tensor }[] {
    return this.#slots.flatMap((slot) => {
      const grad = gradients.get(slot.parameter);
      return grad ? [{ slot, grad }] : [];
    });
  }

  #step(gradients: Gradients): StepReport {
    const used = this.#used(gradients);
    const lr = this.lr;
    if (used.length === 0 || this.config.name === "none") {
      this.updates++;
      return { norm: 0, lr, nonFinite: 0 };
    }
    const sums = sumSquares(used.map(({ grad }) => grad));
    const clip = this.config.gradClipNorm ?? 0;
    const [norm, factor] = results(native().xl_clip_factor(sums.handle, clip), "clip");
    this.#rejectNonFinite(sums, used);
    this.updates++;
    for (const { slot, grad } of used) this.#update(slot, grad, factor!, lr);
    return { norm: norm!.item(), lr, nonFinite: 0 };
  }

  #rejectNonFinite(sums: Tensor, used: { slot: Slot }[]): void {
    const rows = sums.dataSync();
    if (rows[rows.length - 1] === 0) return;
    const bad = used.findIndex((_, i) => rows[2 * i + 1]! > 0);
    const { name } = used[bad]!.slot;
    throw new NonFiniteError(
      `update ${this.updates + 1}: the gradient of ${name} has ${rows[2 * bad + 1]} elements ` +
        "that are not finite; nothing was changed. Lower the learning rate, or clip gradients.",
    );
  }

  /** The scratch floats of an update of one parameter. */
  #put(slot: Slot, lr: number): void {
    const { config, updates: t } = this;
    const mix = mixSchedule(config, t);
    putFloats([
      t,
      lr,
      config.beta1 ?? 0,
      config.beta2,
      mix.beta3,
      mix.alpha,
      config.eps,
      slot.decay,
      1,
      config.gradClipValue ?? 0,
    ]);
  }

  #update(slot: Slot, grad: Tensor, factor: Tensor, lr: number): void {
    this.#put(slot, lr);
    const [first, second, third] = slot.moments;
    const status = native().xl_optimizer_step(
      this.#rule,
      slot.parameter.handle,
      grad.handle,
      handleOf(first),
      handleOf(second),
      handleOf(third),
      factor.handle,
      isCapturing() ? handleOf(this.#schedule) : 0,
    );
    check(status, `optimizer (${slot.name})`);
  }

  /** Moments by name, for a checkpoint: `<parameter>.moment1`, … */
  state(): { updates: number; tensors: Map<string, Tensor> } {
    const tensors = new Map<string, Tensor>();
    for (const { name, moments } of this.#slots) {
      moments.forEach((moment, i) => tensors.set(`${name}.moment${i + 1}`, moment));
    }
    return { updates: this.updates, tensors };
  }

  /** Takes over a saved state, bit for bit. */
  load(updates: number, tensors: (name: string) => Tensor): void {
    noGrad(() => {
      for (const { name, moments } of this.#slots) {
        moments.forEach((moment, i) => {
          using saved = tensors(`${name}.moment${i + 1}`);
          moment.write_(saved);
        });
      }
    });
    this.updates = updates;
  }

  dispose(): void {
    for (const { moments } of this.#slots) for (const moment of moments) moment.dispose();
    this.#schedule?.dispose();
  }
}

/** AdamW with the given options; `lr` may be a schedule. */
export function adamw(
  parameters: ReadonlyMap<string, Named>,
  options: Omit<OptimizerInput, "name">,
): Optimizer {
  return new Optimizer(parameters, { ...options, name: "adamw" });
}

/** Any optimiser by its configuration. */
export function optimizer(
  parameters: ReadonlyMap<string, Named>,
  config: OptimizerInput,
): Optimizer {
  return new Optimizer(parameters, config);
}

/** f64 [tensors + 1, 2]: Σg² and the number of non-finite elements of each, totals last. */
function sumSquares(grads: Tensor[]): Tensor {
  const most = scratch().ints.length;
  const parts: Tensor[] = [];
  for (let start = 0; start < grads.length; start += most) {
    const handles = grads.slice(start, start + most).map((grad) => grad.handle);
    const status = native().xl_global_sum_squares(putInts(handles));
    parts.push(result(status, "globalNorm"));
  }
  if (parts.length === 1) return parts[0]!;
  const rows = concat(parts.map((part) => part.slice(0, 0, -1)));
  return concat([rows, rows.sum(0, { keepDims: true })]);
}

function ruleOf(config: OptimizerConfig): number {
  switch (config.name) {
    case "sgd":
      if (config.beta1 === null) return Rule.sgd;
      return config.nesterov ? Rule.nesterov : Rule.momentum;
    case "nadam":
    case "nadamw":
      return Rule.nadam;
    case "adamax":
    case "adamaxw":
      return Rule.adamax;
    case "radam":
      return Rule.radam;
    case "lamb":
      return Rule.lamb;
    case "ademamix":
      return Rule.ademamix;
    default:
      return Rule.adam;
  }
}

function momentsOf(rule: number): number {
  if (rule === Rule.sgd) return 0;
  if (rule === Rule.momentum || rule === Rule.nesterov) return 1;
  return rule === Rule.ademamix ? 3 : 2;
}

/** Decay by the parameter's own rule, or by regular expressions searched in its name. */
function decays(config: OptimizerConfig, name: string, parameter: Named): boolean {
  const found = (list: readonly string[]) => list.some((pattern) => new RegExp(pattern).test(name));
  if (config.decayInclude) return found(config.decayInclude);
  if (config.decayExclude) return !found(config.decayExclude);
  return parameter.decay ?? name.endsWith(".weight");
}

/** AdEMAMix: α(t) linear, β₃(t) with a half-life that grows linearly (training.md §5.3). */
function mixSchedule(config: OptimizerConfig, t: number): { beta3: number; alpha: number } {
  const { alpha, beta3, lr, mixSteps } = config;
  if (config.name !== "ademamix" || mixSteps === null) return { beta3, alpha };
  const planned = mixSteps || (typeof lr === "number" ? 0 : lr.decaySteps);
  const T = planned > 0 ? planned : 100_000;
  const c = t - 1;
  if (c >= T) return { beta3, alpha };
  const f = (b: number) => Math.log(0.5) / Math.log(b) - 1;
  const halfLife = (1 - c / T) * f(config.beta1 ?? 0.9) + (c / T) * f(beta3);
  return { beta3: 0.5 ** (1 / (halfLife + 1)), alpha: (alpha * c) / T };
}
