// A rank of test/multi/tensor_parallel_vocabulary.test.ts: the head and its loss over a split
// vocabulary against the fused operation of one process, and tokens that models generate.

import type { Group } from "../../lib/mesh/group.ts";
import { place } from "../../lib/mesh/placement.ts";
import type { XLSTM } from "../../lib/nn/model.ts";
import { loadInto, Parameter } from "../../lib/nn/parameter.ts";
import { VocabularyPart } from "../../lib/nn/vocabulary.ts";
import { splitCrossEntropy } from "../../lib/nn/vocabulary_loss.ts";
import {
  arithmetic,
  cast,
  type DType,
  linearCrossEntropy,
  type LossOptions,
  noGrad,
  scope,
  slice,
  type Tensor,
  tensor,
} from "../../lib/tensor/index.ts";
import { relativeError } from "../../lib/verify/report.ts";
import { parallelModel } from "./parallel_cases.ts";
import { meshOf } from "./rank_mesh.ts";
import { Random } from "./random.ts";
import { runRank } from "./ranks.ts";

export interface LossCase {
  readonly name: string;
  readonly tokens: number;
  readonly vocabulary: number;
  readonly dtype: DType;
  readonly options?: Omit<LossOptions, "mask">;
  readonly isMasked?: boolean;
}

export interface LossErrors {
  readonly name: string;
  readonly hits: number;
  readonly values: number;
  readonly dhidden: number;
  readonly dweight: number;
}

const width = 8;

/** A head of which pairs of rows on different ranks are equal: their logits tie. */
function headOf(vocabulary: number, group: Group, dtype: DType): { whole: Tensor; own: Parameter } {
  const random = new Random(5);
  const data = random.normals(vocabulary * width);
  const half = Math.floor(vocabulary / 2);
  data.copyWithin(half * width, 0, (vocabulary - half) * width);
  const shape = [vocabulary, width];
  const whole = tensor(data, { shape, dtype }).requireGrad();
  const spec = { name: "head", shape, init: { kind: "constant", value: 0 }, decay: true } as const;
  const placement = place(shape, { dim: 0 }, group.rank, group.size);
  const own = Parameter.from(spec, dtype, { placement, partial: [] });
  loadInto(own, whole);
  return { whole, own };
}

function errorsOf(given: LossCase, group: Group): LossErrors {
  const { name, tokens, vocabulary, dtype, options = {}, isMasked = false } = given;
  const random = new Random(9);
  const stored = arithmetic(dtype);
  using head = headOf(vocabulary, group, stored).own;
  const { whole } = headOf(vocabulary, group, stored);
  const values = random.normals(tokens * width);
  const hidden = () =>
    cast(tensor(values, { shape: [tokens, width] }), dtype)
      .detach()
      .requireGrad();
  // Targets that are the most likely id, the one that ties with it and comes later, and any.
  const likely = scope(() =>
    hidden().matmul(cast(whole.detach(), dtype).transpose()).argmax().dataSync(),
  );
  const half = Math.floor(vocabulary / 2);
  const ids = Int32Array.from(random.ids(tokens, vocabulary), (id, i) =>
    i % 3 === 0 ? id : (likely[i]! + (i % 3 === 1 ? 0 : half)) % vocabulary,
  );
  const bits = Uint8Array.from({ length: tokens }, (_, i) => Number(i % 4 !== 1));
  // What does not count is no id at all.
  if (isMasked) bits.forEach((bit, i) => bit || (ids[i] = -100));
  const targets = tensor(ids);
  const mask = isMasked ? tensor(bits) : undefined;
  const x = hidden();
  const want = linearCrossEntropy(x, whole, targets, { ...options, mask });
  const y = hidden();
  const part = new VocabularyPart(head, group, stored);
  const got = splitCrossEntropy(y, head, targets, { ...options, mask }, part);
  const wanted = want.loss.mul(0.5).backward();
  const found = got.loss.mul(0.5).backward();
  const dhidden = group.allReduce(cast(found.of(y), stored), { site: "dhidden" });
  const reference = slice(wanted.of(whole), 0, part.first, part.first + part.rows);
  const list = (sums: typeof got) => [...sums.loss.dataSync(), ...sums.perToken.dataSync()];
  part.dispose();
  return {
    name,
    hits: Math.max(
      Math.abs(got.correct.item() - want.correct.item()),
      Math.abs(got.count.item() - want.count.item()),
    ),
    values: relativeError(list(got), list(want)),
    dhidden: relativeError(dhidden.dataSync(), cast(wanted.of(x), stored).dataSync()),
    dweight: relativeError(found.of(head).dataSync(), reference.dataSync()),
  };
}

/** Logits of a prompt read in pieces, then of tokens one by one in place. */
function decoded(model: XLSTM, pieces: readonly number[], steps: number): number[] {
  const ids = new Random(21).ids(2 * 40, model.config.vocabSize);
  const columns = (from: number, to: number) => ({
    data: Int32Array.from(
      [0, 1].flatMap((row) => [...ids.subarray(row * 40 + from, row * 40 + to)]),
    ),
    shape: [2, to - from] as const,
  });
  const numbers: number[] = [];
  noGrad(() =>
    scope(() => {
      let at = 0;
      let state: ReturnType<XLSTM["forward"]>["state"];
      for (const size of pieces) {
        const made = model.forward(columns(at, at + size), { state, returnState: true });
        state = made.state;
        at += size;
        numbers.push(...made.logits.dataSync());
      }
      for (let step = 0; step < steps; step++, at++) {
        const { logits } = model.forward(columns(at, at + 1), { state, inPlace: true });
        numbers.push(...logits.dataSync());
      }
    }),
  );
  return numbers;
}

/** What goes wrong with an id that does not exist. */
function wrongId(model: XLSTM): string {
  try {
    scope(() => model.embed({ data: Int32Array.of(3, 61, 5, 7), shape: [1, 4] }));
    return "nothing";
  } catch (error) {
    return (error as Error).message;
  }
}

await runRank(async (bootstrap, [request]) => {
  const mesh = await meshOf(bootstrap, { tp: bootstrap.size });
  const tp = mesh.group("tp");
  const cases = JSON.parse(request!) as LossCase[];
  const losses = cases.map((one) => scope(() => errorsOf(one, tp)));
  const decoding = (["mixed", "paper", "sLSTM first"] as const).map((name) => {
    using alone = parallelModel(name);
    using whole = parallelModel(name, { mesh, residual: "replicated" });
    using pieces = parallelModel(name, { mesh, residual: "sequence" });
    const want = decoded(alone, [5, 8], 4);
    return {
      name,
      replicated: relativeError(decoded(whole, [5, 8], 4), want),
      sequence: relativeError(decoded(pieces, [4, 8], 0), decoded(alone, [4, 8], 0)),
    };
  });
  using model = parallelModel("v1", { mesh });
  return { losses, decoding, wrongId: wrongId(model) };
});
