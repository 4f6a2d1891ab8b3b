// A rank of test/multi/tensor_parallel.test.ts: losses and gradients of models that are split over
// the ranks, against the same models in one process.

import type { Group } from "../../lib/mesh/group.ts";
import type { ModelOptions, XLSTM } from "../../lib/nn/model.ts";
import type { Parameter } from "../../lib/nn/parameter.ts";
import {
  concat,
  type Device,
  type Gradients,
  type LossOptions,
  noGrad,
  scope,
  slice,
  type Tensor,
} from "../../lib/tensor/index.ts";
import { relativeError } from "../../lib/verify/report.ts";
import {
  forwardOptions,
  parallelBatch,
  type ParallelDType,
  parallelModel,
  type ParallelName,
} from "./parallel_cases.ts";
import { meshOf } from "./rank_mesh.ts";
import { runRank } from "./ranks.ts";

export interface ParallelRequest {
  readonly names: readonly ParallelName[];
  readonly options: Pick<ModelOptions, "residual" | "recompute">;
  readonly loss?: LossOptions;
  /** Default "cpu". */
  readonly device?: Device;
  /** Default "f64". */
  readonly dtype?: ParallelDType;
}

/** Relative errors of one case. */
export interface ParallelErrors {
  readonly name: ParallelName;
  /** Of loss, tokens, hits and losses per token. */
  readonly values: number;
  readonly logits: number;
  /** The largest of all gradients, and whose it is. */
  readonly gradients: number;
  readonly worst: string;
}

interface Results {
  readonly sums: number[];
  readonly logits: Float64Array;
  readonly gradients: Gradients;
}

function resultsOf(model: XLSTM, loss: LossOptions): Results {
  const batch = parallelBatch(model.config.vocabSize);
  const sums = model.lossSum(batch, { ...forwardOptions, ...loss });
  const { logits } = noGrad(() => model.forward(batch.tokens, { borders: batch.borders }));
  const list = [sums.loss, sums.count, sums.correct, sums.perToken];
  return {
    sums: list.flatMap((x) => [...x.dataSync()]),
    logits: Float64Array.from(logits.dataSync()),
    gradients: sums.loss.backward(),
  };
}

/** What lies here of a tensor of the parameter's global shape. */
function localOf(whole: Tensor, { placement }: Parameter): Tensor {
  return placement.runs.reduce((x, runs, dim) => {
    const pieces = runs.map(([start, count]) => slice(x, dim, start, start + count));
    return concat(pieces, dim);
  }, whole);
}

function compare(name: ParallelName, alone: XLSTM, model: XLSTM, tp: Group, loss: LossOptions) {
  const want = resultsOf(alone, loss);
  const got = resultsOf(model, loss);
  const norm = Math.sqrt(
    want.gradients.tensors().reduce((sum, gradient) => sum + gradient.sumSquares().item(), 0),
  );
  const errors = [...model.parameters().values()].map((parameter) => {
    const mine = got.gradients.of(parameter);
    const isPartial = parameter.partial.includes("tp");
    const whole = isPartial ? tp.allReduce(mine, { site: parameter.name }) : mine;
    const reference = want.gradients.of(alone.parameters().get(parameter.name)!);
    const expected = localOf(reference, parameter).dataSync();
    const error = relativeError(whole.dataSync(), expected, 1e-3 * norm);
    return { name: parameter.name, error };
  });
  const worst = errors.reduce((a, b) => (b.error > a.error ? b : a));
  return {
    name,
    values: relativeError(got.sums, want.sums),
    logits: relativeError(got.logits, want.logits),
    gradients: worst.error,
    worst: worst.name,
  };
}

await runRank(async (bootstrap, [request]) => {
  const { names, options, loss = {}, device, dtype } = JSON.parse(request!) as ParallelRequest;
  const mesh = await meshOf(bootstrap, { tp: bootstrap.size }, device);
  return names.map((name) =>
    scope((): ParallelErrors => {
      using alone = parallelModel(name, { dtype });
      using model = parallelModel(name, { ...options, dtype, mesh });
      return compare(name, alone, model, mesh.group("tp"), loss);
    }),
  );
});
