// Ranks from the variables of every launcher, one fixture each; conflicts, and what is told to a
// user whose variables do not add up.

import { describe, expect, test } from "bun:test";
import { networkInterfaces } from "node:os";
import { bindAddress } from "../../lib/launch/addresses.ts";
import { detectEnvironment, gpuOrdinal, visibleGpus } from "../../lib/launch/environment.ts";
import { expandNodeList } from "../../lib/launch/nodelist.ts";
import { address, type Variables } from "../../lib/launch/variables.ts";

const slurm: Variables = {
  SLURM_JOB_ID: "123456",
  SLURM_STEP_ID: "0",
  SLURM_STEP_NODELIST: "n[01-03,07]",
  SLURM_PROCID: "9",
  SLURM_NTASKS: "16",
  SLURM_STEP_NUM_TASKS: "16",
  SLURM_LOCALID: "1",
  SLURM_NTASKS_PER_NODE: "4",
  SLURM_RESTART_COUNT: "2",
};
const torchrun: Variables = {
  RANK: "5",
  WORLD_SIZE: "8",
  LOCAL_RANK: "1",
  LOCAL_WORLD_SIZE: "4",
  GROUP_RANK: "1",
  MASTER_ADDR: "n01",
  MASTER_PORT: "29500",
  TORCHELASTIC_RESTART_COUNT: "1",
  TORCHELASTIC_RUN_ID: "run-7",
};
const openMpi: Variables = {
  OMPI_COMM_WORLD_RANK: "3",
  OMPI_COMM_WORLD_SIZE: "4",
  OMPI_COMM_WORLD_LOCAL_RANK: "1",
  OMPI_COMM_WORLD_LOCAL_SIZE: "2",
};
const n01 = { host: "n01", port: 29_500 };

const fixtures: readonly (readonly [string, Variables, object])[] = [
  ["nothing", {}, { source: "none", rank: 0, world: 1, localRank: 0, attempt: 0 }],
  [
    "explicit variables",
    { XL_RANK: "2", XL_WORLD_SIZE: "4", XL_LOCAL_RANK: "0", XL_MASTER: "n01:29500" },
    { source: "XL_RANK", rank: 2, world: 4, localRank: 0, master: n01 },
  ],
  [
    "explicit variables of one host",
    { XL_RANK: "2", XL_WORLD_SIZE: "4", XL_MASTER: "127.0.0.1:29500" },
    { source: "XL_RANK", rank: 2, localRank: 2 },
  ],
  [
    "torchrun",
    torchrun,
    { source: "torchrun", rank: 5, world: 8, localRank: 1, localWorld: 4, master: n01, attempt: 1 },
  ],
  [
    "a Slurm step",
    slurm,
    {
      source: "Slurm",
      rank: 9,
      world: 16,
      localRank: 1,
      localWorld: 4,
      master: { host: "n01", port: 20_000 + (123_456 % 20_000) },
      attempt: 2,
      job: "123456",
    },
  ],
  [
    "a Slurm step of one host",
    { ...slurm, SLURM_STEP_NODELIST: "n07", SLURM_STEP_ID: "3" },
    { source: "Slurm", master: { host: "127.0.0.1", port: 20_000 + ((123_456 + 303) % 20_000) } },
  ],
  [
    "a Slurm step with a master of the user's own",
    { ...slurm, MASTER_ADDR: "login", MASTER_PORT: "1234" },
    { source: "Slurm", master: { host: "login", port: 1234 } },
  ],
  [
    "a Slurm batch script, which is one process",
    { SLURM_JOB_ID: "1", SLURM_PROCID: "0", SLURM_NTASKS: "16", SLURM_NODELIST: "n[1-4]" },
    { source: "none", rank: 0, world: 1 },
  ],
  [
    "Open MPI",
    { ...openMpi, XL_MASTER: "n01:29500" },
    { source: "Open MPI", rank: 3, world: 4, localRank: 1, localWorld: 2, master: n01 },
  ],
  [
    "PMI",
    { PMI_RANK: "1", PMI_SIZE: "2", MPI_LOCALRANKID: "1", XL_MASTER: "n01:29500" },
    { source: "PMI", rank: 1, world: 2, localRank: 1 },
  ],
  [
    "PMIx, with the size from Slurm",
    { PMIX_RANK: "1", SLURM_NTASKS: "2", MASTER_ADDR: "n01", MASTER_PORT: "29500" },
    { source: "PMI", rank: 1, world: 2, localRank: 0 },
  ],
  [
    "an indexed job of Kubernetes",
    { JOB_COMPLETION_INDEX: "3", WORLD_SIZE: "4", HOSTNAME: "train-3" },
    { source: "Kubernetes", rank: 3, world: 4, master: { host: "train-0.train", port: 29_400 } },
  ],
  [
    "an indexed job with several ranks in a pod",
    {
      JOB_COMPLETION_INDEX: "1",
      XL_LOCAL_WORLD_SIZE: "2",
      XL_LOCAL_RANK: "1",
      XL_WORLD_SIZE: "4",
      XL_MASTER: "n01:29500",
    },
    { source: "Kubernetes", rank: 3, world: 4, localRank: 1, localWorld: 2, master: n01 },
  ],
];

