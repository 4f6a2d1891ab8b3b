// Head and cross entropy when the vocabulary is split over the ranks of tp (mesh.md §9). Chunk by
// chunk of tokens, every rank makes the logits of its own ids; what it takes to know the softmax of
// the whole vocabulary are a maximum and a few sums per token. As in `linearCrossEntropy`,
// gradients are made in the forward pass, while the chunk is there.

import { check, native } from "../native/library.ts";
import {
  add,
  arithmetic,
  cast,
  concat,
  type Device,
  div,
  type DType,
  eq,
  log,
  type LossOptions,
  type LossSum,
  lt,
  mul,
  noGrad,
  onDevice,
  ones,
  reshape,
  scope,
  select,
  slice,
  square,
  stack,
  sub,
  sum,
  tanh,
  type Tensor,
  where,
} from "../tensor/index.ts";
import { factorOf, scaled } from "../tensor/expected.ts";
import { product } from "../tensor/joint.ts";
import { partsOf } from "../tensor/shared_sums.ts";
import { needsGrad, record } from "../tensor/tape.ts";
import { codeOf, putFloats, putInts, result, results } from "../tensor/tensor.ts";
import type { Parameter } from "./parameter.ts";
import type { VocabularyPart } from "./vocabulary.ts";

/** Tokens and logits of a chunk at most; native/src/mesh/model.zig plans with the same. */
const limits: Record<Device, { readonly tokens: number; readonly logits: number }> = {
  cpu: { tokens: 4096, logits: 1 << 25 },
  cuda: { tokens: 8192, logits: 1 << 28 },
};

/** Gradients of a sum of losses that the forward pass has made. */
interface Slopes {
  /** [tokens, D]: a summand, over the ids of this rank. */
  readonly dhidden: Tensor;
  /** [rows, D]. */
  readonly dweight: Tensor;
}

interface ChunkLoss {
  /** [tokens]; 0 where not valid. */
  readonly losses: Tensor;
  readonly hits: Tensor;
  readonly slopes: Slopes | undefined;
}

/** Targets of a chunk of tokens. */
interface Labels {
  /** Rows of the targets in the local part of the head, and which of them lie here. */
  readonly rows: Tensor;
  readonly isHere: Tensor;
  /** The targets as numbers. */
  readonly ids: Tensor;
  /** 1 where the target counts. */
  readonly weights: Tensor;
}

/**
 * As `linearCrossEntropy` of hidden [.., D], whole on every rank of the part's group (R), and the
 * rows of the head's weight that lie here. The results are the same on all of them.
 */
export function splitCrossEntropy(
  hidden: Tensor,
  weight: Parameter,
  targets: Tensor,
  options: LossOptions,
  part: VocabularyPart,
): LossSum {
  const gradients = needsGrad(hidden, weight);
  const { loss, count, correct, perToken, slopes } = noGrad(() =>
    scope(() => ofAllChunks(hidden, weight, targets, options, { part, gradients })),
  );
  record("splitCrossEntropy", [hidden, weight], [loss], ([dloss]) => {
    using dhidden = slopes!.dhidden;
    using dweight = slopes!.dweight;
    const factor = factorOf(dloss!, options.expectedGradient ?? 1);
    return [
      hidden.requiresGrad ? scaled(dhidden, factor) : null,
      weight.requiresGrad ? cast(scaled(dweight, factor), weight.gradientDtype) : null,
    ];
  });
  return { loss, count, correct, perToken };
}

interface Work {
  readonly part: VocabularyPart;
  readonly gradients: boolean;
}

