// Decoding on the GPU: products of few rows against sums in f64, generation against the CPU and
// against a host that waits for every token, and how rarely the host is needed.

import { afterEach, describe, expect, test } from "bun:test";
import { DeviceDecoder } from "../../lib/infer/decode_device.ts";
import { decode, HostDecoder } from "../../lib/infer/decode.ts";
import { generate, type GenerateOptions } from "../../lib/infer/generate.ts";
import { loadParameters } from "../../lib/infer/load.ts";
import { type Position, prefill, release } from "../../lib/infer/prefill.ts";
import { Sampler, type SamplingOptions } from "../../lib/infer/sampling.ts";
import { gpuFacts } from "../../lib/native/gpu.ts";
import { withTimings } from "../../lib/native/library.ts";
import { type ModelConfigInput, resolveConfig } from "../../lib/nn/config.ts";
import { XLSTM } from "../../lib/nn/model.ts";
import { linears, memory, noGrad, scope, type Tensor, tensor } from "../../lib/tensor/index.ts";
import { gpu, onGpu } from "../helpers/gpu.ts";
import { configs, logits, scrambled, stateful, tokens } from "../helpers/models.ts";
import { Random } from "../helpers/random.ts";
import { settle } from "../helpers/settle.ts";

type Float = "f32" | "bf16";
interface Product {
  m: number;
  n: number;
  k: number;
  x?: Float;
  w?: Float;
  y?: Float;
  bias?: boolean;
}

/** Rows of W on 16 bytes and off them; k in one part, in several, in more than shared memory. */
const products: Product[] = [
  { m: 1, n: 1, k: 1 },
  { m: 1, n: 7, k: 129 },
  { m: 3, n: 33, k: 65, bias: true },
  { m: 8, n: 5, k: 4100 },
  { m: 1, n: 3, k: 20000 },
  { m: 7, n: 66, k: 256, w: "bf16" },
  { m: 5, n: 9, k: 1025, w: "bf16", bias: true },
  { m: 2, n: 130, k: 520, x: "bf16", w: "bf16", y: "bf16" },
  { m: 1, n: 12, k: 9001, x: "bf16", w: "bf16" },
  { m: 8, n: 6, k: 4608, x: "bf16", w: "bf16" },
  { m: 4, n: 11, k: 300, x: "bf16", y: "bf16", bias: true },
  { m: 6, n: 8, k: 77, x: "bf16" },
];

function rounded(values: readonly number[], dtype: Float): number[] {
  if (dtype === "f32") return values.map(Math.fround);
  using narrow = tensor(Float32Array.from(values), { dtype: "bf16" });
  return [...narrow.dataSync()];
}

function drawn(random: Random, shape: [number, number], dtype: Float) {
  const data = rounded([...random.normals(shape[0] * shape[1])], dtype);
  return { data, make: () => tensor(Float32Array.from(data), { shape, dtype }) };
}

describe("few rows times a weight", () => {
  test.each(products)("%o", ({ m, n, k, x = "f32", w = "f32", y = x, bias = false }) => {
    const random = new Random(m + 10 * n + 100 * k);
    const left = drawn(random, [m, k], x);
    const right = drawn(random, [n, k], w);
    const row = drawn(random, [1, n], "f32");
    const got = onGpu(() =>
      scope(() => {
        const offset = bias ? row.make().reshape([n]) : undefined;
        return linears(left.make(), [right.make()], [offset], [y])[0]!.dataSync();
      }),
    );
    const bar = y === "bf16" ? 2 ** -8 : 2e-6;
    for (let i = 0; i < m * n; i++) {
      const [r, c] = [Math.floor(i / n), i % n];
      let sum = bias ? row.data[c]! : 0;
      let size = Math.abs(sum);
      for (let j = 0; j < k; j++) {
        const term = left.data[r * k + j]! * right.data[c * k + j]!;
        sum += term;
        size += Math.abs(term);
      }
      expect(Math.abs(got[i]! - sum)).toBeLessThan(bar * Math.max(size, 1e-3));
    }
  });

  test("a row has the same bits alone and beside others", () => {
    const random = new Random(5);
    // cuBLASLt takes over from five rows on.
    const most = gpu.cublasLt > 0 ? 4 : 8;
    const left = drawn(random, [most, 3000], "bf16");
    for (const w of ["f32", "bf16"] as const) {
      const right = drawn(random, [10, 3000], w);
      onGpu(() =>
        scope(() => {
          const [x, weight] = [left.make(), right.make()];
          const all = linears(x, [weight], [], ["f32"])[0]!.dataSync();
          for (const count of [1, 2, 3, 4, 5].filter((rows) => rows <= most)) {
            const some = linears(x.slice(0, 0, count), [weight], [], ["f32"])[0]!.dataSync();
            expect([...some]).toEqual([...all.subarray(0, count * 10)]);
          }
        }),
      );
    }
  });

  test("sums of several products: the gradient of an input of transposed weights", () => {
    const random = new Random(6);
    const left = drawn(random, [3, 34], "f32");
    const weights = [drawn(random, [34, 40], "f32"), drawn(random, [34, 21], "f32")];
    const run = () =>
      scope(() => {
        const x = left.make().requireGrad();
        const ys = linears(
          x,
          weights.map((weight) => weight.make().transpose()),
        );
        const total = ys.map((y) => y.square().sum()).reduce((a, b) => a.add(b));
        return [...total.backward().of(x)!.dataSync()];
      });
    const want = run();
    onGpu(run).forEach((value, i) => {
      expect(Math.abs(value - want[i]!)).toBeLessThan(1e-4 * Math.max(1, Math.abs(want[i]!)));
    });
  });
});

