// What goes wrong with a GPU, and what is left usable. Children run on the emulator whatever this
// machine has: it can be old, small or absent.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import * as t from "../../lib/tensor/index.ts";
import { emulator, onGpu } from "../helpers/gpu.ts";
import type { Attempt } from "../helpers/gpu_errors.ts";

const root = join(import.meta.dir, "../..");

async function run(args: readonly string[], environment: Record<string, string>) {
  const child = Bun.spawn([process.execPath, ...args], {
    cwd: root,
    env: { ...process.env, XL_CUDA_DRIVER: emulator, ...environment },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { stdout, stderr, exitCode: await child.exited };
}

/** What the attempts of a scenario of test/helpers/gpu_errors.ts gave. */
async function scenario(name: string, environment: Record<string, string> = {}) {
  const { stdout, stderr } = await run(["test/helpers/gpu_errors.ts", name], environment);
  // A machine with a GPU is told, once, that it is not used.
  expect(stderr.replace(/^\(node.* Warning: the GPU is not used: .*\n\(Use .*\n/, "")).toBe("");
  return JSON.parse(stdout) as Record<string, Attempt>;
}

describe("a GPU that cannot be used is named, and the CPU works", () => {
  const cases: Record<string, [Record<string, string>, string, RegExp]> = {
    "no driver": [
      { XL_CUDA_DRIVER: "/nowhere/libcuda.so.1" },
      "library_missing",
      /^no CUDA driver: \/nowhere\/libcuda\.so\.1: cannot open .*use device=cpu, or install/,
    ],
    "a library that is no driver": [
      { XL_CUDA_DRIVER: join(root, "native/zig-out/lib/libxl.so") },
      "library_missing",
      /^the CUDA driver .*libxl\.so has no cu\w+; a driver of CUDA 12\.8 or newer is needed/,
    ],
    "an old driver": [
      { XL_EMULATOR_DRIVER_VERSION: "11040" },
      "unsupported",
      /^the NVIDIA driver is for CUDA 11\.4; 12\.8 or newer is needed; use device=cpu$/,
    ],
    "a driver without a GPU": [
      { XL_EMULATOR_DEVICES: "0" },
      "cuda",
      /^no GPU can be used: CUDA_ERROR_NO_DEVICE \(.*\); use device=cpu$/,
    ],
    "too old a GPU": [
      { XL_EMULATOR_CAPABILITY: "75" },
      "unsupported",
      /^.* has compute capability 7\.5; 8\.0 or newer is needed; use device=cpu$/,
    ],
    "a GPU that is not there": [
      { XL_GPU: "3" },
      "invalid_argument",
      /^GPU 3 does not exist; there are 1; use device=cpu$/,
    ],
    "a GPU that is no number": [
      { XL_GPU: "first" },
      "invalid_argument",
      /^the GPU is "first": expected a number from 0 \(gpu, XL_GPU\); use device=cpu$/,
    ],
    "a GPU without memory": [
      { XL_EMULATOR_MEMORY: "16" },
      "out_of_memory",
      /^no GPU can be used: no device memory at all; use device=cpu$/,
    ],
  };

  test.concurrent.each(Object.entries(cases))("%s", async (_, [environment, code, text]) => {
    const { has, auto, cpu, ...asked } = await scenario("open", environment);
    expect([has, auto, cpu]).toEqual([{ value: false }, { value: "cpu" }, { value: [6] }]);
    for (const [name, attempt] of Object.entries(asked)) {
      expect(attempt, name).toEqual({ code, text: expect.stringMatching(text) });
    }
  });

  test.concurrent("a recipe says it in a line, without a stack", async () => {
    const args = ["recipes/verify.ts", "test", "device=cuda"];
    const { stderr, exitCode } = await run(args, { XL_EMULATOR_DEVICES: "0" });
    expect(stderr).toMatch(/^verify: no GPU can be used: CUDA_ERROR_NO_DEVICE .*\n$/);
    expect(exitCode).toBe(64);
  });
});

test("out of memory: the largest tensors are listed, and freeing them is enough", async () => {
  const got = await scenario("memory", { XL_EMULATOR_MEMORY: String(64 << 20) });
  // Of 67.1 MB; the one on the CPU, in "move", does not count.
  const listed = new RegExp(
    String.raw`on cuda: 2 tensors hold 18\.9 MB, the largest f32 \[4, 1048576\] 16\.8 MB, ` +
      String.raw`bf16 \[1048576\] 2\.1 MB; 48\.\d MB are free; make the`,
  );
  for (const [name, shape] of [
    ["tensor", "[1024, 64, 1024] (268.4 MB)"],
    ["move", "[16, 1048576] (67.1 MB)"],
    ["operation", "[12, 1048576] (50.3 MB)"],
  ] as const) {
    expect(got[name]).toEqual({ code: "out_of_memory", text: expect.stringMatching(listed) });
    expect(got[name]!.text).toContain(`no memory for a f32 tensor of shape ${shape} on cuda`);
  }
  expect(got["scratch"]!.code).toBe("out_of_memory");
  expect(got["scratch"]!.text).toMatch(
    /^no memory for scratch of linearCrossEntropy \(\d+\.\d MB\) on cuda: \d+ tensors hold/,
  );
  expect(got["scratch"]!.text).toMatch(/the largest f32 \[4, 1048576\] 16\.8 MB, .* MB are free;/);
  expect(got["others live"]).toEqual({ value: [4 << 20] });
  expect(got["after freeing"]).toEqual({ value: [8 << 20] });
  expect(got["small"]).toEqual({ value: [0] });
});

test("ids outside of a table are raised at the next read, once, with their limit", async () => {
  const got = await scenario("ids");
  const wrong = (id: number, most: number) => ({
    code: "invalid_argument",
    text: expect.stringContaining(`ids that contain ${id}, expected 0 to ${most}`),
  });
  expect(got).toEqual({
    "launches go on": { value: [3, 2] },
    read: wrong(12, 9),
    "read again": { value: [1, 1] },
    below: wrong(-5, 9),
    scalar: { value: [3] },
    "copy to the CPU": wrong(10, 9),
    targets: wrong(7, 4),
    model: wrong(11, 10),
    "model, sound": { value: true },
  });
});

test.each(["0", "1"])("a kernel at fault ends the GPU, not the CPU (XL_SYNC=%s)", async (sync) => {
  const got = await scenario("fault", { XL_SYNC: sync, XL_EMULATOR_FAULT: "conv_step_f32" });
  const { step, dispose, cpu, "cpu gradients": gradients, operation, ...rest } = got;
  const dead = { code: "cuda", text: expect.stringContaining("CUDA_ERROR_ILLEGAL_ADDRESS") };
  expect(step).toEqual(dead);
  expect(step!.text).toStartWith("causalConvStep: ");
  for (const [name, attempt] of Object.entries(rest)) expect(attempt, name).toEqual(dead);
  expect(operation!.code).not.toBe("");
  expect(dispose).toEqual({});
  expect([cpu, gradients]).toEqual([{ value: [14] }, { value: [2, 4] }]);
});

test("a slot outside of a state changes nothing, and is raised at the next read", async () => {
  const got = await scenario("slots");
  for (const cell of ["causalConvStep", "slstmStep", "mlstmStep"]) {
    for (const id of [3, -1, 900_000]) {
      const raised = expect.stringContaining(`ids that contain ${id}, expected 0 to 2`);
      expect(got[`${cell} ${id}`], cell).toEqual({ code: "invalid_argument", text: raised });
      // The row with a good slot has its result and its new state; the other one has zeros.
      expect(got[`${cell} ${id} rows`], cell).toEqual({ value: [true, true] });
      expect(got[`${cell} ${id} states`], cell).toEqual({ value: [true, true, true] });
    }
  }
});

describe("tensors of two devices", () => {
  const here = t.tensor([1, 2, 3]);
  const there = here.to("cuda");
  const mixed = {
    add: () => t.add(there, here),
    matmul: () => t.matmul(here.reshape([1, 3]), there.reshape([3, 1])),
    linear: () => t.linear(there.reshape([1, 3]), t.zeros([2, 3])),
    rmsNorm: () => t.rmsNorm(there.reshape([1, 3]), t.ones([3])),
    concat: () => t.concat([here, there]),
    embedding: () =>
      t.embedding(
        t.ones([4, 2]),
        onGpu(() => t.tensor(Int32Array.of(1))),
        "f32",
      ),
    write: () => t.write(here, there),
  };

  test.each(Object.entries(mixed))("%s", (_, body) => {
    const text = /: \w+( tensor)? is on (cpu|cuda), the tensors before it on (cpu|cuda); move one/;
    expect(body).toThrow(text);
  });

  test("gradients go back to where the leaf is", () => {
    const leaf = t.requireGrad(t.tensor([1, 2, 3]));
    const gradient = t
      .sum(t.mul(leaf.to("cuda"), there))
      .backward()
      .of(leaf);
    expect(gradient.device).toBe("cpu");
    expect([...gradient.dataSync()]).toEqual([1, 2, 3]);
  });
});

test("f64 is for the CPU: data moves and converts, arithmetic says what to use", () => {
  onGpu(() => {
    const x = t.tensor([1, 2, 3], { dtype: "f64" });
    expect([...x.dataSync()]).toEqual([1, 2, 3]);
    expect([...t.cast(x, "f32").mul(2).dataSync()]).toEqual([2, 4, 6]);
    expect(t.sum(x.to("cpu")).item()).toBe(6);
    const text = "not available for f64 tensors on cuda; use f32 or bf16, or the CPU";
    for (const body of [() => t.add(x, x), () => t.exp(x), () => t.sum(x), () => t.softmax(x)]) {
      expect(body).toThrow(text);
    }
    const rows = x.reshape([1, 3]);
    expect(() => t.matmul(rows, rows.transpose())).toThrow(text);
  });
});
