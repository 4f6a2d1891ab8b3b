// A Slurm batch file that starts one process per accelerator: printed, to be looked at and given
// to sbatch.

import { LaunchError } from "./errors.ts";
import { type NetworkName, networkPresets, safeVariables } from "./network.ts";

export interface SlurmOptions {
  readonly jobName: string;
  readonly nodes: number;
  /** Ranks per node. */
  readonly ranks: number;
  /** GPUs per node; 0 for none. */
  readonly gpus: number;
  readonly cpusPerTask: number;
  readonly time: string;
  readonly partition?: string | undefined;
  readonly account?: string | undefined;
  /** How Slurm deals GPUs out; "none" lets every rank see all, which NCCL on one host wants. */
  readonly gpuBind: string;
  readonly exclusive: boolean;
  /** Seconds before the end at which ranks are asked to save and stop. */
  readonly warnSeconds: number;
  readonly network?: NetworkName | undefined;
  /** Program and arguments of a rank, as seen from the folder that sbatch is called in. */
  readonly command: readonly string[];
}

/** The text of the batch file. LaunchError for values that do not fit on a line of it. */
export function renderBatch(options: SlurmOptions): string {
  const { nodes, ranks, gpus, cpusPerTask, network } = options;
  const directives = {
    "job-name": options.jobName,
    nodes,
    "ntasks-per-node": ranks,
    "cpus-per-task": cpusPerTask,
    ...(gpus > 0 ? { gres: `gpu:${gpus}`, "gpu-bind": options.gpuBind } : {}),
    time: options.time,
    ...(options.partition === undefined ? {} : { partition: options.partition }),
    ...(options.account === undefined ? {} : { account: options.account }),
    signal: `USR1@${options.warnSeconds}`,
    "wait-all-nodes": 1,
    "open-mode": "append",
  };
  const variables = {
    ...safeVariables,
    XL_THREADS: String(cpusPerTask),
    ...(network === undefined ? {} : networkPresets[network].variables),
  };
  return [
    "#!/bin/bash",
    ...Object.entries(directives).map(([name, value]) => `#SBATCH --${name}=${plain(name, value)}`),
    ...(options.exclusive ? ["#SBATCH --exclusive"] : []),
    "#SBATCH --requeue",
    "",
    "set -euo pipefail",
    "node setup/prepare.mjs",
    "# One secret for the ranks of this job; it stands in no argument and no log.",
    "XL_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')",
    "export XL_TOKEN",
    ...Object.entries(variables).map(([name, value]) => `export ${name}=${quoted(value)}`),
    `exec srun --kill-on-bad-exit=1 --cpus-per-task=${cpusPerTask} \\`,
    `  ${options.command.map(quoted).join(" ")}`,
    "",
  ].join("\n");
}

/** Values of #SBATCH lines are read without a shell: only what needs no quotes. */
function plain(name: string, value: string | number): string {
  const text = String(value);
  if (/^[\w.:,@%+/=-]+$/.test(text)) return text;
  throw new LaunchError(`slurm: --${name}=${text}: only letters, digits and .:,@%+/=_- fit there`);
}

function quoted(word: string): string {
  return /^[\w.:,@%+/=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
