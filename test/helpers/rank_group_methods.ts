// A rank of test/multi/group.test.ts and nccl.test.ts: all methods of the world, of rows and of
// columns; sums of several slices.

import { type Bootstrap, connectGroups, type Group } from "../../lib/mesh/group.ts";
import { gpuFacts } from "../../lib/native/gpu.ts";
import { configure } from "../../lib/native/library.ts";
import type { Device, DType } from "../../lib/tensor/index.ts";
import { scope, tensor, useDevice } from "../../lib/tensor/index.ts";
import { Random } from "./random.ts";
import { checkMessages, checkMethods } from "./rank_group.ts";
import { runRank } from "./ranks.ts";

/** Rounding values, of more than one slice of the shared memory: the stated tree's bits. */
function checkBits(group: Group): void {
  const size = 1_060_003;
  const inputs = group.ranks.map((_, rank) => {
    const random = new Random(rank);
    return Float32Array.from({ length: size }, () => random.next() - 0.5);
  });
  const tree = (i: number, from: number, to: number): number => {
    if (to - from === 1) return inputs[from]![i]!;
    let left = 1;
    while (left * 2 < to - from) left *= 2;
    return Math.fround(tree(i, from, from + left) + tree(i, from + left, to));
  };
  const sum = group.allReduce(tensor(inputs[group.rank]!), { site: "bits" }).dataSync();
  for (let i = 0; i < size; i += i > size - 1000 ? 1 : 13) {
    const want = tree(i, 0, group.size);
    if (sum[i] !== want) throw new Error(`element ${i} is ${sum[i]}, the tree gives ${want}`);
  }
}

/** What is free when NCCL has let go of groups: it does so in a thread of its own. */
async function freeBytes(): Promise<number> {
  let most = 0;
  for (let look = 0; look < 20; look++) {
    await Bun.sleep(50);
    most = Math.max(most, gpuFacts().freeBytes);
  }
  return most;
}

/** Groups come and go; the memory of the GPU does not go with them. */
async function checkAgain(bootstrap: Bootstrap, ranks: readonly number[]): Promise<void> {
  const rounds = async (count: number) => {
    for (let round = 0; round < count; round++) {
      const group = await connectGroups(bootstrap, "again", ranks, "cuda");
      scope(() => group.allReduce(tensor([1])).dataSync());
      group.dispose();
    }
    return freeBytes();
  };
  const lost = (await rounds(4)) - (await rounds(8));
  if (lost > 32 * 2 ** 20) throw new Error(`${lost} bytes of the GPU are lost in 8 groups`);
}

await runRank(async (bootstrap, [chosen]) => {
  const { rank, size } = bootstrap;
  const device = chosen as Device;
  if (device === "cuda") configure({ gpu: process.env["XL_CUDA_DRIVER"] ? 0 : rank });
  useDevice(device);
  const everybody = Array.from({ length: size }, (_, i) => i);
  const groups = [await connectGroups(bootstrap, "world", everybody, device)];
  if (size === 4) {
    const row = rank < 2 ? [0, 1] : [2, 3];
    const column = rank % 2 === 0 ? [2, 0] : [3, 1]; // not in order of their numbers
    groups.push(await connectGroups(bootstrap, "row", row, device));
    groups.push(await connectGroups(bootstrap, "column", column, device));
  }
  // The other way to groups: out of one that exists.
  const reversed = groups[0]!.split(0, -rank, "reversed")!;
  if (reversed.ranks.join() !== everybody.toReversed().join()) throw new Error(`${reversed.ranks}`);
  groups.push(reversed);
  const odd = groups[0]!.split(rank % 2 === 0 ? -1 : 3, 0, "odd");
  if ((odd === undefined) !== (rank % 2 === 0)) throw new Error("a group without a color");
  odd?.dispose();
  const dtypes: DType[] = device === "cuda" ? ["f32", "bf16"] : ["f32", "f64", "bf16", "i32", "u8"];
  let checked = 0;
  for (const dtype of dtypes) {
    for (const group of groups) {
      const n = group.size;
      for (const shape of [[n], [2 * n, n], [1, n, 3 * n], [n, 5 * n, n, 2 * n], [0, n]]) {
        scope(() => checkMethods(group, shape, dtype));
        scope(() => checkMessages(group, shape, dtype));
        checked++;
      }
    }
  }
  if (device === "cpu") scope(() => checkBits(groups[0]!));
  else await checkAgain(bootstrap, everybody);
  for (const group of groups) group.barrier("end");
  for (const group of groups.reverse()) group.dispose();
  return checked;
});
