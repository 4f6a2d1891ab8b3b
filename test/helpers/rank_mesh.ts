// The mesh of a test's ranks: coordinates, and a group for every axis that has several ranks.

import { connectGroups, Group } from "../../lib/mesh/group.ts";
import { configure } from "../../lib/native/library.ts";
import { type Device, useDevice } from "../../lib/tensor/index.ts";
import { type Axis, axes, type MeshSizes, Topology } from "../../lib/mesh/topology.ts";
import type { ModelMesh } from "../../lib/nn/context.ts";
import type { FileBootstrap } from "./ranks.ts";

/** Connects this rank with those that it shares an axis with; `device` becomes the default one. */
export async function meshOf(
  bootstrap: FileBootstrap,
  sizes: MeshSizes,
  device: Device = "cpu",
): Promise<ModelMesh> {
  const { rank, size: world } = bootstrap;
  if (device === "cuda") configure({ gpu: process.env["XL_CUDA_DRIVER"] ? 0 : rank });
  useDevice(device);
  const topology = new Topology(sizes, { world });
  const groups = new Map<Axis, Group>();
  for (const axis of axes) {
    const ranks = topology.group(rank, [axis]);
    const name = `${axis} of ${ranks.join(" and ")}`;
    const connected =
      ranks.length > 1 ? await connectGroups(bootstrap, name, ranks, device) : undefined;
    groups.set(axis, connected ?? Group.local());
  }
  return {
    size: (axis) => topology.size(axis),
    coordinate: (axis) => topology.coordinate(rank, axis),
    group: (axis) => groups.get(axis!)!,
  };
}
