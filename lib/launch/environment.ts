// Which rank of how many this process is, from the variables of whatever started it. The first
// source that is there wins:
//
//   explicit XL_* variables or flags, torchrun style, Slurm steps, Open MPI, PMI and PMIx,
//   indexed jobs of Kubernetes; none of them: rank 0 of 1.

import { LaunchError } from "./errors.ts";
import { expandNodeList } from "./nodelist.ts";
import {
  type Address,
  address,
  integer,
  isLoopback,
  required,
  text,
  type Variables,
} from "./variables.ts";

/** What one process knows about its place among the ranks. */
export interface RankEnvironment {
  /** What set the variables: `XL_RANK`, `torchrun`, `Slurm`, ..., `none`. */
  readonly source: string;
  readonly rank: number;
  readonly world: number;
  /** Number among the ranks of this host. */
  readonly localRank: number;
  /** Ranks of this host, where the source tells it. */
  readonly localWorld?: number | undefined;
  /** Where rank 0 listens; undefined for a single rank. */
  readonly master?: Address | undefined;
  /** How often the scheduler has restarted the job. For logs alone. */
  readonly attempt: number;
  /** The scheduler's name of the job. For logs alone. */
  readonly job?: string | undefined;
  /** One line about sources that say something else and lost. */
  readonly conflict?: string | undefined;
}

/** Flags of a recipe; they win over every variable. */
export interface RankFlags {
  readonly rank?: number | undefined;
  readonly world?: number | undefined;
  readonly localRank?: number | undefined;
  /** host:port */
  readonly master?: string | undefined;
}

/** One source's answer, before the master is known to be there. */
interface Found {
  readonly rank: number;
  readonly world: number;
  readonly localRank?: number | undefined;
  readonly localWorld?: number | undefined;
  /** Where rank 0 listens, if this source knows it. */
  readonly master?: Address | undefined;
  /** What to set when no master is known. */
  readonly missing: string;
}

type Detector = (variables: Variables) => Found | undefined;

const detectors: readonly (readonly [string, Detector])[] = [
  ["XL_RANK", explicit],
  ["torchrun", torchrun],
  ["Slurm", slurm],
  ["Open MPI", openMpi],
  ["PMI", pmi],
  ["Kubernetes", kubernetes],
];

const anyMaster = "set XL_MASTER=HOST:PORT, the address of rank 0, for every rank";

/**
 * Reads the variables. LaunchError names the variable that is missing or wrong, and what to set.
 * `world` is the number of ranks that the recipe's mesh needs, where it tells one: sources without
 * a variable for it take it from there.
 */
export function detectEnvironment(
  variables: Variables = process.env,
  flags: RankFlags = {},
  world?: number,
): RankEnvironment {
  const all = withFlags(variables, flags, world);
  for (const [index, [source, detect]] of detectors.entries()) {
    const found = detect(all);
    if (!found) continue;
    const others = detectors.slice(index + 1);
    return checked(source, found, all, conflictOf(source, found, others, all));
  }
  return { source: "none", rank: 0, world: 1, localRank: 0, ...attempts(all) };
}

/** How many GPUs CUDA_VISIBLE_DEVICES shows to this process; undefined: all there are. */
export function visibleGpus(variables: Variables = process.env): number | undefined {
  const visible = variables["CUDA_VISIBLE_DEVICES"];
  if (visible === undefined) return undefined;
  const devices = visible.split(",").map((device) => device.trim());
  // As the driver reads it: the list ends at the first entry that is no device.
  const end = devices.findIndex((device) => device === "" || device === "-1");
  return end < 0 ? devices.length : end;
}

/**
 * Number of the GPU of a local rank among those that CUDA_VISIBLE_DEVICES shows to this process:
 * its local rank, or the only one there is where a scheduler gave every rank its own.
 */
