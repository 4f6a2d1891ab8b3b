// In which order the backward pass of layers that ranks split asks for its parts.

import { spyOn } from "bun:test";
import type { Group } from "../../lib/mesh/group.ts";
import { enter, gather } from "../../lib/mesh/redistribute.ts";
import { native } from "../../lib/native/library.ts";
import { type DType, linears, randn, requireGrad, scope, sum } from "../../lib/tensor/index.ts";

/** What is noted, by native call: the sums over the ranks begin and end, a weight's gradient. */
const parts = {
  xl_comm_reduce_scatter: "sum begins",
  xl_comm_all_reduce: "sum begins",
  xl_linear_weight_gradient: "weights",
  xl_comm_join: "sum ends",
} as const;

export type Use = "once" | "twice";

/**
 * The notes of a backward pass through two linear layers on an x [2, S, 8] that is gathered along
 * S or entered; used twice, two more layers add to its gradient.
 */
export function gradientOrder(
  group: Group,
  kind: "gather" | "enter",
  dtype: DType,
  use: Use = "once",
): { order: string[]; gradient: number[] } {
  return scope(() => {
    const x = requireGrad(randn([2, 6, 8], { dtype, seed: 1, name: "x" }));
    const u = kind === "gather" ? gather(x, group, 1, "R", "u") : enter(x, group, "u");
    const layers = (name: string) =>
      linears(
        u,
        [8, 4].map((n) => requireGrad(randn([n, 8], { seed: 1, name: `${name} ${n}` }))),
      );
    const ys = [...layers("a"), ...(use === "twice" ? layers("b") : [])];
    const loss = ys.map((y) => sum(y.cast("f32"))).reduce((a, b) => a.add(b));
    const order: string[] = [];
    const symbols = native();
    const spies = Object.entries(parts).map(([name, note]) => {
      const call = symbols[name as keyof typeof parts];
      return spyOn(symbols, name as keyof typeof parts).mockImplementation((...given) => {
        order.push(note);
        return call(...given);
      });
    });
    try {
      const gradient = [...loss.backward().get(x)!.dataSync()];
      return { order, gradient };
    } finally {
      for (const spy of spies) spy.mockRestore();
    }
  });
}
