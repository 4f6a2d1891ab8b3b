// The ranks of one launch go through all meshes of the table together; those that a small mesh has
// no place for wait. Rank 0 also makes the references, on its own, and compares.

import type { Rendezvous } from "../launch/rendezvous.ts";
import { connectGroups, Group } from "../mesh/group.ts";
import { Mesh } from "../mesh/mesh.ts";
import type { Device } from "../tensor/index.ts";
import { type Kind, kinds, type Precision } from "./cases.ts";
import { barsOf, compare, exact, type Miss } from "./compare.ts";
import { sizesOf, SubMesh } from "./meshes.ts";
import { type Case, hashOf, type Outcome, runCase } from "./run.ts";

export interface SessionOptions {
  readonly meshes: readonly string[];
  readonly precisions: readonly Precision[];
  /** Where all ranks compute. On GPUs nothing is asked to have the same bits. */
  readonly device: Device;
  /** Every combination of microbatch rows, recomputation and residual mode; or only one of each. */
  readonly isThorough: boolean;
  /** Told each row when it is there; on rank 0. */
  readonly onRow?: (row: MeshRow) => void;
}

/** A miss, and in which case. */
export interface CaseMiss extends Miss {
  readonly case: string;
}

/** One mesh of the table. */
export interface MeshRow {
  /** Ranks of pp, dp, fsdp, tp as four digits. */
  readonly mesh: string;
  readonly precision: Precision;
  readonly blocks: number;
  readonly cases: number;
  /** Largest relative error of a gradient in all cases. */
  readonly gradientError: number;
  /** Gradient norm and hash of all gradients, norms and final weights of the first case. */
  readonly norm: number;
  readonly hash: string;
  readonly misses: readonly CaseMiss[];
  readonly seconds: number;
}

/** What a session runs in: the launch of all ranks, or nothing for one rank. */
export type Run = Rendezvous | undefined;

/** Seconds that ranks without a place in a mesh may have to wait. */
export const patience = 7200;

/** Every rank of a run calls this; rank 0 gets the rows, the others an empty list. */
export async function runSession(run: Run, options: SessionOptions): Promise<MeshRow[]> {
  const ranks = Array.from({ length: run?.size ?? 1 }, (_, rank) => rank);
  const { device } = options;
  const waits = { deadline: patience, callDeadline: patience };
  using world = run
    ? await connectGroups(run, "world", ranks, device, waits)
    : Group.local("world");
  const references = new References(device);
  const rows: MeshRow[] = [];
  for (const precision of options.precisions) {
    for (const name of options.meshes) {
      world.barrier("before the next mesh");
      using member = await SubMesh.of(run, name, device);
      if (!member) continue;
      const cases = casesOf(name, precision, options);
      const row = { precision, ...runMesh(member, cases, references) };
      if (world.rank > 0) continue;
      options.onRow?.(row);
      rows.push(row);
    }
  }
  world.barrier("the end");
  return rows;
}

function runMesh(
  { name, mesh }: SubMesh,
  cases: readonly Case[],
  references: References,
): Omit<MeshRow, "precision"> {
  const start = performance.now();
  const misses: CaseMiss[] = [];
  let gradientError = 0;
  let first: Outcome | undefined;
  for (const one of cases) {
    const outcome = runCase(mesh, one);
    first ??= outcome;
    // Only rank 0 compares; the others have the same numbers.
    if (mesh.rank > 0) continue;
    const isExact = mesh.size("tp") === 1 && mesh.device === "cpu";
    const result = compare(outcome, references.of(one), isExact ? exact : barsOf(one, mesh.device));
    gradientError = Math.max(gradientError, result.gradientError);
    misses.push(...result.misses.map((miss) => ({ ...miss, case: labelOf(one) })));
  }
  const { blocks } = cases[0]!;
  const norm = first!.norms[0]!;
  const hash = fingerprint(first!);
  const seconds = (performance.now() - start) / 1000;
  const facts = { mesh: name, blocks, cases: cases.length };
  return { ...facts, gradientError, norm, hash, misses, seconds };
}

/** All cases of a mesh; the first one is the same for all meshes of as many blocks. */
export function casesOf(
  name: string,
  dtype: Precision,
  { isThorough }: Pick<SessionOptions, "isThorough">,
): Case[] {
  const { pp = 1, tp = 1, dp = 1, fsdp = 1 } = sizesOf(name);
  const blocks = pp > 2 ? 8 : 2;
  const shared = { dtype, blocks };
  const residuals = tp > 1 ? (["sequence", "replicated"] as const) : (["sequence"] as const);
  const of = (kind: Kind, turn: number): Case[] => {
    const all = [1, 2].flatMap((microbatchRows) =>
      (["none", "block"] as const).flatMap((recompute) =>
        residuals.map((residual) => ({ ...shared, kind, microbatchRows, recompute, residual })),
      ),
    );
    // One case per kind goes through the combinations from kind to kind and mesh to mesh.
    return isThorough ? all : [all[(turn * 3 + (turn > 0 ? dp + 2 * fsdp : 0)) % all.length]!];
  };
  return kinds.flatMap(of);
}

/** Runs on one process, each made once. */
class References {
  readonly #made = new Map<string, Outcome>();
  readonly #mesh: Mesh;

  constructor(device: Device) {
    this.#mesh = Mesh.single(device);
  }

  of(one: Case): Outcome {
    const plain: Case = { ...one, recompute: "none", residual: "sequence" };
    const key = labelOf(plain);
    let outcome = this.#made.get(key);
    if (!outcome) this.#made.set(key, (outcome = runCase(this.#mesh, plain)));
    return outcome;
  }
}

function labelOf({ kind, blocks, dtype, microbatchRows, recompute, residual }: Case): string {
  const rows = `${microbatchRows} ${microbatchRows === 1 ? "row" : "rows"} a microbatch`;
  return `${kind}, ${blocks} blocks, ${dtype}, ${rows}, recompute ${recompute}, ${residual}`;
}

/** A hash of everything that must not depend on dp, fsdp and pp. */
function fingerprint({ losses, norms, gradients, weights }: Outcome): string {
  const all = new Map([
    ...gradients,
    ...[...weights].map(([name, x]) => [`w ${name}`, x] as const),
  ]);
  return hashOf(all, [...losses, ...norms]);
}
