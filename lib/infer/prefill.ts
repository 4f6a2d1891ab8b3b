// The prompt goes through the model in pieces; what is carried on is a state and the last logits.

import type { ModelState } from "../nn/context.ts";
import type { XLSTM } from "../nn/model.ts";
import { keep, noGrad, scope, type Tensor } from "../tensor/index.ts";

/** A state and the logits f32 [1, V] for the token after it. */
export interface Position {
  readonly state: ModelState;
  readonly logits: Tensor;
}

/** Takes a piece of the prompt into the state; the position before is given up. */
export function prefill(model: XLSTM, ids: Int32Array, before: Position | undefined): Position {
  const after = noGrad(() =>
    scope(() => {
      const tokens = { data: ids, shape: [1, ids.length] };
      const { hidden, state } = model.hidden(tokens, { state: before?.state, returnState: true });
      const last = hidden.slice(1, ids.length - 1, ids.length);
      const logits = model.head(last.reshape([1, hidden.shape[2]!]));
      // Between two tokens the caller's scopes come and go: the state belongs to none of them.
      for (const tensor of tensorsOf({ state: state!, logits })) keep(tensor);
      return { state: state!, logits };
    }),
  );
  if (before) release(before);
  return after;
}

export function release(position: Position): void {
  for (const tensor of tensorsOf(position)) tensor.dispose();
}

function tensorsOf({ state, logits }: Position): Tensor[] {
  const all = state.blocks.flatMap(({ c, n, m, slstm, conv }) => [c, n, m, slstm, conv]);
  return [...all, logits].filter((tensor) => tensor !== undefined);
}
