// A child process of test/gpu/errors.test.ts: what a GPU that fails looks like from TypeScript.
// Prints one JSON line: what every named attempt gave, a value or an error.

import { gpuFacts, hasGpu } from "../../lib/native/gpu.ts";
import { NativeError } from "../../lib/native/errors.ts";
import { xlstm } from "../../lib/nn/model.ts";
import * as t from "../../lib/tensor/index.ts";

export interface Attempt {
  readonly value?: unknown;
  /** Status name of a NativeError. */
  readonly code?: string;
  readonly text?: string;
}

const attempts: Record<string, Attempt> = {};

function attempt(name: string, body: () => unknown): void {
  try {
    const value = body();
    attempts[name] = { value: value instanceof t.Tensor ? [...value.dataSync()] : value };
  } catch (error) {
    const { message } = error as Error;
    attempts[name] = { code: error instanceof NativeError ? error.code : "", text: message };
  }
}

/** Asks for the GPU in every way there is. */
function open(): void {
  attempt("has", hasGpu);
  attempt("auto", () => t.useDevice("auto"));
  attempt("use", () => t.useDevice("cuda"));
  attempt("move", () => t.tensor([1, 2]).to("cuda").device);
  attempt("facts", () => gpuFacts().name);
  attempt("cpu", () => t.tensor([1, 2, 3]).sum());
}

/** 64 MB of device memory. */
function memory(): void {
  t.useDevice("cuda");
  const large = t.zeros([4, 1 << 20]);
  const small = t.zeros([1 << 20], "bf16");
  attempt("tensor", () => t.zeros([1024, 64, 1024]));
  attempt("move", () => t.onDevice("cpu", () => t.zeros([16, 1 << 20])).to("cuda"));
  attempt("operation", () => t.concat([large, large, large]));
  attempt("scratch", () => {
    const [x, w] = [t.zeros([1024, 1]), t.zeros([1 << 17, 1])];
    return t.linearCrossEntropy(x, w, t.zeros([1024], "i32")).loss;
  });
  attempt("others live", () => large.add(1).sum());
  large.dispose();
  attempt("after freeing", () => t.onDevice("cuda", () => t.full([8, 1 << 20], 1).sum()));
  attempt("small", () => small.cast("f32").sum());
}

/** Ids outside of tables: kernels leave a record that the next read raises. */
function ids(): void {
  t.useDevice("cuda");
  const table = t.ones([10, 2]);
  const found = (...list: number[]) => t.embedding(table, t.tensor(Int32Array.from(list)), "f32");
  const y = found(1, 12, 3);
  attempt("launches go on", () => y.mul(2).shape);
  attempt("read", () => y);
  attempt("read again", () => y.slice(0, 2, 3));
  const below = found(-5, 2);
  attempt("below", () => below.sum());
  attempt("scalar", () => t.ones([3]).sum());
  const moved = found(10);
  attempt("copy to the CPU", () => moved.to("cpu"));
  attempt("targets", () => t.crossEntropy(t.zeros([2, 5]), t.tensor(Int32Array.of(1, 7))).loss);
  const sizes = { vocabSize: 11, embeddingDim: 8, numBlocks: 1, numHeads: 2 };
  const model = xlstm({ ...sizes, dtype: "f32" });
  const shape = [1, 3];
  const batch = (id: number) => ({
    tokens: { data: Int32Array.of(1, id, 3), shape },
    targets: { data: Int32Array.of(2, 3, 4), shape },
  });
  attempt("model", () => model.loss(batch(11)));
  attempt("model, sound", () => model.loss(batch(10)).item() > 0);
}

/** Steps of two rows, the second of which has a slot that does not exist, on three states. */
function slots(): void {
  t.useDevice("cuda");
  const random = (name: string, shape: number[]) => t.randn(shape, { seed: 3, name });
  const gate = random("gate", [2, 2]);
  const steps: Record<string, { state: () => t.Tensor[]; step: Step }> = {
    causalConvStep: {
      state: () => [random("state", [3, 3, 4])],
      step: ([state], slots) =>
        t.causalConvStep(random("x", [2, 4]), random("w", [4, 4]), undefined, state!, { slots }),
    },
    slstmStep: {
      state: () => [random("state", [3, 4, 2, 8])],
      step: ([state], slots) => {
        const r = random("r", [4, 2, 8, 8]);
        return t.slstmStep(random("wx", [2, 4, 2, 8]), r, random("b", [4, 2, 8]), state!, {
          slots,
        });
      },
    },
    mlstmStep: {
      state: () => [random("c", [3, 2, 4, 8]), random("n", [3, 2, 4]), random("m", [3, 2])],
      step: ([c, n, m], slots) => {
        const [q, k, v] = [random("q", [2, 2, 4]), random("k", [2, 2, 4]), random("v", [2, 2, 8])];
        const state = { c: c!, n: n!, m: m! };
        return t.mlstmStep({ q, k, v, i: gate, f: gate }, state, { inputGate: "exp", slots });
      },
    },
  };
  for (const [name, { state, step }] of Object.entries(steps)) {
    for (const id of [3, -1, 900_000]) {
      const [before, alone, held] = [state(), state(), state()];
      const want = step(alone, t.tensor(Int32Array.of(2, 0))).slice(0, 0, 1);
      const y = step(held, t.tensor(Int32Array.of(2, id)));
      attempt(`${name} ${id}`, () => y);
      attempt(`${name} ${id} rows`, () => [same(y.slice(0, 0, 1), want), isZero(y.slice(0, 1, 2))]);
      const row = (all: t.Tensor[], at: number) => all.map((part) => part.slice(0, at, at + 1));
      attempt(`${name} ${id} states`, () =>
        [before, before, alone].map((list, at) =>
          row(held, at).every((part, i) => same(part, row(list, at)[i]!)),
        ),
      );
    }
  }
}

type Step = (state: t.Tensor[], slots: t.Tensor) => t.Tensor;

const same = (a: t.Tensor, b: t.Tensor) => `${[...a.dataSync()]}` === `${[...b.dataSync()]}`;
const isZero = (x: t.Tensor) => x.dataSync().every((value) => value === 0);

/** A kernel that writes outside of its memory: CUDA allows nothing after that. */
function fault(): void {
  const here = t.tensor([1, 2, 3]);
  t.useDevice("cuda");
  const kept = t.tensor([4, 5, 6]);
  const slots = t.tensor(Int32Array.of(1));
  const state = t.zeros([2, 3, 4]);
  attempt("step", () => {
    return t.causalConvStep(t.zeros([1, 4]), t.zeros([4, 4]), undefined, state, { slots });
  });
  attempt("read", () => kept);
  attempt("make", () => t.zeros([3]));
  attempt("operation", () => kept.mul(2));
  attempt("wait", t.synchronize);
  attempt("dispose", () => [kept, state].forEach((x) => x.dispose()));
  t.useDevice("cpu");
  attempt("cpu", () => here.mul(here).sum());
  const w = t.requireGrad(t.tensor([1, 2]));
  attempt("cpu gradients", () => w.mul(w).sum().backward().of(w));
}

const scenarios = { open, memory, ids, slots, fault };
scenarios[process.argv[2] as keyof typeof scenarios]();
console.log(JSON.stringify(attempts));
