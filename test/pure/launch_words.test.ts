// The launcher's command line, and the batch file for Slurm as it is printed.

import { expect, test } from "bun:test";
import { networkNames, networkPresets } from "../../lib/launch/network.ts";
import { renderBatch } from "../../lib/launch/slurm.ts";
import { splitWords } from "../../lib/launch/words.ts";

const lines: Record<string, { own: string[]; recipe: string | undefined; rest: string[] }> = {
  "-n 4 train steps=20 mesh.dp=2 -- -n": {
    own: ["ranks=4"],
    recipe: "train",
    rest: ["steps=20", "mesh.dp=2", "--", "-n"],
  },
  "--nproc=2 grace=1 --all-output verify --help": {
    own: ["ranks=2", "grace=1", "--all-output"],
    recipe: "verify",
    rest: ["--help"],
  },
  "--allOutput --logs out ranks=2 my/recipe.ts": {
    own: ["--allOutput", "--logs", "out", "ranks=2"],
    recipe: "my/recipe.ts",
    rest: [],
  },
  "slurm.time=1:00:00 --no-exclusive --batch train": {
    own: ["slurm.time=1:00:00", "--no-exclusive", "--batch"],
    recipe: "train",
    rest: [],
  },
  "--help": { own: ["--help"], recipe: undefined, rest: [] },
};

for (const [line, words] of Object.entries(lines)) {
  test(`bun run launch ${line}`, () => expect(splitWords(line.split(" "))).toEqual(words));
}

test("a number of ranks that is missing", () => {
  expect(() => splitWords(["-n"])).toThrow("-n has no value: write -n 4");
});

const options = {
  jobName: "xlstm",
  nodes: 2,
  ranks: 8,
  gpus: 8,
  cpusPerTask: 28,
  time: "7-00:00:00",
  partition: "compute",
  account: undefined,
  gpuBind: "none",
  exclusive: true,
  warnSeconds: 300,
  network: undefined,
  command: ["node_modules/.bin/bun", "recipes/train.ts", "steps=20", "data=a b's.txt"],
};

test("a batch file", () => {
  expect(renderBatch(options)).toBe(`#!/bin/bash
#SBATCH --job-name=xlstm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=28
#SBATCH --gres=gpu:8
#SBATCH --gpu-bind=none
#SBATCH --time=7-00:00:00
#SBATCH --partition=compute
#SBATCH --signal=USR1@300
#SBATCH --wait-all-nodes=1
#SBATCH --open-mode=append
#SBATCH --exclusive
#SBATCH --requeue

set -euo pipefail
node setup/prepare.mjs
# One secret for the ranks of this job; it stands in no argument and no log.
XL_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')
export XL_TOKEN
export NCCL_NVLS_ENABLE=0
export TORCH_SYMM_MEM_DISABLE_MULTICAST=1
export NVSHMEM_DISABLE_NVLS=1
export XL_THREADS=28
exec srun --kill-on-bad-exit=1 --cpus-per-task=28 \\
  node_modules/.bin/bun recipes/train.ts steps=20 'data=a b'\\''s.txt'
`);
});

test("bash reads the batch file, and gets the words back", () => {
  const check = Bun.spawnSync(["bash", "-n"], { stdin: Buffer.from(renderBatch(options)) });
  expect(check.exitCode, check.stderr.toString()).toBe(0);
  const srun = 'srun() { printf "%s\\n" "$@"; }; node() { :; }; ';
  const file = srun + renderBatch(options).replace("exec srun", "srun");
  const run = Bun.spawnSync(["bash", "-c", file]);
  expect(run.stdout.toString().trim().split("\n")).toEqual([
    "--kill-on-bad-exit=1",
    "--cpus-per-task=28",
    ...options.command,
  ]);
});

test("network variables are in a batch file only when they are asked for", () => {
  expect(networkNames).toEqual(["infiniband16"]);
  const text = renderBatch({ ...options, network: "infiniband16" });
  const { variables } = networkPresets.infiniband16;
  expect(Object.keys(variables)).toHaveLength(22);
  for (const name of Object.keys(variables)) expect(text).toContain(`\nexport ${name}=`);
  expect(text).toContain("\nexport NCCL_IB_HCA==mlx5_0,mlx5_1,mlx5_3,");
  expect(renderBatch(options)).not.toContain("NCCL_IB");
});

test("what does not fit on a line of a batch file is refused", () => {
  const partition = "compute\n#SBATCH --uid=0";
  expect(() => renderBatch({ ...options, partition })).toThrow(/--partition=compute/);
});