function ofAllChunks(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LossOptions,
  work: Work,
): LossSum & { slopes: Slopes | undefined } {
  const tokens = targets.size;
  const rows = reshape(hidden, [tokens, hidden.shape.at(-1)!]);
  const labels = labelsOf(targets, options.mask, work.part, arithmetic(hidden.dtype));
  const most = limits[hidden.device];
  const step = Math.min(most.tokens, Math.max(1, Math.floor(most.logits / work.part.most)));
  const losses: Tensor[] = [];
  const hits: Tensor[] = [];
  const dhidden: Tensor[] = [];
  let dweight: Tensor | undefined;
  for (let from = 0; from < tokens; from += step) {
    const to = Math.min(tokens, from + step);
    const cut = (x: Tensor) => slice(x, 0, from, to);
    const chunk = scope(() => {
      const own = {
        rows: cut(labels.rows),
        isHere: cut(labels.isHere),
        ids: cut(labels.ids),
        weights: cut(labels.weights),
      };
      return ofChunk(cut(rows), weight, own, options, work);
    });
    losses.push(chunk.losses);
    hits.push(chunk.hits);
    if (!chunk.slopes) continue;
    dhidden.push(chunk.slopes.dhidden);
    dweight = dweight ? replaced(dweight, chunk.slopes.dweight) : chunk.slopes.dweight;
  }
  const perToken = joined(losses);
  return {
    loss: sum(perToken),
    count: cast(sum(labels.weights), "i32"),
    correct: cast(sum(joined(hits)), "i32"),
    perToken: reshape(perToken, targets.shape),
    slopes: dweight && { dhidden: reshape(joined(dhidden), hidden.shape), dweight },
  };
}

/** Chunks of rows as one tensor. */
function joined(chunks: readonly Tensor[]): Tensor {
  return chunks.length === 1 ? chunks[0]! : concat(chunks);
}

/** a + b; both are used up. */
function replaced(a: Tensor, b: Tensor): Tensor {
  const total = add(a, b);
  a.dispose();
  b.dispose();
  return total;
}

function labelsOf(
  targets: Tensor,
  mask: Tensor | undefined,
  part: VocabularyPart,
  dtype: DType,
): Labels {
  const flat = cast(reshape(targets, [-1]), dtype);
  const weights = mask
    ? sub(1, eq(cast(reshape(mask, [-1]), dtype), 0))
    : onDevice(targets.device, () => ones(flat.shape, dtype));
  // What does not count may be no id at all.
  const ids = mask ? where(weights, flat, 0) : flat;
  const { rows, isHere } = part.find(cast(ids, "i32"));
  return { rows, isHere: cast(isHere, dtype), ids, weights };
}

function ofChunk(
  hidden: Tensor,
  weight: Tensor,
  labels: Labels,
  options: LossOptions,
  { part, gradients }: Work,
): ChunkLoss {
  const logits = product(hidden, weight, false, true, undefined, logitsDType(hidden));
  const softmax = softmaxOf(logits, labels, options, part);
  const { max, chosen, lower, lse, total } = softmax;
  const { labelSmoothing: smoothing = 0, zLoss = 0 } = options;
  let loss = sub(lse, mul(capped(chosen, options), 1 - smoothing));
  if (total) loss = sub(loss, mul(total, smoothing / part.size));
  if (zLoss !== 0) loss = add(loss, mul(square(lse), zLoss));
  const { weights } = labels;
  const losses = where(weights, loss, 0);
  const hits = mul(mul(eq(chosen, max), eq(lower, 0)), weights);
  if (!gradients) return { losses, hits, slopes: undefined };
  differentiate(logits, softmax, labels, options, part);
  const dlogits = cast(logits, hidden.dtype);
  return { losses, hits, slopes: products(dlogits, hidden, weight, part.group.size) };
}

/** On a GPU logits are stored as they are in a head of one process; on a CPU, as it adds. */
function logitsDType({ device, dtype }: Tensor): DType {
  return device === "cuda" ? dtype : arithmetic(dtype);
}

/** cap·tanh(logits/cap), where there is a cap. */
function capped(logits: Tensor, { softCap: cap }: LossOptions): Tensor {
  return cap ? mul(tanh(mul(logits, 1 / cap)), cap) : logits;
}

