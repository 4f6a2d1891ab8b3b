// What ranks make of a softmax of which each has some columns: together the loss and the gradient
// of one that has all. And what the two calls refuse.

import { expect, test } from "bun:test";
import { check, native } from "../../lib/native/library.ts";
import { crossEntropy, scope, slice, type Tensor, tensor } from "../../lib/tensor/index.ts";
import { putFloats, result } from "../../lib/tensor/tensor.ts";
import { Random } from "../helpers/random.ts";

const [rows, vocab] = [5, 24];

function sumsOf(logits: Tensor, columns: Tensor, top: Tensor, parts: number, cap = 0): Tensor {
  putFloats([cap]);
  const given = [logits.handle, columns.handle, top.handle] as const;
  return result(native().xl_split_softmax_sums(...given, parts, 1), "sums");
}

function slopesInto(logits: Tensor, columns: Tensor, vectors: readonly Tensor[], cap = 0): void {
  putFloats([cap]);
  const handles = vectors.map((x) => x.handle) as [number, number, number, number];
  check(native().xl_split_softmax_slopes(logits.handle, columns.handle, ...handles), "slopes");
}

test.each([0, 3])("two halves of a vocabulary, soft cap %d", (cap) => {
  scope(() => {
    const random = new Random(4);
    const values = random.normals(rows * vocab);
    const whole = tensor(values, { shape: [rows, vocab], dtype: "f64" }).requireGrad();
    const targets = tensor(random.ids(rows, vocab));
    const { loss, perToken } = crossEntropy(whole, targets, { softCap: cap || null });
    const wanted = loss.backward().of(whole);
    const capped = cap
      ? whole
          .detach()
          .mul(1 / cap)
          .tanh()
          .mul(cap)
      : whole.detach();
    const top = capped.max(1);
    const halves = [0, 1].map((half) => {
      const from = (half * vocab) / 2;
      const logits = slice(whole.detach(), 1, from, from + vocab / 2).clone();
      const ids = Int32Array.from(targets.dataSync() as Int32Array, (id) => id - from);
      const here = Float64Array.from(ids, (id) => Number(id >= 0 && id < vocab / 2));
      const columns = tensor(ids.map((id, i) => (here[i] ? id : 0)));
      const [powers, chosen, total] = sumsOf(logits, columns, top, 4, cap).tolist() as number[][];
      return { logits, columns, here, powers: powers!, chosen: chosen!, total: total! };
    });
    const [low, high] = halves as [(typeof halves)[0], (typeof halves)[0]];
    const f64 = (list: number[]) => tensor(list, { dtype: "f64" });
    const powers = low.powers.map((sum, i) => sum + high.powers[i]!);
    for (let i = 0; i < rows; i++) {
      const z = low.here[i] ? low.chosen[i]! : high.chosen[i]!;
      const chosen = cap ? cap * Math.tanh(z / cap) : z;
      const one = (top.tolist() as number[])[i]! + Math.log(powers[i]!) - chosen;
      expect(one).toBeCloseTo((perToken.tolist() as number[])[i]!, 12);
      expect(low.total[i]! + high.total[i]!).toBeCloseTo(
        (capped.sum(1).tolist() as number[])[i]!,
        12,
      );
    }
    const scale = f64(powers.map((sum) => 1 / sum));
    const rest = f64(powers.map(() => 0));
    halves.forEach(({ logits, columns, here }, half) => {
      slopesInto(logits, columns, [top, scale, rest, tensor(here, { dtype: "f64" })], cap);
      const part = slice(wanted, 1, (half * vocab) / 2, ((half + 1) * vocab) / 2);
      logits.dataSync().forEach((value, i) => {
        expect(value as number).toBeCloseTo(part.clone().dataSync()[i] as number, 12);
      });
    });
  });
});

test("rows without a slope become zeros, whatever is in them", () => {
  scope(() => {
    const logits = tensor([[NaN, 1, 2]]);
    const zero = tensor([0]);
    slopesInto(logits, tensor(Int32Array.of(0)), [zero, zero, zero, zero]);
    expect(logits.tolist()).toEqual([[0, 0, 0]]);
  });
});

test("what is refused", () => {
  scope(() => {
    const logits = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    const columns = tensor(Int32Array.of(0, 2));
    const top = tensor([3, 6]);
    const vectors = [top, top, top, top];
    expect(() => sumsOf(logits, columns, top, 3)).toThrow("3 parts do not divide 8");
    expect(() => sumsOf(logits, tensor(Int32Array.of(0, 3)), top, 1)).toThrow("expected 0 to 2");
    expect(() => sumsOf(logits, columns, tensor([1]), 1)).toThrow(/top/);
    expect(() => sumsOf(logits, columns, top, 1, -1)).toThrow("soft cap -1");
    expect(() => slopesInto(logits.transpose(), columns, vectors)).toThrow(/shape|strided view/);
    expect(() => slopesInto(slice(logits, 1, 0, 2), tensor(Int32Array.of(0, 1)), vectors)).toThrow(
      "strided view",
    );
  });
});
