// Nothing leaks: training steps, scopes, the garbage collector, failed calls, used-up handles.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test";
import { check, native } from "../../lib/native/library.ts";
import { xlstm } from "../../lib/nn/model.ts";
import { adamw } from "../../lib/optim/optimizer.ts";
import {
  checkpoint,
  Gradients,
  keep,
  memory,
  mlstm,
  noGrad,
  ones,
  randn,
  requireGrad,
  resetPeakMemory,
  scope,
  scopeAsync,
  sum,
  type Tensor,
  tensor,
  zeros,
} from "../../lib/tensor/index.ts";
import { configs, tokens } from "../helpers/models.ts";
import { settle } from "../helpers/settle.ts";

const live = () => {
  const { tensors, bytes } = memory();
  return { tensors, bytes };
};
const disposables: { dispose(): void }[] = [];

const pause = () => new Promise<void>((resolve) => setImmediate(resolve));

// What other tests have left to the garbage collector would disturb the counts.
beforeEach(settle);
afterEach(() => {
  for (const item of disposables.splice(0)) item.dispose();
});
afterAll(settle);

describe("training", () => {
  test.each(["mixed", "mixed paper", "dropout"] as const)("%s: 200 steps stay flat", (name) => {
    const model = xlstm({ ...configs[name], postNorm: true }, { seed: 1 });
    const optimizer = adamw(model.parameters(), { lr: 1e-3, weightDecay: 0.1, gradClipNorm: 1 });
    disposables.push(model, optimizer);
    const counts: ReturnType<typeof live>[] = [];
    const peaks: number[] = [];
    const cached: number[] = [];
    for (let step = 0; step < 200; step++) {
      using _ = scope();
      resetPeakMemory();
      const ids = tokens(2, 1 + (step % 3) * 8, step);
      const loss = model.loss(
        { tokens: ids, targets: ids },
        { dropout: { seed: 1, step, sample: 0 } },
      );
      optimizer.step(loss.backward());
      _[Symbol.dispose]();
      counts.push(live());
      if (step % 3 !== 2) continue;
      peaks.push(memory().peakBytes);
      cached.push(memory().cachedBytes);
    }
    expect(new Set(counts.map(({ tensors }) => tensors)).size).toBe(1);
    expect(new Set(counts.map(({ bytes }) => bytes)).size).toBe(1);
    // The same sizes of batches need the same memory, whatever came before.
    expect(new Set(peaks).size).toBe(1);
    expect(new Set(cached).size).toBe(1);
  });

  test("gradients of a graph leave nothing behind once they are disposed of", () => {
    const before = live();
    {
      using x = keep(requireGrad(randn([4, 4])));
      for (let i = 0; i < 5; i++) {
        const grads = scope(() => {
          const y = checkpoint((h) => h.tanh().matmul(h), [x]);
          return y.square().sum().backward();
        });
        expect(grads.of(x).shape).toEqual([4, 4]);
        grads.dispose();
        expect(live().tensors).toBe(before.tensors + 1);
      }
    }
    expect(live()).toEqual(before);
  });
});

