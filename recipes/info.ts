// What this installation consists of, for bug reports.
//
//   bun run info

import { existsSync, statSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem } from "node:os";
import manifest from "../package.json" with { type: "json" };

const root = new URL("..", import.meta.url).pathname;
const library = `${root}native/zig-out/lib/libxl.so`;
const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

const facts: Record<string, string> = {
  xlstm: manifest.version,
  bun: `${Bun.version} (pinned ${manifest.devDependencies.bun})`,
  system: `Linux ${release()}, ${gib(totalmem())} of memory`,
  processor: `${cpus()[0]?.model ?? "unknown"}, ${availableParallelism()} threads`,
  library: existsSync(library)
    ? `${library} (${(statSync(library).size / 1e6).toFixed(1)} MB)`
    : `${library} is missing; run \`bun run build:native\``,
  gpu: existsSync("/dev/nvidia0") ? "NVIDIA device present" : "no NVIDIA device",
};

const width = Math.max(...Object.keys(facts).map((name) => name.length));
for (const [name, value] of Object.entries(facts)) console.log(`${name.padEnd(width)}  ${value}`);
