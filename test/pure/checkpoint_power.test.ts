import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { type Files } from "../../lib/checkpoint/files.ts";
import { latestCheckpoint, saveCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { verifyCheckpoint } from "../../lib/checkpoint/verify.ts";
import { bytesTensor } from "./checkpoint_fixture.ts";
import { DiskModel } from "./disk_model.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-power-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function contents(step: number) {
  const tensors = [["w", bytesTensor("f32", [40], step)]] as const;
  return { step, tensors, recipe: {}, data: {}, rng: {} };
}

function newModel(name: string): { top: string; model: DiskModel } {
  const top = join(folder, name);
  mkdirSync(top);
  return { top, model: new DiskModel(top) };
}

/** Calls `after` when an operation is done, with the number of operations so far. */
function watched(files: Files, after: (count: number) => void): Files {
  let count = 0;
  const wrapped = Object.entries(files).map(([name, operation]) => [
    name,
    (...args: never[]) => {
      const result = (operation as (...args: never[]) => unknown)(...args);
      after(++count);
      return result;
    },
  ]);
  return Object.fromEntries(wrapped) as Files;
}

test("bytes before names, names before the commit, that before `latest` and deletions", () => {
  const { top, model } = newModel("log");
  const keep = { newest: 1 };
  saveCheckpoint(join(top, "runs/checkpoints"), contents(1), { files: model.files, keep });
  expect(model.log.slice(0, 4)).toEqual([
    "makeDirectory runs",
    "syncDirectory .",
    "makeDirectory runs/checkpoints",
    "syncDirectory runs",
  ]);
  model.log.length = 0;
  saveCheckpoint(join(top, "runs/checkpoints"), contents(2), { files: model.files, keep });
  const at = "runs/checkpoints";
  const made = `${at}/step-2.tmp`;
  expect(model.log.map((line) => line.replace(/(\.tmp\/rank-0.safetensors)\.tmp$/, "$1"))).toEqual([
    `makeDirectory ${made}`,
    `create ${made}/rank-0.safetensors`,
    `write ${made}/rank-0.safetensors`,
    `write ${made}/rank-0.safetensors`,
    `sync ${made}/rank-0.safetensors`,
    `close ${made}/rank-0.safetensors`,
    `rename ${made}/rank-0.safetensors`,
    `syncDirectory ${made}`,
    `create ${made}/manifest.json`,
    `write ${made}/manifest.json`,
    `sync ${made}/manifest.json`,
    `close ${made}/manifest.json`,
    `syncDirectory ${made}`,
    `rename ${at}/step-2`,
    `syncDirectory ${at}`,
    `create ${at}/latest.tmp`,
    `write ${at}/latest.tmp`,
    `sync ${at}/latest.tmp`,
    `close ${at}/latest.tmp`,
    `rename ${at}/latest`,
    `rename ${at}/step-1.del`,
    `remove ${at}/step-1.del`,
  ]);
});

for (const names of ["durable", "entries"] as const) {
  const kind = names === "durable" ? "are lost" : "reach the disk before the bytes";
  test(`power cut after every operation, names ${kind}: a sound checkpoint, none damaged`, () => {
    const { top, model } = newModel("disk");
    const directory = join(top, "checkpoints");
    saveCheckpoint(directory, contents(1), { files: model.files });
    const found = new Map<string, number>();
    const inspect = (count: number) => {
      const image = join(folder, `image-${count}`);
      model.image(image, names);
      const lines: string[] = [];
      const warn = (line: string) => lines.push(line);
      const path = latestCheckpoint(join(image, "checkpoints"), { warn });
      expect(lines).toEqual([]);
      verifyCheckpoint(path!);
      const step = basename(path!);
      found.set(step, (found.get(step) ?? 0) + 1);
    };
    const files = watched(model.files, inspect);
    saveCheckpoint(directory, contents(2), { files, keep: { newest: 1 } });
    expect([...found.keys()]).toEqual(["step-1", "step-2"]);
    // What saveCheckpoint has returned from is there for good.
    model.image(join(folder, "end"), names);
    expect(latestCheckpoint(join(folder, "end/checkpoints"))).toEndWith("step-2");
  });
}

test("the model sees a forgotten sync of bytes, of names, and of the commit", () => {
  const forget = (operation: "sync" | "syncDirectory", which: RegExp, settled: boolean) => {
    const { top, model } = newModel(`forget-${operation}-${which.source.length}`);
    const directory = join(top, "c");
    saveCheckpoint(directory, contents(1), { files: model.files });
    const real = model.files[operation] as (argument: never) => void;
    const skipped = (argument: never) => {
      if (operation === "sync" || which.test(String(argument))) return;
      real(argument);
    };
    const files = { ...model.files, [operation]: skipped };
    saveCheckpoint(directory, contents(2), { files, keep: { newest: 1 } });
    if (settled) model.files.syncDirectory(directory); // The deletion has reached the disk, too.
    const outcomes = (["durable", "entries"] as const).map((names) => {
      const image = `${top}-${names}`;
      model.image(image, names);
      const options = { warn: () => {}, allowFresh: true };
      return latestCheckpoint(join(image, "c"), options)?.slice(-6);
    });
    return outcomes;
  };
  expect(forget("sync", /./, true)).toEqual([undefined, undefined]);
  expect(forget("syncDirectory", /step-2\.tmp/, true)).toEqual([undefined, "step-2"]);
  expect(forget("syncDirectory", /\/c$/, false)).toEqual(["step-1", "step-2"]);
});
