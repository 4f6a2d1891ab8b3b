// Which part of each parameter lies on a rank, and which gradients are partial sums there (mesh.md
// §8.1 to §8.5, §10.6).

import { tensorParallelSplit } from "../mesh/layout.ts";
import { place } from "../mesh/placement.ts";
import type { Axis } from "../mesh/topology.ts";
import { blockKinds, type ModelConfig, mlstmWidths } from "./config.ts";
import type { Share } from "./parameter.ts";
import type { ParameterSpec } from "./parameters.ts";
import type { Stage } from "./stages.ts";
import type { TensorParallel } from "./tensor_parallel.ts";

/** The part of a parameter that lies on this rank. */
export function shareOf(
  { name, shape }: ParameterSpec,
  config: ModelConfig,
  tp: TensorParallel,
  stage: Stage,
): Share {
  const partial: Axis[] = [];
  // A tied table is used on the first and on the last stage, each of which has a copy.
  const isTied = config.tieEmbeddings && name === "embedding.table";
  if (isTied && stage.count > 1) partial.push("pp");
  if (tp.size === 1) return { placement: place(shape, undefined, 0, 1), partial };
  const model = { kinds: blockKinds(config), gateSegments: gateSegments(config) };
  const layout = tensorParallelSplit(name, shape, model, tp.mode);
  if (layout.partial) partial.push("tp");
  return { placement: place(shape, layout.split, tp.rank, tp.size), partial };
}

/** Dense gates of a paper block read the channels of all heads: of q, k and v, each by head. */
export function gateSegments(config: ModelConfig): readonly number[] | undefined {
  if (!blockKinds(config).includes("paper") || config.mlstm.gateInput !== "qkv") return undefined;
  const { query, value } = mlstmWidths(config, "paper");
  return [query, query, value];
}
