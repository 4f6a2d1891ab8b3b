// From the gradients that this rank's passes left to those that its optimizer takes: sums over the
// axes of the data, over tp where a layer left a summand, and over the two stages that share tied
// weights (mesh.md §6, §7, §10.6).

import type { Tensor } from "../tensor/index.ts";
import { addUp } from "./accumulate.ts";
import type { Group } from "./group.ts";
import type { Mesh } from "./mesh.ts";
import { allReduceTogether, PartialSums } from "./reduce.ts";
import type { Shards, Slice } from "./shards.ts";
import type { Axis } from "./topology.ts";

/** Axes whose ranks see different rows, in the order in which they are summed over. */
const dataAxes = ["fsdp", "dp"] as const satisfies readonly Axis[];

/** A gradient on its way: of the elements of a slice. */
interface Open {
  readonly slice: Slice;
  gradient: Tensor;
}

/**
 * The gradients of a step by the tensors that the optimizer updates (`Slice.tensor`), complete.
 * `local` are the sums over this rank's microbatches by leaf, which are used up. LayoutError when
 * an axis is left over which a gradient is still a partial sum. Every rank of the mesh calls it.
 */
export function reduceGradients(
  shards: Shards,
  mesh: Mesh,
  local: ReadonlyMap<Tensor, Tensor>,
): Map<Tensor, Tensor> {
  const slices = [...shards.slices.values()];
  const axes = dataAxes.filter((axis) => mesh.size(axis) > 1);
  const sums = new PartialSums(
    slices.map((slice) => leftOver(slice, mesh)),
    axes,
  );
  // The sums over the data have run beside the backward pass, or end here.
  const complete = shards.fsdp ? new Map(shards.fsdp.gradients()) : local;
  const open: Open[] = slices.flatMap((slice) => {
    const gradient = complete.get(slice.tensor);
    return gradient ? [{ slice, gradient }] : [];
  });
  // What is still among the local ones was not summed over any of them.
  for (const { name, leaf } of slices) {
    if (!local.has(leaf)) for (const axis of axes) sums.reduced(name, axis);
  }
  const overTp = slices.filter(({ name }) => sums.has(name, "tp"));
  const summands = open.filter(({ slice }) => overTp.includes(slice));
  sumOver(summands, mesh.group("tp"), "gradients over tp");
  for (const { name } of overTp) sums.reduced(name, "tp");
  for (const item of open.filter(({ slice }) => slice.isTied)) {
    item.gradient = sumOfStages(item, mesh.group("pp"));
  }
  // A rank that owns no element of a tied table has nothing to sum, and is done with it as well.
  for (const { name, isTied } of slices) if (isTied) sums.reduced(name, "pp");
  sums.expectNone();
  return new Map(open.map(({ slice, gradient }) => [slice.tensor, gradient]));
}

/** What a slice's gradient is a partial sum over besides the data, on this mesh. */
function leftOver({ name, leaf, isTied }: Slice, mesh: Mesh) {
  const partial = leaf.partial.filter((axis) => mesh.size(axis) > 1);
  return { name, partial: isTied ? ([...partial, "pp"] as const) : partial };
}

function sumOver(items: readonly Open[], group: Group, site: string): void {
  const sums = allReduceTogether(
    items.map(({ gradient }) => gradient),
    group,
    site,
  );
  items.forEach((item, i) => (item.gradient = sums[i]!));
}

/** The sum of what the first and the last stage have of a tied tensor, on both. */
function sumOfStages({ slice, gradient }: Open, pp: Group): Tensor {
  const site = `gradient of ${slice.name}`;
  const peer = pp.rank === 0 ? pp.size - 1 : 0;
  const { shape, dtype } = gradient;
  const other = pp.exchange({ x: gradient, peer, site }, { shape, dtype, peer, site });
  return pp.rank === 0 ? addUp(gradient, other) : addUp(other, gradient);
}
