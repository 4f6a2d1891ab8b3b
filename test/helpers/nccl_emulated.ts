// A rank whose peers are not there, on the emulated GPU with its NCCL: what test/gpu/comm.test.ts
// looks at is the first argument. Peers put in what changes nothing: see emulator/nccl.cpp.

import { flightRecord } from "../../lib/mesh/comm_record.ts";
import { connectGroups, type Group } from "../../lib/mesh/group.ts";
import { gpuFacts } from "../../lib/native/gpu.ts";
import { capture, randn, scope, tensor, type Tensor, useDevice } from "../../lib/tensor/index.ts";
import { gradientOrder } from "./gradient_order.ts";

useDevice("cuda");
const me = 1;
const size = 3;

/** The store of a launch: the other ranks are on another host. */
const bootstrap = {
  rank: me,
  size,
  set: async () => {},
  get: async (key: string) =>
    key.split("/").length === 4 // comm/name/ranks/count
      ? new Uint8Array(128).fill(105)
      : new TextEncoder().encode(JSON.stringify({ host: "elsewhere", pid: 1 })),
};

function list(x: Tensor): number[] {
  return Array.from(x.dataSync());
}

function errorOf(body: () => unknown): string {
  try {
    body();
    return "none";
  } catch (error) {
    return (error as Error).message;
  }
}

const scenarios: Record<string, (group: Group) => unknown> = {
  methods(group) {
    const x = tensor([1, 2, 3, 4, 5, 6]);
    const copies = [0, me].map((root) => {
      const copy = x.clone();
      group.broadcast_(copy, root);
      return list(copy);
    });
    const into = { shape: [2], dtype: "f32", peer: 0, site: "b" } as const;
    const got = {
      sum: list(group.allReduce(x)),
      largest: list(group.allReduce(x, { op: "max" })),
      gathered: list(group.allGather(x.reshape([2, 3]), 1)),
      scattered: list(group.reduceScatter(x, 0)),
      exchanged: list(group.allToAll(x, 0, 0)),
      copies,
      message: list(group.exchange({ x, peer: 2, site: "a" }, into)),
      onHost: errorOf(() => group.allReduce(x.to("cpu"))),
    };
    group.barrier("end");
    const record = flightRecord().map((line) => JSON.parse(line));
    return { ...got, ops: record.map(({ op, seq }) => `${op} ${seq}`), last: record.at(-1) };
  },

  /** Memory of a started collective is kept until it is joined, whoever lets go of it. */
  started(group) {
    using _ = scope();
    const x = randn([1 << 16]);
    const wanted = list(x);
    const bytes: number[] = [];
    const note = () => bytes.push(gpuFacts().liveBytes);
    note();
    const pending = group.startAllReduce(x);
    note();
    x.dispose();
    note();
    const sum = pending.join();
    note();
    const again = pending.join(); // once is enough
    return { bytes, equal: list(sum).every((v, i) => v === wanted[i]), same: again === sum };
  },

  /** Layers whose gradients are one product, and in f32 several. */
  order(group) {
    return (["bf16", "f32"] as const).map((dtype) => gradientOrder(group, "gather", dtype).order);
  },

  captured(group) {
    const body = (x: Tensor) => {
      const started = group.startAllGather(x, "gather");
      const sum = group.allReduce(x.square(), { site: "sum" });
      return { sum, gathered: started.join().mul(2) };
    };
    const step = capture(body);
    const errors: string[] = [];
    for (let round = 0; round < 5; round++) {
      scope(() => {
        const x = randn([4, 5]);
        const wanted = body(x);
        const got = step(x);
        if (list(got.sum).join() !== list(wanted.sum).join()) errors.push(`sum ${round}`);
        if (list(got.gathered).join() !== list(wanted.gathered).join()) errors.push(`${round}`);
      });
    }
    const inside = capture((x: Tensor) => {
      group.barrier();
      return { x };
    });
    const barrier = errorOf(() => [0, 1].map(() => inside(tensor([1]))));
    const replays = flightRecord().filter((line) => line.includes('"replay"')).length;
    return { errors, barrier, replays, launches: step.launches };
  },

  split(group) {
    const child = group.split(0, 0, "tp")!;
    const none = group.split(-1, 0, "none");
    const sum = list(child.allReduce(tensor([7])));
    const { name, ranks, rank } = child;
    child.dispose();
    return { name, ranks, rank, sum, none: none === undefined };
  },

  /** Many of them, one after the other: memory and numbers do not grow. */
  async again() {
    const bytes: number[] = [];
    for (let round = 0; round < 20; round++) {
      const group = await connectGroups(bootstrap, "again", [0, 1, 2], "cuda");
      scope(() => group.allReduce(tensor([1])).dataSync());
      group.dispose();
      bytes.push(gpuFacts().liveBytes);
    }
    return { bytes: new Set(bytes.slice(2)).size };
  },

  /** The GPU never says that the work has ended. */
  async late(group) {
    group.setDeadline(0.3);
    const started = group.startAllReduce(tensor([1]), { site: "grads" });
    await Bun.sleep(1500); // the watchdog's turn
    const first = errorOf(() => started.join().dataSync());
    const second = errorOf(() => list(tensor([5]))); // told once: what is computed can be saved
    return { first, second, third: errorOf(() => group.barrier("after")) };
  },

  lateBarrier(group) {
    group.setDeadline(0.3);
    return errorOf(() => group.barrier("end"));
  },

  error(group) {
    const first = errorOf(() => group.allReduce(tensor([1]), { site: "grads" }));
    return { first, second: errorOf(() => group.allReduce(tensor([1]))) };
  },

  abort(group) {
    const started = group.startAllReduce(tensor([1]));
    group.abort("the disk is full");
    return { wait: errorOf(() => started.join().item()), use: errorOf(() => group.barrier()) };
  },
};

const [name] = process.argv.slice(2);
const group = await connectGroups(bootstrap, "fsdp", [0, 1, 2], "cuda");
console.log(JSON.stringify(await scenarios[name!]!(group)));
