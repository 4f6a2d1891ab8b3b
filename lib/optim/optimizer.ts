// Optimisers (training.md §5). State is keyed by parameter name; an update is one fused native
// pass over all parameters, with the clip factor of the global gradient norm.
//
//   const optimizer = adamw(model.parameters(), { lr: 2e-3, weightDecay: 0.1, gradClipNorm: 1 });
//   const { norm } = optimizer.step(loss.backward());

import { z } from "zod";
import { ConfigError, parseConfig } from "../config/errors.ts";
import { check, native } from "../native/library.ts";
import { Rule } from "../native/symbols.ts";
import {
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
import { handleOf, putFloats, putInts, results } from "../tensor/tensor.ts";
import { type GradientNorm, LocalNorm } from "./norm.ts";
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

/** Rules that take norms of whole tensors: no part of one can be updated by itself. */
const wholeTensorRules: ReadonlySet<string> = new Set(["lamb"]);

export type OptimizerInput = z.input<typeof optimizerSchema>;
export type OptimizerConfig = z.output<typeof optimizerSchema>;

/** What an optimiser needs to know of a parameter. */
export type Named = Tensor & { readonly name?: string; readonly decay?: boolean };

/** On a mesh: how the optimiser of one rank learns what the others have. */
export interface OptimizerRanks {
  /** Sums the gradient norm over all ranks. Default: everything is here. */
  readonly norm?: GradientNorm;
  /** Why a parameter is only a part of a tensor; undefined where it is a whole one. */
  readonly cut?: (name: string) => string | undefined;
}

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

/**
 * Parameters of one native call (two whole launches on a GPU), and where their decays lie:
 * native/src/ops/optimizer.zig.
 */
const mostUpdates = 96;
const handlesEach = 5;
const firstDecay = 16;

function handlesOf({ slot, grad }: { slot: Slot; grad: Tensor }): number[] {
  const [first, second, third] = slot.moments;
  return [slot.parameter, grad, first, second, third].map(handleOf);
}

export class Optimizer {
  readonly config: OptimizerConfig;
  /** Sums the gradient norm; on a mesh that of all its ranks. */
  readonly norm: GradientNorm;
  /** Updates made so far. */
  updates = 0;
  readonly #slots: Slot[];
  readonly #lr: Schedule;
  /** Coefficients of a captured update, on the GPU. */
  #schedule: Tensor | undefined;
  readonly #rule: number;

  /** ConfigError for a rule that needs whole tensors where `ranks` says that one is cut. */
  constructor(
    parameters: ReadonlyMap<string, Named>,
    input: OptimizerInput,
    { norm = new LocalNorm(), cut }: OptimizerRanks = {},
  ) {
    this.config = parseConfig(optimizerSchema, input, "the optimizer configuration is wrong");
    const { lr, name } = this.config;
    if (wholeTensorRules.has(name)) expectWhole(name, parameters, cut);
    this.norm = norm;
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
      const { used, sums, norm, factor } = this.#measured(gradients);
      this.#updateAll(used, factor, this.#lr(this.updates - 1));
      return { norm, sums };
    });
  }

  /** Counts an update that `update` is going to make, and sends its rate to the GPU. */
  advance(): void {
    this.updates++;
    const parameter = this.#slots[0]?.parameter;
    if (parameter?.device !== "cuda") return;
    this.#schedule ??= onDevice("cuda", () => keep(zeros([scheduleSize], "f64")));
    this.#put(this.#lr(this.updates - 1));
    check(native().xl_optimizer_schedule(this.#schedule.handle), "optimizer schedule");
  }

  /** NonFiniteError for the sums of an update that was not made; takes its number back. */
  expectFinite(sums: Tensor): void {
    const rows = sums.dataSync();
    if (rows[rows.length - 1] === 0) return;
    const { names } = this.norm;
    const bad = names.findIndex((_, i) => rows[2 * i + 1]! > 0);
    const update = this.updates--;
    throw new NonFiniteError(
      `update ${update}: the gradient of ${names[bad]} has ${rows[2 * bad + 1]} elements ` +
        "that are not finite; nothing was changed. Lower the learning rate, or clip gradients.",
    );
  }

  /**
   * Counts an update without making it, for a step that saw no valid token: schedules stay a
   * function of the number of the step.
   */
  skip(): void {
    this.updates++;
  }

  #used(gradients: Gradients): { slot: Slot; grad: Tensor }[] {
    return this.#slots.flatMap((slot) => {
      const grad = gradients.get(slot.parameter);
      return grad && grad.size > 0 ? [{ slot, grad }] : [];
    });
  }

  /** The gradients with their norm f64 [] and the factor f64 [] that clips it. */
  #measured(gradients: Gradients) {
    const used = this.#used(gradients);
    const sums = this.norm.sums(new Map(used.map(({ slot, grad }) => [slot.name, grad])));
    const clip = this.config.gradClipNorm ?? 0;
    const [norm, factor] = results(native().xl_clip_factor(sums.handle, clip), "clip");
    return { used, sums, norm: norm!, factor: factor! };
  }

  #step(gradients: Gradients): StepReport {
    const lr = this.lr;
    if (this.#slots.length === 0 || this.config.name === "none") {
      this.updates++;
      return { norm: 0, lr, nonFinite: 0 };
    }
    const { used, sums, norm, factor } = this.#measured(gradients);
    this.updates++;
    // Where a gradient is not finite the factor is NaN, with which an update changes nothing: all
    // of them are on their way before anything waits for the sums.
    this.#updateAll(used, factor, lr);
    this.expectFinite(sums);
    return { norm: norm.item(), lr, nonFinite: 0 };
  }

  /** The scratch floats of an update that all parameters share. */
  #put(lr: number): void {
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
      1,
      config.gradClipValue ?? 0,
    ]);
  }

  /** One native call for as many parameters as the scratch block describes. */
  #updateAll(used: readonly { slot: Slot; grad: Tensor }[], factor: Tensor, lr: number): void {
    const scheduled = isCapturing() ? handleOf(this.#schedule) : 0;
    for (let start = 0; start < used.length; start += mostUpdates) {
      const part = used.slice(start, start + mostUpdates);
      this.#put(lr);
      putFloats(
        part.map(({ slot }) => slot.decay),
        firstDecay,
      );
      const count = putInts(part.flatMap(handlesOf)) / handlesEach;
      const status = native().xl_optimizer_update(this.#rule, count, factor.handle, scheduled);
      check(status, `optimizer (${part[0]!.slot.name} to ${part.at(-1)!.slot.name})`);
    }
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
  ranks: OptimizerRanks = {},
): Optimizer {
  return new Optimizer(parameters, { ...options, name: "adamw" }, ranks);
}

/** Any optimiser by its configuration. */
export function optimizer(
  parameters: ReadonlyMap<string, Named>,
  config: OptimizerInput,
  ranks: OptimizerRanks = {},
): Optimizer {
  return new Optimizer(parameters, config, ranks);
}

function expectWhole(
  rule: string,
  parameters: ReadonlyMap<string, Named>,
  cut: OptimizerRanks["cut"],
): void {
  for (const name of parameters.keys()) {
    const reason = cut?.(name);
    if (reason === undefined) continue;
    const message =
      `${rule} needs the norm of whole tensors, and ${name} is cut over ${reason}: use another ` +
      "optimizer, adamw say, or a mesh of dp and pp alone";
    throw new ConfigError("the optimizer does not fit the mesh", [{ path: "name", message }]);
  }
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