const models: XLSTM[] = [];
afterEach(() => {
  for (const model of models.splice(0)) model.dispose();
});

function kept(model: XLSTM): XLSTM {
  models.push(model);
  return model;
}

const prompt = [...tokens(1, 21).data];

async function tokensOf(model: XLSTM, options: GenerateOptions): Promise<number[]> {
  const ids: number[] = [];
  for await (const id of generate(model, prompt, options)) ids.push(id);
  return ids;
}

const draws: Record<string, SamplingOptions> = {
  greedy: { temperature: 0 },
  drawn: { temperature: 0.8, topK: 7, topP: 0.9, seed: 3 },
};

describe.each([...stateful, "tied embeddings", "plain LSTM"] as const)("%s", (name) => {
  const config: ModelConfigInput = { ...configs[name], dtype: "f32" };

  test("writes what the CPU writes", async () => {
    const [onHost, onDevice] = [kept(scrambled(config)), kept(onGpu(() => scrambled(config)))];
    for (const options of Object.values(draws)) {
      const want = await tokensOf(onHost, { ...options, maxTokens: 37 });
      expect(await tokensOf(onDevice, { ...options, maxTokens: 37 })).toEqual(want);
    }
  });

  test("bf16: writes what a host that waits for every token writes", () => {
    const model = kept(onGpu(() => scrambled({ ...config, dtype: "bf16" })));
    const options = { ...draws["drawn"], temperature: 1 };
    const make = (Decoder: typeof HostDecoder | typeof DeviceDecoder) => {
      const position = prefill(model, Int32Array.from(prompt), undefined);
      const ids = taken(new Decoder(model, position, new Sampler(options, prompt)), 70);
      release(position);
      return ids;
    };
    expect(make(DeviceDecoder)).toEqual(make(HostDecoder));
  });
});

function taken(decoder: HostDecoder | DeviceDecoder, count: number): number[] {
  using _ = decoder;
  const ids: number[] = [];
  while (ids.length < count) ids.push(...decoder.next(count - ids.length));
  return ids;
}

const small: ModelConfigInput = { ...configs.mixed, dtype: "f32" };

test("stops are exact, and everything is freed", async () => {
  const model = kept(onGpu(() => scrambled(small)));
  const ids = await tokensOf(model, { maxTokens: 40, seed: 4 });
  expect(ids.length).toBe(40);
  await settle();
  const before = [memory().tensors, gpuFacts().liveBytes];
  const stopped = await tokensOf(model, { seed: 4, stopTokens: [ids[20]!] });
  expect(stopped).toEqual(ids.slice(0, ids.indexOf(ids[20]!) + 1));
  expect(await tokensOf(model, { seed: 4, maxTokens: 18 })).toEqual(ids.slice(0, 18));
  {
    using _ = scope();
    for await (const id of generate(model, prompt)) if (id >= 0) break;
  }
  await settle();
  expect([memory().tensors, gpuFacts().liveBytes]).toEqual(before);
});

test("sixteen tokens take one wait, and few launches", () => {
  const model = kept(onGpu(() => scrambled(small)));
  const position: Position = prefill(model, Int32Array.from(prompt), undefined);
  const eager = launches(() => noGrad(() => scope(() => decode(model, one(3), position.state))));
  expect(eager).toBeLessThan(70);
  using decoder = new DeviceDecoder(model, position, new Sampler({}, prompt));
  for (const count of [1, 15, 16, 16]) expect([...decoder.next(100)].length).toBe(count);
  let timings = new Map<string, { calls: number }>();
  const started = launches(() => ({ timings } = withTimings(() => decoder.next(100))));
  const calls = (name: string) => timings.get(name)?.calls ?? 0;
  expect(started).toBeLessThanOrEqual(2 * 16);
  expect(calls("xl_replay")).toBe(16);
  expect(calls("xl_to_bytes")).toBe(1);
  expect(calls("xl_from_bytes")).toBe(0); // The draws of 64 positions lie on the device.
  release(position);
});

function one(id: number) {
  return { data: Int32Array.of(id), shape: [1, 1] };
}

function launches(body: () => unknown): number {
  const before = gpuFacts().launches;
  body();
  return gpuFacts().launches - before;
}

test("a model for inference holds its matrices in bf16 and computes the same", () => {
  const config: ModelConfigInput = { ...configs["mixed paper"], dtype: "bf16" };
  const trained = kept(onGpu(() => scrambled(config)));
  const model = kept(onGpu(() => new XLSTM(resolveConfig(config), { inference: true })));
  const copy = (from: Tensor) => from.clone().detach();
  noGrad(() => loadParameters(model, (name) => copy(trained.parameters().get(name)!)));
  const dtypes = new Map([...model.parameters()].map(([name, { dtype }]) => [name, dtype]));
  expect(dtypes.get("embedding.table")).toBe("bf16");
  expect(dtypes.get("lm_head.weight")).toBe("bf16");
  expect(dtypes.get("blocks.1.mixer.up.weight")).toBe("bf16");
  expect(dtypes.get("blocks.1.mixer.conv.weight")).toBe("f32");
  expect(dtypes.get("blocks.0.mixer.recurrent")).toBe("f32");
  expect(dtypes.get("out_norm.scale")).toBe("f32");
  const [want, got] = [trained, model].map((each) => logits(each, tokens(2, 9)).flat(2));
  const scale = Math.max(...want!.map(Math.abs));
  want!.forEach((value, i) => expect(Math.abs(got![i]! - value)).toBeLessThan(0.1 * scale));
});

test("the GPU is there", () => expect(gpu.multiprocessors).toBeGreaterThan(0));
