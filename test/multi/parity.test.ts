// The parity table's representative third: every mesh gives the numbers of one process.

import { expect, test } from "bun:test";
import { join } from "node:path";
import { someMeshes } from "../../lib/parity/meshes.ts";
import type { MeshRow } from "../../lib/parity/session.ts";

const root = join(import.meta.dir, "../..");

function parity(...settings: string[]) {
  const env = { ...process.env, XL_THREADS: "1" };
  const args = [process.execPath, "recipes/parity.ts", "--json", ...settings];
  const { stdout, stderr, exitCode } = Bun.spawnSync(args, { cwd: root, env });
  const lines = stdout.toString().trim().split("\n");
  return { rows: lines.map((line) => JSON.parse(line) as MeshRow), stderr, exitCode };
}

test("meshes of 1 to 8 ranks: losses, gradients, norms and weights", () => {
  const { rows, stderr, exitCode } = parity("meshes=some", "thorough=false");
  expect(rows.flatMap(({ misses }) => misses)).toEqual([]);
  expect(exitCode, stderr.toString()).toBe(0);
  expect(rows.map(({ mesh, precision }) => `${mesh} ${precision}`)).toEqual(
    ["f64", "f32"].flatMap((precision) => someMeshes.map((mesh) => `${mesh} ${precision}`)),
  );
  for (const { mesh, precision, blocks, gradientError, hash } of rows) {
    const isSplit = mesh.at(-1) !== "1";
    const bar = { f64: 1e-12, f32: 2e-6 }[precision];
    expect(gradientError, `${mesh} ${precision}`).toBeLessThanOrEqual(isSplit ? bar : 0);
    if (isSplit || blocks !== 2) continue;
    const alone = rows.find((row) => row.mesh === "1111" && row.precision === precision)!;
    expect(hash, `${mesh} ${precision}`).toBe(alone.hash);
  }
}, 400_000);
