// Head and cross entropy when the vocabulary is split over the ranks of tp (mesh.md §9). Chunk by
// chunk of tokens, every rank makes the logits of its own ids; what it takes to know the softmax of
// the whole vocabulary are a maximum and a few sums per token. As in `linearCrossEntropy`,
// gradients are made in the forward pass, while the chunk is there.

import { native } from "../native/library.ts";
import { Unary } from "../native/symbols.ts";
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
  softCap,
  square,
  stack,
  sub,
  sum,
  type Tensor,
  unsqueeze,
  where,
} from "../tensor/index.ts";
import { product } from "../tensor/joint.ts";
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
    return [
      hidden.requiresGrad ? mul(dhidden, cast(dloss!, dhidden.dtype)) : null,
      weight.requiresGrad ? cast(mul(dweight, dloss!), weight.gradientDtype) : null,
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
  const dlogits = cast(slopesOf(raw, softmax, labels, options, part), hidden.dtype);
  return { losses, hits, slopes: products(dlogits, hidden, weight) };
}

/** The softmax over the ids of all ranks; [tokens] each, but for the powers. */
interface Softmax {
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

function softmaxOf(
  raw: Tensor,
  labels: Labels,
  { softCap: cap, labelSmoothing = 0 }: LossOptions,
  { group, first }: VocabularyPart,
): Softmax {
  const z = softCap(raw, cap);
  const [best, top] = results(native().xl_argmax(z.handle), "argmax") as [Tensor, Tensor];
  const max = group.allReduce(top, { op: "max", site: "lm_head.max" });
  const powers = exp(sub(z, unsqueeze(max, 1)));
  const { rows, isHere, ids } = labels;
  const own = mul(reshape(pick(z, unsqueeze(rows, 1)), ids.shape), isHere);
  // The most likely id is the lowest one that attains the maximum.
  const isLower = lt(add(cast(best, raw.dtype), first), ids);
  const columns = [sum(powers, 1), own, mul(eq(top, max), isLower)];
  if (labelSmoothing !== 0) columns.push(sum(z, 1));
  const sums = group.allReduce(stack(columns), { site: "lm_head.sums" });
  const [total, chosen, lower, logits] = columns.map((_, i) => select(sums, 0, i));
  const lse = add(max, log(total!));
  return { max, powers, total: total!, lse, chosen: chosen!, lower: lower!, logits };
}

/** The gradient of the logits that lie here, before the soft cap. */
function slopesOf(
  raw: Tensor,
  { powers, total, lse }: Softmax,
  { rows, isHere, weights }: Labels,
  { softCap: cap, labelSmoothing: smoothing = 0, zLoss = 0 }: LossOptions,
  part: VocabularyPart,
): Tensor {
  const slope = zLoss === 0 ? weights : mul(weights, add(mul(lse, 2 * zLoss), 1));
  const softened = mul(powers, unsqueeze(div(slope, total), 1));
  const atTarget = unsqueeze(mul(mul(weights, isHere), 1 - smoothing), 1);
  const sharp = sub(softened, placed(atTarget, unsqueeze(rows, 1), part.rows));
  const dz =
    smoothing === 0 ? sharp : sub(sharp, unsqueeze(mul(weights, smoothing / part.size), 1));
  return cap ? uncapped(dz, raw, cap) : dz;
}

/** Zeros [n, width] but for the values [n, 1] at the columns [n, 1]. */
function placed(values: Tensor, columns: Tensor, width: number): Tensor {
  const status = native().xl_take_along_backward(values.handle, columns.handle, width);
  return result(status, "splitCrossEntropy");
}

/** The gradient before the soft cap. */
function uncapped(dz: Tensor, raw: Tensor, cap: number): Tensor {
  const status = native().xl_unary_backward(dz.handle, raw.handle, Unary.soft_cap, cap);
  return result(status, "splitCrossEntropy");
}

function products(dlogits: Tensor, hidden: Tensor, weight: Tensor): Slopes {
  const count = putInts([dlogits.handle, weight.handle]) / 2;
  const dhidden = result(native().xl_linear_input_gradient(count, hidden.handle), "linear");
  const code = codeOf(arithmetic(hidden.dtype));
  const status = native().xl_linear_weight_gradient(dlogits.handle, hidden.handle, code);
  return { dhidden, dweight: result(status, "linear") };
}