/** The softmax over the ids of all ranks, [tokens] each. z are the capped logits. */
interface Softmax {
  /** The largest logit, before the cap. */
  readonly max: Tensor;
  /** max z. */
  readonly top: Tensor;
  /** Σ e^(z − top). */
  readonly powers: Tensor;
  readonly lse: Tensor;
  /** The logit of the target. */
  readonly chosen: Tensor;
  /** Ranks with an id below the target that attains the maximum. */
  readonly lower: Tensor;
  /** Σ z, when labels are smoothed. */
  readonly total: Tensor | undefined;
}

function softmaxOf(
  logits: Tensor,
  labels: Labels,
  options: LossOptions,
  { group, first }: VocabularyPart,
): Softmax {
  const { rows, isHere, ids } = labels;
  const [best, own] = results(native().xl_argmax(logits.handle), "argmax") as [Tensor, Tensor];
  const largest = cast(own, isHere.dtype);
  const max = group.allReduce(largest, { op: "max", site: "lm_head.max" });
  const top = capped(max, options);
  // The most likely id is the lowest one that attains the maximum.
  const isLower = mul(eq(largest, max), lt(add(cast(best, ids.dtype), first), ids));
  const wantsTotal = options.labelSmoothing ? 1 : 0;
  putFloats([options.softCap ?? 0]);
  const given = [logits.handle, rows.handle, top.handle] as const;
  // Ranks that do not divide what one process cuts into parts add in an order of their own.
  const status = native().xl_split_softmax_sums(...given, partsOf(group.size) || 1, wantsTotal);
  const sums = result(status, "splitCrossEntropy");
  const [powers0, logit, total0] = [0, 1, 2]
    .slice(0, 2 + wantsTotal)
    .map((i) => select(sums, 0, i));
  const columns = [powers0!, mul(logit!, isHere), isLower, ...(total0 ? [total0] : [])];
  const all = group.allReduce(stack(columns), { site: "lm_head.sums" });
  const [powers, chosen, lower, total] = columns.map((_, i) => select(all, 0, i));
  const lse = add(top, log(powers!));
  return { max, top, powers: powers!, lse, chosen: chosen!, lower: lower!, total };
}

/** Makes of the logits that lie here their gradients. */
function differentiate(
  logits: Tensor,
  { top, powers, lse }: Softmax,
  { rows, isHere, weights }: Labels,
  options: LossOptions,
  part: VocabularyPart,
): void {
  const {
    softCap,
    labelSmoothing: smoothing = 0,
    zLoss = 0,
    expectedGradient: factor = 1,
  } = options;
  // Step by step as the head of one process (native/src/cpu/loss_row.zig), so with its bits.
  const wide = (x: Tensor) => (x.device === "cpu" ? cast(x, "f64") : x);
  const counted = mul(wide(weights), factor);
  const slope = zLoss === 0 ? counted : mul(counted, add(mul(wide(lse), 2 * zLoss), 1));
  const scale = cast(div(slope, wide(powers)), top.dtype);
  const rest = mul(weights, (factor * smoothing) / part.size);
  const own = mul(mul(weights, isHere), factor * (1 - smoothing));
  putFloats([softCap ?? 0]);
  const vectors = [top, scale, rest, own].map((x) => x.handle) as [number, number, number, number];
  const status = native().xl_split_softmax_slopes(logits.handle, rows.handle, ...vectors);
  check(status, "splitCrossEntropy");
}

function products(dlogits: Tensor, hidden: Tensor, weight: Tensor, ranks: number): Slopes {
  const count = putInts([dlogits.handle, weight.handle]) / 2;
  const dhidden = result(
    native().xl_linear_input_gradient(count, hidden.handle, partsOf(ranks)),
    "linear",
  );
  const code = codeOf(arithmetic(hidden.dtype));
  const status = native().xl_linear_weight_gradient(dlogits.handle, hidden.handle, code);
  return { dhidden, dweight: result(status, "linear") };
}
