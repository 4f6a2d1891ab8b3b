// Head and cross entropy when the vocabulary is split over the ranks of tp (mesh.md §9). Chunk by
// chunk of tokens, every rank makes the logits of its own ids; what it takes to know the softmax of
// the whole vocabulary are a maximum and a few sums per token. As in `linearCrossEntropy`,
// gradients are made in the forward pass, while the chunk is there.

import { native } from "../native/library.ts";
import {
  add,
  arithmetic,
  cast,
  concat,
  div,
  type DType,
  eq,
  exp,
  gather as pick,
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
  unsqueeze,
  where,
} from "../tensor/index.ts";
import { factorOf, scaled } from "../tensor/expected.ts";
import { product } from "../tensor/joint.ts";
import { partsOf } from "../tensor/shared_sums.ts";
import { needsGrad, record } from "../tensor/tape.ts";
import { codeOf, putInts, result, results } from "../tensor/tensor.ts";
import type { Parameter } from "./parameter.ts";
import type { VocabularyPart } from "./vocabulary.ts";

/** Tokens of a chunk at most. */
const mostTokens = 4096;
/** Logits of a chunk at most: a few tensors of that size are alive at a time. */
const mostLogits = 1 << 25;

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
  const step = Math.min(mostTokens, Math.max(1, Math.floor(mostLogits / work.part.most)));
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
  const raw = product(hidden, weight, false, true, undefined, arithmetic(hidden.dtype));
  const softmax = softmaxOf(raw, labels, options, part);
  const { max, chosen, lower, lse, logits } = softmax;
  const { labelSmoothing: smoothing = 0, zLoss = 0 } = options;
  let loss = sub(lse, mul(chosen, 1 - smoothing));
  if (logits) loss = sub(loss, mul(logits, smoothing / part.size));
  if (zLoss !== 0) loss = add(loss, mul(square(lse), zLoss));
  const { weights } = labels;
  const losses = where(weights, loss, 0);
  const hits = mul(mul(eq(chosen, max), eq(lower, 0)), weights);
  if (!gradients) return { losses, hits, slopes: undefined };
  const dlogits = cast(slopesOf(softmax, labels, options, part), hidden.dtype);
  return { losses, hits, slopes: products(dlogits, hidden, weight, part.group.size) };
}

/** The softmax over the ids of all ranks; [tokens] each, but for the powers. */
interface Softmax {
  /** Capped logits of the ids that lie here, [tokens, rows]. */
  readonly z: Tensor;
  readonly max: Tensor;
  /** e^(z − max) of the ids that lie here, [tokens, rows]. */
  readonly powers: Tensor;
  /** Σ of the powers. */
  readonly total: Tensor;
  readonly lse: Tensor;
  /** z of the target. */
  readonly chosen: Tensor;
  /** Ranks with an id below the target that attains the maximum. */
  readonly lower: Tensor;
  /** Σ z, when labels are smoothed. */
  readonly logits: Tensor | undefined;
}

/**
 * Takes raw over. Here and in `slopesOf` every value is made step by step as by the fused head of
 * one process (native/src/cpu/loss_row.zig), so that the bits are the same.
 */
function softmaxOf(
  raw: Tensor,
  labels: Labels,
  { softCap: cap, labelSmoothing = 0 }: LossOptions,
  { group, first }: VocabularyPart,
): Softmax {
  const z = cap ? scope(() => mul(tanh(mul(raw, 1 / cap)), cap)) : raw;
  if (cap) raw.dispose();
  const [best, top] = results(native().xl_argmax(z.handle), "argmax") as [Tensor, Tensor];
  const max = group.allReduce(top, { op: "max", site: "lm_head.max" });
  const powers = scope(() => exp(sub(z, unsqueeze(max, 1))));
  const { rows, isHere, ids } = labels;
  const own = mul(reshape(pick(z, unsqueeze(rows, 1)), ids.shape), isHere);
  // The most likely id is the lowest one that attains the maximum.
  const isLower = lt(add(cast(best, z.dtype), first), ids);
  const columns = [sumOfParts(powers, group.size), own, mul(eq(top, max), isLower)];
  if (labelSmoothing !== 0) columns.push(sum(z, 1));
  const sums = group.allReduce(stack(columns), { site: "lm_head.sums" });
  const [total, chosen, lower, logits] = columns.map((_, i) => select(sums, 0, i));
  const lse = add(max, log(total!));
  return { z, max, powers, total: total!, lse, chosen: chosen!, lower: lower!, logits };
}

/**
 * Σ of the columns of x [tokens, rows], added in f64 over each of the parts that a rank has and in
 * the dtype of x over those, in a balanced tree: as the fused head adds them (cpu/loss_row.zig).
 */
function sumOfParts(x: Tensor, ranks: number): Tensor {
  const parts = partsOf(ranks);
  if (x.device !== "cpu" || parts === 0) return sum(x, 1);
  const bound = (part: number) => Math.floor((part * x.shape[1]!) / parts);
  let sums = Array.from({ length: parts }, (_, part) => {
    const some = slice(x, 1, bound(part), bound(part + 1));
    return some.size === 0 ? undefined : scope(() => cast(sum(cast(some, "f64"), 1), x.dtype));
  });
  while (sums.length > 1) {
    sums = Array.from({ length: sums.length / 2 }, (_, i) => {
      const [left, right] = [sums[2 * i], sums[2 * i + 1]];
      return left && right ? add(left, right) : (left ?? right);
    });
  }
  return sums[0]!;
}

/** The gradient of the logits that lie here, before the soft cap. */
function slopesOf(
  { z, powers, total, lse }: Softmax,
  { rows, isHere, weights }: Labels,
  options: LossOptions,
  part: VocabularyPart,
): Tensor {
  const { softCap: cap, labelSmoothing: smoothing = 0, zLoss = 0 } = options;
  const { expectedGradient: scale = 1 } = options;
  const wide = (x: Tensor) => (x.device === "cpu" ? cast(x, "f64") : x);
  const counted = mul(wide(weights), scale);
  const slope = zLoss === 0 ? counted : mul(counted, add(mul(wide(lse), 2 * zLoss), 1));
  const share = cast(div(slope, wide(total)), z.dtype);
  const softened = mul(powers, unsqueeze(share, 1));
  powers.dispose();
  const rest = unsqueeze(mul(weights, (scale * smoothing) / part.size), 1);
  const soft = smoothing === 0 ? softened : sub(softened, rest);
  const atTarget = unsqueeze(mul(mul(weights, isHere), scale * (1 - smoothing)), 1);
  const sharp = placed(atTarget, unsqueeze(rows, 1), part.rows);
  if (!cap) return sub(soft, sharp);
  const slopes = scope(() => {
    const inside = mul(z, 1 / cap);
    return sub(1, mul(inside, inside));
  });
  return scope(() => sub(mul(soft, slopes), mul(sharp, slopes)));
}

/** Zeros [n, width] but for the values [n, 1] at the columns [n, 1]. */
function placed(values: Tensor, columns: Tensor, width: number): Tensor {
  const status = native().xl_take_along_backward(values.handle, columns.handle, width);
  return result(status, "splitCrossEntropy");
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