export function gpuOrdinal(localRank: number, variables: Variables = process.env): number {
  const given = integer(variables, "XL_GPU");
  if (given !== undefined) return given;
  const count = visibleGpus(variables);
  if (count === 1) return 0;
  if (count === undefined || localRank < count) return localRank;
  const visible = variables["CUDA_VISIBLE_DEVICES"];
  throw new LaunchError(
    `local rank ${localRank} has no GPU: CUDA_VISIBLE_DEVICES=${visible} shows ${count}; ` +
      "start as many ranks as there are GPUs, or use device=cpu",
  );
}

function withFlags(variables: Variables, flags: RankFlags, world?: number): Variables {
  const named = {
    XL_RANK: flags.rank,
    XL_WORLD_SIZE: flags.world,
    XL_LOCAL_RANK: flags.localRank,
    XL_MASTER: flags.master,
    XL_MESH_SIZE: world,
  };
  const given = Object.entries(named).filter(([, value]) => value !== undefined);
  return { ...variables, ...Object.fromEntries(given.map(([key, value]) => [key, `${value}`])) };
}

function explicit(variables: Variables): Found | undefined {
  const rank = integer(variables, "XL_RANK");
  if (rank === undefined) return undefined;
  return {
    rank,
    world: required(variables, "XL_RANK is set", "XL_WORLD_SIZE"),
    localRank: integer(variables, "XL_LOCAL_RANK"),
    localWorld: integer(variables, "XL_LOCAL_WORLD_SIZE"),
    missing: anyMaster,
  };
}

function torchrun(variables: Variables): Found | undefined {
  const rank = integer(variables, "RANK");
  const world = integer(variables, "WORLD_SIZE");
  if (rank === undefined || world === undefined) return undefined;
  const local = integer(variables, "LOCAL_RANK");
  const localWorld = integer(variables, "LOCAL_WORLD_SIZE");
  return { rank, world, localRank: local, localWorld, missing: "set MASTER_ADDR and MASTER_PORT" };
}