describe("scopes", () => {
  test("an exception inside frees everything and goes on", () => {
    const before = live();
    expect(() =>
      scope(() => {
        zeros([10]);
        scope(() => {
          zeros([20]);
          throw new Error("inside");
        });
      }),
    ).toThrow("inside");
    expect(() => {
      using _ = scope();
      zeros([30]);
      throw new Error("block");
    }).toThrow("block");
    expect(live()).toEqual(before);
  });

  test("results move one scope out, wherever they are in the result", () => {
    const before = live();
    {
      using _ = scope();
      const found = scope(() => {
        const inner = scope(() => {
          const used = ones([2]);
          return {
            list: [used.add(1), [used.add(2)]],
            map: new Map([["a", used.add(3)]]),
            grads: requireGrad(tensor([5]))
              .square()
              .backward(),
            number: 7,
          };
        });
        expect(inner.number).toBe(7);
        expect(inner.grads).toBeInstanceOf(Gradients);
        return inner;
      });
      const [first, [second]] = found.list as [Tensor, [Tensor]];
      expect([first.tolist(), second.tolist()]).toEqual([
        [2, 2],
        [3, 3],
      ]);
      expect(found.map.get("a")!.tolist()).toEqual([4, 4]);
      expect(found.grads.tensors()[0]!.tolist()).toEqual([10]);
      // Two of the list, one of the map and a gradient.
      expect(live().tensors).toBe(before.tensors + 4);
    }
    expect(live()).toEqual(before);
  });

  test("kept tensors outlive their scope, and foreign ones stay where they are", () => {
    const before = live();
    const [kept, given] = scope(() => {
      using _ = scope();
      const given = scope(() => keep(ones([3])));
      return [scope(() => ones([4]).keep()), given];
    });
    expect([kept!.tolist(), given!.tolist()]).toEqual([
      [1, 1, 1, 1],
      [1, 1, 1],
    ]);
    kept!.dispose();
    given!.dispose();
    expect(live()).toEqual(before);
  });

  test("scopes that end out of order free what they own, once", () => {
    const before = live();
    const outer = scope();
    zeros([1]);
    const inner = scope();
    const late = zeros([2]);
    outer[Symbol.dispose]();
    expect(late.disposed).toBe(false);
    const later = zeros([3]);
    inner[Symbol.dispose]();
    outer[Symbol.dispose]();
    expect([late.disposed, later.disposed]).toEqual([true, true]);
    expect(live()).toEqual(before);
    using free = zeros([4]);
    expect(free.disposed).toBe(false);
    expect(live().tensors).toBe(before.tensors + 1);
  });

  test("a body that returns a promise is refused, and frees its tensors", () => {
    const before = live();
    expect(() => scope(() => Promise.resolve(zeros([4])))).toThrow(/use `await scopeAsync/);
    expect(live()).toEqual(before);
  });

  test("asynchronous scopes side by side keep their tensors apart", async () => {
    const before = live();
    const task = (value: number) =>
      scopeAsync(async () => {
        const parts: Tensor[] = [];
        for (let i = 0; i < 3; i++) {
          parts.push(scope(() => ones([1]).mul(value)));
          await pause();
          expect(parts.every((part) => !part.disposed)).toBe(true);
        }
        await scopeAsync(async () => {
          zeros([5]);
          await pause();
        });
        // Made after an inner scope has ended: it must belong to this one.
        const last = zeros([1]);
        return parts.reduce((sum, part) => sum.add(part), last);
      });
    const results = await Promise.all([1, 10, 100].map(task));
    expect(results.map((result) => result.item())).toEqual([3, 30, 300]);
    expect(live().tensors).toBe(before.tensors + 3);
    for (const result of results) result.dispose();
    expect(live()).toEqual(before);
  });

  test("an exception in an asynchronous scope frees everything", async () => {
    const before = live();
    const failing = scopeAsync(async () => {
      zeros([2]);
      await pause();
      using _ = scope();
      zeros([3]);
      await pause();
      throw new Error("later");
    });
    await expect(failing).rejects.toThrow("later");
    expect(live()).toEqual(before);
    using after = zeros([1]);
    expect(after.disposed).toBe(false);
  });
});

describe("without a scope", () => {
  test("dropped tensors are collected, used ones are not", () => {
    const before = live();
    const kept = ones([64]);
    (() => {
      for (let i = 0; i < 500; i++) ones([64]);
    })();
    Bun.gc(true);
    const now = live().tensors - before.tensors;
    // A conservative collector may see a few of them in registers and on the stack.
    expect(now).toBeGreaterThanOrEqual(1);
    expect(now).toBeLessThan(50);
    expect(kept.sum().item()).toBe(64);
    kept.dispose();
  });

  test("20,000 tensors of 64 KiB in a synchronous loop stay below 200 MB", () => {
    const child = new URL("../helpers/unowned_tensors.ts", import.meta.url).pathname;
    const { stdout, stderr, exitCode } = Bun.spawnSync([process.execPath, child]);
    expect(exitCode, stderr.toString()).toBe(0);
    const { before, most, peakBytes } = JSON.parse(stdout.toString());
    expect(most - before).toBeLessThan(150e6);
    expect(most).toBeLessThan(350e6);
    expect(peakBytes).toBeLessThan(200e6);
  }, 30_000);
});

describe("handles", () => {
  test("views share memory and keep it alive", () => {
    const before = live();
    const base = ones([4, 4]);
    const whole = live().bytes - before.bytes;
    const view = base.slice(0, 1, 3).transpose();
    const { bytes } = live();
    expect(bytes - before.bytes).toBe(whole);
    base.dispose();
    expect(view.tolist()).toEqual([
      [1, 1],
      [1, 1],
      [1, 1],
      [1, 1],
    ]);
    expect(live().bytes).toBe(bytes);
    view.dispose();
    // The slice between the two belongs to the collector.
    Bun.gc(true);
    expect(live().tensors).toBeLessThanOrEqual(before.tensors + 1);
  });

  test("stale, foreign, negative and missing handles are errors", () => {
    const dead = ones([2]);
    const handle = dead.handle;
    dead.dispose();
    using alive = ones([2]);
    const otherGeneration = alive.handle + (1 << 20);
    const bad = [handle, otherGeneration, 0, -1, -(2 ** 31), 2 ** 31 - 1, 1 << 19];
    for (const id of bad) {
      expect(() => check(native().xl_copy(id, -1), "copy")).toThrow(/not a live tensor|expected/);
      expect(() => check(native().xl_dispose(id), "dispose")).toThrow(/not alive/);
      expect(() => check(native().xl_binary(alive.handle, id, 0), "add")).toThrow(
        /not a live tensor|expected/,
      );
    }
    expect(alive.tolist()).toEqual([1, 1]);
  });

  test("a handle's slot is reused, its number is not", () => {
    const seen = new Set<number>();
    for (let i = 0; i < 5000; i++) {
      using x = zeros([1]);
      expect(seen.has(x.handle)).toBe(false);
      seen.add(x.handle);
    }
    expect(seen.size).toBe(5000);
  });

  test("a disposed tensor is named by every operation that meets it", () => {
    using _ = scope();
    const gone = zeros([2, 3]);
    const other = ones([2, 3]);
    gone.dispose();
    gone.dispose();
    const uses: Record<string, () => unknown> = {
      add: () => gone.add(other),
      addRight: () => other.add(gone),
      matmul: () => other.matmul(gone.transpose()),
      reshape: () => gone.reshape([6]),
      sum: () => gone.sum(),
      item: () => gone.sum().item(),
      data: () => gone.dataSync(),
      bytes: () => gone.bytesSync(),
      detach: () => gone.detach(),
      write: () => gone.write_(other),
      source: () => other.write_(gone),
      norm: () => other.rmsNorm(gone),
    };
    for (const [name, use] of Object.entries(uses)) {
      let error: unknown;
      try {
        use();
      } catch (caught) {
        error = caught;
      }
      expect(error, name).toMatchObject({ name: "DisposedError" });
      expect((error as Error).message).toContain("Tensor<f32>[2, 3] was disposed of");
    }
    const escaped = scope(() => {
      const inside = zeros([2, 3]);
      return { use: () => inside.exp() };
    });
    expect(() => escaped.use()).toThrow(/its scope has ended/);
  });

  test("failed calls leave nothing behind", () => {
    using a = ones([2, 3]);
    using b = ones([4, 5]);
    using ids = tensor(Int32Array.from([7]));
    const before = live();
    for (let i = 0; i < 50; i++) {
      expect(() => a.add(b)).toThrow();
      expect(() => a.matmul(b)).toThrow();
      expect(() => a.reshape([7])).toThrow();
      expect(() => a.permute([0, 0])).toThrow();
      expect(() => a.slice(0, 3, 5)).toThrow();
      expect(() => a.indexSelect(ids)).toThrow();
      expect(() => a.rmsNorm(b)).toThrow();
      expect(() => zeros([1 << 30, 1 << 30])).toThrow();
      expect(() => noGrad(() => a.linear(b))).toThrow();
    }
    expect(live()).toEqual(before);
  });
});

test.each([false, true])("mLSTM, normaliser %p: no state is made for nobody", (normalize) => {
  scope(() => {
    const [B, S, H, qk, v] = [2, 3, 2, 64, 64];
    const random = (shape: number[]) => requireGrad(randn(shape));
    const [q, k, values] = [qk, qk, v].map((width) => random([B, S, H, width]));
    const [i, f] = [random([B, S, H]), random([B, S, H])];
    resetPeakMemory();
    const before = memory();
    const inputs = { q: q!, k: k!, v: values!, i, f };
    const { h } = mlstm(inputs, { inputGate: "sigmoid", normalize });
    const sigma = normalize ? B * S * H * 4 : 0;
    const rounding = 256;
    const made = memory().peakBytes - before.bytes;
    expect(made).toBeLessThanOrEqual(h.byteLength + sigma + rounding);
    resetPeakMemory();
    const held = memory().bytes;
    const gradients = sum(h).backward();
    expect(gradients.of(values!).shape).toEqual([B, S, H, v]);
    // The state would be five times as large as all gradients together.
    expect(memory().peakBytes - held).toBeLessThan((B * H * qk * v * 4) / 2);
  });
});

test("mLSTM: its normaliser is not kept where no backward pass will come", () => {
  scope(() => {
    const [B, S, H, width] = [2, 9, 3, 8];
    const [q, k, v] = [0, 1, 2].map(() => randn([B, S, H, width]));
    const [i, f] = [randn([B, S, H]), randn([B, S, H])];
    const inputs = { q: q!, k: k!, v: v!, i, f };
    const before = memory().tensors;
    mlstm(inputs, { inputGate: "exp" });
    expect(memory().tensors).toBe(before + 1);
    requireGrad(q!);
    mlstm(inputs, { inputGate: "exp" });
    expect(memory().tensors).toBe(before + 3);
  });
});
