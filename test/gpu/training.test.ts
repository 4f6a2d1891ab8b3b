// Training on the GPU: the losses of the CPU, and checkpoints that either device continues.

import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readManifest } from "../../lib/checkpoint/manifest.ts";
import type { Json } from "../../lib/checkpoint/protocol.ts";
import { Corpus } from "../../lib/data/corpus.ts";
import type { ModelConfigInput } from "../../lib/nn/config.ts";
import { xlstm } from "../../lib/nn/model.ts";
import { adamw } from "../../lib/optim/optimizer.ts";
import { type Device, onDevice, useDevice } from "../../lib/tensor/index.ts";
import { Checkpoints } from "../../lib/train/checkpoints.ts";
import { Trainer } from "../../lib/train/trainer.ts";
import "../helpers/gpu.ts";

const words = "the whale rose and the sea fell and the men looked on the whale again. ";
const text = new Corpus("words", new TextEncoder().encode(words.repeat(20)));
const shared = { vocabSize: 256, embeddingDim: 16, numBlocks: 2, numHeads: 2, slstmAt: [1] };
const kinds = {
  "7B and sLSTM blocks": { ...shared, ffn: { hiddenDim: 24 }, dropout: 0.1 },
  "paper and sLSTM blocks": { ...shared, block: "paper" },
} satisfies Record<string, ModelConfigInput>;

const folders: string[] = [];
const disposables: { dispose(): void }[] = [];

afterEach(() => {
  useDevice("cpu");
  for (const item of disposables.splice(0)) item.dispose();
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true });
});

function folder(): string {
  folders.push(mkdtempSync(join(tmpdir(), "xlstm-gpu-")));
  return folders.at(-1)!;
}

interface Run {
  readonly device: Device;
  readonly steps: number;
  readonly config?: ModelConfigInput;
  readonly dtype?: "f32" | "bf16";
  readonly accumulate?: number;
  /** Checkpoints are made here, and the newest one there is the start. */
  readonly directory?: string;
}

/** Trains and returns the losses. */
async function train({ device, steps, directory, accumulate = 1, ...options }: Run) {
  useDevice(device);
  const config = { ...(options.config ?? kinds["7B and sLSTM blocks"]), dtype: "f32" as const };
  const model = xlstm({ ...config, dtype: options.dtype ?? "f32" }, { seed: 3 });
  const optimizer = adamw(model.parameters(), { lr: 5e-3, weightDecay: 0.1, gradClipNorm: 1 });
  disposables.push(model, optimizer);
  const run = { model, optimizer, stream: text.batches({ size: 2, length: 12, seed: 5 }), seed: 7 };
  const recipe = { model: config as Json };
  const checkpoints = directory
    ? new Checkpoints(directory, { every: 0, recipe, warn: () => {} })
    : undefined;
  const start = checkpoints?.restore(run)?.step;
  const losses: number[] = [];
  const onStep = ({ loss }: { loss: number }) => void losses.push(loss);
  const trainer = new Trainer({ ...run, checkpoints, steps, start, accumulate, onStep });
  const { checkpoint } = await trainer.run();
  return { losses, checkpoint, run };
}

describe("losses", () => {
  test.each(Object.entries(kinds))(
    "thirty steps in f32, %s: every one is the CPU's",
    async (_, config) => {
      const want = await train({ device: "cpu", steps: 30, config });
      const got = await train({ device: "cuda", steps: 30, config });
      expect(got.losses).toHaveLength(30);
      const apart = got.losses.map((loss, i) => Math.abs(loss - want.losses[i]!));
      expect(Math.max(...apart)).toBeLessThan(1e-3);
      expect(got.losses.at(-1)!).toBeLessThan(0.7 * got.losses[0]!);
    },
  );

  test("bf16 follows f32", async () => {
    const want = await train({ device: "cpu", steps: 12 });
    const got = await train({ device: "cuda", steps: 12, dtype: "bf16" });
    const apart = got.losses.map((loss, i) => Math.abs(loss / want.losses[i]! - 1));
    expect(Math.max(...apart)).toBeLessThan(2e-2);
  });

  test("a batch in two pieces", async () => {
    const want = await train({ device: "cpu", steps: 6, accumulate: 2 });
    const got = await train({ device: "cuda", steps: 6, accumulate: 2 });
    const apart = got.losses.map((loss, i) => Math.abs(loss - want.losses[i]!));
    expect(Math.max(...apart)).toBeLessThan(1e-4);
  });
});

test("two runs on the GPU have the same bits", async () => {
  const [first, second] = [folder(), folder()];
  const a = await train({ device: "cuda", steps: 5, directory: first });
  const b = await train({ device: "cuda", steps: 5, directory: second });
  expect(hashes(b.checkpoint!)).toEqual(hashes(a.checkpoint!));
});

describe("checkpoints", () => {
  const pairs: [Device, Device][] = [
    ["cuda", "cpu"],
    ["cpu", "cuda"],
  ];

  test.each(pairs)("made on %s, loaded on %s: every bit", async (from, to) => {
    const directory = folder();
    const before = await train({ device: from, steps: 4, directory });
    // Four steps are taken: it only loads.
    const after = await train({ device: to, steps: 4, directory });
    const bytes = ({ run }: typeof before) =>
      [...run.model.parameters()].map(([name, parameter]) => {
        return [name, parameter.device, [...parameter.dataSync()]] as const;
      });
    const moments = ({ run }: typeof before) =>
      [...run.optimizer.state().tensors].map(([name, moment]) => [name, [...moment.dataSync()]]);
    expect(bytes(after)).toEqual(bytes(before).map(([name, , data]) => [name, to, data]));
    expect(moments(after)).toEqual(moments(before));
    expect(after.run.optimizer.updates).toBe(4);
  });

  test.each(pairs)("a run on %s goes on on %s", async (from, to) => {
    const directory = folder();
    const whole = await train({ device: "cpu", steps: 8 });
    const first = await train({ device: from, steps: 4, directory });
    const rest = await train({ device: to, steps: 8, directory });
    expect(rest.losses).toHaveLength(4);
    const apart = [...first.losses, ...rest.losses].map((loss, i) => {
      return Math.abs(loss - whole.losses[i]!);
    });
    expect(Math.max(...apart)).toBeLessThan(1e-4);
  });

  test("a resumed run on the GPU has the bits of an undisturbed one", async () => {
    const [whole, halves] = [folder(), folder()];
    const want = await train({ device: "cuda", steps: 6, directory: whole });
    await train({ device: "cuda", steps: 3, directory: halves });
    const got = await train({ device: "cuda", steps: 6, directory: halves });
    expect(hashes(got.checkpoint!)).toEqual(hashes(want.checkpoint!));
  });
});

test("the first weights are the same bits on both devices", () => {
  const weights = (device: Device) =>
    onDevice(device, () => {
      const model = xlstm({ ...kinds["7B and sLSTM blocks"], dtype: "f32" }, { seed: 3 });
      disposables.push(model);
      return [...model.parameters()].map(([name, parameter]) => [name, [...parameter.dataSync()]]);
    });
  expect(weights("cuda")).toEqual(weights("cpu"));
});

/** Names and hashes of everything a checkpoint holds. */
function hashes(path: string): string[] {
  return readManifest(path).tensors.map(({ name, hash }) => `${name} ${hash}`);
}
