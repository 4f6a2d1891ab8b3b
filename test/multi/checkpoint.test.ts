// Ranks as processes that save together: what they agree on, and what is left when some of them are
// killed in the middle.

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { readManifest } from "../../lib/checkpoint/manifest.ts";
import { PartReader } from "../../lib/checkpoint/part_reader.ts";
import { wholePart, wholePlacement } from "../../lib/checkpoint/pieces.ts";
import { latestCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { savingShared } from "../../lib/checkpoint/shared.ts";
import { verifyCheckpoint } from "../../lib/checkpoint/verify.ts";
import { startRanks, valuesOf } from "../helpers/ranks.ts";
import {
  onRanks,
  threePieces,
  threeTensors,
  valuesOf as valuesOfRanks,
} from "../pure/checkpoint_ranks.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-multi-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

interface Said {
  readonly latest?: string;
  readonly told?: string;
}

function start(directory: string, victims: string, operation: number) {
  return startRanks("rank_checkpoint.ts", 3, [directory, victims, String(operation)]);
}

/** The checkpoint is sound and holds every byte of the tensors of its step. */
function expectSound(path: string): number {
  const manifest = verifyCheckpoint(path);
  const step = Number(basename(path).slice(5));
  const reader = new PartReader(path, manifest);
  const stored = new Map(manifest.tensors.map((tensor) => [tensor.name, tensor]));
  for (const { name, shape, bytes } of Object.values(threeTensors(step))) {
    const found = reader.read(stored.get(name)!, wholePart(wholePlacement(shape)));
    expect({ name, same: Buffer.compare(found, bytes) }).toEqual({ name, same: 0 });
  }
  return step;
}

test("three processes save, find and verify one checkpoint", async () => {
  const directory = join(folder, "checkpoints");
  const said = await valuesOf<Said>(start(directory, "", 0));
  const path = join(directory, "step-2");
  expect(said).toEqual([{ latest: path }, { latest: path }, { latest: path }]);
  expect(expectSound(path)).toBe(2);
  expect(readManifest(path).recipe).toEqual({ name: "drei — \ud83e\udd95" });
  expect(readdirSync(directory).sort()).toEqual(["latest", "step-2"]);
}, 60_000);

/** Operations of the second save, spread over all of them; rank 0 does more of them. */
const kills: [string, number[]][] = [
  ["0", [1, 3, 6, 9, 11, 13, 16, 18, 20]],
  ["1", [1, 3, 5, 7]],
  ["0,1,2", [2, 6]],
  ["0,1,2", [13, 17]],
];

for (const [victims, operations] of kills) {
  for (const operation of operations) {
    test(`kill -9 of rank ${victims} at operation ${operation} of a save`, async () => {
      const directory = join(folder, "checkpoints");
      const results = await start(directory, victims, operation).results();
      const dead = results.filter(({ signal }) => signal === "SIGKILL");
      expect(dead.length).toBeGreaterThan(0);
      for (const { value, error, signal } of results) {
        if (signal === "SIGKILL") continue;
        expect(error).toBeUndefined();
        // A survivor is told of the peer, whenever it needs it next.
        const { told } = value as Said;
        expect(told).toMatch(new RegExp(`rank [${victims}] .*has died`));
        expect(told).not.toContain("was not saved");
      }
      const lines: string[] = [];
      const latest = latestCheckpoint(directory, { warn: (line) => lines.push(line) });
      expect(lines).toEqual([]);
      expect([1, 2]).toContain(expectSound(latest!));
      const again = onRanks(3, (place) => {
        const contents = { step: 3, pieces: threePieces(3, place.rank), mesh: { tp: 3 } };
        const facts = { recipe: {}, data: {}, rng: {} };
        const options = { keep: { newest: 1 } };
        return savingShared(directory, { ...contents, ...facts }, place, options);
      });
      expect(expectSound(valuesOfRanks(again)[0]!)).toBe(3);
      expect(readdirSync(directory).sort()).toEqual(["latest", "step-3"]);
    }, 60_000);
  }
}