/** srun alone sets the step's node list; a batch script has SLURM_PROCID=0 and is one process. */
function slurm(variables: Variables): Found | undefined {
  const list = text(variables, "SLURM_STEP_NODELIST");
  if (list === undefined) return undefined;
  const because = "SLURM_STEP_NODELIST is set";
  const hosts = expandNodeList(list);
  const job = integer(variables, "SLURM_JOB_ID", "SLURM_JOBID") ?? 0;
  const step = integer(variables, "SLURM_STEP_ID", "SLURM_STEPID") ?? 0;
  // Another port for every job, and for steps of one job that run side by side.
  const port = 20_000 + ((job + 101 * step) % 20_000);
  return {
    rank: required(variables, because, "SLURM_PROCID"),
    world: required(variables, because, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    localRank: integer(variables, "SLURM_LOCALID"),
    localWorld: integer(variables, "SLURM_NTASKS_PER_NODE"),
    master: { host: hosts.length === 1 ? "127.0.0.1" : hosts[0]!, port },
    missing: anyMaster,
  };
}

function openMpi(variables: Variables): Found | undefined {
  const rank = integer(variables, "OMPI_COMM_WORLD_RANK");
  if (rank === undefined) return undefined;
  return {
    rank,
    world: required(variables, "OMPI_COMM_WORLD_RANK is set", "OMPI_COMM_WORLD_SIZE"),
    localRank: integer(variables, "OMPI_COMM_WORLD_LOCAL_RANK"),
    localWorld: integer(variables, "OMPI_COMM_WORLD_LOCAL_SIZE"),
    missing: "give it with mpirun -x XL_MASTER=HOST:PORT, the address of rank 0",
  };
}

function pmi(variables: Variables): Found | undefined {
  const rank = integer(variables, "PMI_RANK", "PMIX_RANK");
  if (rank === undefined) return undefined;
  const isPmix = text(variables, "PMI_RANK") === undefined;
  // PMIx tells no size through variables.
  const sizes = ["XL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "XL_MESH_SIZE"];
  return {
    rank,
    world: isPmix
      ? required(variables, "PMIX_RANK is set", ...sizes)
      : required(variables, "PMI_RANK is set", "PMI_SIZE"),
    localRank: integer(variables, "MPI_LOCALRANKID", "SLURM_LOCALID"),
    localWorld: integer(variables, "MPI_LOCALNRANKS"),
    missing: anyMaster,
  };
}

function kubernetes(variables: Variables): Found | undefined {
  const index = integer(variables, "JOB_COMPLETION_INDEX");
  if (index === undefined) return undefined;
  const perPod = integer(variables, "XL_LOCAL_WORLD_SIZE", "LOCAL_WORLD_SIZE") ?? 1;
  const localRank = integer(variables, "XL_LOCAL_RANK", "LOCAL_RANK") ?? 0;
  const sizes = ["XL_WORLD_SIZE", "WORLD_SIZE", "XL_MESH_SIZE"];
  const world = required(variables, "JOB_COMPLETION_INDEX is set", ...sizes);
  const rank = index * perPod + localRank;
  const missing = "set XL_MASTER to the name of pod 0 behind the headless service, with a port";
  return { rank, world, localRank, localWorld: perPod, master: firstPod(variables), missing };
}

/** `train-0.train` of the pod `train-3`: the headless service has the job's name by default. */
function firstPod(variables: Variables): Address | undefined {
  const [, job] = /^(.+)-\d+$/.exec(text(variables, "HOSTNAME") ?? "") ?? [];
  if (job === undefined) return undefined;
  const service = text(variables, "XL_SERVICE") ?? job;
  return { host: `${job}-0.${service}`, port: integer(variables, "MASTER_PORT") ?? 29_400 };
}

/** The master that was set wins over what a source derives. */
function masterOf(found: Found, variables: Variables): Address | undefined {
  const given = text(variables, "XL_MASTER");
  if (given !== undefined) return address(given, "XL_MASTER");
  const host = text(variables, "MASTER_ADDR");
  if (host === undefined) return found.master;
  const port = integer(variables, "MASTER_PORT") ?? found.master?.port;
  if (port === undefined) throw new LaunchError(`MASTER_ADDR=${host} needs MASTER_PORT as well`);
  return address(host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`, "MASTER_ADDR");
}

function checked(
  source: string,
  found: Found,
  variables: Variables,
  conflict: string | undefined,
): RankEnvironment {
  const { rank, world, localWorld, missing } = found;
  if (rank >= world) {
    throw new LaunchError(`${source}: rank ${rank} of ${world}; ranks count from 0`);
  }
  const master = world === 1 ? undefined : masterOf(found, variables);
  if (world > 1 && !master) {
    throw new LaunchError(`${source}: rank ${rank} of ${world} knows no address; ${missing}`);
  }
  // All on one host, or one on each: the only two cases in which nobody needs to say it.
  const localRank = found.localRank ?? (master && isLoopback(master.host) ? rank : 0);
  const place = { source, rank, world, localRank, localWorld, master };
  return { ...place, ...attempts(variables), conflict };
}

/** One line when another launcher of several processes says something else. */
function conflictOf(
  source: string,
  { rank, world }: Found,
  others: typeof detectors,
  variables: Variables,
): string | undefined {
  const differing = others.flatMap(([name, detect]) => {
    try {
      const found = detect(variables);
      // A step of one process is a shell that a scheduler gave, not a second launcher.
      if (!found || found.world === 1) return [];
      const isSame = found.rank === rank && found.world === world;
      return isSame ? [] : [`${name} (rank ${found.rank} of ${found.world})`];
    } catch {
      return [];
    }
  });
  if (differing.length === 0) return undefined;
  return `rank ${rank} of ${world} from ${source}; ignored: ${differing.join(", ")}`;
}

function attempts(variables: Variables): { attempt: number; job?: string | undefined } {
  const names = ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"];
  const job = text(variables, "SLURM_JOB_ID") ?? text(variables, "TORCHELASTIC_RUN_ID");
  return { attempt: integer(variables, ...names) ?? 0, job };
}
