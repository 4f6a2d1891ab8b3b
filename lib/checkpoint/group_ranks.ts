// Telling between real ranks: texts travel as bytes through a group of the mesh.

import type { Group } from "../mesh/group.ts";
import { tensor } from "../tensor/create.ts";
import { onDevice } from "../tensor/device.ts";
import { scope } from "../tensor/scope.ts";
import { noGrad } from "../tensor/tape.ts";
import { alone, type Ranks } from "./agreement.ts";

/** The ranks of a group, which save and load together. */
export function ranksOf(group: Group): Ranks {
  if (group.size === 1) return alone;
  const { rank, size } = group;
  const exchange = (text: string) =>
    noGrad(() => scope(() => onDevice(group.device, () => told(group, text))));
  return { rank, size, exchange };
}

function told(group: Group, text: string): string[] {
  const bytes = new TextEncoder().encode(text);
  const own = tensor(Int32Array.of(bytes.length));
  const lengths = group.allGather(own, 0, "checkpoint lengths").dataSync();
  const longest = Math.max(...lengths);
  const padded = new Uint8Array(longest);
  padded.set(bytes);
  const mine = tensor(padded, { shape: [1, longest] });
  const all = group.allGather(mine, 0, "checkpoint texts").dataSync() as Uint8Array;
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return Array.from(lengths, (length, rank) =>
    decoder.decode(all.subarray(rank * longest, rank * longest + length)),
  );
}
