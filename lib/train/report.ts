// What a training run says at its end: loss next to the n-gram baseline, the curve, memory.

import { join } from "node:path";
import type { Corpus } from "../data/corpus.ts";
import { NgramModel } from "../data/ngram.ts";
import { gpuFacts } from "../native/gpu.ts";
import { currentDevice, memory } from "../tensor/index.ts";
import type { Plot } from "./axes.ts";
import { readMetrics, series } from "./metrics.ts";
import { writeSvg } from "./plot.ts";
import type { RunFolder } from "./run_folder.ts";
import { renderTerminal } from "./terminal_plot.ts";

const order = 5;
/** Counting longer texts would take more memory than training on them. */
const mostBaselineBytes = 32 * 2 ** 20;

/** Bits per byte of the byte 5-gram on the validation split; undefined for a very long text. */
export function baselineBits(corpus: Corpus): number | undefined {
  if (corpus.train.length > mostBaselineBytes) return undefined;
  const model = NgramModel.train(corpus.train, { order });
  return model.bitsPerByte(corpus.validation, corpus.train);
}

/** One sentence that says which of the two predicts better. */
export function comparison(bits: number, baseline: number | undefined): string {
  const own = `validation: ${bits.toFixed(3)} bits/byte`;
  if (baseline === undefined) return own;
  const difference = Math.abs(1 - bits / baseline) * 100;
  const side = bits < baseline ? "below" : "above";
  const gram = `the byte ${order}-gram's ${baseline.toFixed(3)}`;
  return `${own}, ${difference.toFixed(1)} % ${side} ${gram}`;
}

/** Writes loss.svg and returns the same plot for the terminal. */
export function lossCurve(run: RunFolder, baseline: number | undefined): string {
  const records = readMetrics(join(run.path, "metrics.jsonl"));
  const inBits = (key: string) =>
    series(records, key).map(([step, nats]) => [step, nats / Math.LN2] as const);
  const references =
    baseline === undefined ? [] : [{ name: `byte ${order}-gram`, value: baseline }];
  const plot: Plot = {
    title: `Loss of ${run.name}`,
    yLabel: "bits/byte",
    curves: [
      { name: "training", points: inBits("train/loss"), smooth: true },
      { name: "validation", points: inBits("validation/loss") },
    ],
    references,
  };
  writeSvg(join(run.path, "loss.svg"), plot);
  return renderTerminal(plot);
}

/** Most memory that tensors (of the GPU, too, where one is in use) and the process have taken. */
export function peakMemory(): string {
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  // Kilobytes on Linux.
  const process_ = process.resourceUsage().maxRSS * 1024;
  const gpu = currentDevice() === "cuda" ? `GPU ${mib(gpuFacts().peakBytes)}, ` : "";
  return `peak memory: ${gpu}tensors ${mib(memory().peakBytes)}, process ${mib(process_)}`;
}
