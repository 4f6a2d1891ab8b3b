// Learning-rate schedules (training.md §6): warm-up, main phase, cool-down.
//
//   const lr = schedule({ name: "cosineDecay", lr: 1e-3, decaySteps: 1000, warmupSteps: 50 })
//   lr(0)   // 0: the rate of the first update; lr(c) is the rate after c updates

import { z } from "zod";
import { parseConfig } from "../config/errors.ts";

const rate = z.number().nonnegative();
const steps = z.int().nonnegative();

/** What a user may write. `decaySteps` includes warm-up and cool-down. */
export const scheduleSchema = z
  .strictObject({
    name: z
      .enum(["constant", "linear", "cosineDecay", "exponentialDecay", "wsd"])
      .default("constant")
      .describe("shape of the main phase; wsd is constant with a cool-down"),
    lr: z.number().positive().describe("highest learning rate"),
    decaySteps: steps.default(0).describe("updates of the whole schedule"),
    endLr: rate.nullable().default(null).describe("rate at the end of the main phase"),
    endLrFactor: rate.nullable().default(null).describe("the same as a multiple of lr"),
    warmupSteps: steps.default(0).describe("updates of the linear warm-up from 0"),
    cooldownSteps: steps.default(0).describe("updates of the linear cool-down at the end"),
    cooldownLr: rate.default(0).describe("rate after the cool-down"),
  })
  .superRefine((config, context) => {
    const issue = (path: string, message: string) =>
      context.addIssue({ code: "custom", path: [path], message });
    const { decaySteps, warmupSteps, cooldownSteps, endLr, endLrFactor, lr } = config;
    const main = decaySteps - warmupSteps - cooldownSteps;
    if (main < 0) {
      issue(
        "decaySteps",
        `${decaySteps} updates cannot hold ${warmupSteps} of warm-up and ${cooldownSteps} of ` +
          `cool-down: decaySteps includes both, give at least ${warmupSteps + cooldownSteps}`,
      );
    }
    const both = endLr !== null && endLrFactor !== null;
    if (both && Math.abs(endLr - endLrFactor * lr) > 1e-9 * lr) {
      issue(
        "endLr",
        `${endLr} contradicts endLrFactor ${endLrFactor} x lr ${lr} = ${endLrFactor * lr}: ` +
          "give one of them",
      );
    }
    if (config.name === "exponentialDecay" && (endLr ?? endLrFactor ?? 0) === 0) {
      issue("endLr", "exponential decay never reaches 0: give an endLr or endLrFactor above 0");
    }
    if (config.name === "wsd" && cooldownSteps === 0) {
      issue("cooldownSteps", 'wsd has a cool-down: give cooldownSteps, or the name "constant"');
    }
  });

export type ScheduleInput = z.input<typeof scheduleSchema>;
export type ScheduleConfig = z.output<typeof scheduleSchema>;

/** Learning rate of the next update after `updates` of them; a function of nothing else. */
export type Schedule = (updates: number) => number;

/**
 * The schedule of a configuration (training.md §6). Unknown keys and contradictions: ConfigError.
 * Exact at the borders: lr at the end of the warm-up, the end rate where the cool-down starts,
 * cooldownLr from decaySteps on.
 */
export function schedule(input: ScheduleInput): Schedule {
  const config = parseConfig(scheduleSchema, input, "schedule configuration");
  const { lr, decaySteps, warmupSteps, cooldownSteps, cooldownLr } = config;
  const main = decaySteps - warmupSteps - cooldownSteps;
  const body = mainPhase(config, main);
  const end = endRate(config);
  return (updates) => {
    if (!(updates >= 0)) {
      throw new RangeError(`learning rate after ${updates} updates: expected a count from 0`);
    }
    if (updates < warmupSteps) return (lr * updates) / warmupSteps;
    const cooled = updates - (decaySteps - cooldownSteps);
    if (cooldownSteps > 0 && cooled >= 0) {
      if (cooled >= cooldownSteps) return cooldownLr;
      return end + ((cooldownLr - end) * cooled) / cooldownSteps;
    }
    return body(updates - warmupSteps);
  };
}

/** Rate where the cool-down starts; constant schedules never leave `lr`. */
function endRate({ name, lr, endLr, endLrFactor }: ScheduleConfig): number {
  if (name === "constant" || name === "wsd") return lr;
  return endLr ?? (endLrFactor ?? 0) * lr;
}

/** The main phase over `main` updates, which holds its end rate afterwards. */
function mainPhase(config: ScheduleConfig, main: number): Schedule {
  const { name, lr } = config;
  const end = endRate(config);
  const factor = end / lr;
  return (updates) => {
    if (main === 0 || updates === 0 || end === lr) return lr;
    if (updates >= main) return end;
    const part = updates / main;
    if (name === "linear") return lr + (end - lr) * part;
    if (name === "exponentialDecay") return lr * factor ** part;
    return lr * ((1 - factor) * 0.5 * (1 + Math.cos(Math.PI * part)) + factor);
  };
}
