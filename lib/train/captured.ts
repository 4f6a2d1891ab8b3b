// The training step on a GPU: loss, gradients, clipping and update recorded once as a graph. The
// host sends tokens and the rate, starts the graph, and reads loss and norm.

import type { Batch } from "../data/batches.ts";
import { tokensOf, type XLSTM } from "../nn/model.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { capture, div, type Tensor } from "../tensor/index.ts";
import { firstNonFiniteParameter } from "./non_finite.ts";
import { SpoiledStep, type StepFacts } from "./step.ts";

type Step = ReturnType<typeof record>;

export class CapturedTraining {
  readonly #model: XLSTM;
  readonly #optimizer: Optimizer;
  readonly #step: Step;

  private constructor(model: XLSTM, optimizer: Optimizer) {
    this.#model = model;
    this.#optimizer = optimizer;
    this.#step = record(model, optimizer);
  }

  /**
   * Undefined where a graph is no help or would be wrong: on the CPU, with dropout (its masks
   * depend on the number of the step, which a recording freezes), without an update.
   */
  static for(model: XLSTM, optimizer: Optimizer): CapturedTraining | undefined {
    const isFrozen = model.config.dropout > 0 || optimizer.config.name === "none";
    return model.device === "cuda" && !isFrozen
      ? new CapturedTraining(model, optimizer)
      : undefined;
  }

  /** One step. Waits for the GPU. SpoiledStep as from `takeStep`. */
  run(batch: Batch): StepFacts {
    const { lr } = this.#optimizer;
    const device = this.#model.device;
    const tokens = tokensOf(batch.tokens).to(device);
    const { loss, norm, sums } = this.#step(tokens, tokensOf(batch.targets).to(device));
    const facts = { loss: loss.item(), norm: norm.item(), lr, tokens: tokens.size };
    if (Number.isFinite(facts.loss) && Number.isFinite(facts.norm)) return facts;
    this.#raise(facts.loss, sums);
    return facts;
  }

  #raise(loss: number, sums: Tensor): void {
    const parameter = firstNonFiniteParameter(this.#model.parameters());
    if (parameter) throw new SpoiledStep(parameter, loss);
    try {
      this.#optimizer.expectFinite(sums);
    } catch (error) {
      throw new SpoiledStep((error as Error).message, loss);
    }
  }
}

function record(model: XLSTM, optimizer: Optimizer) {
  return capture(
    (tokens: Tensor, targets: Tensor) => {
      const sums = model.lossSum({ tokens, targets }, { train: true });
      const loss = div(sums.loss, tokens.size);
      return { loss, ...optimizer.update(loss.backward()) };
    },
    { before: () => optimizer.advance() },
  );
}
