// What a pipeline stage does in which order (mesh.md §10): one forward, one backward.

import { native } from "../native/library.ts";
import { int32 } from "../tensor/tensor.ts";
import { takeRows } from "./lists.ts";

export interface PipelineOp {
  readonly kind: "forward" | "backward";
  readonly microbatch: number;
  /** Chunk of the model on this stage; virtual stage of chunk c on stage s is c * stages + s. */
  readonly chunk: number;
}

/**
 * The op list of `stage`. Backwards visit the microbatches in order. With `chunks` above 1 the
 * order is the interleaved one, which needs microbatches that `stages` divides.
 */
export function schedule(
  stages: number,
  microbatches: number,
  stage: number,
  chunks = 1,
): PipelineOp[] {
  const counts = [stages, microbatches, chunks, stage].map((n) => int32(n, "a count"));
  const rows = takeRows(native().xl_mesh_schedule(...counts), "schedule", 3);
  return rows.map(([kind, microbatch, chunk]) => ({
    kind: kind === 0 ? "forward" : "backward",
    microbatch: microbatch!,
    chunk: chunk!,
  }));
}
