// Every collective against host arithmetic, on the device of the group. The numbers are small and
// whole, so that sums are exact in every dtype and order.

import { NativeError } from "../native/errors.ts";
import type { Group } from "../mesh/group.ts";
import { capture, type DType, randn, scope, type Tensor, tensor } from "../tensor/index.ts";

/** Checked when it is run: `error` says what was wrong. */
export interface CheckCase {
  readonly name: string;
  readonly run: () => { error?: string };
}

const dtypes: readonly DType[] = ["f32", "bf16", "f64", "i32", "u8"];

/** Element `i` of rank `rank`'s input. */
function valueOf(rank: number, i: number): number {
  return (rank * 7 + i * 5 + Math.floor(i / 9)) % 11;
}

/** All cases, in one order on every rank. */
export function* checkCases(group: Group, quick: boolean): Generator<CheckCase> {
  const sizes = quick ? [1, 37] : [0, 1, 37, 65_537];
  for (const dtype of quick ? dtypes.slice(0, 2) : dtypes) {
    for (const size of sizes) yield* casesOf(group, dtype, size);
  }
  if (!quick) yield* casesOf(group, "f32", 1_200_007);
  yield { name: "sums again", run: () => failureOf(() => checkAgain(group, quick)) };
  yield { name: "beside other work", run: () => failureOf(() => checkBeside(group, quick)) };
  yield { name: "captured", run: () => failureOf(() => checkCaptured(group)) };
}

/** One dtype and size, in elements of a rank's part. */
function* casesOf(group: Group, dtype: DType, size: number): Generator<CheckCase> {
  const { size: n, rank: me } = group;
  const ranks = Array.from({ length: n }, (_, rank) => rank);
  const input = (length: number, rank = me) => make(group, dtype, length, (i) => valueOf(rank, i));
  const sumAt = (i: number) => ranks.reduce((sum, rank) => sum + valueOf(rank, i), 0);
  const bestAt = (op: "max" | "min") => (i: number) =>
    Math[op](...ranks.map((rank) => valueOf(rank, i)));
  const ofPart = (i: number) => valueOf(Math.floor(i / size), me * size + (i % size));
  const cases: Record<string, () => void> = {
    "allReduce sum": () => expect(group.allReduce(input(size)), size, sumAt),
    "allReduce max": () => expect(group.allReduce(input(size), { op: "max" }), size, bestAt("max")),
    "allReduce min": () => expect(group.allReduce(input(size), { op: "min" }), size, bestAt("min")),
    allGather: () =>
      expect(group.allGather(input(size), 0), n * size, (i) =>
        valueOf(Math.floor(i / size), i % size),
      ),
    reduceScatter: () =>
      expect(group.reduceScatter(input(n * size), 0), size, (i) => sumAt(me * size + i)),
    allToAll: () => expect(group.allToAll(input(n * size), 0, 0), n * size, ofPart),
    broadcast: () => {
      for (const root of ranks) {
        const x = input(size);
        group.broadcast_(x, root);
        expect(x, size, (i) => valueOf(root, i));
      }
    },
    exchange: () => {
      for (let step = 1; step < n; step++) {
        const from = (me - step + n) % n;
        const out = { x: input(size), peer: (me + step) % n, site: "ring" };
        const into = { shape: [size], dtype, peer: from, site: "ring" };
        expect(group.exchange(out, into), size, (i) => valueOf(from, i));
      }
    },
    "send, receive": () => {
      if (me === 0) group.send(input(size), n - 1);
      if (me !== n - 1) return;
      expect(group.receive([size], dtype, 0), size, (i) => valueOf(0, i));
    },
  };
  for (const [name, run] of Object.entries(cases)) {
    yield { name: `${name} ${dtype} ${size}`, run: () => failureOf(run) };
  }
}

function make(group: Group, dtype: DType, size: number, value: (i: number) => number): Tensor {
  const values = Float64Array.from({ length: size }, (_, i) => value(i));
  using onHost = tensor(values, { dtype });
  return onHost.to(group.device);
}

/** Throws unless the tensor holds these values. */
function expect(got: Tensor, size: number, value: (i: number) => number): void {
  const data = got.dataSync();
  if (data.length !== size) throw new Error(`${data.length} elements, expected ${size}`);
  const at = data.findIndex((x, i) => x !== value(i));
  if (at >= 0) throw new Error(`element ${at} is ${data[at]}, expected ${value(at)}`);
}

function failureOf(body: () => void): { error?: string } {
  try {
    scope(body);
    return {};
  } catch (error) {
    // After a failure of the transport nothing works any more.
    if (error instanceof NativeError && error.code !== "invalid_argument") throw error;
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

function expectSameBits(a: Tensor, b: Tensor, what: string): void {
  const left = a.bytesSync();
  const right = b.bytesSync();
  if (!left.every((byte, i) => byte === right[i])) throw new Error(`${what}: other bits`);
}

/** Sums of values that round: equal bits on every rank and in every run. */
function checkAgain(group: Group, quick: boolean): void {
  const x = randn([quick ? 1000 : 1_000_003], { seed: group.rank, name: "comm" });
  const first = group.allReduce(x);
  for (let again = 0; again < 3; again++) expectSameBits(group.allReduce(x), first, "run again");
  const others = first.clone();
  group.broadcast_(others, 0);
  expectSameBits(others, first, "rank 0 and this rank");
}

/** Started collectives give the same as others, whatever is asked of the device in between. */
function checkBeside(group: Group, quick: boolean): void {
  const size = quick ? 64 : 1024;
  const x = randn([size, size], { seed: group.rank, name: "beside" });
  const parts = group.allGather(x, 0);
  const wanted = { sum: group.allReduce(x), parts, part: group.reduceScatter(parts, 0) };
  const product = x.matmul(x);
  for (let round = 0; round < 8; round++) {
    const input = x.clone();
    const sum = group.startAllReduce(input);
    const parts = group.startAllGather(input);
    const part = group.startReduceScatter(parts.join(), 0);
    input.dispose(); // its memory is kept for the group
    for (let i = 0; i < 4; i++) expectSameBits(x.matmul(x), product, "product beside");
    expectSameBits(sum.join(), wanted.sum, "started allReduce");
    expectSameBits(parts.join(), wanted.parts, "started allGather");
    expectSameBits(part.join(), wanted.part, "started reduceScatter");
  }
}

/** A captured step with collectives in it gives the bits of the step as it is written. */
function checkCaptured(group: Group): void {
  const body = (x: Tensor) => {
    const started = group.startAllGather(x, "captured gather");
    const sum = group.allReduce(x.square(), { site: "captured sum" });
    return { sum, gathered: started.join().mul(2) };
  };
  const step = capture(body);
  for (let round = 0; round < 6; round++) {
    scope(() => {
      const x = randn([3, 257], { seed: group.rank * 100 + round, name: "captured" });
      const wanted = body(x);
      const got = step(x);
      expectSameBits(got.sum, wanted.sum, `sum of round ${round}`);
      expectSameBits(got.gathered, wanted.gathered, `gather of round ${round}`);
    });
  }
  step.dispose();
}