describe("the rank of a process", () => {
  for (const [name, variables, expected] of fixtures) {
    test(name, () => expect(detectEnvironment(variables)).toMatchObject(expected));
  }

  test("flags win over variables", () => {
    const flags = { rank: 0, world: 2, master: "n09:1" };
    const found = detectEnvironment(torchrun, flags);
    expect(found).toMatchObject({ source: "XL_RANK", rank: 0, world: 2, master: { host: "n09" } });
  });

  test("the mesh gives the number of ranks where no variable does", () => {
    const variables = { JOB_COMPLETION_INDEX: "1", HOSTNAME: "train-1" };
    expect(detectEnvironment(variables, {}, 4)).toMatchObject({ rank: 1, world: 4 });
    expect(() => detectEnvironment(variables)).toThrow(/XL_WORLD_SIZE/);
  });
});

describe("sources that disagree", () => {
  test("the first one wins, and one line names what was ignored", () => {
    const found = detectEnvironment({ ...slurm, ...torchrun });
    expect(found).toMatchObject({ source: "torchrun", rank: 5, world: 8 });
    expect(found.conflict).toBe("rank 5 of 8 from torchrun; ignored: Slurm (rank 9 of 16)");
  });

  test("the same numbers, or a shell that Slurm gave, are no conflict", () => {
    const same = { RANK: "9", WORLD_SIZE: "16", MASTER_ADDR: "n01", MASTER_PORT: "1" };
    expect(detectEnvironment({ ...slurm, ...same }).conflict).toBeUndefined();
    const shell = { SLURM_STEP_NODELIST: "n01", SLURM_PROCID: "0", SLURM_NTASKS: "1" };
    expect(detectEnvironment({ ...shell, ...torchrun }).conflict).toBeUndefined();
  });
});

const wrong: readonly (readonly [Variables, RegExp])[] = [
  [{ XL_RANK: "1" }, /XL_RANK is set, but XL_WORLD_SIZE is not/],
  [{ XL_RANK: "4", XL_WORLD_SIZE: "4", XL_MASTER: "a:1" }, /rank 4 of 4; ranks count from 0/],
  [{ XL_RANK: "-1", XL_WORLD_SIZE: "4" }, /XL_RANK=-1: expected an integer from 0/],
  [{ XL_RANK: "1", XL_WORLD_SIZE: "4" }, /knows no address; set XL_MASTER=HOST:PORT/],
  [{ XL_RANK: "1", XL_WORLD_SIZE: "4", XL_MASTER: "n01" }, /XL_MASTER=n01: expected HOST:PORT/],
  [{ RANK: "0", WORLD_SIZE: "2", MASTER_ADDR: "n01" }, /MASTER_ADDR=n01 needs MASTER_PORT/],
  [openMpi, /mpirun -x XL_MASTER=HOST:PORT/],
  [{ PMIX_RANK: "0" }, /PMIX_RANK is set, but XL_WORLD_SIZE and SLURM_STEP_NUM_TASKS/],
  [{ ...slurm, SLURM_STEP_NODELIST: "n[1-" }, /node list "n\[1-": its brackets do not match/],
];

