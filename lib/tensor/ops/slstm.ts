// The sLSTM cell (and a plain LSTM of the same layout). kernels.md §7.

import { native } from "../../native/library.ts";
import { needsGrad, record } from "../tape.ts";
import { handleOf, putFloats, putInts, result, results, type Tensor } from "../tensor.ts";
import { zerosLike } from "../create.ts";

export interface SlstmOptions {
  /** [B, 4, NH, DH] in the order y, c, n, m; default zeros. */
  state?: Tensor | undefined;
  /** u8 [B, T]: the state is zeroed before a document's first token. */
  borders?: Tensor | undefined;
  /** i32 [B]: valid tokens of right-padded rows. */
  lengths?: Tensor | undefined;
  function?: "slstm" | "lstm";
  /** Clamp y to ±clip; null = off. */
  forwardClip?: number | null;
  /** Clamp the gradient that goes through the recurrence; null = off. */
  gradRecurrentClip?: number | null;
  /** No gradient through the recurrence. */
  gradRecurrentCut?: boolean;
}

/** wx [B, T, 4, NH, DH] (gates i, f, z, o), r [4, NH, in, out], b [4, NH, DH] → y, last state. */
export function slstm(
  wx: Tensor,
  r: Tensor,
  b: Tensor,
  options: SlstmOptions = {},
): { y: Tensor; state: Tensor } {
  const { state, borders, lengths } = options;
  const kind = options.function === "lstm" ? 1 : 0;
  const save = needsGrad(wx, r, b, state);
  const floats = [
    options.forwardClip ?? 0,
    options.gradRecurrentClip ?? 0,
    options.gradRecurrentCut ? 1 : 0,
  ];
  putFloats(floats);
  const status = native().xl_slstm(
    wx.handle,
    r.handle,
    b.handle,
    handleOf(state),
    handleOf(borders),
    handleOf(lengths),
    kind,
    save ? 1 : 0,
  );
  const [y, last, saved] = results(status, "slstm") as [Tensor, Tensor, Tensor];
  if (!save) saved.dispose();
  record("slstm", [wx, r, b, state], [y, last], ([dy, dlast]) => {
    const given = dy ?? zerosLike(y);
    putInts([given, dlast, r, state, borders, lengths, saved].map(handleOf));
    putFloats(floats);
    const [dwx, dr, db, dinitial] = results(native().xl_slstm_backward(kind), "slstm");
    saved.dispose();
    return [dwx, dr, db, state ? dinitial : null];
  });
  return { y, state: last };
}

/** One token: wx [rows, 4, NH, DH]; `state` [slots, 4, NH, DH] is updated in place. */
export function slstmStep(
  wx: Tensor,
  r: Tensor,
  b: Tensor,
  state: Tensor,
  options: Pick<SlstmOptions, "function" | "forwardClip"> & { slots?: Tensor | undefined } = {},
): Tensor {
  putFloats([options.forwardClip ?? 0]);
  const kind = options.function === "lstm" ? 1 : 0;
  const status = native().xl_slstm_step(
    wx.handle,
    r.handle,
    b.handle,
    handleOf(options.slots),
    state.handle,
    kind,
  );
  return result(status, "slstmStep");
}
