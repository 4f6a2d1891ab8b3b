// The mesh-parity table: every mesh gives the gradients of one process.
//
//   bun run parity                                # all 35 meshes, on 8 ranks of this machine
//   bun run parity meshes=1121,2112 dtype=f32     # some of them

import { z } from "zod";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { ExitCode, UsageError } from "../lib/cli/exit.ts";
import { detectEnvironment, gpuOrdinal } from "../lib/launch/environment.ts";
import { launch } from "../lib/launch/launcher.ts";
import { join } from "../lib/launch/rendezvous.ts";
import { type Precision, precisions } from "../lib/parity/cases.ts";
import { allMeshes, sizesOf, someMeshes } from "../lib/parity/meshes.ts";
import { configure } from "../lib/native/library.ts";
import { type Device, useDevice } from "../lib/tensor/index.ts";
import { headOf, lineOf } from "../lib/parity/report.ts";
import { type MeshRow, patience, runSession } from "../lib/parity/session.ts";

const schema = z.strictObject({
  ranks: z.int().min(1).default(8).describe("processes to start; larger meshes are left out"),
  meshes: z
    .string()
    .default("all")
    .describe("all, some, or a list: ranks of pp dp fsdp tp as digits, 1121,2112"),
  dtype: z
    .enum([...precisions, "both"])
    .default("both")
    .describe("f64 tells a wrong factor best"),
  device: z.enum(["cpu", "cuda"]).default("cpu").describe("cuda: a GPU per rank, f32 alone"),
  thorough: z.boolean().default(true).describe("every microbatch size and recomputation; or one"),
  json: z.boolean().default(false).describe("one JSON line per mesh"),
});

const recipe = defineRecipe({
  name: "parity",
  description: "Trains small models on every mesh and compares with one process.",
  schema,
  examples: [
    { command: "bun run parity", what: "the whole table" },
    { command: "bun run parity meshes=some thorough=false", what: "a third of it, as CI does" },
  ],
  async run(settings, { argv }) {
    const place = detectEnvironment();
    if (place.world === 1 && settings.ranks > 1) {
      const command = [process.execPath, import.meta.path, ...argv];
      return launch({ command, ranks: settings.ranks });
    }
    const meshes = chosen(settings.meshes, place.world);
    const { device } = settings;
    if (device === "cuda") configure({ gpu: gpuOrdinal(place.localRank, process.env) });
    useDevice(device);
    const facts = { host: "", pid: process.pid, device, version: "", abi: "", recipe: "" };
    const deadlines = { init: patience };
    const run = place.world > 1 ? await join(place, { facts, deadlines }) : undefined;
    const { dtype, thorough: isThorough } = settings;
    const chosenPrecisions = precisionsOf(dtype, device);
    const isFirst = place.rank === 0;
    if (isFirst && !settings.json) console.log(headOf());
    const onRow = (row: MeshRow) => print(row, settings.json);
    const options = { device, meshes, precisions: chosenPrecisions, isThorough, onRow };
    try {
      const rows = await runSession(run, options);
      run?.leave();
      return isFirst ? summary(rows, settings.json) : ExitCode.finished;
    } catch (error) {
      await run?.fail(error instanceof Error ? error.message : String(error), true, 1);
      throw error;
    }
  },
});

export default recipe;
if (import.meta.main) await runMain(recipe);

function precisionsOf(dtype: Precision | "both", device: Device): readonly Precision[] {
  if (device === "cpu") return dtype === "both" ? precisions : [dtype];
  if (dtype === "f64") throw new UsageError("dtype=f64: GPUs compute in f32; leave dtype out");
  return ["f32"];
}

/** Meshes of at most `world` ranks. */
function chosen(list: string, world: number): readonly string[] {
  const names = list === "all" ? allMeshes : list === "some" ? someMeshes : list.split(",");
  const fitting = names.filter((name) => sizesOf(name).world <= world);
  if (fitting.length > 0) return fitting;
  throw new UsageError(`meshes=${list} has none for ${world} ranks: give more ranks`);
}

function print(row: MeshRow, json: boolean): void {
  const colors = Boolean(process.stdout.isTTY) && !process.env["NO_COLOR"];
  console.log(json ? JSON.stringify(row) : lineOf(row, { colors }));
}

function summary(rows: readonly MeshRow[], json: boolean): number {
  const bad = rows.filter(({ misses }) => misses.length > 0);
  const cases = rows.reduce((sum, row) => sum + row.cases, 0);
  const passed = rows.length - bad.length;
  if (!json) console.log(`\n${passed} of ${rows.length} rows ok, ${cases} cases`);
  return bad.length === 0 ? ExitCode.finished : ExitCode.failed;
}
