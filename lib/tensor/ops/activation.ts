// Activations of feed-forward networks, and gates.

import { native } from "../../native/library.ts";
import { Unary } from "../../native/symbols.ts";
import { recomputable, recorded } from "../tape.ts";
import { result, results, type Tensor } from "../tensor.ts";
import { unary, type UnaryName } from "./elementwise.ts";

/** Names of models.md §2.7; "gelu" is the exact form, "geluTanh" its approximation. */
export type GateActivation =
  "gelu" | "geluTanh" | "relu" | "relu2" | "selu" | "sigmoid" | "swish" | "tanh";

const codes: Record<GateActivation, UnaryName> = {
  gelu: "gelu_erf",
  geluTanh: "gelu_tanh",
  relu: "relu",
  relu2: "relu2",
  selu: "selu",
  sigmoid: "sigmoid",
  swish: "silu",
  tanh: "tanh",
};

/** An activation by its configuration name. */
export function unaryActivation(x: Tensor, activation: GateActivation): Tensor {
  return unary(codes[activation], x);
}

/**
 * act(gate) ⊙ up in one pass; the activation is recomputed in the backward pass. With `recompute`,
 * linear layers on the result make it again there instead of keeping it.
 */
export function gatedActivation(
  gate: Tensor,
  up: Tensor,
  activation: GateActivation,
  options: { recompute?: boolean } = {},
): Tensor {
  const name = "gatedActivation";
  const code = Unary[codes[activation]];
  const run = () => result(native().xl_gated_activation(gate.handle, up.handle, code), name);
  const y = recorded(name, [gate, up], run(), (dy) => {
    const status = native().xl_gated_activation_backward(dy.handle, gate.handle, up.handle, code);
    return results(status, name);
  });
  return options.recompute ? recomputable(y, run) : y;
}