for (const [variables, message] of wrong) {
  test(`${JSON.stringify(variables).slice(0, 60)} is refused: ${message.source}`, () => {
    expect(() => detectEnvironment(variables)).toThrow(message);
  });
}

test("addresses", () => {
  expect(address("[::1]:29500", "x")).toEqual({ host: "::1", port: 29_500 });
  for (const text of ["n01:0", "n01:65536", ":1", "n01:", "a:b:1"]) {
    expect(() => address(text, "XL_MASTER")).toThrow(/expected HOST:PORT/);
  }
});

test("the GPU of a local rank", () => {
  expect(gpuOrdinal(3, {})).toBe(3);
  expect(gpuOrdinal(1, { CUDA_VISIBLE_DEVICES: "4,5" })).toBe(1);
  // A scheduler that shows every rank its own GPU alone.
  expect(gpuOrdinal(3, { CUDA_VISIBLE_DEVICES: "GPU-8932f937" })).toBe(0);
  expect(gpuOrdinal(3, { CUDA_VISIBLE_DEVICES: "0,1", XL_GPU: "1" })).toBe(1);
  expect(() => gpuOrdinal(2, { CUDA_VISIBLE_DEVICES: "4,5" })).toThrow(/local rank 2 has no GPU/);
  expect(() => gpuOrdinal(1, { CUDA_VISIBLE_DEVICES: "4,5,-1,6" })).not.toThrow();
  expect(() => gpuOrdinal(0, { CUDA_VISIBLE_DEVICES: "" })).toThrow(/shows 0/);
  expect(visibleGpus({})).toBeUndefined();
  expect(visibleGpus({ CUDA_VISIBLE_DEVICES: "-1" })).toBe(0);
});

describe("node lists", () => {
  const lists: Record<string, string[]> = {
    n07: ["n07"],
    "n[01-03,07]": ["n01", "n02", "n03", "n07"],
    "n[8-11]": ["n8", "n9", "n10", "n11"],
    "n[098-101]": ["n098", "n099", "n100", "n101"],
    "a1,b[2-3]-ib": ["a1", "b2-ib", "b3-ib"],
    "r[0-1]n[0-2]": ["r0n0", "r0n1", "r0n2", "r1n0", "r1n1", "r1n2"],
    "a[1,3],b,c[05]": ["a1", "a3", "b", "c05"],
  };
  for (const [list, hosts] of Object.entries(lists)) {
    test(list, () => expect(expandNodeList(list)).toEqual(hosts));
  }

  const refused: Record<string, RegExp> = {
    "": /a host name is empty/,
    "a,,b": /a host name is empty/,
    "n[1": /brackets do not match/,
    "n1]": /brackets do not match/,
    "n[1[2]]": /brackets do not match/,
    "n[3-1]": /the range 3-1 runs backwards/,
    "n[a-b]": /neither a number nor a range/,
    "n[]": /neither a number nor a range/,
    "n[0-99999]": /more than 65536 hosts/,
    "n[0-999][0-999]": /more than 65536 hosts/,
  };
  for (const [list, message] of Object.entries(refused)) {
    test(`"${list}" is refused`, () => expect(() => expandNodeList(list)).toThrow(message));
  }
});

describe("where rank 0 listens", () => {
  test("at the loopback address for ranks of this host, whatever the interface", async () => {
    const expected = { host: "127.0.0.1", port: 5 };
    expect(await bindAddress({ host: "localhost", port: 5 })).toEqual(expected);
    expect(await bindAddress({ host: "127.0.0.1", port: 5 }, "all")).toEqual(expected);
  });

  test("at one interface, or at all when told so", async () => {
    const lo = Object.entries(networkInterfaces()).find(([, all]) => all?.[0]?.internal)![0];
    const master = { host: "n01.invalid", port: 5 };
    expect(await bindAddress(master, lo)).toEqual({ host: "127.0.0.1", port: 5 });
    expect(await bindAddress(master, "all")).toEqual({ host: "0.0.0.0", port: 5 });
    await expect(bindAddress(master, "ib9")).rejects.toThrow(
      /XL_IFACE=ib9: no such interface; there/,
    );
    await expect(bindAddress(master)).rejects.toThrow(/rank 0 does not know its own address "n01/);
  });
});
